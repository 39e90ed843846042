"""What the plan says of each rule's memory, beside what the rule's log measured.

    python benchmarks/plans.py --hidden 1024 --intermediate 2816 --layers 4 \\
        --out benchmarks/results/plans.json

Makes two random Llama-shaped models (float32 arithmetic on a CPU) and texts in a temporary folder,
and runs the workflow's own scripts, each in a process of its own.
"""

import argparse
import json
import tempfile
from pathlib import Path

from pipeline import ROLES, SPECS, Pipeline, machine

from loraport.models.families import Dimensions
from loraport.planning import needs

TEXTS, WORDS, BATCH = 32, 256, 16


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--hidden", type=int, default=1024)
    add("--intermediate", type=int, default=2816)
    add("--layers", type=int, default=4, help="of the old model; the new one has one more")
    add("--heads", type=int, default=16)
    add("--vocab", type=int, default=32000)
    add("--threads", type=int, default=1)
    add("--moments", action="store_true", help="run rule moments too")
    add("--out", type=Path)
    return parser.parse_args()


def run_rules(run: Pipeline, options: argparse.Namespace) -> dict[str, Dimensions]:
    """Run each rule once; the dimensions of both models."""
    sizes = {}
    for seed, side in enumerate(("old", "new")):
        sizes[side] = {
            "vocab": options.vocab, "hidden": options.hidden, "heads": options.heads,
            "kv_heads": options.heads, "head_dim": options.hidden // options.heads,
            "intermediate": options.intermediate, "layers": options.layers + seed,
        }  # fmt: skip
        made = {"directory": str(run.root / side), "sizes": sizes[side], "dtype": "bfloat16",
                "seed": seed}  # fmt: skip
        run.child("fixtures.py", "model", made)
        run.spec(side)
    texts = str(run.root / "texts.txt")
    drawn = {"path": texts, "examples": TEXTS, "words": WORDS, "vocab": options.vocab, "seed": 5}
    run.child("fixtures.py", "texts", drawn)
    for side in ("old", "new"):
        run.activations(side, texts, TEXTS)
    run.mapping()
    made = {"directory": str(run.root / "adapter"), "sizes": sizes["old"], "rank": 32,
            "roles": ROLES, "seed": 20}  # fmt: skip
    run.child("fixtures.py", "adapter", made)
    transfer = {
        "settings": {"scale": "norm", "new_layers": "zero", "dtype": "float32"},
        "known_as": ["old"], "base": "new", "revision": "",
        "of": {"old": "old", "new": "new", "app": "app", "method": "lorasuite"},
    }  # fmt: skip
    inputs = {**SPECS, "maps": "maps.h5", "adapter": "adapter"}
    run.rule("transferred", "transferred", inputs, {"transfer": transfer})
    if options.moments:
        reading = {"examples": TEXTS, "max_tokens": WORDS, "batch_size": BATCH, "device": "cpu",
                   "stream": "auto"}  # fmt: skip
        sources = {side: str(run.root / side) for side in ("old", "new")} | {"texts": texts}
        params = {
            "sources": sources,
            "reading": {"texts_version": "1", "remote_code": [False] * 2, "calibration": reading},
            "settings": {"modules": ROLES},
        }
        run.rule("moments", "moments.h5", {**SPECS, "layers": "layers.json"}, params)
    return {side: needs.read_sizes(run.root / f"{side}_spec.json") for side in sizes}


def main() -> None:
    """Run it and write the table."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="loraport-benchmark-") as folder:
        run = Pipeline(Path(folder), "cpu", options.threads, ROLES)
        dims = run_rules(run, options)
    needs.TEXTS, needs.READ_TOKENS = TEXTS, TEXTS * WORDS  # what is read here
    planned = {row.rule: row for row in needs.table(dims["old"], dims["new"])}
    rows = []
    for record in run.records:
        plan = planned[record["step"]]
        rows.append({
            "rule": record["step"], "plan_mib": plan.mib, "peak_mib": round(record["own_mib"]),
            "ratio": round(plan.mib / record["own_mib"], 2), "plan_minutes": plan.minutes,
            "minutes": round(record["wall"] / 60, 2),
        })  # fmt: skip
    settings = {key: value for key, value in vars(options).items() if key != "out"}
    content = {
        "settings": settings,
        "texts": TEXTS,
        "words": WORDS,
        "rules": rows,
        "machine": machine("cpu"),
    }
    print(json.dumps(content, indent=1))
    if options.out:
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
