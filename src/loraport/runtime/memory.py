"""How much memory this process took."""

import resource
import sys
from pathlib import Path

MEMORY_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "unable to allocate",
    "bad_alloc",
)
# what a GPU's libraries say where others left them no room, besides torch's own words
GPU_WORDS = (
    "cuda out of memory",
    "cuda error: out of memory",
    "hip out of memory",
    "cublas_status_alloc_failed",
    "mha_graph.execute",
)
PERHAPS = ("cudnn_status_not_supported",)  # of a batch that is too large, among other reasons


def ran_out(error: BaseException) -> bool:
    """Whether memory ran out, of the machine or of a GPU, so that less at a time may do."""
    text = str(error).lower()
    words = (*MEMORY_WORDS, *GPU_WORDS, *PERHAPS)
    return isinstance(error, MemoryError) or any(each in text for each in words)


def peak_mib() -> float:
    """Peak resident memory of this process, MiB; by getrusage it is at least its parent's."""
    status = Path("/proc/self/status")
    if status.is_file():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**10
    unit = 2**20 if sys.platform == "darwin" else 2**10  # bytes on macOS, kilobytes elsewhere
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def gpu_peak_mib() -> float | None:
    """The most that was in use on any one GPU since this process began, MiB; None without use."""
    return _most("max_memory_allocated")


def gpu_reserved_mib() -> float | None:
    """The most that torch's allocator held of any one GPU, in use or not, MiB; None without use."""
    return _most("max_memory_reserved")


def _most(peak: str) -> float | None:
    """One of torch's peaks, by its name, of the GPU with most of it, MiB."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return None
    gpus = range(torch.cuda.device_count())
    return max((getattr(torch.cuda, peak)(gpu) for gpu in gpus), default=0) / 2**20


def let_go() -> None:
    """Give the driver back what torch holds of GPUs and nothing uses."""
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_initialized():
        torch.cuda.empty_cache()


def gpu_figures() -> str:
    """How much of the GPU's memory is in use, in words; empty where no GPU is used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    free, total = torch.cuda.mem_get_info()
    own, peak = torch.cuda.memory_reserved(), torch.cuda.max_memory_allocated()
    return (
        f"of the GPU's {total / 2**20:.0f} MiB {free / 2**20:.0f} are free, this job holds "
        f"{own / 2**20:.0f} (at most {peak / 2**20:.0f} in use), others "
        f"{(total - free - own) / 2**20:.0f}"
    )
