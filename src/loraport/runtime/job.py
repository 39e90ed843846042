"""The frame around a rule's script: log, progress, threads, time and memory, errors told once."""

import json
import logging
import os
import sys
import time
import traceback
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import psutil
from threadpoolctl import threadpool_limits
from tqdm import tqdm

from ..artifacts import first_reads_kept
from ..errors import LoraportError
from . import gpus
from .faults import BEGAN, beginning, explained
from .memory import gpu_peak_mib, gpu_reserved_mib, peak_mib

log = logging.getLogger("loraport")
Item = TypeVar("Item")
LINE_UP = "\033[A"  # how the bar of a part goes back to that of the whole


@contextmanager
def job(snakemake: Any) -> Iterator[logging.Logger]:
    """Run a rule's script.

    Logs go to the rule's log and, from INFO up, to the terminal (in a run that is told in a line a
    step, warnings and errors alone). The log's last line is one JSON object with the wall time
    since the process began, the seconds of it before the script's first work (imports, mostly) and
    the peak memory, on a GPU too where one was used (`gpu_peak_mib` in use, `gpu_reserved_mib` held
    by torch); the first line is what a job that is killed leaves behind. An error of the user's is
    told in one paragraph, and so is memory that ran out or a full disk; of any other the log keeps
    the traceback. All end the script with status 1.
    """
    status, hooks = "failed", (sys.excepthook, sys.unraisablehook)
    before_work = _age()
    try:
        _set_up_logging(Path(snakemake.log[0]), snakemake.rule)
        log.debug("%s", json.dumps(beginning(snakemake)))
        kept = first_reads_kept(snakemake.log[0])
        limits, mine = threadpool_limits(snakemake.threads), gpus.held(_asked(snakemake))
        with limits, gpus.one_piece(), mine, kept:
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(snakemake.threads)
            yield log
        status = "done"
    except LoraportError as error:
        log.error("%s", error)
        sys.exit(1)
    except Exception as error:
        needed = getattr(getattr(snakemake, "resources", None), "mem_mb", None)
        place = Path(next(iter(getattr(snakemake, "output", ())), snakemake.log[0])).parent
        if known := explained(error, snakemake.rule, needed, place):
            log.error("%s", known)
        else:
            name = type(error).__name__
            log.error("unexpected %s: %s (traceback in %s)", name, error, snakemake.log)
        log.debug("%s", traceback.format_exc())
        sys.exit(1)
    finally:
        record = {
            "rule": snakemake.rule,
            "wildcards": dict(snakemake.wildcards.items()),
            "status": status,
            "seconds": round(_age(), 3),
            "start_seconds": round(before_work, 3),
            "peak_mib": round(peak_mib(), 1),
            "threads": snakemake.threads,
        }
        if (on_gpu := gpu_peak_mib()) is not None:
            record["gpu_peak_mib"] = round(on_gpu, 1)
        if (reserved := gpu_reserved_mib()) is not None:
            record["gpu_reserved_mib"] = round(reserved, 1)
        log.debug("%s", json.dumps(record))
        logging.shutdown()
        sys.excepthook, sys.unraisablehook = hooks


def _asked(snakemake: Any) -> int:
    """GPUs that the rule asks for."""
    return getattr(snakemake, "resources", {}).get("gpu", 0)


def _age() -> float:
    """Seconds since this process began; psutil's time of birth is too coarse on Linux."""
    stat = Path("/proc/self/stat")
    if not stat.is_file():
        return time.time() - psutil.Process().create_time()
    ticks = int(stat.read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")


def _set_up_logging(path: Path, rule: str) -> None:
    logging.raiseExceptions = False  # a full disk is told once, not for every line of a log
    log.handlers.clear()
    log.setLevel(logging.DEBUG)
    to_terminal = logging.StreamHandler(sys.stderr)
    to_terminal.setLevel(logging.WARNING if is_brief() else logging.INFO)
    to_terminal.setFormatter(logging.Formatter(f"[{rule}] %(message)s"))
    log.addHandler(to_terminal)
    path.parent.mkdir(parents=True, exist_ok=True)
    to_file = logging.FileHandler(path, mode="w")
    to_file.setFormatter(logging.Formatter("%(message)s"))
    log.addHandler(to_file)
    if is_brief():  # what libraries warn of stands in the log alone
        logging.captureWarnings(True)
        warnings.simplefilter("default")
        of_libraries = logging.getLogger("py.warnings")
        of_libraries.handlers, of_libraries.propagate = [to_file], False
    # h5py prints what fails while it cleans up behind an error, which is told already
    sys.excepthook = lambda kind, error, where: log.debug("cleaning up: %s", error)
    sys.unraisablehook = lambda args: log.debug("cleaning up: %s", args.exc_value)


def last_record(path: str | Path) -> dict[str, Any]:
    """The JSON line that ends a rule's log; empty where there is none."""
    try:
        record = json.loads(Path(path).read_text().rstrip().rpartition("\n")[2])
    except (OSError, ValueError):
        return {}
    return {} if record.get("status") == BEGAN else record


def is_brief() -> bool:
    """Whether the run is told in a line a step (the logger plugin loraport says so to its jobs)."""
    return os.environ.get("LORAPORT_TERMINAL") == "brief"


class _Lines:
    """A file that is no terminal: each state of a bar is a line of its own, and no bar is wiped."""

    def write(self, text: str) -> None:
        """What tqdm draws, as one line; the codes that move the cursor are left out."""
        if line := text.replace(LINE_UP, "").strip("\r\n "):
            sys.stderr.write(f"{line}\n")

    def flush(self) -> None:
        """Pass it on at once."""
        sys.stderr.flush()


def progress(total: int, what: str) -> "tqdm[Any]":
    """A progress bar on the terminal; off it, a line every half minute at the most."""
    if sys.stderr.isatty() or os.environ.get("TQDM_MININTERVAL"):
        return tqdm(total=total, desc=what, mininterval=0.5, disable=False, file=sys.stderr,
                    leave=False)  # fmt: skip
    return tqdm(
        total=total, desc=what, mininterval=30.0, delay=29.0, disable=False, file=_Lines(),
        leave=False, ascii=True, ncols=80,
    )  # fmt: skip


def counted(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """The items one by one, each counted on a progress bar."""
    with progress(total, what) as bar:
        for item in items:
            yield item
            del item  # it may be large, and the next one as large
            bar.update()
