"""What look-ups of the rules are asked for, without Snakemake: wildcards, and sizes of models."""

from types import SimpleNamespace

SIZES = {"vocabulary": 100, "hidden": 64, "intermediate": 128, "layers": 2, "heads": 4}
DIMENSIONS = {**SIZES, "kv_heads": 4, "head_dim": 16}


class Wildcards(SimpleNamespace):
    """A rule's wildcards: attributes, and items as Snakemake's have."""

    def items(self):
        return vars(self).items()


PAIR = Wildcards(pair="p")
APP = Wildcards(pair="p", app="a")
VARIANT = Wildcards(pair="p", app="a", method="v")
