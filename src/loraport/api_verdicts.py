"""`loraport.upgrade` and `loraport.check` from Python: what the commands of their names do.

    import loraport

    rows = loraport.upgrade("old/", "new/", ["tickets"], "upgraded", prompts="prompts.jsonl")
    print(rows[0].verdict, rows[0].why)
    print(loraport.check("old/", "tickets", "new/", "upgraded", test="test.jsonl").verdict)

Keywords that are not listed here are the commands' further options, with `_` for `-`
(`batch_size=16`). What goes wrong is a `LoraportError`.
"""

import os
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from .commands import _fleet_run
from .commands import check as check_command
from .commands import upgrade as upgrade_command
from .errors import LoraportError
from .evaluation.verdict import Verdict
from .upgrade.fleet import Row

Name = str | os.PathLike[str]


def upgrade(
    old: Name,
    new: Name,
    adapters: Name | Sequence[Name],
    out: Name,
    *,
    prompts: Name | Sequence[Name],
    test: Name | Sequence[Name] = (),
    teacher: str = "auto",
    match: str = "exact",
    margin: float = 2.0,
    minutes: float = 0.0,
    **options: Any,
) -> tuple[Row, ...]:
    """Carry, teach and verify adapters; both models are loaded once.

    Parameters
    ----------
    old, new : directories or hub ids
    adapters : PEFT directories, one or several
    out : a folder; of several adapters a subfolder each
    prompts : files of prompts of the task: one for all adapters, or one for each
    test : files with gold answers, likewise; without, the verdict rests on agreement. Of 256 items
        or more, 64 choose the teacher where that is `auto`, and nothing else
    teacher : `auto`, `old`, `delta`, `context` or `on_policy`
    match : how answers are compared: exact, number, choice, json, contains or rouge
    margin : points of 100 that the new adapter may be worse
    minutes : for each adapter; 0: no limit

    Returns
    -------
    A row for each adapter, in their order: verdict, why, scores in points, minutes.

    Raises
    ------
    LoraportError
        If an adapter fails, and it is the only one or `skip_bad=False`; for unknown options.
    """
    words = [*_names((old, new)), *_names(adapters), os.fspath(out)]
    for flag, files in (("--prompts", prompts), ("--test", test)):
        words += [word for file in _names(files) for word in (flag, file)]
    given = {"teacher": teacher, "match": match, "margin": margin, "minutes": minutes}
    return tuple(_fleet_run.upgrade_all(_arguments(upgrade_command, words, {**given, **options})))


def check(
    old: Name,
    old_adapter: Name,
    new: Name,
    new_adapter: Name,
    *,
    test: Name = "",
    tasks: Sequence[str] = (),
    match: str = "exact",
    margin: float = 2.0,
    out: Name = "verdict.json",
    **options: Any,
) -> Verdict:
    """Whether a new adapter may take the place of the old one; writes `out`.

    Parameters
    ----------
    old, new : directories or hub ids
    old_adapter, new_adapter : PEFT directories
    test : a file of prompts that nothing was trained on, with gold answers or without
    tasks : in its place, tasks of lm-evaluation-harness, by name or YAML file
    match : how answers are compared: exact, number, choice, json, contains or rouge
    margin : points of 100 that the new adapter may be worse

    Raises
    ------
    LoraportError
        If neither or both of `test` and `tasks` are given, the test does not measure what the old
        adapter does, or an option is unknown.
    """
    if bool(test) == bool(tasks):
        raise LoraportError(
            "a check needs one test",
            got="both a file and tasks" if test else "neither a file nor a task",
            expected="`test` or `tasks`",
        )
    words = _names((old, old_adapter, new, new_adapter))
    asked = (("--test", _names(test) if test else []), ("--task", tasks))
    words += [word for flag, each in asked for name in each for word in (flag, name)]
    given = {"match": match, "margin": margin, "out": Path(out)}
    return check_command.judge(_arguments(check_command, words, {**given, **options}))


def _names(given: Name | Sequence[Name]) -> list[str]:
    several = [given] if isinstance(given, str | os.PathLike) else given
    return [os.fspath(each) for each in several]


def _arguments(command: ModuleType, words: Sequence[str], options: dict[str, Any]) -> Namespace:
    """The arguments of a command: its defaults but for the options that are given."""
    parser = ArgumentParser()
    command.add_arguments(parser)
    arguments = parser.parse_args(words)
    if unknown := sorted(set(options) - set(vars(arguments))):
        raise LoraportError(
            f"unknown option {unknown[0]!r}",
            expected=f"one of {', '.join(sorted(vars(arguments)))}",
        )
    for name, value in options.items():
        setattr(arguments, name, Path(value) if name in ("texts", "work") else value)
    return arguments


__all__ = ["Row", "Verdict", "check", "upgrade"]
