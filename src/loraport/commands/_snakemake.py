"""Snakemake, run for a command: apart from what lies around, and with an end that can be told.

Neither a configuration nor a profile of the folder or of the environment counts unless the command
asks for it, and no file of the folder is imported in place of a module.
"""

import json
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from ..errors import LoraportError
from ._steps import Steps
from ._words import in_flags

PACKAGE = Path(__file__).parents[1]
NOISE = re.compile(
    r"\s*(Using |Building DAG|Assuming |[Hh]ost: |User: |Snakemake version|Python version"
    r"|Command: |Base directory|Config (file|MD5)|Working directory|Snakefile|Provided |Job stats"
    r"|Select jobs|Complete log)"
)
ERROR = re.compile(r"\w*(Error|Exception)\b")
REFUSAL = re.compile(
    r"^\[plan\] (.+)"
)  # how the workflow tells what it refuses while it is planned
FOLDER = ".snakemake"  # Snakemake's own, in the working directory
GRACE_S = 20.0  # that Snakemake has to end its jobs when it is interrupted
STALE_SECONDS = 1.0  # that two readings of a process's birth may differ


def command_line(
    snakefile: Path, work: Path, configs: Sequence[Path], cores: int, profile: str
) -> list[str]:
    """Snakemake's command, without the targets.

    Parameters
    ----------
    configs : configuration files, the last one counts most
    profile : of Snakemake, that the user asked for; without one there is none, whatever
        `profiles/default` or $SNAKEMAKE_PROFILE say
    """
    command = [sys.executable, "-m", "snakemake", "--snakefile", str(snakefile)]
    command += ["--directory", str(work), "--configfile", *map(str, configs)]
    command += ["--cores", str(cores), "--nocolor", "--rerun-incomplete"]
    command += ["--workflow-profile", "none", "--profile", profile or "none"]
    return command if profile else [*command, "--resources", "gpu=1"]


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """Of the workflow's processes: they import this very package, and nothing of the folder."""
    paths = [str(PACKAGE.parent), *filter(None, [given.get("PYTHONPATH")])]
    kept = {name: value for name, value in given.items() if name != "SNAKEMAKE_PROFILE"}
    return {
        **kept,
        "PYTHONPATH": os.pathsep.join(paths),
        "PYTHONSAFEPATH": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def execute(command: Sequence[str], work: Path, log: Path) -> None:
    """Run Snakemake, a line told for each of its steps; all that it says goes to `log`.

    Raises
    ------
    LoraportError
        With its own words where it fails, and where another run holds the folder.
    KeyboardInterrupt
        When it was interrupted, and all its processes have ended.
    """
    lift_stale_lock(work)
    with _held(work) as record, _ended_by_sigterm():
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
            env=environment(os.environ),
        )  # fmt: skip
        record(process.pid)
        try:
            lines = _followed(process, log)
            status = process.wait()
        except KeyboardInterrupt:
            _end(process)
            raise
    if status:
        raise LoraportError(f"{in_flags(reason(lines))} All that the workflow said is in {log}")


def _followed(process: "subprocess.Popen[str]", log: Path) -> list[str]:
    """What a process says, copied to a log and told in a line a step."""
    assert process.stdout is not None
    lines, steps = [], Steps(sys.stderr)
    with log.open("w") as file:
        try:
            for line in process.stdout:
                file.write(line)
                lines.append(line.rstrip())
                steps.tell(line, time.monotonic())
        finally:
            steps.end()
    return lines


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """Let a request to end do what an interrupt by hand does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _end(process: "subprocess.Popen[str]") -> None:
    """See to it that Snakemake and its jobs end: it is asked, then told, then killed."""
    jobs = []
    with suppress(psutil.NoSuchProcess):
        jobs = psutil.Process(process.pid).children(recursive=True)
    for number in (None, signal.SIGINT, signal.SIGTERM):
        if number is not None:
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired, KeyboardInterrupt):
            process.communicate(timeout=GRACE_S / 4 if number is None else GRACE_S)
        if process.poll() is not None:
            break
    for each in [job for job in jobs if job.is_running()]:
        with suppress(psutil.NoSuchProcess):
            each.kill()
    if process.poll() is None:
        process.kill()
        process.wait()


@contextmanager
def _held(work: Path) -> Iterator[Any]:
    """Keep, while a run lasts, a record of its processes beside Snakemake's lock."""
    path = work / FOLDER / "loraport.json"
    path.parent.mkdir(parents=True, exist_ok=True)

    def record(*children: int) -> None:
        held = [_process(number) for number in (os.getpid(), *children)]
        path.write_text(json.dumps({"host": platform.node(), "processes": held}))

    record()
    try:
        yield record
    finally:
        path.unlink(missing_ok=True)


