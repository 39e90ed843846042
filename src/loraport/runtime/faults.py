"""Faults of the machine under a rule, told so that they can be mended: memory, disk, a kill."""

import errno
import json
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from ..errors import LoraportError
from .gpus import SHARED_BY
from .memory import GPU_WORDS, MEMORY_WORDS, gpu_figures

BEGAN = "began"  # status in the first line of a rule's log; the last line says how it ended
FULL = (errno.ENOSPC, errno.EDQUOT)
REFUSED = (errno.EROFS, errno.EACCES, errno.EPERM)
# what makes a rule smaller, by the beginning of its name
SETTINGS = {
    "activations": "lower calibration.batch_size or calibration.max_tokens",
    "moments": "lower calibration.batch_size or calibration.max_tokens",
    "gradients": "lower mapping.moments_gib or calibration.max_tokens",
    "adapter_maps": "lower mapping.prompts, calibration.examples or calibration.max_tokens",
    "own_answers": "lower finetune.micro_batch or finetune.cutoff",
    "lora_": "lower finetune.micro_batch or finetune.cutoff",
    "evaluated": "lower evaluation.batch_size",
    "sweep": "lower evaluation.batch_size",
}
APART = f"let fewer jobs share a GPU (a lower {SHARED_BY})"
TOGETHER = "keep jobs apart that do not fit together (snakemake --resources mem_mb=<MiB there are>)"


LARGER = "or use a machine with more memory"


def explained(
    error: BaseException, rule: str, mem_mb: object, place: Path = Path()
) -> LoraportError | None:
    """The user's error behind an exception: memory that ran out, of the machine or of a GPU, a disk
    that is full or read-only.

    Parameters
    ----------
    mem_mb : MiB that the plan gave to the rule, where it is known
    place : folder that the rule writes to
    """
    for cause in _chain(error):
        text = (str(cause).strip() or type(cause).__name__).splitlines()[0]
        if _says(cause, *GPU_WORDS):
            return LoraportError(
                f"rule {rule} ran out of GPU memory",
                got="; ".join(filter(None, [_sentences(text, 2), gpu_figures()])),
                expected="room on the GPU for the model and what a batch keeps",
                todo=_smaller(rule, APART, "or use a GPU with more memory"),
            )
        if isinstance(cause, MemoryError) or _says(cause, *MEMORY_WORDS):
            return LoraportError(
                f"rule {rule} ran out of memory",
                got=text,
                expected=_estimate(mem_mb),
                todo=_smaller(rule),
            )
        number = getattr(cause, "errno", None)
        if number in FULL or _says(cause, "no space left on device", "disk quota exceeded"):
            return LoraportError(
                f"rule {rule} cannot write: the disk is full",
                got=f"no space left on device, {_free(place)}",
                expected="room for the rule's output, which was not left half-written",
                todo="make room, or move artifacts/ to a larger disk and link it here; then run "
                "the same command again",
            )
        if isinstance(cause, OSError) and number in REFUSED:
            return LoraportError(
                f"rule {rule} may not write or read a file",
                got=text,
                expected="artifacts/ that this user may write, and models that it may read",
                todo="give the right to it, or run in a folder of your own",
            )
    return None


def _chain(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _says(error: BaseException, *words: str) -> bool:
    text = str(error).lower()
    return isinstance(error, OSError | RuntimeError) and any(word in text for word in words)


def _free(place: Path) -> str:
    there = next(path for path in (place, *place.absolute().parents) if path.exists())
    return f"{shutil.disk_usage(there).free / 2**20:.1f} MiB are free in {place}"


def _estimate(mem_mb: object) -> str:
    return f"at most {mem_mb} MiB, by the plan" if mem_mb else "what the plan says"


def _smaller(rule: str, apart: str = TOGETHER, larger: str = LARGER) -> str:
    own = next((way for start, way in SETTINGS.items() if rule.startswith(start)), "")
    return "; ".join(filter(None, [own, apart, larger]))


def _sentences(text: str, count: int) -> str:
    """The first sentences of a message."""
    return ". ".join(text.split(". ")[:count]).rstrip(".")


def beginning(snakemake: Any) -> dict[str, Any]:
    """The first line of a rule's log: what a job that is killed leaves behind."""
    return {
        "rule": snakemake.rule,
        "wildcards": dict(snakemake.wildcards.items()),
        "status": BEGAN,
        "mem_mb": getattr(getattr(snakemake, "resources", None), "mem_mb", None),
    }


def told_of_killed(root: Path, since: float) -> list[LoraportError]:
    """What is to be said of jobs under `root` that began after `since` and have no last line.

    Their logs are ended in their stead, so that tables can tell of them.
    """
    killed = []
    for path in sorted(root.glob("**/logs/**/*.log")):
        if path.stat().st_mtime < since or not (record := _unfinished(path)):
            continue
        names = " ".join([record["rule"], *record["wildcards"].values()])
        error = LoraportError(
            f"{names} was killed before it could say why, most often because memory ran out",
            got=f"{path} ends without a last line",
            expected=_estimate(record.get("mem_mb")),
            todo=f"{_smaller(record['rule'])}; then run the same command again: only what is "
            "unfinished is redone",
        )
        killed.append(error)
        record |= {"status": "failed", "seconds": 0.0, "peak_mib": 0.0}
        with path.open("a") as log:
            log.write(f"\n{error}\n{json.dumps(record)}\n")
    return killed


def _unfinished(path: Path) -> dict[str, Any]:
    """The first line of a log that lacks its last one; empty for any other."""
    lines = path.read_text(errors="replace").strip().splitlines() or [""]
    first, last = _record(lines[0]), _record(lines[-1])
    return dict(first) if first.get("status") == BEGAN and "seconds" not in last else {}


def _record(line: str) -> Mapping[str, Any]:
    try:
        record = json.loads(line)
    except ValueError:
        return {}
    return record if isinstance(record, dict) else {}
