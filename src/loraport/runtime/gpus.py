"""Which GPUs of a machine a job uses: free ones, so that jobs run side by side.

Snakemake counts GPUs (`--resources gpu=4`) and hands out none. Each job takes as many as its `gpu`
resource says by locking a file for each of them; the kernel lets go of the locks when the process
ends, however it ends. A cluster that gives a job its GPUs itself leaves nothing to choose here.

Jobs of small models may share: with `LORAPORT_JOBS_PER_GPU=8`, up to eight hold a GPU at a time. A
job goes where most room is: the memory that is free there (by nvidia-smi, where it is), shared with
those that have just come and may not have taken theirs yet.

What torch holds of a GPU grows in one piece (`one_piece`).
"""

import fcntl
import logging
import os
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path

from loraport.errors import LoraportError

VISIBLE = "CUDA_VISIBLE_DEVICES"
SHARED_BY = "LORAPORT_JOBS_PER_GPU"
# how torch's allocator holds memory, by the variables that torch 2.11 to 2.13 read: the first one
# that is set counts, and what the user has set stays as it is
ALLOCATOR = ("PYTORCH_CUDA_ALLOC_CONF", "PYTORCH_HIP_ALLOC_CONF", "PYTORCH_ALLOC_CONF")
GROWING = "expandable_segments:True"
SETTLED = 180.0  # seconds after which a job has taken the memory that it needs
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
def one_piece() -> Iterator[None]:
    """Let torch hold a GPU's memory in a segment that grows, unless the user says how it is held.

    Else each size that is asked for may get a segment of its own, which serves no larger one when
    it is free again: fits that used 33 GiB held 76. To be entered before the first tensor
    is on a GPU: then torch reads it, not when it is imported.
    """
    if any(name in os.environ for name in ALLOCATOR):
        yield
        return
    os.environ[ALLOCATOR[-1]] = GROWING
    try:
        yield
    finally:
        os.environ.pop(ALLOCATOR[-1], None)


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
    told = False
    while True:
        with ExitStack() as tried:
            mine = _choose(names, count, tried)
            if len(mine) == count:
                locks.enter_context(tried.pop_all())
                return mine
        if not told:
            log.info("waiting for %d of the GPUs %s to be free", count, ", ".join(names))
            told = True
        time.sleep(random.uniform(0.5, 1.5))


def _choose(names: Sequence[str], count: int, locks: ExitStack) -> list[str]:
    """Lock a place of each of the `count` roomiest GPUs that have one; none where too few have.

    One job at a time chooses: it tries all places, to see how many jobs hold a GPU.
    """
    with ExitStack() as choosing:
        _lock(_lock_file("choice"), choosing, wait=True)
        room = free_memory(names)
        open_places, ranks = {}, {}
        for number, name in enumerate(names):
            tried = {path: choosing.enter_context(ExitStack()) for path in _places(name)}
            held = [path for path, lock in tried.items() if not _lock(path, lock)]
            coming = sum(_is_fresh(path) for path in held) if room else len(held)
            ranks[name] = -room.get(name, 1.0) / (1 + coming), len(held), number
            open_places[name] = [place for place in tried.items() if place[0] not in held]
        mine = sorted(filter(open_places.get, names), key=ranks.__getitem__)[:count]
        if len(mine) < count:
            return []
        for name in mine:
            path, lock = open_places[name][0]
            os.utime(path)  # when it was taken
            locks.enter_context(lock.pop_all())
        return mine


def free_memory(names: Sequence[str]) -> dict[str, float]:
    """Free memory of each GPU in MiB, by nvidia-smi; empty where it can't tell of all of them."""
    query = ["nvidia-smi", "--query-gpu=index,uuid,memory.free", "--format=csv,noheader,nounits"]
    try:
        said = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True).stdout
        rows = [[each.strip() for each in line.split(",")] for line in said.splitlines()]
        return {
            name: next(float(free) for index, uuid, free in rows if _is_named(name, index, uuid))
            for name in names
        }
    except (OSError, subprocess.SubprocessError, ValueError, StopIteration):
        return {}


def _is_named(name: str, index: str, uuid: str) -> bool:
    """Whether CUDA's name of a GPU, a number or the beginning of its UUID, means this one."""
    return name == index or (name.startswith("GPU-") and uuid.startswith(name))


def _places(name: str) -> list[Path]:
    """Files that stand for the places of a GPU."""
    safe = "".join(letter if letter.isalnum() else "_" for letter in name)
    return [_lock_file(f"{safe}-{place}") for place in range(shared_by())]


def _lock_file(name: str) -> Path:
    return Path(tempfile.gettempdir()) / f"loraport-{os.getuid()}-gpu-{name}.lock"


def _is_fresh(path: Path) -> bool:
    """Whether the job that holds a place came a short while ago."""
    return time.time() - path.stat().st_mtime < SETTLED


def _lock(path: Path, locks: ExitStack, *, wait: bool = False) -> bool:
    """Lock a file until `locks` is closed; False where another job has it and we do not wait."""
    file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        os.close(file)
        return False
    locks.callback(os.close, file)
    return True
