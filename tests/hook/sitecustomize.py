"""What Python does first, where this folder is on PYTHONPATH, in processes that tests start.

Where $LORAPORT_TEST_DOOR names a socket, Snakemake, a rule's script and what else takes seconds to
import are handed over to a fork of a process that has everything imported; see tests/forks.py.

Where $FAULT_FOLDER names a folder, a rule's script is held just before it renames a temporary file
into an output's place. A rule's first job is held with no output in its place, its second one with
all but the last; see faults.hooked.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

_replace = os.replace
MODULES = ("snakemake", "loraport.runtime.batch", "benchmarks.real.worker")
JOB = ".snakemake/scripts/"
HUB = ("ENDPOINT", "HOME", "HUB_CACHE", "HUB_OFFLINE", "DATASETS_CACHE", "TOKEN")


def _held(source, target, **how):
    running = getattr(sys.modules.get("__main__"), "snakemake", None)
    if running is not None:
        _hold(running.rule, [*map(str, running.output)], str(source), str(target))
    return _replace(source, target, **how)


def _hold(rule, outputs, source, target):
    own = [each for each in outputs if target == each or target.startswith(f"{each}/")]
    if not own:
        return
    missing = [each for each in outputs if each not in own and not Path(each).exists()]
    folder = Path(os.environ["FAULT_FOLDER"])
    for number in range(int(os.environ["FAULT_TIMES"])):
        if number and missing:  # of several outputs the last one
            return
        content = {
            "rule": rule,
            "number": number,
            "pid": os.getpid(),
            "job": int(os.environ.get("LORAPORT_TEST_JOB", os.getpid())),
            "source": str(Path(source).absolute()),
            "target": str(Path(target).absolute()),
            "bytes": _bytes(Path(source)),
            "target_there": Path(target).exists(),
            "missing": [str(Path(each).absolute()) for each in [*missing, *own]],
        }
        try:
            with (folder / f"{rule}.{number}.json").open("x") as marker:
                json.dump(content, marker)
        except FileExistsError:
            continue
        while not (folder / "go").exists():
            time.sleep(0.02)
        return


def _bytes(path):
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(each.stat().st_size for each in files if each.is_file())


def given() -> str:
    """What the process behind the door has read for good: the package, and the hub's settings."""
    found = (each for each in sys.path if (Path(each) / "loraport/__init__.py").is_file())
    package = str(Path(next(found, "")).resolve())
    return json.dumps([package, *(os.environ.get(f"HF_{name}") for name in HUB)])


def _work(words):
    """[module or script, arguments…] of a call that is to be handed over, and whether a module."""
    while words and words[0] in ("-P", "-u"):
        words = words[1:]
    if len(words) > 1 and words[0] == "-m" and words[1] in MODULES:
        return words[1:], True
    return (words, False) if words and JOB in words[0] else ([], False)


def _opened(door):
    """Whether something listens at the door; the first that asks starts it."""
    import fcntl
    import subprocess

    there = Path(door)
    with Path(f"{door}.lock").open("w") as lock, Path(f"{door}.log").open("a") as log:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not there.exists():
            command = [sys.executable, str(Path(__file__).parents[1] / "forks.py"), door]
            server = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
            while not there.exists() and server.poll() is None:
                time.sleep(0.05)
        return there.exists()


def _handed_over(door, words, is_module):
    """Let a fork of the process that has everything loaded do the work; end as it ends."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(door)
        socket.send_fds(line, [b"x"], [0, 1, 2])
        folder = str(Path.cwd())
        first = folder if is_module else str(Path(words[0]).parent)
        path = sys.path if sys.flags.safe_path else [first, *sys.path]
        environ = {**os.environ, "LORAPORT_TEST_JOB": str(os.getpid())}
        request = [words, is_module, folder, path, environ]
        line.sendall(json.dumps(request).encode() + b"\n")
        line.recv(16, socket.MSG_WAITALL)
        status = int(line.recv(16, socket.MSG_WAITALL))
    if status < 0:
        signal.raise_signal(-status)
    os._exit(status)


if "FAULT_FOLDER" in os.environ:
    os.replace = _held
if {"LORAPORT_TEST_DOOR", "LORAPORT_TEST_DOOR_OF"} <= set(os.environ):
    _words, _is_module = _work(sys.orig_argv[1:])
    _fits = _words and given() == os.environ["LORAPORT_TEST_DOOR_OF"]
    if _fits and _opened(os.environ["LORAPORT_TEST_DOOR"]):
        _handed_over(os.environ["LORAPORT_TEST_DOOR"], _words, _is_module)
