"""What the plan says of each rule's memory and time, beside what was measured.

    python benchmarks/plans.py --hidden 1024 --intermediate 2816 --layers 4 --moments
    python benchmarks/plans.py --table   # results/plans.md anew, without running anything

Makes two random Llama-shaped models (float32 arithmetic on a CPU) and texts in a temporary folder,
and runs the workflow's own scripts, each in a process of its own. What they took replaces what
results/plans.json has of the run before; what it has of other benchmarks stays, and is added to by
hand, with its source. results/plans.md is the table of both.
"""

import argparse
import json
import re
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pipeline import ROLES, SPECS, Pipeline

from loraport.models.families import ROLES as FAMILY_ROLES
from loraport.models.families import Dimensions
from loraport.planning import memory, needs, specs, times

TEXTS, WORDS, BATCH = 32, 256, 16
RESULTS = Path(__file__).resolve().parent / "results"
FIELDS = ("vocabulary", "hidden", "intermediate", "layers", "heads", "kv_heads", "head_dim")
# what is compared: of a need where a CPU computes, and where a GPU does
COLUMNS = {"seconds": ("seconds", "gpu_seconds"), "mib": ("mib", "host_mib"),
           "gpu_mib": ("gpu_mib", "gpu_mib")}  # fmt: skip
HEAD = """# The plan beside what was measured

Made by `python benchmarks/plans.py --table` from plans.json. A plan of time is an estimate, on
one core of a CPU or with a GPU, of a whole process; a scheduler is asked for four times as much
and ten minutes. A plan of memory is what a rule holds, with a margin of 30 %, and what its
process takes without it. Rule spec holds one tensor at a time, as it is stored: its plan is of the
largest matrix in float32, without the margin, and bfloat16 weights take half of it. GPU memory is
what torch allocates, in the plan and as measured: CUDA's own context, about 0.8 GiB, and memory
that torch keeps for later are not in it (the driver showed 11.1 GiB where 10.0 were allocated).
Memory in MiB.

The rates that times are planned with were chosen to fit these very measurements, and so were the
bases of processes: a ratio near 1 says that one formula serves all of them, not that it was
foretold; but for the times of moments and fits of 0.5B → 1.5B, which they were not fitted to. A
test holds every ratio of time between a half and two, and every ratio of memory between one and
two.
"""
TAIL = """
CPU s: seconds of CPU time, where other programs kept the cores busy or the rule had two of them;
else by the clock.

## What was not measured

- {missing}: their plans follow from the same rates and formulas, and nothing was measured to hold
  them to.
- On a GPU: memory of `fitted_maps`, and of `maps` for all linear modules. Models that read were
  measured on texts of 128 tokens; memory is planned for 256, and so above what was measured.
- On a CPU: `maps_in_turn`, and the memory of `fitted_maps` in a job that fits several layers at a
  time. One layer of hidden 512 and intermediate 1536 took 748 MiB more than its process began
  with; the plan counts {layer:.0f} for it.
- Training and scoring: their time depends on the data, which the plan does not look at. Their
  limit follows from the model's size. SmolLM2-135M on an H100, 16 examples of up to 320 tokens a
  step: 6837 MiB of the GPU and 2408 beside it were measured, 9471 and 4600 are asked for.
- Rule `gain`, and rules of reports and tables, which ask for ten to twenty minutes.
"""


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
    add("--table", action="store_true", help="make plans.md anew, and run nothing")
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
    return {side: specs.read_sizes(run.root / f"{side}_spec.json") for side in sizes}


def planned(record: dict[str, Any], models: dict[str, dict[str, int]]) -> needs.Need:
    """The plan of what was measured: of the models, texts and build of torch that it was with."""
    dims = [Dimensions(**models[name]) for name in record["models"]]
    texts, tokens = record.get("texts", 512), record.get("tokens", 128)
    times.TEXTS, times.TEXT_TOKENS = texts, tokens
    needs.is_cuda_build = lambda: record.get("build") == "cuda"  # type: ignore[assignment]
    whole, roles = record.get("whole", False), record.get("roles", FAMILY_ROLES)
    return needs.need(record["rule"], *dims, whole=whole, roles=roles)


