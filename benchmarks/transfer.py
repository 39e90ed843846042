"""Time and memory of the workflow's steps against the published algorithm written literally.

Makes two random Llama-shaped models, an adapter and features in a temporary folder; runs the
workflow's own scripts and tests/literal.py on them, alternating, each step in a process of its own;
checks that both give the same; writes a table. See README.md beside this file.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import table

HERE = Path(__file__).resolve().parent
ATTENTION, MLP = ["q", "k", "v", "o"], ["gate", "up", "down"]
EXAMPLES = 512  # calibration texts
ADAPTERS = 3  # times that one adapter is carried in each repeat


def arguments() -> argparse.Namespace:
    """The command line; the new model is like the old one but for what is given."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--hidden", type=int, default=1024)
    add("--layers", type=int, default=8, help="of the old model")
    add("--heads", type=int, default=16)
    add("--kv-heads", type=int, help="default: as many as heads")
    add("--intermediate", type=int, help="default: 2.75 times hidden")
    add("--vocab", type=int, default=32000, help="tokens, all of them shared")
    add("--new-layers", type=int, help="default: one more")
    add("--new-hidden", type=int, help="default: the same; W_h is computed all the same")
    add("--rank", type=int, default=32)
    add("--targets", choices=["attention", "all"], default="attention")
    add("--dtype", choices=["bfloat16", "float16", "float32"], default="bfloat16",
        help="of the stored weights; both sides compute in float64")  # fmt: skip
    add("--threads", type=int, default=os.cpu_count())
    add("--device", choices=["cpu", "cuda"], default="cpu")
    add("--sample-pairs", type=int, default=4, help="head pairs that the literal side is timed on")
    add("--repeats", type=int, default=3)
    add("--out", type=Path, help="folder for the table (Markdown and JSON)")
    options = parser.parse_args()
    options.kv_heads = options.kv_heads or options.heads
    options.intermediate = options.intermediate or options.hidden * 11 // 4
    options.new_layers = options.new_layers or options.layers + 1
    options.new_hidden = options.new_hidden or options.hidden
    options.roles = ATTENTION + (MLP if options.targets == "all" else [])
    return options


def busy_seconds() -> float:
    """CPU seconds that the whole machine has worked so far."""
    fields = [int(each) for each in Path("/proc/stat").read_text().split("\n")[0].split()[1:9]]
    return (sum(fields) - fields[3] - fields[4]) / os.sysconf("SC_CLK_TCK")


