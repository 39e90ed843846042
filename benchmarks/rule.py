"""One script of the workflow in this process, with a stand-in for what Snakemake gives it.

Run as a child process by pipeline.py: `rule.py SCRIPT JSON`; prints one JSON line with the seconds
of the script without its imports, what it read (MiB, from a disk or its cache), the peak of its
memory and of the GPU's (MiB).
"""

import ast
import cProfile
import io
import json
import os
import pstats
import runpy
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import psutil

from loraport.runtime.job import last_record

SCRIPTS = Path(__file__).resolve().parents[1] / "workflow" / "scripts"


class Named(dict):
    """Values by name, by attribute or by place."""

    __getattr__ = dict.__getitem__

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


def import_first(path: Path) -> None:
    """Import what a script imports, so that its start-up can be told from its work."""
    tree = ast.parse(path.read_text())
    tree.body = [node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)]
    exec(compile(tree, str(path), "exec"), {})


@contextmanager
def profiled(script: str) -> Iterator[None]:
    """Add the 15 operations that took longest to the file $LORAPORT_PROFILE, if it is named: of the
    host's functions, and of torch's operations on the host and on the GPU.
    """
    path = os.environ.get("LORAPORT_PROFILE")
    if not path:
        yield
        return
    import torch

    host, kinds = cProfile.Profile(), [torch.profiler.ProfilerActivity.CPU]
    kinds += [torch.profiler.ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    with torch.profiler.profile(activities=kinds) as operations, host:
        yield
    text = io.StringIO()
    pstats.Stats(host, stream=text).sort_stats("tottime").print_stats(15)
    averages = operations.key_averages()
    for order in ("self_cpu_time_total", "self_device_time_total")[: len(kinds)]:
        text.write(averages.table(sort_by=order, row_limit=15, max_name_column_width=60))
    with Path(path).open("a") as file:
        file.write(f"\n==== {script}\n{text.getvalue()}\n")


def run(script: str, output: str, inputs: dict, params: dict, threads: int) -> dict[str, float]:
    """Run a script; its log lies beside the output."""
    given = SimpleNamespace(
        input=Named(inputs),
        output=Named(only=output),
        params=Named(params),
        wildcards=Named(model=script, pair="pair", app="app"),
        log=[f"{output}.log"],
        rule=script,
        threads=threads,
    )
    path = SCRIPTS / f"{script}.py"
    import_first(path)
    process = psutil.Process()
    start, cpu, read = time.perf_counter(), time.process_time(), process.io_counters().read_chars
    with profiled(script):
        runpy.run_path(str(path), init_globals={"snakemake": given})
    return {
        "seconds": time.perf_counter() - start,
        "cpu": time.process_time() - cpu,
        "read_mib": (process.io_counters().read_chars - read) / 2**20,
        "own_mib": last_record(f"{output}.log")["peak_mib"],
    }


if __name__ == "__main__":
    found = run(sys.argv[1], **json.loads(sys.argv[2]))
    torch = sys.modules.get("torch")
    used = torch is not None and torch.cuda.is_initialized()
    peak = torch.cuda.max_memory_allocated() / 2**20 if used else 0.0
    print(json.dumps({**found, "gpu_mib": peak}))
