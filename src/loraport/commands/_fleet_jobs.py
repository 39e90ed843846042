"""What `loraport upgrade` is asked for: adapters with their prompts, and settings."""

import hashlib
import json
from argparse import Namespace
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ..artifacts import ADAPTER_FILES, sha256
from ..errors import LoraportError
from ..evaluation.verdict import Settings as Judging
from ..upgrade.generators import Wanted
from ..upgrade.parts import Settings, set_apart, split
from ..upgrade.prompts import Record, read_prompts
from ..upgrade.teach import Settings as Teaching
from ..upgrade.teachers import Settings as Teachers
from ..upgrade.teachers import names as teacher_names
from ..upgrade.verify import answers_to
from . import check
from ._names import distinct_names


@dataclass(frozen=True)
class Job:
    """One adapter: what it is called, where it lies and goes, and its prompts and test."""

    name: str
    adapter: Path
    out: Path
    records: list[Record]
    test: list[Record]
    files: list[Path]


def jobs_of(arguments: Namespace) -> Iterator[Job]:
    """The adapters that were named, in their order, each with its prompts and test."""
    adapters = arguments.adapters
    prompts = _for_each(arguments.prompts, len(adapters), "--prompts")
    tests = _for_each(arguments.test, len(adapters), "--test") if arguments.test else []
    names, template = distinct_names(adapters), check.template_of(arguments)
    for number, (name, adapter) in enumerate(zip(names, adapters, strict=True)):
        out = arguments.out / name if len(adapters) > 1 else arguments.out
        test = read_prompts(tests[number], template) if tests else []
        test = test[: arguments.limit or len(test)]
        files = [prompts[number], *(tests[number : number + 1])]
        records = read_prompts(prompts[number], template)
        yield Job(name, adapter, out, records, test, files)


def _for_each(files: Sequence[Path], count: int, option: str) -> list[Path]:
    if len(files) not in (1, count):
        raise LoraportError(
            f"{option} names neither one file nor one for each adapter",
            got=f"{len(files)} files for {count} adapters",
            expected=f"1 or {count}",
        )
    return list(files) * (count // len(files))


def settings_of(arguments: Namespace) -> Settings:
    """Settings of the upgrades, as asked for."""
    try:
        rates = tuple(float(rate) for rate in arguments.rates.split(","))
    except ValueError as error:
        raise LoraportError(
            "the learning rates can't be read",
            got=arguments.rates,
            expected="numbers with commas between, such as 3e-4,1e-3",
        ) from error
    if arguments.teacher not in ("auto", *teacher_names()):
        raise LoraportError(
            f"unknown teacher {arguments.teacher!r}",
            expected=f"one of auto, {', '.join(teacher_names())}",
        )
    return Settings(
        teacher=arguments.teacher,
        prompts=arguments.use,
        at_least=arguments.at_least,
        minutes=arguments.minutes,
        seed=arguments.seed,
        writing=Teachers(
            soft=arguments.soft, alpha=arguments.alpha, shots=arguments.shots, seed=arguments.seed
        ),
        teaching=Teaching(
            rates=rates, epochs=arguments.epochs, match=arguments.match, seed=arguments.seed
        ),
        verdict=Judging(arguments.margin, match=arguments.match, temperature=arguments.temperature),
    )


def wanted_of(jobs: Sequence[Job], name: str, settings: Settings) -> dict[str, Wanted]:
    """What is to write the answers of both models, from about how many these are.

    The old model answers what is taught and what is judged on; of the new one those are counted
    that it writes bare or with a finished adapter, as the student in memory is asked otherwise.
    """
    many = {"old": 0, "new": 0}
    for job in jobs:
        test, _ = set_apart(job.records, job.test, settings)
        parts = split(job.records, test, settings)
        many["old"] += len(parts.taught) + len(parts.held)
        for side, count in answers_to(parts.test).items():
            many[side] += count
    adapters = tuple(job.adapter for job in jobs)
    return {side: Wanted(name, count, adapters) for side, count in many.items()}


def key_of(job: Job, arguments: Namespace, settings: Settings) -> str:
    """What a finished upgrade was made from, as far as its files say."""
    given = arguments.old, arguments.new, arguments.start, arguments.limit, arguments.template
    limits = arguments.new_tokens, arguments.max_tokens, arguments.dtype
    asked = [*given, *limits, str(arguments.texts)]
    parts = [sha256(path) for path in job.files]
    parts += [sha256(job.adapter / name) for name in ADAPTER_FILES]
    text = json.dumps([asked, repr(settings), parts])
    return hashlib.sha256(text.encode()).hexdigest()[:24]
