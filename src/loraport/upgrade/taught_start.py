"""A start of a light fine-tuning that is taught: the teaching of an upgrade, on the small set.

The prompts are those of the small set and what a bare model writes besides, and the answers of the
small set are labels. What is held back is learned from by nothing; the gain of the start, the best
rate and the best epoch are chosen on some of it, as in any upgrade. The old model's adapter gives
what the small set lacks by its answers to the other prompts: where none are to be written, nothing
is taught.
"""

import gc
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import LoraportError
from ..evaluation.start import Load
from ..runtime.memory import let_go
from ..training.data import Example
from ..training.train import make_deterministic
from .base import Base
from .learn import learn
from .parts import Parts, Settings
from .prompts import of_example
from .rule import carried_candidates, learning_of, limits_of, load_one

log = logging.getLogger("loraport")
# prompts that `epochs` of the section `upgrade` are meant for; more are seen less often. On real
# pairs 1280 in as many steps taught better than 320 (docs/methods.md)
MEANT_FOR = 320


@dataclass(frozen=True)
class Teaching:
    """Makes a taught start: a callable as `evaluation.start.Teach`.

    Attributes
    ----------
    section : of the section `upgrade`, what concerns `learn` and the old model
    old_dir : gives the folder of the old model, or says why it is not there
    about_old : has its `remote_code`
    adapter : of the old model
    artifacts, inputs, transfer : what carries the adapter, as `rule.carried_candidates` takes it
    base_name : what adapter_config.json calls the new model
    """

    section: Mapping[str, Any]
    old_dir: Callable[[], Path]
    about_old: Mapping[str, Any]
    adapter: Path
    artifacts: Mapping[str, str]
    inputs: Mapping[str, str]
    transfer: Mapping[str, Any]
    base_name: str | None = None

    def __call__(
        self,
        load: Load,
        learned: Sequence[Example],
        held: Sequence[Example],
        out: Path,
    ) -> dict[str, Any]:
        """Teach an adapter and write it into the folder `out`; what `learn` reports of it.

        Parameters
        ----------
        load : gives the bare new model and its tokenizer, asked for once nothing is refused; the
            model is bare again at the end
        learned, held : examples that are taught, and held back

        Raises
        ------
        LoraportError
            If there is nothing to teach or to write, there is no old model, or the teaching fails.
        """
        divided, settings = parts_of(learned, held), learning_of(self.section)
        settings = replace(settings, teaching=replace(settings.teaching, meant_for=MEANT_FOR))
        if len(learned) >= settings.at_least:  # as the plan has it, which asked for memory
            raise LoraportError(
                "the small set is large enough to learn from alone",
                got=f"{len(learned)} examples to teach",
                expected=f"fewer than {settings.at_least}, so that other prompts are written",
                todo="raise `taught_prompts` under `finetune` to teach a start all the same",
            )
        old_dir = self.old_dir()
        candidates = out.with_name("candidates")
        candidates.mkdir()
        carried = carried_candidates(
            self.adapter, self.artifacts, self.inputs, candidates, self.transfer
        )
        new = Base(*load(), limits_of(self.section))
        make_deterministic(settings.seed)
        old = load_one(old_dir, self.section, self.about_old)
        out.mkdir()
        try:
            done = learn(
                old, new, self.adapter, carried, divided, out, settings, base_name=self.base_name
            )
        finally:
            del old
            gc.collect()  # PEFT's wrappers hold the base in circles
            let_go()
        log.info("teacher %(teacher)s: %(why)s", done.report["choice"])
        log.info("taught from %(start)s at gain %(gain)s", done.report["start"])
        log.info("best epoch: %s", done.report["taught"]["best"])
        return done.report


def parts_of(
    learned: Sequence[Example], held: Sequence[Example], most: int = Settings.most_held
) -> Parts:
    """Examples as the parts of a teaching; a prompt that is held back is taught nowhere.

    Of what is held back the first `most` are asked between epochs; the others are a test, so that
    none of them is written anew.

    Raises
    ------
    LoraportError
        If no prompt is left to teach.
    """
    apart = [of_example(each) for each in held]
    asked = {record.prompt for record in apart}
    taught = [each for each in map(of_example, learned) if each.prompt not in asked]
    if not taught:
        raise LoraportError(
            "there is nothing to teach",
            got=f"{len(learned)} examples, each with a prompt that is held back as well",
            expected="a small set of different prompts",
            todo="raise `examples` under `finetune`, or set `finetune.start` to chosen",
        )
    return Parts(taught, apart[:most], apart[most:])
