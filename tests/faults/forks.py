"""Processes that begin with everything imported: forks of one that waits for their command lines.

`python forks.py DOOR` listens at a Unix socket. Who connects sends its three standard streams and
`[arguments, folder, environment]`, and is told the number of the process that does the work and
then how it ended, as `subprocess` puts it.
"""

import importlib
import json
import os
import pkgutil
import select
import signal
import socket
import subprocess
import sys
import time
import types
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TextIO

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


def load() -> None:
    """Import what rules and Snakemake need."""
    import loraport

    found = pkgutil.walk_packages(loraport.__path__, "loraport.")
    for name in (*LOADED, *(each.name for each in found)):
        importlib.import_module(name)


def serve(door: str) -> tuple[list[int], list]:
    """Answer calls for ever; returns, in a fork, the streams and the request that it is for."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    server = socket.socket(socket.AF_UNIX)
    server.bind(door)
    server.listen(128)
    while True:
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
    """Run a script as `python SCRIPT ARGUMENTS` would."""
    arguments, folder, environment = request
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    sys.argv = arguments
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
        self.line.sendall(json.dumps([arguments, str(folder), environment]).encode() + b"\n")
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
    alone = {f"{each}_NUM_THREADS": "1" for each in ("OMP", "OPENBLAS", "MKL")}
    command = [sys.executable, str(Path(__file__)), str(door)]
    server = subprocess.Popen(command, env={**environment, **alone}, start_new_session=True)
    try:
        while not door.exists():
            assert server.poll() is None, "nothing listens"
            time.sleep(0.1)
        yield door
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()


if __name__ == "__main__":
    load()
    become(*serve(sys.argv[1]))