def compared(content: dict[str, Any]) -> str:
    """The table of everything that was measured."""
    sources = list(content["sources"])
    lines = []
    head = ["rule", "models", "where", "time", "planned", "ratio", "memory", "planned", "ratio",
            "GPU", "planned", "ratio", "source"]  # fmt: skip
    lines += [f"| {' | '.join(head)} |", "|---" * len(head) + "|"]
    order = list(times.RULES)
    for record in sorted(content["measured"], key=lambda each: order.index(each["rule"])):
        plan, on_gpu = planned(record, content["models"]), record["on"] == "gpu"
        cells = [
            record["rule"],
            _about(record),
            "H100" if on_gpu else "core",
        ]
        for name, attributes in COLUMNS.items():
            found = record.get(name)
            if found is None:
                cells += ["", "", ""]
                continue
            asked = getattr(plan, attributes[on_gpu])
            number = _seconds if name == "seconds" else lambda value: f"{value:.0f}"
            unit = "" if name != "seconds" else " CPU s" if record.get("cpu") else " s"
            cells += [number(found) + unit, number(asked), f"{asked / found:.2f}"]
        cells.append(str(1 + sources.index(record["source"])))
        lines.append(f"| {' | '.join(cells)} |")
    notes = [
        f"- {record['rule']}, {_about(record)}, source {1 + sources.index(record['source'])}: "
        f"{record['note']}."
        for record in content["measured"]
        if "note" in record
    ]
    listed = [f"{number}. {text}" for number, text in enumerate(content["sources"].values(), 1)]
    return "\n".join([*lines, "", "Sources:", "", *listed, "", "Notes:", "", *notes, ""])


def _about(record: dict[str, Any]) -> str:
    """Models, and modules where they are not all."""
    modules = f", {' '.join(record['roles'])}" if "roles" in record else ""
    return " → ".join(dict.fromkeys(record["models"])) + modules


def _seconds(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def write_table(content: dict[str, Any]) -> None:
    """results/plans.md."""
    table = compared(content)
    one = Dimensions(**content["models"]["hidden 512, 1 layer"])
    there = {record["rule"] for record in content["measured"]}
    tail = TAIL.format(
        missing=", ".join(f"`{rule}`" for rule in times.RULES if rule not in there),
        layer=needs.MARGIN * memory.fit_bytes(one, one) / needs.MIB,
    )
    (RESULTS / "plans.md").write_text(f"{HEAD}\n{table}{tail}")


def main() -> None:
    """Run it, keep what it took, and write the table."""
    options = arguments()
    path = RESULTS / "plans.json"
    content = json.loads(path.read_text())
    if not options.table:
        with tempfile.TemporaryDirectory(prefix="loraport-benchmark-") as folder:
            run = Pipeline(Path(folder), "cpu", options.threads, ROLES)
            dims = run_rules(run, options)
        names = {side: f"hidden {each.hidden}, {each.layers} layers" for side, each in dims.items()}
        for side, each in dims.items():
            content["models"][names[side]] = {field: asdict(each)[field] for field in FIELDS}
        kept = [each for each in content["measured"] if each["source"] != "plans.py"]
        for record in run.records:
            rule, _, side = re.sub(r"\.py$", "", record["step"]).partition(" ")
            kept.append({
                "rule": rule, "models": [names[side]] if side else list(names.values()),
                "on": "core", "source": "plans.py", "seconds": round(record["wall"], 2),
                "mib": round(record["own_mib"]), "texts": TEXTS, "tokens": WORDS,
            })  # fmt: skip
        content["measured"] = kept
        path.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    write_table(content)


if __name__ == "__main__":
    main()
