"""Parts of files whose checksums were compared: forks of one process need not do it again.

Many adapters go through the same maps, each in a fork of its own (`batch`). What one fork has
checked it tells the process that made it, and so all later ones know it. Nothing of it is kept on
disk: a process that starts anew checks anew.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

Part = tuple[str, ...]  # the file as it is now, and the part of it
_known: set[Part] = set()


def part(file: IO[bytes], name: str) -> Part:
    """What names a part of an open file, as long as the file does not change."""
    stat = os.fstat(file.fileno())
    numbers = stat.st_dev, stat.st_ino, stat.st_size, stat.st_mtime_ns
    return (*map(str, numbers), str(Path(file.name).absolute()), name)


def is_known(part: Part) -> bool:
    """Whether it was checked, here or in an earlier fork of the same process."""
    return part in _known


def remember(part: Part) -> None:
    """Note that it was checked."""
    _known.add(part)


@contextmanager
def learned() -> Iterator[IO[str]]:
    """Give a file for a fork to `tell` in; what it told is known here afterwards."""
    with TemporaryFile("w+", encoding="utf-8") as file:
        yield file
        file.seek(0)
        _known.update(tuple(json.loads(line)) for line in file if line.endswith("\n"))


def tell(file: IO[str]) -> None:
    """In a fork: write down all that is known."""
    file.writelines(f"{json.dumps(part)}\n" for part in sorted(_known))
    file.flush()
