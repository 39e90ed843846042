"""A pair whose moments are summed while its maps are fitted, and never lie on disk."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from .pair import Pair

SUMS_ROOM_BYTES = 6 << 30  # of a layer pair, that stay on a GPU until its maps are fitted


def in_turn(pair: Pair, texts: Any, summed: Mapping[str, Any]) -> Pair:
    """The pair with moments that are summed when a layer's turn comes; both models are streamed.

    Parameters
    ----------
    texts : as for `activations.load_texts`
    summed : `reading`, as of rule moments, and `modules`, which the sums are to serve
    """
    from ..calibration.activations import load_texts  # imports transformers: not for all maps
    from ..calibration.sums import InTurn, layer_moments
    from ..calibration.walk import open_walks

    reading = summed["reading"]
    settings, sides = {**reading["calibration"], "stream": "always"}, (pair.old, pair.new)
    lines = load_texts(texts, settings["examples"])
    walks, batches = open_walks(sides, lines, settings, reading["remote_code"])
    modules = summed["modules"]
    how = {"roles": modules, "room": SUMS_ROOM_BYTES, "reuse": pair.workers == 1}
    found = layer_moments(sides, walks, batches, pair.path, pair.device, **how)
    return replace(pair, moments=InTurn(found))
