"""What a run took and where it ran: kept apart from results, so that results can be compared."""

import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from .. import provenance
from .memory import peak_mib

LIBRARIES = (
    "torch",
    "transformers",
    "peft",
    "accelerate",
    "tokenizers",
    "datasets",
    "lm_eval",
    "sacrebleu",
)


def versions() -> dict[str, str]:
    """Versions of Python and of what trains and scores; "absent" where a package is not there."""
    return provenance.versions(*LIBRARIES)


@contextmanager
def measured() -> Iterator[dict[str, Any]]:
    """Give a dict that holds, at the end: seconds, peak memory in MiB, machine, device, threads.

    Peak memory is the process's own since its start (`peak_mib`) and, where a GPU was used, the
    most that was in use on any one of them during the block (`gpu_peak_mib`), and that torch's
    allocator held (`gpu_reserved_mib`).
    """
    import torch

    gpus = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
    if gpus:
        torch.cuda.init()  # statistics of a device that nothing has used yet are refused
    for gpu in gpus:
        torch.cuda.reset_peak_memory_stats(gpu)
    start = time.perf_counter()
    run: dict[str, Any] = {}
    try:
        yield run
    finally:
        run["seconds"] = round(time.perf_counter() - start, 3)
        run["peak_mib"] = round(peak_mib(), 1)
        if gpus:
            peaks = {
                "gpu_peak_mib": torch.cuda.max_memory_allocated,
                "gpu_reserved_mib": torch.cuda.max_memory_reserved,
            }
            for name, peak in peaks.items():
                run[name] = round(max(map(peak, gpus)) / 2**20, 1)
        run["device"] = torch.cuda.get_device_name(0) if gpus else platform.machine()
        run["host"] = platform.node()
        run["threads"] = torch.get_num_threads()
