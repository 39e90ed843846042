"""Faults put under the workflow's jobs from outside, by a hook that Python loads at their start."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, TextIO

import psutil
import snakemake
from forks import HOOK, Forked
from workdir import PROJECT, Workdir

JOB = ".snakemake/scripts/"
LISTING = """
import json, sys
from pathlib import Path
from snakemake.api import SnakemakeApi
from snakemake.settings.enums import Quietness
from snakemake.settings.types import ConfigSettings, OutputSettings, ResourceSettings
with SnakemakeApi(OutputSettings(quiet={Quietness.ALL})) as api:
    found = api.workflow(
        resource_settings=ResourceSettings(cores=1),
        config_settings=ConfigSettings(configfiles=[Path("config.yaml")]),
        snakefile=Path(sys.argv[1]),
    )
    print(json.dumps({rule.name: [*map(str, rule.output)] for rule in found._workflow.rules}))
"""


def rules_of(work: Workdir) -> dict[str, list[str]]:
    """Every rule of the workflow with the patterns of its outputs."""
    done = subprocess.run(
        [sys.executable, "-c", LISTING, str(PROJECT / "Snakefile")],
        cwd=work.root,
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


def hooked() -> dict[str, str]:
    """The environment in which Python loads the hook."""
    path = os.pathsep.join([str(HOOK), str(PROJECT / "src")])
    return {**os.environ, "PYTHONPATH": path}


def filled(pattern: str, values: dict[str, tuple[str, ...]]) -> str:
    """An output's path: for each wildcard the first of its values that its constraint allows."""

    def value(match: re.Match) -> str:
        allowed = match[2] or ".+"
        return next(each for each in values[match[1]] if re.fullmatch(allowed, each))

    return re.sub(r"\{(\w+)(?:,((?:[^{}]|\{[^{}]*\})*))?\}", value, pattern)


def markers(folder: Path) -> list[dict[str, Any]]:
    """What the hook has written so far."""
    found = []
    for path in sorted(folder.glob("*.json")):
        text = path.read_text()
        if text.endswith("}"):
            found.append(json.loads(text))
    return found


class Run:
    """Snakemake under the hook: each rule is held `times` times, just before it is done.

    Parameters
    ----------
    folder : for the hook's marker files
    door : of forks, for processes that begin with everything imported; else each begins anew
    """

    def __init__(
        self,
        work: Workdir,
        folder: Path,
        *arguments: str,
        times: int = 1,
        door: Path | None = None,
    ):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.log = folder, work.root / "run.log"
        more = {"FAULT_FOLDER": str(folder), "FAULT_TIMES": str(times)}
        environment = {**hooked(), **more, "LORAPORT_TEST_DOOR": str(door)}
        if door is None:
            del environment["LORAPORT_TEST_DOOR"]
        words = ["-s", str(PROJECT / "Snakefile"), "--configfile", "config.yaml", *arguments]
        with self.log.open("w") as out:
            self.process = _begun(door, words, work.root, environment, out)

    def __enter__(self) -> "Run":
        return self

    def __exit__(self, *error: object) -> None:
        if self.process.poll() is None:
            self.kill_all()

    def jobs(self) -> set[int]:
        """Processes that run a rule's script."""
        try:
            children = psutil.Process(self.process.pid).children(recursive=True)
            return {child.pid for child in children if _is_job(child)}
        except psutil.NoSuchProcess:
            return set()

    def held(self) -> list[dict[str, Any]]:
        """Markers of the jobs that wait now."""
        return [each for each in markers(self.folder) if psutil.pid_exists(each["pid"])]

    def wait(self, seconds: float = 900.0) -> list[dict[str, Any]]:
        """Markers of the held jobs, once there is no other job; empty when Snakemake has ended."""
        stop, since = time.monotonic() + seconds, None
        while self.process.poll() is None:
            held, jobs = self.held(), self.jobs()
            quiet = bool(held) and jobs <= {each["job"] for each in held}
            since = (since or time.monotonic()) if quiet else None
            if since and time.monotonic() - since > 0.4:
                return held
            assert time.monotonic() < stop, self.text()
            time.sleep(0.1)
        return []

    def kill_all(self) -> None:
        """kill -9: Snakemake first, so that it can't clean up, then its jobs."""
        jobs = {each["pid"] for each in self.held()} | self.jobs()
        self.process.kill()
        self.process.wait()
        for pid in jobs:
            kill(pid)

    def text(self) -> str:
        """What Snakemake and its jobs have said."""
        return self.log.read_text()

    def started(self) -> dict[str, str]:
        """Job number -> its first output, of all jobs that were started."""
        blocks = re.findall(r"^(?:local)?rule \w+:\n((?:    .*\n)+)", self.text(), re.M)
        return {
            re.search(r"jobid: (\d+)", block)[1]: re.search(r"output: ([^,\n]+)", block)[1]
            for block in blocks
            if "output: " in block
        }

    def finished(self) -> set[str]:
        """First outputs of the jobs that Snakemake knows to be done."""
        started = self.started()
        numbers = re.findall(r"^Finished jobid: (\d+)", self.text(), re.M)
        return {started[number] for number in numbers if number in started}


def _begun(
    door: Path | None, words: list[str], folder: Path, environment: dict[str, str], out: TextIO
) -> Forked | subprocess.Popen:
    """Snakemake, as it is called or as a fork."""
    if door:
        entry = str(Path(snakemake.__file__).with_name("__main__.py"))
        return Forked(door, [entry, *words], folder, environment, out)
    command = [sys.executable, "-m", "snakemake", *words]
    return subprocess.Popen(command, cwd=folder, env=environment, stdout=out, stderr=out)


def _is_job(process: psutil.Process) -> bool:
    try:
        line = process.cmdline()
    except psutil.Error:
        return False
    return len(line) == 2 and JOB in line[1]


def kill(pid: int) -> None:
    """kill -9 a process and see it gone."""
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    wait_for(lambda: _is_gone(pid))


def _is_gone(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait_for(found: Callable[[], Any], seconds: float = 60.0) -> Any:
    """The first true answer of a function, asked again and again."""
    end = time.monotonic() + seconds
    while not (answer := found()):
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.02)
    return answer
