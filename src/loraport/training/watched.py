"""Where a training is logged besides its own files: trackio, TensorBoard or W&B, by the Trainer.

It is no part of what a training gives: the same bytes come out, and a run that was killed goes on
whether it is watched or not.
"""

import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from ..errors import LoraportError

NONE, NAME = "none", "loraport"
KNOWN = ("trackio", "tensorboard", "wandb")  # each by its package's name
# of the environment, as transformers reads them
FOLDER, PROJECT = "TENSORBOARD_LOGGING_DIR", "WANDB_PROJECT"
PACKAGES = {"tensorboard": ("tensorboard", "tensorboardX")}  # any of which will do


@dataclass(frozen=True)
class Watched:
    """A place where a training is logged.

    Attributes
    ----------
    to : `none`, or one of KNOWN
    name : of the run there
    folder : for TensorBoard's files, unless the environment names one
    """

    to: str = NONE
    name: str = ""
    folder: str | Path = ""

    @classmethod
    def of_job(cls, snakemake: Any) -> "Watched":
        """As a rule's params say, called by the rule and what it is for, beside the rule's log."""
        name = " ".join([snakemake.rule, *map(str, snakemake.wildcards)])
        log = Path(snakemake.log[0])
        return cls(snakemake.params.watched.value, name, log.with_suffix(".tensorboard").absolute())

    def arguments(self) -> dict[str, Any]:
        """Those of transformers' TrainingArguments.

        Raises
        ------
        LoraportError
            For a place that is not known, or whose package is not installed.
        """
        if self.to == NONE:
            return {"report_to": NONE}
        from transformers.integrations import get_available_reporting_integrations

        if self.to not in KNOWN or self.to not in get_available_reporting_integrations():
            raise LoraportError(
                f"a training can't be logged to {self.to!r}",
                got="its package is not installed" if self.to in KNOWN else "an unknown name",
                expected=f"{NONE}, {', '.join(KNOWN)}",
                todo=f"pip install {self.to}, or set finetune.report_to to none",
            )
        if self.folder:
            os.environ.setdefault(FOLDER, str(self.folder))
        os.environ.setdefault(PROJECT, NAME)
        return {"report_to": self.to, "run_name": self.name or None, "project": NAME}


def is_installed(place: str) -> bool:
    """Whether the package is here that a place of KNOWN needs; nothing is imported."""
    return any(find_spec(name) for name in PACKAGES.get(place, (place,)))


UNWATCHED = Watched()
