"""The workflow's scripts on files in one folder, each in a process of its own and timed."""

import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROLES = ["q", "k", "v", "o", "gate", "up", "down"]
SPECS = {"old_spec": "old_spec.json", "new_spec": "new_spec.json"}


def busy_seconds() -> float:
    """CPU seconds that the whole machine has worked so far."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


def machine(device: str) -> dict[str, Any]:
    """Kind of machine, without its name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    found = {"cpus": os.cpu_count(), "cpu": ", ".join(sorted(models)), "gpu": ""}
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
    return found


class Pipeline:
    """Models `old` and `new` in a folder, and what the workflow makes of them.

    Parameters
    ----------
    root : the folder
    device, threads : of every script
    roles : that maps are made for
    """

    def __init__(self, root: Path, device: str, threads: int, roles: list[str]):
        self.root, self.device, self.threads, self.roles = root, device, threads, roles
        self.records: list[dict[str, Any]] = []
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        paths = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
        count = dict.fromkeys(names, str(threads))
        self.environment = {**os.environ, **count, "PYTHONPATH": paths}

    def child(self, script: str, kind: str, payload: dict[str, Any]) -> dict[str, Any]:
        """Run a script beside this file; its JSON line, wall time, peak memory and others' load."""
        command = [sys.executable, str(HERE / script), kind, json.dumps(payload)]
        log = self.root / "child.log"
        start, busy = time.perf_counter(), busy_seconds()
        with log.open("w") as errors:
            process = subprocess.Popen(
                command, env=self.environment, stdout=subprocess.PIPE, stderr=errors, text=True
            )
            assert process.stdout is not None
            output = process.stdout.read()
            _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - start
        if status:
            sys.exit(f"{script} {kind} failed:\n{log.read_text()}")
        others = (busy_seconds() - busy - usage.ru_utime - usage.ru_stime) / wall
        found = json.loads(output.strip().rpartition("\n")[2]) if output.strip() else {}
        peak = usage.ru_maxrss / 1024
        return {**found, "wall": wall, "peak_mib": peak, "others": max(0.0, others)}

    def note(self, side: str, step: str, repeat: int, record: dict[str, Any]) -> None:
        """Keep a record and tell it."""
        self.records.append({"side": side, "step": step, "repeat": repeat, **record})
        seconds = record.get("seconds", 0.0)
        print(f"{side:9} {step:19} {seconds:9.3f} s  process {record['wall']:8.2f} s  "
              f"{record['peak_mib']:7.0f} MiB", file=sys.stderr, flush=True)  # fmt: skip

    def rule(
        self,
        script: str,
        output: str,
        inputs: dict,
        params: dict,
        repeat: int = 0,
        *,
        name: str = "",
        threads: int = 0,
    ) -> None:
        """Run one script of the workflow; `name` is its record's, `threads` its own."""
        payload = {
            "output": str(self.root / output),
            "inputs": {key: str(self.root / path) for key, path in inputs.items()},
            "params": params,
            "threads": threads or self.threads,
        }
        self.note("pipeline", name or script, repeat, self.child("rule.py", script, payload))

    def spec(self, side: str) -> None:
        """spec.json of one model."""
        params = {"sources": {"model": str(self.root / side)}, "revision": ""}
        self.rule("spec", f"{side}_spec.json", {}, params, name=f"spec {side}")

    def features(self, side: str, sizes: dict[str, int], examples: int, seed: int) -> None:
        """Random features in the place of what a model's layers put out."""
        spec, path = (str(self.root / f"{side}_{end}") for end in ("spec.json", "activations.h5"))
        made = {"path": path, "sizes": sizes, "spec": spec, "examples": examples, "seed": seed}
        self.child("fixtures.py", "features", made)

    def activations(self, side: str, texts: str, examples: int) -> None:
        """Features of one model, by running it on texts."""
        reading = {"examples": examples, "max_tokens": 256, "batch_size": 16, "pooling": "mean",
                   "device": self.device, "stream": "auto"}  # fmt: skip
        sources = {"model": str(self.root / side), "texts": texts}
        params = {"calibration": reading, "texts_version": "1", "sources": sources,
                  "remote_code": False}  # fmt: skip
        inputs = {"spec": f"{side}_spec.json"}
        self.rule("activations", f"{side}_activations.h5", inputs, params,
                  name=f"activations {side}")  # fmt: skip

    def random_map(self) -> None:
        """A random W_h in the place of what rule embedding makes."""
        specs = {key: str(self.root / path) for key, path in SPECS.items()}
        made = {"path": str(self.root / "embedding.h5"), "specs": specs, "seed": 30}
        self.child("fixtures.py", "map", made)

    def mapping(self, repeat: int = 0, *, embedding: bool = True) -> None:
        """The one-time steps of a pair, from specs and features; W_h may be there already."""
        device = {"device": self.device}
        sources = {"sources": {side: str(self.root / side) for side in ("old", "new")}}
        features = {f"{side}_activations": f"{side}_activations.h5" for side in ("old", "new")}
        inputs = {**SPECS, "embedding": "embedding.h5", "layers": "layers.json"}
        settings: dict[str, Any] = {"wh": "embedding", "tokens": "bytes", "underdetermined": False,
                                    "unshared": "none"}  # fmt: skip
        params = {"settings": {**settings, **device}, **sources}
        if embedding:
            self.rule("embedding", "embedding.h5", SPECS, params, repeat)
        settings = {"minibatch": 64, "similarity": "cka"}
        self.rule("cka", "cka.h5", {**SPECS, **features}, {"settings": settings}, repeat)
        settings = {"layers": "cka", "max_offset": None, "unmatched": "empty"}
        self.rule(
            "layers", "layers.json", {**SPECS, "cka": "cka.h5"}, {"settings": settings}, repeat
        )
        params = {"settings": {"heads": "hungarian", **device}, **sources}
        self.rule("heads", "heads.h5", inputs, params, repeat)
        settings = {"modules": self.roles, "wi": "code", **device}
        params = {"settings": settings, **sources, "method": "lorasuite"}
        self.rule("maps", "maps.h5", {**inputs, "heads": "heads.h5"}, params, repeat)

    def transferred(self, adapter: str = "adapter", repeat: int = 0, **more: Any) -> None:
        """One adapter from disk to disk."""
        transfer = {
            "settings": {
                "scale": "paper",
                "new_layers": "zero",
                "dtype": "float32",
                "allow_large": True,
            },
            "known_as": ["old"],
            "base": "new",
            "revision": "",
            "of": {"old": "old", "new": "new", "app": "app", "method": "lorasuite"},
        }
        inputs = {**SPECS, "maps": "maps.h5", "adapter": adapter}
        self.rule("transferred", "transferred", inputs, {"transfer": transfer}, repeat, **more)
