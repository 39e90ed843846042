"""What `loraport upgrade` does: adapters are carried, both models loaded once, each one taught."""

import sys
import time
from argparse import Namespace
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from ..adapters.base_names import hub_id
from ..adapters.files import read_adapter
from ..artifacts import read_json
from ..errors import LoraportError
from ..evaluation.verdict import KIND
from ..models.spec import resolve
from ..runtime.faults import explained
from ..upgrade import fleet, generators
from ..upgrade.base import Base
from ..upgrade.candidates import NOTHING
from ..upgrade.parts import Settings, set_apart
from ..upgrade.upgrade import Upgraded, upgrade
from . import _one_run, check
from ._fleet_jobs import Job, jobs_of, key_of, settings_of, wanted_of
from ._snakemake import InUse


def upgrade_all(arguments: Namespace) -> list[fleet.Row]:
    """Upgrade all adapters that were named; gives a row for each, in their order.

    Raises
    ------
    LoraportError
        If an adapter fails and others are not to go on (`--strict`, or a single one).
    """
    settings = settings_of(arguments)
    generators.check(arguments.generator)
    jobs = list(jobs_of(arguments))
    skip = arguments.skip_bad if arguments.skip_bad is not None else len(jobs) > 1
    rows: dict[str, fleet.Row] = {}
    kept = [job for job in jobs if _taken(job, arguments, settings, rows)]
    good = [job for job in kept if _readable(job, skip, rows)]
    texts = check.generic_texts(arguments.texts)
    with TemporaryDirectory(prefix="loraport-") as folder, ExitStack() as opened:
        carried = _carry(good, arguments, Path(folder))
        if good:
            limits, place = check.limits(arguments), check.place(arguments)
            folders = {side: resolve(getattr(arguments, side)) for side in ("old", "new")}
            commits = {side: commit for side, (_, commit) in folders.items()}
            wanted = wanted_of(good, arguments.generator, settings)
            old, new = (
                Base.load(folder, replace(limits), wanted[side], **place)
                for side, (folder, _) in folders.items()
            )
            opened.callback(old.close)
            opened.callback(new.close)
        for number, job in enumerate(good, 1):
            print(f"[{number} of {len(good)}] {job.name}", file=sys.stderr, flush=True)
            begun = time.monotonic()
            try:
                about = _about(job, arguments, settings) | {"commits": commits}
                done = _upgrade(job, old, new, carried[job.name], texts, about, settings)
                if line := generators.line(done.report):
                    print(f"{job.name}: {line}", file=sys.stderr, flush=True)
                minutes, verdict = (time.monotonic() - begun) / 60, done.verdict
                rows[job.name] = fleet.row(
                    job.name, str(job.adapter), minutes, verdict.verdict, verdict.why, done.report
                )
            except Exception as error:
                if not skip:
                    raise
                told = _told(error, job)
                minutes = (time.monotonic() - begun) / 60
                rows[job.name] = fleet.failed(job.name, str(job.adapter), minutes, told)
            _write(arguments, jobs, rows)
    _write(arguments, jobs, rows)
    return [rows[job.name] for job in jobs]


def _taken(job: Job, arguments: Namespace, settings: Settings, rows: dict[str, fleet.Row]) -> bool:
    """Whether a job is to be done: its row is taken from an upgrade that was finished before."""
    if not job.out.exists() or not any(job.out.iterdir()):
        return True
    try:
        report = read_json(job.out / fleet.REPORT, "upgrade")
        verdict = read_json(job.out / "verdict.json", KIND)
        if report["key"] != key_of(job, arguments, settings):
            raise KeyError("key")
    except (LoraportError, OSError, KeyError) as error:
        raise LoraportError(
            f"{job.out} is there already",
            got="a folder that this very upgrade did not make",
            expected="a new folder",
            todo="name another one, or remove it",
        ) from error
    rows[job.name] = fleet.row(
        job.name, str(job.adapter), 0.0, verdict["verdict"], verdict["why"], report
    )
    return False


def _readable(job: Job, skip: bool, rows: dict[str, fleet.Row]) -> bool:
    """Whether an adapter can be read; a row says why not."""
    try:
        read_adapter(job.adapter)
    except (LoraportError, OSError) as error:
        if not skip:
            raise
        rows[job.name] = fleet.failed(job.name, str(job.adapter), 0.0, error)
        return False
    return True


def _carry(jobs: Sequence[Job], arguments: Namespace, folder: Path) -> dict[str, dict[str, Path]]:
    """Adapter -> method -> carried adapter; all at once, or one by one where that fails.

    Raises
    ------
    InUse
        If another run holds the folder of artifacts.
    """
    carried: dict[str, dict[str, Path]] = {job.name: {} for job in jobs}
    for method in arguments.start or ["aligned"]:
        if method == NOTHING or not jobs:
            continue
        try:
            _carry_by(method, jobs, arguments, folder, carried)
        except InUse:  # no fault of an adapter: none would be carried
            raise
        except LoraportError:
            for job in jobs:
                try:
                    _carry_by(method, [job], arguments, folder, carried)
                except LoraportError as error:
                    said = str(error).replace("--texts", "--calibration")  # as it is called here
                    print(
                        f"loraport: {job.name} is not carried by {method}: {said}", file=sys.stderr
                    )
    return carried


def _carry_by(
    method: str,
    jobs: Sequence[Job],
    arguments: Namespace,
    folder: Path,
    carried: dict[str, dict[str, Path]],
) -> None:
    outs = tuple(folder / method / job.name for job in jobs)
    request = _one_run.Request(
        old=arguments.old,
        new=arguments.new,
        adapters=tuple(job.adapter for job in jobs),
        outs=outs,
        method=method,
        texts=arguments.calibration,
        known_as=tuple(arguments.known_as),
        settings=("transfer.factors=fresh",),
        allow_large=True,
        work=arguments.work,
        cores=arguments.cores,
    )
    _one_run.run(request)
    for job, out in zip(jobs, outs, strict=True):
        carried[job.name][method] = out


def _upgrade(
    job: Job,
    old: Base,
    new: Base,
    carried: dict[str, Path],
    texts: Sequence[str],
    about: dict[str, Any],
    settings: Settings,
) -> Upgraded:
    test, tested = set_apart(job.records, job.test, settings)
    return upgrade(
        old,
        new,
        job.adapter,
        carried,
        job.records,
        job.out,
        settings,
        test=test,
        tested=tested,
        texts=texts,
        base_name=about["new"],
        about=about,
    )


def _about(job: Job, arguments: Namespace, settings: Settings) -> dict[str, Any]:
    """What upgrade.json says of an adapter and of both models, by their ids where they have one."""
    old, new = (hub_id(source) or source for source in (arguments.old, arguments.new))
    key = key_of(job, arguments, settings)
    return {"name": job.name, "old": old, "new": new, "adapter": str(job.adapter), "key": key}


def _told(error: Exception, job: Job) -> object:
    if isinstance(error, LoraportError):
        return error
    return explained(error, job.name, None) or f"unexpected {type(error).__name__}: {error}"


def _write(arguments: Namespace, jobs: Sequence[Job], rows: dict[str, fleet.Row]) -> None:
    """Write fleet.csv and fleet.json of what is done so far, where there are several adapters."""
    if len(jobs) < 2:
        return
    arguments.out.mkdir(parents=True, exist_ok=True)
    done = [rows[job.name] for job in jobs if job.name in rows]
    fleet.write_fleet(arguments.out, done, {"old": arguments.old, "new": arguments.new}, {})
