"""Generators: what writes a base model's answers in transformers' place, one file each, found by
its name.

transformers writes with the model in memory, whatever it wears. A generator has a copy of the base
model of its own and reads adapters from their folders; it is a module with

`installed()` : whether its package is there, which is not imported for it.
`Engine(folder, model, wanted, longest, remote_code)` : starts at its first use. Its `write(asked)`
    gives answers, or None for what it does not write; `name` says what it is, `close()` ends it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from ...errors import LoraportError
from ...runtime.by_name import did_you_mean, names_of

ALONE = "transformers"
AUTO = "auto"
# answers of one base model from which on `auto` uses a generator. On an H100 vLLM 0.26.0 had not
# begun to write 100 s after its start. transformers wrote 400 answers of a 0.5B model with an
# adapter in 17.3 s and 2,000 in 36.1 s (40 new tokens at most, 64 at a time): more than 5,000 in
# such a start. How fast vLLM writes is not measured, so several times as many must be asked for.
PAYS = 20_000


@dataclass(frozen=True)
class Wanted:
    """What a command wants of a base model's generator.

    name : `auto`, or a generator's
    answers : that are to be written, about
    adapters : folders of adapters that it is to wear; those made later have no greater rank
    """

    name: str = ALONE
    answers: int = 0
    adapters: tuple[Path, ...] = ()


@dataclass(frozen=True)
class Asked:
    """Answers that are to be written by a model that is its folder's, bare or with an adapter.

    model : in memory, as it would write them
    texts : prompts
    max_tokens : prompts longer than that are cut at their start
    new_tokens : that an answer has at most
    temperature : 0 takes the likeliest token; above it, they are drawn from the seed
    adapter : folder of the adapter that the model wears; None: none
    """

    model: Any
    tokenizer: Any
    texts: Sequence[str]
    max_tokens: int
    new_tokens: int
    temperature: float
    seed: int
    adapter: Path | None


def names() -> tuple[str, ...]:
    """All generators beside transformers, by their files."""
    return names_of(__package__)


def check(name: str) -> None:
    """Refuse a generator that is not known or not installed, before any work.

    Raises
    ------
    LoraportError
        As it says.
    """
    if name in (AUTO, ALONE):
        return
    if name not in names():
        known = (AUTO, ALONE, *names())
        raise LoraportError(
            f"unknown generator {name!r}",
            got=name,
            expected=", ".join(known),
            todo=did_you_mean(name, known),
        )
    if not _module(name).installed():
        raise LoraportError(
            f"the generator {name} is asked for and is not installed",
            got=f"no package {name} in this Python",
            expected=f"{name} beside loraport",
            todo=f"install it (pip install {name}), or let the generator be {AUTO}",
        )


def opened(
    wanted: Wanted, folder: Path, model: Any, longest: int, remote_code: bool = False
) -> Any | None:
    """The generator with a copy of the base model that is to be used; None: transformers alone.

    Parameters
    ----------
    folder : of the model
    longest : prompt with its answer, in tokens
    """
    name = wanted.name
    if name == AUTO:
        pays = wanted.answers >= PAYS and model.device.type == "cuda"
        there = (each for each in names() if pays and _module(each).installed())
        name = next(there, ALONE)
    if name == ALONE:
        return None
    return _module(name).Engine(folder, model, wanted, longest, remote_code)


def told(wrote: Mapping[str, Mapping[str, int]]) -> dict[str, Any]:
    """Which generators wrote, as reports record it; empty where it was transformers alone.

    Parameters
    ----------
    wrote : `old` and `new` -> generator -> how many answers

    Examples
    --------
    >>> told({"old": {"vllm 0.26.0": 90}, "new": {"transformers": 64}})
    {'generator': {'old': {'vllm 0.26.0': 90}, 'new': {'transformers': 64}}}
    >>> told({"old": {"transformers": 90}, "new": {"transformers": 64}})
    {}
    """
    if not {name for each in wrote.values() for name in each} - {ALONE}:
        return {}
    return {"generator": {side: dict(sorted(each.items())) for side, each in wrote.items()}}


def line(report: Mapping[str, Any]) -> str:
    """The same in words, of a report; empty where it records nothing.

    Examples
    --------
    >>> line({"generator": {"old": {"vllm 0.26.0": 90}, "new": {"transformers": 64}}})
    'answers of the old model: 90 by vllm 0.26.0; of the new: 64 by transformers'
    """
    if "generator" not in report:
        return ""
    old, new = (
        ", ".join(f"{count} by {name}" for name, count in report["generator"][side].items())
        for side in ("old", "new")
    )
    return f"answers of the old model: {old or 'none'}; of the new: {new or 'none'}"


def _module(name: str) -> Any:
    return import_module(f"{__package__}.{name}")
