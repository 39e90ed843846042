"""Small jobs of the workflow in one process: Python and its imports start once for all of them.

    python -m loraport.runtime.batch TASKS DONE

TASKS has the path of a job's script on each line, whole as Snakemake would run it; DONE gets a line
for each that ended: its exit status and its path; one that DONE says went well is not run again.
Where both are `-` they are the process's own
input and output, and it waits for more.

Each script runs in a fork of the process: its memory, log, time and end are its own, and one that
fails or is killed stops no other. What it imports of loraport is imported before the fork, once.
"""

import ast
import importlib
import os
import runpy
import sys
import traceback
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO, NoReturn, TextIO

from tqdm import tqdm

from . import checked
from .job import counted

PACKAGE = "loraport"
PRELOADED = ("snakemake.iocontainers", "snakemake.logging")  # by Snakemake's preamble to a script


def import_for(path: str) -> None:
    """Import the modules of loraport that a script names; what can't be is left for it to tell."""
    with suppress(OSError, SyntaxError):
        for line in ast.parse(Path(path).read_bytes()).body:
            name = line.module if isinstance(line, ast.ImportFrom) else None
            if name and name.partition(".")[0] == PACKAGE:
                with suppress(Exception):
                    importlib.import_module(name)


def run_script(path: str) -> int:
    """Exit status of a script that runs in a fork; 128 and its number where a signal ends it."""
    sys.stdout.flush()
    sys.stderr.flush()
    with checked.learned() as told:
        if not (child := os.fork()):
            _run_and_exit(path, told)
        _, status = os.waitpid(child, 0)
    code = os.waitstatus_to_exitcode(status)
    return code if code >= 0 else 128 - code


def _run_and_exit(path: str, told: IO[str]) -> NoReturn:
    """Run a script as this process's last work."""
    code = 1
    try:
        runpy.run_path(path, run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            print(end.code, file=sys.stderr)
    except KeyboardInterrupt:
        pass
    except BaseException:
        traceback.print_exc()
    finally:
        with suppress(OSError):
            checked.tell(told)
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def run(paths: Iterable[str], done: TextIO) -> int:
    """Run scripts one after another, and say how each ended; how many failed."""
    failed = 0
    for path in paths:
        import_for(path)
        code = run_script(path)
        done.write(f"{code} {path}\n")
        done.flush()
        failed += code != 0
    return failed


def main(tasks: str, done: str) -> int:
    """Run what is listed; 1 if any of it failed."""
    tqdm.monitor_interval = 0  # no thread beside the one that forks
    # no process that asked CUDA's runtime for GPUs may be forked: PyTorch asks NVML in its place
    os.environ.setdefault("PYTORCH_NVML_BASED_CUDA_CHECK", "1")
    for name in PRELOADED:
        importlib.import_module(name)
    if tasks == "-":
        answers = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)  # what scripts print is no answer
        return int(run((line.rstrip("\n") for line in sys.stdin), answers) > 0)
    # a cluster may start a job again: what it did before stays as it is
    before = set(Path(done).read_text().splitlines()) if Path(done).is_file() else set()
    paths = [path for path in Path(tasks).read_text().splitlines() if f"0 {path}" not in before]
    with Path(done).open("a") as answers:
        return int(run(counted(paths, len(paths), "batch"), answers) > 0)


if __name__ == "__main__":
    try:
        sys.exit(main(*sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)
