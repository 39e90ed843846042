"""Where things lie on this machine: given to a rule's script, and no part of what the result is.

Snakemake keys its cache between workflows by the JSON of a rule's params: a path there would keep
two people from sharing a result. What a thing is (a model's spec.json, the hash of a text file) is
among the rule's inputs or its other params.
"""

from collections.abc import ItemsView
from dataclasses import dataclass
from typing import Any


class Places(dict[str, Any]):
    """A dict of places whose JSON is empty; it is read by its keys.

    Examples
    --------
    >>> import json
    >>> places = Places(old="/models/v1")
    >>> places["old"], json.dumps(places, sort_keys=True)
    ('/models/v1', '{}')
    """

    def items(self) -> ItemsView[str, Any]:  # type: ignore[override]
        """Nothing: this is what the JSON encoder asks for."""
        return {}.items()

    def __reduce__(self) -> tuple[type, tuple[dict[str, Any]]]:
        """Pickle the content (by default it would be what `items` gives)."""
        return Places, ({key: self[key] for key in self},)


@dataclass(frozen=True)
class Aside:
    """A value for a rule's script that is no part of what the result is.

    Snakemake compares params of plain types alone: a change of this one makes nothing again.
    """

    value: Any
