"""Time and memory of the workflow's steps against the published algorithm written literally.

Makes two random Llama-shaped models, an adapter and features in a temporary folder; runs the
workflow's own scripts and tests/literal.py on them, alternating, each step in a process of its own;
checks that both give the same; writes a table. See README.md beside this file.
"""

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

import table
from pipeline import Pipeline, machine

ATTENTION, MLP = ["q", "k", "v", "o"], ["gate", "up", "down"]
EXAMPLES = 512  # calibration texts
ADAPTERS = 3  # times that one adapter is carried in each repeat


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line, or what stands in its place.

    The new model is like the old one but for what is given.
    """
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
    options = parser.parse_args(given)
    options.kv_heads = options.kv_heads or options.heads
    options.intermediate = options.intermediate or options.hidden * 11 // 4
    options.new_layers = options.new_layers or options.layers + 1
    options.new_hidden = options.new_hidden or options.hidden
    options.roles = ATTENTION + (MLP if options.targets == "all" else [])
    return options


class Bench(Pipeline):
    """One benchmark in one temporary folder; this process stays small and only starts others."""

    def __init__(self, options: argparse.Namespace, root: Path):
        super().__init__(root, options.device, options.threads, options.roles)
        self.options = options
        head_dim = options.hidden // options.heads
        common = {"vocab": options.vocab, "heads": options.heads, "kv_heads": options.kv_heads,
                  "head_dim": head_dim, "intermediate": options.intermediate}  # fmt: skip
        self.sizes = {
            "old": {**common, "hidden": options.hidden, "layers": options.layers},
            "new": {**common, "hidden": options.new_hidden, "layers": options.new_layers},
        }

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
            self.spec(side)
            self.features(side, sizes, EXAMPLES, 10 + seed)
        made = {"directory": str(self.root / "adapter"), "sizes": self.sizes["old"], "seed": 20,
                "rank": self.options.rank, "roles": self.options.roles}  # fmt: skip
        self.child("fixtures.py", "adapter", made)

    def run(self) -> None:
        """Both sides, alternating."""
        self.prepare()
        for repeat in range(self.options.repeats):
            self.mapping(repeat)
            for _ in range(ADAPTERS):
                self.transferred(repeat=repeat)
            if repeat == 0:
                self.literal("hidden_map")
                self.literal("compare_hidden_map")
                self.literal("held")
            for step in ("heads", "heads_once", "adapter"):
                self.literal(step, repeat)


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
