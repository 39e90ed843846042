"""What is wrong with a plan beside the error that was met first, so that all is told at once."""

from collections.abc import Callable, Iterator
from typing import Any

from ..errors import LoraportError
from . import preflight, tasks
from .adapters_table import ERRORS_SHOWN


def with_the_rest(error: LoraportError, look: Any) -> LoraportError:
    """An error with what else is wrong with the pairs in `run`: models, texts, adapters, tasks.

    Parameters
    ----------
    error : met while the workflow was planned
    look : the look-ups that met it

    Returns
    -------
    The error itself where nothing else is wrong, or else one with a list.
    """
    head, *rest = str(error).split("\n- ")
    found = rest or [head]
    more = [each for each in dict.fromkeys(_problems(look)) if each not in found]
    if not more:
        return error
    found += more
    left = len(found) - ERRORS_SHOWN
    shown = "\n- ".join(found[:ERRORS_SHOWN]) + (f"\n(and {left} more)" if left > 0 else "")
    return LoraportError(f"the plan has {len(found)} errors:\n- {shown}")


def _problems(look: Any) -> Iterator[str]:
    """Messages of everything that can be asked without work."""
    config = look.config
    for pair in config.content["run"]:
        names = config.pair(pair)
        models = [
            each
            for name in names
            for each in _told(preflight.check_model, config.model(name)["source"])
        ]
        yield from models
        yield from _told(
            preflight.check_texts, config.texts(names[0]), config.content["calibration"]["examples"]
        )
        for app in config.apps(names[0]):
            if config.adapter(app, names[0])["source"] and not models:
                yield from look.refused(app, pair)
    examples = config.content["finetune"]["examples"]
    used = sorted({row["task"] for row in config.adapters.values() if row["task"]})
    for name in used:
        entry = config.content["tasks"][name]
        for each in tasks.problems(
            config, tasks.completed(name, entry), look.tasks_dir(), examples
        ):
            yield str(each)


def _told(check: Callable[..., None], *given: Any) -> Iterator[str]:
    try:
        check(*given)
    except LoraportError as error:
        yield str(error)
