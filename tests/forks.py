"""Processes that begin with everything imported: forks of one that waits for their command lines.

`python forks.py DOOR` listens at a Unix socket until that is deleted or the first process of the
tests is gone. Who connects sends its three standard streams and `[arguments, whether the first
names a module, folder, sys.path, environment]`, and is told the number of the process that does the
work and then how it ended, as `subprocess` puts it. tests/hook does so for what tests start; a test
that wants processes of its own takes away $LORAPORT_TEST_DOOR (the fixture `own_processes`).
"""

import atexit
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
import types
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn, TextIO

ALONE = {f"{each}_NUM_THREADS": "1" for each in ("OMP", "OPENBLAS", "MKL")}
HOOK = Path(__file__).parent / "hook"
LOADED = (
    "snakemake.cli",
    "snakemake.executors.local",
    "lm_eval.models.huggingface",
    "matplotlib.pyplot",
    "matplotlib.backends.backend_svg",
    "scipy.stats",
    "transformers.models.llama.modeling_llama",
    "transformers.trainer",
)


def offer(folder: Path) -> None:
    """Let what tests start come out of a door in a folder of this process, or begin anew where
    $LORAPORT_TEST_DOOR is empty; and let them share Snakemake's cache there.
    """
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    (folder / "cache").mkdir()
    os.environ["LORAPORT_TEST_CACHE"] = str(folder / "cache")
    os.environ["LORAPORT_TEST_RUN"] = str(os.getpid())
    paths = [str(HOOK), *filter(None, [os.environ.get("PYTHONPATH")])]
    os.environ["PYTHONPATH"] = os.pathsep.join(paths)
    os.environ["LORAPORT_TEST_DOOR_OF"] = runpy.run_path(str(HOOK / "sitecustomize.py"))["given"]()
    asked = os.environ.pop("LORAPORT_TEST_DOOR", None)
    if asked != "" and sys.platform == "linux":
        os.environ["LORAPORT_TEST_DOOR"] = str(folder / "door")


def load() -> None:
    """Import what rules and Snakemake need."""
    os.environ.update(ALONE)  # no thread is lost in a fork
    # no process that asked CUDA's runtime for GPUs may be forked: PyTorch asks NVML in its place
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = "1"
    import loraport

    found = pkgutil.walk_packages(loraport.__path__, "loraport.")
    for name in (*LOADED, *(each.name for each in found)):
        importlib.import_module(name)
    gc.collect()
    gc.freeze()  # what forks share they do not copy


def serve(door: str) -> tuple[list[int], list]:
    """Answer calls; returns, in a fork, the streams and the request that it is for."""
    of_run = Path("/proc", os.environ.get("LORAPORT_TEST_RUN", "self"))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(socket.AF_UNIX)
    server.bind(f"{door}.new")
    server.listen(128)
    Path(f"{door}.new").rename(door)  # no one finds it before it listens
    while True:
        if not select.select([server], [], [], 2.0)[0]:
            if not (Path(door).exists() and of_run.exists()):  # the tests are over
                os._exit(0)
            continue
        line, _ = server.accept()
        if os.fork():
            line.close()
            continue
        server.close()
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        _, streams, *_ = socket.recv_fds(line, 1, 3)
        with line.makefile() as words:
            request = json.loads(words.readline())
        if not (pid := os.fork()):
            line.close()
            return streams, request
        line.sendall(b"%16d" % pid)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        with suppress(OSError):  # whoever asked was killed as well
            line.sendall(b"%16d" % status)
        os._exit(0)


def become(streams: list[int], request: list) -> None:
    """Run a script as `python SCRIPT ARGUMENTS` would, or a module as with `-m`."""
    arguments, is_module, folder, path, environment = request
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
    sys.path[:] = path or sys.path[1:]
    if is_module:
        runpy.run_module(arguments[0], run_name="__main__", alter_sys=True)
        return
    main = sys.modules["__main__"] = types.ModuleType("__main__")
    main.__file__ = arguments[0]
    exec(compile(Path(arguments[0]).read_text(), arguments[0], "exec"), main.__dict__)


class Forked:
    """A process that was asked for at a door, used like one of `subprocess`."""

    def __init__(
        self, door: Path, arguments: list[str], folder: Path, environment: dict, out: TextIO
    ):
        self.line = socket.socket(socket.AF_UNIX)
        self.line.connect(str(door))
        with Path(os.devnull).open() as nothing:
            socket.send_fds(self.line, [b"x"], [nothing.fileno(), out.fileno(), out.fileno()])
        request = [arguments, False, str(folder), [], environment]
        self.line.sendall(json.dumps(request).encode() + b"\n")
        self.pid = int(self.line.recv(16, socket.MSG_WAITALL))
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """How it ended; None while it runs."""
        return self.wait(0)

    def wait(self, timeout: float | None = None) -> int | None:
        """How it ended; None where it runs on for `timeout` seconds."""
        if self.returncode is None and select.select([self.line], [], [], timeout)[0]:
            self.returncode = int(self.line.recv(16, socket.MSG_WAITALL))
            self.line.close()
        return self.returncode

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)


@contextmanager
def opened(door: Path, environment: dict[str, str]) -> Iterator[Path]:
    """A door, for the time of a block."""
    command = [sys.executable, str(Path(__file__)), str(door)]
    server = subprocess.Popen(command, env={**environment, **ALONE}, start_new_session=True)
    try:
        while not door.exists():
            assert server.poll() is None, "nothing listens"
            time.sleep(0.1)
        yield door
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


def end(code: int) -> NoReturn:
    """End as Python does, but for the memory, which takes longer to take apart than to leave."""
    threading._shutdown()
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(code)


def status_of(work: Callable[[], None]) -> int:
    """Exit status of what runs to its end or raises, as Python has it."""
    try:
        work()
    except SystemExit as ended:
        if isinstance(ended.code, int | None):
            return ended.code or 0
        print(ended.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return 130
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


if __name__ == "__main__":
    load()
    asked = serve(sys.argv[1])
    end(status_of(lambda: become(*asked)))
