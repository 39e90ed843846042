"""Rows that an adapter trained in place of a few tokens' own (peft's trainable_token_indices).

The file holds the rows, (n, d), beside an embedding or a head, and the config says whose they are.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import LoraportError

FIELD = "trainable_token_indices"
END = ".token_adapter.trainable_tokens_delta"  # of a tensor's name, behind its module


def trained_ids(
    directory: Path, config: Mapping[str, Any], saved: Mapping[str, np.ndarray]
) -> dict[str, list[int]]:
    """Module with such rows -> the ids that they are of, in their order.

    Raises
    ------
    LoraportError
        For rows without ids, ids without rows, or as many as do not agree.
    """
    asked = config.get(FIELD) or {}
    held = [name.removesuffix(END) for name in saved if name.endswith(END)]
    by_name = asked if isinstance(asked, dict) else dict.fromkeys(held[:1] or ["embedding"], asked)
    ids: dict[str, list[int]] = {}
    for path in held:
        names = [name for name in by_name if path == name or path.endswith(f".{name}")]
        ids[path] = list(by_name[names[0]]) if names else []
    lost = [name for name in by_name if not any(p.endswith(name) for p in held)]
    odd = [path for path in held if saved[path + END].shape[:1] != (len(ids[path]),)]
    # of two modules whose weights are tied, peft stores the rows once
    if odd or (lost and not held):
        raise LoraportError(
            f"adapter {directory} does not say whose rows it trained",
            got=f"{FIELD} = {config.get(FIELD)!r}, rows at "
            + (", ".join(f"{p} {saved[p + END].shape}" for p in held) or "no module"),
            expected="an id for each row, and a row for each id",
            todo="save the adapter again with peft's save_pretrained()",
        )
    return ids
