"""Many adapters of one pair, on this machine and through Slurm: seconds an adapter, and scheduling.

    python benchmarks/fanout.py local --out fanout_local.json      # a Python for each adapter
    python benchmarks/fanout.py batched --out fanout_batched.json  # a Python for each core
    python benchmarks/fanout.py slurm --out fanout_slurm.json      # a Python for each job of Slurm

The adapters are the embedded math adapter with its factors scaled, each by another number. The pair
is mapped first, untimed. Slurm is one of this machine alone, as `make test-cluster` starts it.
"""

import argparse
import ctypes
import json
import os
import re
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import mean
from tempfile import TemporaryDirectory
from typing import Any

import ml_dtypes  # noqa: F401  (numpy then knows bfloat16)
import numpy as np
import psutil
from safetensors.numpy import load_file, save_file

from loraport.artifacts import write_json
from loraport.provenance import versions
from loraport.runtime.job import last_record

PROJECT = Path(__file__).resolve().parents[1]
NANO = PROJECT / "resources" / "nano"
PAIR = "artifacts/nano_v1_to_v2"
PR_SET_CHILD_SUBREAPER = 36
SMALL = ["calibration={examples: 64}", "mapping={minibatch: 16}"]


def make_adapters(root: Path, count: int) -> list[str]:
    """Write `count` adapters and the table that names them; their apps."""
    source = NANO / "adapters/v1/math"
    stored = load_file(source / "adapter_model.safetensors")
    tensors = {name: values.astype(np.float32) for name, values in stored.items()}
    apps = [f"app{number:04}" for number in range(count)]
    for number, app in enumerate(apps):
        folder = root / "adapters" / app
        folder.mkdir(parents=True)
        shutil.copy(source / "adapter_config.json", folder)
        factor = np.float32(1 + number / 1000)
        save_file({k: v * factor for k, v in tensors.items()}, folder / "adapter_model.safetensors")
    lines = ["app\tmodel\tsource\ttask", *(f"{app}\tnano_v1\tadapters/{app}\t" for app in apps)]
    (root / "adapters.tsv").write_text("\n".join(lines) + "\n")
    return apps


def snakemake(root: Path, *arguments: str, env: dict[str, str]) -> tuple[str, float]:
    """What snakemake said, and its wall time."""
    command = [sys.executable, "-m", "snakemake", "-s", str(PROJECT / "Snakefile"), *arguments]
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=env, text=True, check=False,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT)  # fmt: skip
    if done.returncode:
        sys.exit(done.stdout[-4000:])
    return done.stdout, time.perf_counter() - start


def cpu_seconds() -> float:
    """CPU time of all processes that ended below this one: orphans come to it, by `main`."""
    with suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def how(asked: argparse.Namespace) -> list[str]:
    """Arguments of snakemake for a mode."""
    if asked.mode != "slurm":
        return ["--cores", str(asked.cores), "--executor", asked.mode]
    quick = ["--slurm-batched-status-command", "squeue", "--slurm-batched-longest-wait", "1"]
    quick += ["--slurm-batched-init-seconds-before-status-checks", "1", "--latency-wait", "5"]
    quick += ["--seconds-between-status-checks", "1"]
    batch = ["--set-resources", f"transferred:batch={asked.batch}"] if asked.batch else []
    return ["--workflow-profile", str(PROJECT / "profiles/slurm"), *quick, *batch]


def measure(asked: argparse.Namespace, env: dict[str, str]) -> dict[str, Any]:
    """Carry all adapters in a fresh working directory."""
    with TemporaryDirectory() as folder:
        root = Path(folder)
        for name in ("config", "resources"):
            (root / name).symlink_to(PROJECT / name)
        apps = make_adapters(root, asked.adapters)
        settings = ["--config", *SMALL, "adapters=adapters.tsv", "--"]
        snakemake(
            root, "--cores", "2", *settings, f"{PAIR}/maps/lorasuite.h5", env=dict(os.environ)
        )
        targets = [f"{PAIR}/{app}/lora_transferred" for app in apps]
        load, before, used = os.getloadavg()[0], psutil.cpu_times(), cpu_seconds()
        said, wall = snakemake(root, *how(asked), *settings, *targets, env=env)
        after, used = psutil.cpu_times(), cpu_seconds() - used
        logs = [last_record(root / PAIR / "logs" / app / "transferred.log") for app in apps]
        busy = sum(getattr(after, kind) - getattr(before, kind) for kind in ("user", "system"))
    script = mean(log["seconds"] for log in logs)
    return {
        "mode": asked.mode,
        "adapters": asked.adapters,
        "batch": asked.batch,
        "slurm_jobs": len(set(re.findall(r"with SLURM jobid (\d+)", said))),
        "wall_seconds": round(wall, 1),
        "seconds_an_adapter": round(wall / asked.adapters, 3),
        "cpu_seconds_an_adapter": round(used / asked.adapters, 3),
        "script_seconds": round(script, 3),
        "cores": os.cpu_count(),
        "machine_busy_cores": round(busy / wall, 2),
        "load_before_and_after": [round(each, 1) for each in (load, os.getloadavg()[0])],
        "versions": versions("numpy", "snakemake", "snakemake-executor-plugin-slurm"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="Many adapters of one pair: seconds an adapter.")
    parser.add_argument("mode", choices=["local", "batched", "slurm"])
    parser.add_argument("--adapters", type=int, default=200)
    parser.add_argument(
        "--batch", type=int, default=0, help="adapters a job of Slurm; 0: the rule's own"
    )
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--out", type=Path)
    asked = parser.parse_args()
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # Slurm's jobs are orphans
    if asked.mode != "slurm":
        content = measure(asked, dict(os.environ))
    else:
        sys.path.insert(0, str(PROJECT / "tests" / "cluster"))
        import slurm

        with TemporaryDirectory() as folder, slurm.running(Path(folder) / "slurm") as cluster:
            content = measure(asked, cluster.env)
    print(json.dumps(content, indent=1))
    if asked.out:
        write_json(asked.out, "benchmark", {}, content)


if __name__ == "__main__":
    main()