def _process(number: int) -> dict[str, float]:
    try:
        return {"pid": number, "began": psutil.Process(number).create_time()}
    except psutil.NoSuchProcess:  # it has ended already
        return {"pid": number, "began": 0.0}


class InUse(LoraportError):
    """Another run holds the folder of artifacts."""


def lift_stale_lock(work: Path) -> None:
    """Remove the lock that a run of a command left behind, when its processes are gone.

    Raises
    ------
    InUse
        If one of them is alive, or the lock is of a run that no command began.
    """
    locks, path = work / FOLDER / "locks", work / FOLDER / "loraport.json"
    if not locks.is_dir() or not any(locks.iterdir()):
        return
    try:
        record = json.loads(path.read_text())
        mine = record["host"] == platform.node()
        alive = [each["pid"] for each in record["processes"] if not mine or _is_alive(each)]
    except (OSError, ValueError, KeyError, TypeError):
        mine, alive = False, []
    if mine and not alive:
        shutil.rmtree(locks)
        return
    raise InUse(
        f"another run is at work in {work}, or was when its machine stopped",
        got=f"{locks}, held by process {', '.join(map(str, alive))}" if alive else locks,
        expected="one run at a time in a folder of artifacts",
        todo=f"wait until it ends, or name another folder (--work); if nothing runs there any "
        f"more, remove its lock: rm -r '{locks}'",
    )


def _is_alive(recorded: Mapping[str, float]) -> bool:
    try:
        process = psutil.Process(int(recorded["pid"]))
        same = abs(process.create_time() - recorded["began"]) < STALE_SECONDS
        return same and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def reason(lines: Sequence[str]) -> str:
    """What the workflow said went wrong: what it refused while it was planned, or its rules' own
    errors, or else its last paragraph.
    """
    told = _refusal(lines) or list(dict.fromkeys(_errors_of_rules(lines)))
    if not told:
        kept = [line.strip() for line in lines if line.strip() and not NOISE.match(line)]
        starts = [place for place, line in enumerate(kept) if ERROR.match(line)]
        told = kept[starts[0] :][:12] if starts else kept[-12:]
    return " ".join(told) or "the workflow failed and said nothing."


def _refusal(lines: Sequence[str]) -> list[str]:
    """A refusal and the lines of its list."""
    for place, line in enumerate(lines):
        if match := REFUSAL.match(line):
            rest = lines[place + 1 :]
            end = next((n for n, each in enumerate(rest) if not each.startswith(("- ", "(and "))),
                       len(rest))  # fmt: skip
            return [match[1], *rest[:end]]
    return []


def _errors_of_rules(lines: Sequence[str]) -> Iterator[str]:
    """What the rules that failed said themselves, as `[rule] what. Got: … What to do: …`."""
    failed = {match[1] for line in lines if (match := re.search(r"Error in rule (\w+)", line))}
    for line in lines:
        match = re.match(r"\[(\w+)\] (.+)", line)
        if match and match[1] in failed and re.search(r"What to do:|Got:|^unexpected ", match[2]):
            yield match[2]
