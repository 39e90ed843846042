"""Generators: what writes a base model's answers; one file each, found by its name.

`transformers` writes with the model in memory, whatever it wears. Another one has a copy of the
base model of its own and reads adapters from their folders; it is a module with

`HELP` : what it is, one line.
`installed()` : whether its package is there, which is not imported for it.
`Engine(folder, model, wanted, longest, remote_code)` : starts at its first use. Its `write(asked)`
    gives answers, or None for what it does not write; `name` says what it is, `close()` ends it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from functools import cache
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...errors import LoraportError

ALONE = "transformers"
AUTO = "auto"
# answers of one base model from which on `auto` uses a generator with a start of its own. Counted,
# not measured: a start of a minute, in which transformers writes 1,500 answers of 128 tokens (64 at
# a time, 25 ms a token), and several times as many short ones; these must be saved first. An
# adapter with 400 prompts, and 500 without labels for its verdict, has 2,400.
PAYS = 4000


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
    """Answers that are to be written.

    model : in memory, as it is to write them
    texts : prompts
    max_tokens : prompts longer than that are cut at their start
    new_tokens : that an answer has at most
    temperature : 0 takes the likeliest token; above it, they are drawn from the seed
    also : transformers' LogitsProcessors that have a say in each token
    adapter : folder of the adapter that the model wears; None: none
    from_folders : the model is its folder's, with this adapter or bare
    """

    model: Any
    tokenizer: Any
    texts: Sequence[str]
    max_tokens: int
    new_tokens: int
    temperature: float = 0.0
    seed: int = 0
    also: Sequence[Any] = ()
    adapter: Path | None = None
    from_folders: bool = False


@cache
def names() -> tuple[str, ...]:
    """All generators, by their files."""
    stems = (path.name.removesuffix(".py") for path in files(__package__).iterdir())
    return tuple(sorted(name for name in stems if name.isidentifier() and name[0] != "_"))


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
        near = get_close_matches(name, (AUTO, *names()), 1)
        raise LoraportError(
            f"unknown generator {name!r}",
            got=name,
            expected=f"{AUTO}, {', '.join(names())}",
            todo=f"did you mean {near[0]!r}?" if near else "",
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
    check(wanted.name)
    others = [name for name in names() if name != ALONE]
    if wanted.name == AUTO:
        if wanted.answers < PAYS or model.device.type != "cuda":
            return None
        others = [name for name in others if _module(name).installed()]
    else:
        others = [name for name in others if name == wanted.name]
    if not others:
        return None
    return _module(others[0]).Engine(folder, model, wanted, longest, remote_code)


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
