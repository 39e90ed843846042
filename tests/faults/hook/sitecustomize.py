"""Holds a rule's script just before it renames a temporary file into an output's place.

Python imports this module by its name where its folder is on PYTHONPATH; see faults.hooked. A
rule's first job is held with no output in its place, its second one with all but the last.
"""

import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

_replace = os.replace


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
            "job": int(os.environ.get("FAULT_JOB", os.getpid())),
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


def _handed_over(door):
    """Let a fork of the process that has everything loaded do the work; end as it ends."""
    with socket.socket(socket.AF_UNIX) as line:
        line.connect(door)
        socket.send_fds(line, [b"x"], [0, 1, 2])
        environ = {**os.environ, "FAULT_JOB": str(os.getpid())}
        line.sendall(json.dumps([sys.orig_argv[1:], str(Path.cwd()), environ]).encode() + b"\n")
        line.recv(16, socket.MSG_WAITALL)
        status = int(line.recv(16, socket.MSG_WAITALL))
    if status < 0:
        signal.raise_signal(-status)
    os._exit(status)


if "FAULT_FOLDER" in os.environ:
    os.replace = _held
    if "FAULT_DOOR" in os.environ and ".snakemake/scripts/" in sys.orig_argv[1]:
        _handed_over(os.environ["FAULT_DOOR"])
