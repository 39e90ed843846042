"""A line for each step of a run: how many are done, rule, model or adapter, time."""

import re
import sys
import time
from collections.abc import Mapping
from logging import ERROR, WARNING, LogRecord
from typing import Any, TextIO

from snakemake_interface_logger_plugins.common import LogEvent

# for rules, so that they are as brief: their warnings and notes go to their logs alone
QUIET = {
    "LORAPORT_TERMINAL": "brief",
    "PYTHONWARNINGS": "ignore",
    "TRANSFORMERS_VERBOSITY": "error",
    "DATASETS_VERBOSITY": "error",
    "HF_HUB_DISABLE_PROGRESS_BARS": "" if sys.stderr.isatty() else "1",
    "TOKENIZERS_PARALLELISM": "false",
    "TQDM_DISABLE": "1",  # bars of libraries; those of rules say that they are shown
}
BOLD, GREY, RED, GREEN, YELLOW, RESET = (f"\033[{code}m" for code in (1, 2, 31, 32, 33, 0))
CLEAR = "\r\033[K"  # a bar that a rule left on the line
# what follows from an error that was told: the script's own, and Snakemake's of the same job
FOLLOWS = re.compile(
    r"Exiting because|Shutting down|Removing output files|Trying to restart|Will exit after"
    r"|Complete log|.*(CalledProcessError|SpawnedJobError|At least one job did not complete)",
    re.S,
)
# what else is told: ends of what Snakemake does besides running jobs
TOLD = ("Congratulations", "Unlocked", "Report created")
WIDTH = 26  # of a rule's name


class Steps:
    """Records of a run as lines on a stream.

    Parameters
    ----------
    stream : where they go; colour and bars only where it is a terminal
    plain : no colour
    dryrun : tell what would be done
    """

    def __init__(self, stream: TextIO, *, plain: bool, dryrun: bool):
        self._stream, self._dryrun = stream, dryrun
        self._terminal = stream.isatty()
        self._colour = self._terminal and not plain
        self._jobs: dict[int, Mapping[str, Any]] = {}
        self._began: dict[int, float] = {}
        self._done = self._total = 0
        self._failed: set[int] = set()
        self._planned = ""
        self._start = time.monotonic()
        self._tell_by_event = {
            LogEvent.RUN_INFO: self._run,
            LogEvent.JOB_INFO: self._job,
            LogEvent.JOB_FINISHED: self._finished,
            LogEvent.JOB_ERROR: self._job_error,
            LogEvent.GROUP_ERROR: self._group_error,
            LogEvent.ERROR: self._error,
        }

    def tell(self, record: LogRecord) -> None:
        """Write what a record comes to, if anything."""
        event = getattr(record, "event", None)
        if event in self._tell_by_event:
            self._tell_by_event[event](record)
        elif event is None:
            self._message(record)

    # events

    def _run(self, record: LogRecord) -> None:
        stats = getattr(record, "stats", {})
        self._total = int(stats.get("total", 0)) or self._total
        if self._dryrun:
            planned, self._planned = self._planned, str(record.msg or "").strip()
            if self._planned != planned:
                self._write(self._planned)
        elif self._total and not self._done:
            self._start = time.monotonic()
            word = "step" if self._total == 1 else "steps"
            self._write(self._painted(f"{self._total} {word} to do", BOLD))

    def _job(self, record: LogRecord) -> None:
        about = vars(record)
        self._jobs[about["jobid"]] = about
        self._began[about["jobid"]] = record.created

    def _finished(self, record: LogRecord) -> None:
        self._done += 1
        number = vars(record)["job_id"]
        job = self._jobs.get(number, {})
        seconds = record.created - self._began.get(number, record.created)
        total = max(self._total, self._done)
        count = f"{self._done:>{len(str(total))}}/{total}"
        self._write(f"{self._painted(count, GREY)}  {_named(job)}  {duration(seconds):>9}")
        if self._done == self._total:
            whole = duration(time.monotonic() - self._start)
            self._write(self._painted(f"Done in {whole}.", GREEN))

    def _job_error(self, record: LogRecord) -> None:
        about = vars(record)
        if about["jobid"] in self._failed:
            return
        self._failed.add(about["jobid"])
        job = {**self._jobs.get(about["jobid"], {}), **about}
        log = ", ".join(about.get("log") or []) or "Snakemake's own log"
        self._write(self._painted(f"failed  {_named(job).rstrip()}", RED) + f"   see {log}")

    def _group_error(self, record: LogRecord) -> None:
        for each in vars(record).get("job_error_info", []):
            log = ", ".join(each.get("log") or [])
            self._write(self._painted(f"failed  {each.get('rule_name')}", RED) + f"   see {log}")

    def _error(self, record: LogRecord) -> None:
        if not FOLLOWS.match(text := str(record.msg).strip()):
            self._write(self._painted(text, RED))

    def _message(self, record: LogRecord) -> None:
        """A record of no event: errors and warnings, and that there is nothing to do."""
        text = str(record.getMessage() if record.msg else "").strip()
        text = text.removeprefix("[plan] ").removeprefix("[note] ")
        if text.startswith("Exiting because") and self._total:
            done = f"{self._done} of {self._total} steps are done"
            self._write(f"Stopped: {done}; the same command goes on from there.")
        elif text.startswith("Nothing to be done"):
            self._write("Nothing to be done: all that was asked for is there.")
        elif text.startswith(TOLD):
            self._write(text)
        elif self._dryrun and text.startswith(("This was a dry-run", "The run involves")):
            self._write(text.splitlines()[0])
        elif record.levelno >= WARNING and text and not FOLLOWS.match(text):
            self._write(self._painted(text, RED if record.levelno >= ERROR else YELLOW))

    # writing

    def _painted(self, text: str, colour: str) -> str:
        return f"{colour}{text}{RESET}" if self._colour else text

    def _write(self, text: str) -> None:
        self._stream.write(f"{CLEAR if self._terminal else ''}{text}\n")
        self._stream.flush()


def _named(job: Mapping[str, Any]) -> str:
    """A step's rule and the models, pairs and adapters that it is for."""
    names = " ".join(str(value) for value in dict(job.get("wildcards") or {}).values())
    return f"{job.get('rule_name', 'step')!s:<{WIDTH}}  {names:<40}"


def duration(seconds: float) -> str:
    """A time in words.

    Examples
    --------
    >>> duration(8.74), duration(75), duration(7261)
    ('8.7 s', '1 min 15 s', '2 h 01 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"
