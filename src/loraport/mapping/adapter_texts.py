"""An adapter with the texts on which maps of its own are fitted."""

from collections.abc import Callable, Sequence
from typing import Any

from ..adapters.audit import audit
from ..adapters.files import folder_of, read_adapter
from ..calibration.activations import load_texts
from ..errors import LoraportError
from ..models.spec import Model
from ..models.streaming import is_streamed
from ..training.data import Example, read, subset
from ..training.own_answers import task_texts
from .pair import Adapted


def open_adapted(adapter: str | Sequence[str], old: Model, params: Any) -> Adapted:
    """Gather what a method needs that declares `adapter`.

    Parameters
    ----------
    adapter : its folder, or its files
    params : of rule adapter_maps: `known_as`, `reading`, `sources`, `settings`, and `task` (None:
        generic texts); `settings.calibrate_on` is the kind of texts, see
        `loraport.training.own_answers`
    """
    folder = folder_of(adapter)
    held = read_adapter(folder)
    calibration = params.reading["calibration"]
    limits = {key: calibration[key] for key in ("max_tokens", "batch_size")}
    kind = params.settings["calibrate_on"]
    if kind == "generic":
        lines = load_texts(params.sources["texts"], calibration["examples"])
    else:
        examples = prompts_of(params.task, params.settings["prompts"] or calibration["examples"])

    def texts(opened: Callable[[], Any], tokenizer: Any) -> list[str]:
        if kind == "generic":
            return lines
        model = opened() if kind == "own_answers" else None
        return task_texts(kind, examples, model, tokenizer, **limits)

    old_code, new_code = params.reading["remote_code"]
    asked = {"stream": calibration["stream"]}
    return Adapted(
        folder,
        audit(held, old.architecture, old.dims, params.known_as, partly=True),
        texts,
        **limits,
        remote_code=(old_code, new_code),
        streamed=(is_streamed(asked, old_code), is_streamed(asked, new_code)),
    )


def prompts_of(task: dict[str, Any] | None, count: int) -> list[Example]:
    """The first examples of a task, in the order in which light fine-tuning draws them."""
    if task is None:
        raise LoraportError(
            "maps of one adapter are fitted on its task's prompts, and it names no task",
            expected="a task in adapters.tsv, or generic texts",
            todo="name the task, or set mapping.calibrate_on to generic",
        )
    examples = read(**task)
    return subset(examples, min(count, len(examples)), 0)