class Bench:
    """One benchmark in one temporary folder; this process stays small and only starts others."""

    def __init__(self, options: argparse.Namespace, root: Path):
        self.options, self.root = options, root
        self.records: list[dict[str, Any]] = []
        head_dim = options.hidden // options.heads
        common = {"vocab": options.vocab, "heads": options.heads, "kv_heads": options.kv_heads,
                  "head_dim": head_dim, "intermediate": options.intermediate}  # fmt: skip
        self.sizes = {
            "old": {**common, "hidden": options.hidden, "layers": options.layers},
            "new": {**common, "hidden": options.new_hidden, "layers": options.new_layers},
        }
        threads = str(options.threads)
        names = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
        paths = os.pathsep.join([str(HERE.parent / "src"), os.environ.get("PYTHONPATH", "")])
        self.environment = {**os.environ, **dict.fromkeys(names, threads), "PYTHONPATH": paths}

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

    def rule(self, script: str, output: str, inputs: dict, params: dict, repeat: int = 0) -> None:
        """Run one script of the workflow."""
        target = self.root / output
        payload = {
            "output": str(target),
            "inputs": {key: str(self.root / name) for key, name in inputs.items()},
            "params": params,
            "threads": self.options.threads,
        }
        self.note("pipeline", script, repeat, self.child("rule.py", script, payload))

    def literal(self, step: str, repeat: int = 0) -> None:
        """Run one step of the literal side."""
        options = self.options
        job = {"root": str(self.root), "device": options.device, "roles": options.roles,
               "sample_pairs": options.sample_pairs}  # fmt: skip
        self.note("literal", step, repeat, self.child("literal_side.py", step, job))

    def prepare(self) -> None:
        """Models, specs, features, adapter."""
        for seed, (side, sizes) in enumerate(self.sizes.items()):
            folder = str(self.root / side)
            made = {"directory": folder, "sizes": sizes, "dtype": self.options.dtype, "seed": seed}
            self.child("fixtures.py", "model", made)
            self.rule("spec", f"{side}_spec.json", {}, {"source": folder, "revision": ""})
            features = {"path": str(self.root / f"{side}_activations.h5"), "sizes": sizes,
                        "spec": str(self.root / f"{side}_spec.json"), "examples": EXAMPLES,
                        "seed": 10 + seed}  # fmt: skip
            self.child("fixtures.py", "features", features)
        made = {"directory": str(self.root / "adapter"), "sizes": self.sizes["old"], "seed": 20,
                "rank": self.options.rank, "roles": self.options.roles}  # fmt: skip
        self.child("fixtures.py", "adapter", made)

    def mapping(self, repeat: int) -> None:
        """The one-time steps of a pair."""
        device = {"device": self.options.device}
        sources = {"sources": {side: str(self.root / side) for side in ("old", "new")}}
        specs = {"old_spec": "old_spec.json", "new_spec": "new_spec.json"}
        features = {f"{side}_activations": f"{side}_activations.h5" for side in ("old", "new")}
        inputs = {**specs, "embedding": "embedding.h5", "layers": "layers.json"}
        settings: dict[str, Any] = {"wh": "embedding", "tokens": "bytes", "underdetermined": False}
        params = {"settings": {**settings, **device}, **sources}
        self.rule("embedding", "embedding.h5", specs, params, repeat)
        settings = {"minibatch": 64, "similarity": "cka"}
        self.rule("cka", "cka.h5", {**specs, **features}, {"settings": settings}, repeat)
        settings = {"layers": "cka", "max_offset": None}
        self.rule("layers", "layers.json", {"cka": "cka.h5"}, {"settings": settings}, repeat)
        params = {"settings": {"heads": "hungarian", **device}, **sources}
        self.rule("heads", "heads.h5", inputs, params, repeat)
        settings = {"modules": self.options.roles, "wi": "code", **device}
        params = {"settings": settings, **sources, "method": "lorasuite"}
        self.rule("maps", "maps.h5", {**inputs, "heads": "heads.h5"}, params, repeat)

    def adapters(self, repeat: int) -> None:
        """One adapter from disk to disk, several times."""
        transfer = {
            "settings": {"scale": "paper", "new_layers": "zero", "dtype": "float32"},
            "known_as": ["old"],
            "base": "new",
            "revision": "",
            "of": {"pair": "pair", "app": "app", "method": "lorasuite"},
        }
        inputs = {"old_spec": "old_spec.json", "new_spec": "new_spec.json", "maps": "maps.h5"}
        for _ in range(ADAPTERS):
            self.rule("transferred", "transferred", {**inputs, "adapter": "adapter"},
                      {"transfer": transfer}, repeat)  # fmt: skip

    def run(self) -> None:
        """Both sides, alternating."""
        self.prepare()
        for repeat in range(self.options.repeats):
            self.mapping(repeat)
            self.adapters(repeat)
            if repeat == 0:
                self.literal("hidden_map")
                self.literal("compare_hidden_map")
                self.literal("held")
            for step in ("heads", "heads_once", "adapter"):
                self.literal(step, repeat)


def machine(device: str) -> dict[str, Any]:
    """Kind of machine, without its name."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    found = {"cpus": os.cpu_count(), "cpu": ", ".join(sorted(models)), "gpu": ""}
    if device == "cuda":
        query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
        found["gpu"] = subprocess.run(query, capture_output=True, text=True).stdout.split("\n")[0]
    return found


def main() -> None:
    """Run the benchmark and write its table."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="loraport-benchmark-") as folder:
        bench = Bench(options, Path(folder))
        bench.run()
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    result = table.summarise(bench.records, settings, bench.sizes)
    result["machine"] = machine(options.device)
    result["versions"] = table.versions()
    result["loads"] = {
        side: statistics.median(r["others"] for r in bench.records if r["side"] == side)
        for side in ("pipeline", "literal")
    }
    text = table.markdown(result)
    print(text)
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        name = f"{options.device}_hidden{options.hidden}_{options.targets}"
        (options.out / f"{name}.md").write_text(text)
        result["records"] = bench.records
        (options.out / f"{name}.json").write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
