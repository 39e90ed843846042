"""What the rules of an upgrade do: settings as configured, files in and files out."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..artifacts import atomic, read_json, write_json
from ..errors import LoraportError
from ..evaluation.verdict import Settings as Judging
from ..evaluation.verdict import Verdict
from ..training.data import read
from ..transfer.files import transfer_whole
from . import generators
from .base import Base, Limits, wrote
from .card import write_card
from .fleet import REPORT
from .generators import Wanted
from .learn import learn
from .parts import Settings, check_taught, split
from .prompts import Record, of_example
from .teach import Settings as Teaching
from .teachers import Settings as Writing
from .upgrade import judged_of
from .verify import answers_to, check_yardstick, old_answers, verify

log = logging.getLogger("loraport")
LIMITS = ("batch_size", "max_tokens", "new_tokens")


def settings_of(section: Mapping[str, Any]) -> Settings:
    """The configuration's section `upgrade` as settings."""
    return replace(
        learning_of(section),
        prompts=section["prompts"],
        verify=section["verify"],
        verdict=judging_of(section),
    )


def learning_of(section: Mapping[str, Any]) -> Settings:
    """What of the section `upgrade` concerns `learn`, which splits and judges nothing."""
    rates = tuple(float(rate) for rate in section["rates"])
    seed, match = section["seed"], section["match"]
    return Settings(
        teacher=section["teacher"],
        at_least=section["at_least"],
        minutes=section["minutes"],
        seed=seed,
        writing=Writing(section["soft"], section["alpha"], section["weighted"], section["shots"],
                        seed=seed),
        teaching=Teaching(rates=rates, epochs=section["epochs"], patience=section["patience"],
                          match=match, seed=seed),
        verdict=Judging(match=match),
    )  # fmt: skip


def judging_of(section: Mapping[str, Any]) -> Judging:
    """What of the section `upgrade` concerns a verdict."""
    return Judging(section["margin"], section["level"], section["match"], section["temperature"])


def records_of(data: Mapping[str, Any], section: Mapping[str, Any]) -> list[Record]:
    """A task's training data as prompts; the first `labels` of the taught ones keep their answers.

    Parameters
    ----------
    data : as `training.data.read` takes it
    """
    answered = {each.prompt: each.gold for each in map(of_example, read(**data))}
    records = [Record(prompt) for prompt in answered]
    taught = split(records, (), settings_of(section)).taught[: section["labels"]]
    labelled = {record.prompt for record in taught}
    return [
        replace(record, gold=answered[record.prompt]) if record.prompt in labelled else record
        for record in records
    ]


def carried_candidates(
    adapter: Path,
    artifacts: Mapping[str, str],
    inputs: Mapping[str, str],
    folder: Path,
    transfer: Mapping[str, Any],
) -> dict[str, Path]:
    """The adapter carried by the configured method, whole and in the gauge of a new one.

    Empty where it can't be carried: the log then says why, and the teaching starts from nothing.
    """
    method = str(transfer["of"]["method"])
    out = folder / method
    try:
        transfer_whole(adapter, artifacts, inputs, out, transfer, factors="fresh")
    except LoraportError as error:
        log.warning("not carried by %s: %s", method, error)
        return {}
    return {method: out}


@contextmanager
def loaded(
    folders: Sequence[Path],
    section: Mapping[str, Any],
    about: Mapping[str, Mapping[str, Any]],
    wanted: Mapping[str, Wanted],
) -> Iterator[list[Base]]:
    """The old and the new base model in memory; `wanted` of each is what writes its answers."""
    bases = [
        load_one(folder, section, about[side], wanted[side])
        for side, folder in zip(("old", "new"), folders, strict=True)
    ]
    try:
        yield bases
    finally:
        for base in bases:
            base.close()


def load_one(
    folder: Path,
    section: Mapping[str, Any],
    about: Mapping[str, Any],
    wanted: Wanted = Wanted(),  # noqa: B008  (frozen)
) -> Base:
    """A base model in memory; `about` has its `remote_code`."""
    return Base.load(
        folder,
        limits_of(section),
        wanted,
        dtype=section["dtype"],
        device=section["device"],
        device_map=section["device_map"],
        trust_remote_code=about["remote_code"],
    )


def limits_of(section: Mapping[str, Any]) -> Limits:
    """How much a base model reads and writes at a time."""
    return Limits(**{key: section[key] for key in LIMITS})


def write_upgraded(
    out: str | Path,
    folders: Sequence[Path],
    adapter: Path,
    carried: Mapping[str, Path],
    records: Sequence[Record],
    section: Mapping[str, Any],
    *,
    bases: Mapping[str, Mapping[str, Any]],
    commits: Mapping[str, str],
    inputs: Mapping[str, str],
) -> dict[str, Any]:
    """Teach an adapter and write it with its record and card; the verdict is another rule's.

    Parameters
    ----------
    folders : of the old and the new model
    bases : `old` and `new` -> `name`, as adapters record it, and `remote_code`
    commits : `old` and `new` -> commit on the hub; empty where there is none
    """
    settings = settings_of(section)
    parts, name = split(records, (), settings), section["generator"]
    check_taught(parts)
    many = len(parts.taught) + len(parts.held)
    wanted = {"old": Wanted(name, many, (adapter,)), "new": Wanted(name, many, (adapter,))}
    with loaded(folders, section, bases, wanted) as (old, new), atomic(out) as temporary:
        name = bases["new"]["name"]
        done = learn(old, new, adapter, carried, parts, temporary, settings, base_name=name)
        about = {"old": bases["old"]["name"], "new": name, "adapter": str(adapter)}
        about["commits"] = dict(commits)
        report = {**about, **done.report, **wrote(old, new)}
        write_json(temporary / REPORT, "upgrade", inputs, report)
        write_card(temporary, report)
    if line := generators.line(report):
        log.info("%s", line)
    return report


def verdict_by_agreement(
    folders: Sequence[Path],
    adapters: Sequence[Path],
    records: Sequence[Record],
    section: Mapping[str, Any],
    about: Mapping[str, Mapping[str, Any]],
) -> tuple[Verdict, dict[str, Any]]:
    """Verdict on prompts that nothing was taught on, by agreement with the old adapter; and what
    wrote the answers.

    Parameters
    ----------
    folders, adapters : of the old and the new model
    """
    settings = settings_of(section)
    test = split(records, (), settings).test
    many, name = answers_to(test), section["generator"]
    wanted = {
        side: Wanted(name, many[side], (worn,))
        for side, worn in zip(("old", "new"), adapters, strict=True)
    }
    with loaded(folders, section, about, wanted) as (old, new):
        before = old_answers(old, adapters[0], test, temperature=settings.verdict.temperature)
        check_yardstick(before, test, settings.verdict)
        verdict, _ = verify(new, adapters[1], before, test, (), settings.verdict)
    return judged_of(verdict, _teacher(adapters[1])), wrote(old, new)


def _teacher(upgraded: Path) -> str:
    return str(read_json(upgraded / REPORT, "upgrade")["choice"]["teacher"])
