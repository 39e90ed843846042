"""Which GPUs of a machine a job uses: free ones, so that jobs run side by side.

Snakemake counts GPUs (`--resources gpu=4`) and hands out none. Each job takes as many as its `gpu`
resource says by locking a file for each of them; the kernel lets go of the locks when the process
ends, however it ends. A cluster that gives a job its GPUs itself leaves nothing to choose here.

Jobs of small models may share: with `LORAPORT_JOBS_PER_GPU=8`, up to eight hold a GPU at a time.
"""

import fcntl
import logging
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loraport.errors import LoraportError

VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARED_BY = "LORAPORT_JOBS_PER_GPU"
log = logging.getLogger("loraport")


def visible() -> list[str]:
    """Names of the GPUs that this process may use; CUDA is not started for it."""
    listed = os.environ.get(VISIBLE)
    if listed is not None:
        return [name.strip() for name in listed.split(",") if name.strip() not in ("", "-1")]
    torch = sys.modules.get("torch")  # imported by every script that uses a GPU
    return [str(number) for number in range(torch.cuda.device_count())] if torch else []


def shared_by() -> int:
    """How many jobs may hold a GPU at the same time: LORAPORT_JOBS_PER_GPU, or one.

    Raises LoraportError where it is no number from 1 on.
    """
    text = os.environ.get(SHARED_BY, "1")
    if not (text.isascii() and text.isdigit() and int(text) > 0):
        raise LoraportError(
            f"the environment variable {SHARED_BY}",
            got=text,
            expected="a whole number from 1 on",
            todo="set it to how many jobs may share a GPU, or unset it",
        )
    return int(text)


@contextmanager
def held(count: int) -> Iterator[list[str]]:
    """Hold `count` GPUs and make them the only ones that CUDA shows; wait while too few are free.

    Nothing is locked where the process sees no more GPUs than it asks for. To be entered before
    CUDA is started.
    """
    names = visible()
    if count < 1 or len(names) <= count:
        yield names
        return
    before = os.environ.get(VISIBLE)
    with ExitStack() as locks:
        mine = _take(names, count, locks)
        os.environ[VISIBLE] = ",".join(mine)
        try:
            yield mine
        finally:
            if before is None:
                del os.environ[VISIBLE]
            else:
                os.environ[VISIBLE] = before


def _take(names: Sequence[str], count: int, locks: ExitStack) -> list[str]:
    """Lock `count` of the GPUs, all or none: two jobs that wait can't block each other."""
    places = [(name, place) for place in range(shared_by()) for name in names]
    told = False
    while True:
        with ExitStack() as tried:
            mine: list[str] = []
            for name, place in places:
                if len(mine) < count and name not in mine and _lock(name, place, tried):
                    mine.append(name)
            if len(mine) == count:
                locks.enter_context(tried.pop_all())
                return mine
        if not told:
            log.info("waiting for %d of the GPUs %s to be free", count, ", ".join(names))
            told = True
        time.sleep(random.uniform(0.5, 1.5))


def _lock(name: str, place: int, locks: ExitStack) -> bool:
    """Try to lock the file of one of a GPU's places until `locks` is closed."""
    safe = "".join(letter if letter.isalnum() else "_" for letter in name)
    path = Path(tempfile.gettempdir()) / f"loraport-{os.getuid()}-gpu-{safe}-{place}.lock"
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return False
    locks.callback(os.close, file)
    return True
