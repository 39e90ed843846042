"""Names of adapters from their folders: no more of the path than tells them apart."""

import hashlib
import re
from collections.abc import Collection, Sequence
from pathlib import Path

# of a model's or adapter's name in paths: two of them with "_to_" between name a pair, and the
# workflow's names have at most 100 characters
LONGEST_NAME = 44
HASH_LENGTH = 8  # of a name that was cut short, by which it differs from others


def shortened(name: str) -> str:
    """A name that paths of the workflow can hold: a long one is cut and ends in a hash of it all.

    Examples
    --------
    >>> shortened("a" * 50)
    'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa_160b4e43'
    """
    if len(name) <= LONGEST_NAME:
        return name
    digest = hashlib.sha256(name.encode()).hexdigest()[:HASH_LENGTH]
    return f"{name[: LONGEST_NAME - HASH_LENGTH - 1]}_{digest}"


def distinct_names(folders: Sequence[Path], taken: Collection[str] = ()) -> list[str]:
    """A name for each folder: its last parts, as many of them as tell the folders apart.

    A folder that is named twice, or as one of `taken`, gets a number.

    Examples
    --------
    >>> distinct_names([Path("/a/customer/final"), Path("/a/legal/final"), Path("/a/other")])
    ['customer_final', 'legal_final', 'other']
    """
    folders = [folder.resolve() for folder in folders]
    names: list[str] = []
    for folder in folders:
        others = {other for other in folders if other != folder}
        depth = 1
        while depth < len(folder.parts) - 1 and any(
            _last(other, depth) == _last(folder, depth) for other in others
        ):
            depth += 1
        name = shortened(_last(folder, depth))
        used = {*taken, *names}
        numbered = (f"{name}_{number}" for number in range(2, len(used) + 3))
        names.append(next(each for each in (name, *numbered) if each not in used))
    return names


def _last(folder: Path, depth: int) -> str:
    parts = [part for part in folder.parts[-depth:] if part != folder.anchor]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "_".join(parts)).lstrip("_.-") or "adapter"
