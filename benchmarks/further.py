"""Adapters one after another through the maps of one pair: the first one, and each further one.

    python benchmarks/further.py --hidden 2048 --intermediate 5504 --new-intermediate 11008 \\
        --layers 2 --targets all --out benchmarks/results/further.json

Makes two random Llama-shaped models and their LoRASuite maps in a temporary folder. Then one
process (`loraport.runtime.batch`, as both executors start it) carries the adapters, each in a fork
of its own. The maps are dropped from the operating system's memory of files before the first one.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline import ROLES, SPECS, Pipeline, machine

from loraport.provenance import versions

HERE = Path(__file__).resolve().parent
IDENTITY = {"wh": "identity", "tokens": "bytes", "underdetermined": False, "unshared": "none",
            "device": "cpu"}  # fmt: skip
SCRIPT = """import json, pathlib, sys
sys.path.insert(0, {here!r})
import rule
record = rule.run("transferred", **{given!r})
pathlib.Path({out!r} + ".json").write_text(json.dumps(record))
"""


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--hidden", type=int, default=1024)
    add("--intermediate", type=int, default=2816, help="of the old model")
    add("--new-intermediate", type=int, help="default: the same")
    add("--layers", type=int, default=2, help="of both models")
    add("--heads", type=int, default=16)
    add("--rank", type=int, default=32)
    add("--targets", choices=["attention", "all"], default="all")
    add("--adapters", type=int, default=8)
    add("--dtype", choices=["float32", "bfloat16"], default="float32", help="of what is written")
    add(
        "--identity", action="store_true", help="W_h is left out, as `wh: auto` does at equal sizes"
    )
    add("--out", type=Path)
    options = parser.parse_args()
    options.roles = ROLES if options.targets == "all" else ROLES[:4]
    options.new_intermediate = options.new_intermediate or options.intermediate
    return options


def prepare(run: Pipeline, options: argparse.Namespace) -> None:
    """Models, their maps, and one adapter."""
    common = {"vocab": 1024, "heads": options.heads, "kv_heads": options.heads,
              "head_dim": options.hidden // options.heads, "hidden": options.hidden,
              "layers": options.layers}  # fmt: skip
    for seed, side in enumerate(("old", "new")):
        wide = options.intermediate if side == "old" else options.new_intermediate
        sizes = {**common, "intermediate": wide}
        made = {"directory": str(run.root / side), "sizes": sizes, "dtype": "bfloat16",
                "seed": seed}  # fmt: skip
        run.child("fixtures.py", "model", made)
        run.spec(side)
        run.features(side, sizes, 64, 10 + seed)
    if options.identity:
        sources = {"sources": {side: str(run.root / side) for side in ("old", "new")}}
        run.rule("embedding", "embedding.h5", SPECS, {"settings": IDENTITY, **sources})
    else:
        run.random_map()
    run.mapping(embedding=False)
    made = {"directory": str(run.root / "adapter"), "rank": options.rank, "seed": 20,
            "sizes": {**common, "intermediate": options.intermediate},
            "roles": options.roles}  # fmt: skip
    run.child("fixtures.py", "adapter", made)


def carry(run: Pipeline, options: argparse.Namespace) -> list[dict[str, Any]]:
    """What each adapter's job took (as rule.py says), in the order in which they ran."""
    transfer = {
        "settings": {"scale": "norm", "new_layers": "zero", "dtype": options.dtype},
        "known_as": ["old"],
        "base": "new",
        "revision": "",
        "of": {"old": "old", "new": "new", "app": "app", "method": "lorasuite"},
    }
    inputs = {name: str(run.root / path) for name, path in SPECS.items()}
    inputs |= {"maps": str(run.root / "maps.h5"), "adapter": str(run.root / "adapter")}
    outs = [str(run.root / f"carried{number}") for number in range(options.adapters)]
    scripts = []
    for out in outs:
        given = {"output": out, "inputs": inputs, "params": {"transfer": transfer}, "threads": 1}
        scripts.append(Path(f"{out}.py"))
        scripts[-1].write_text(SCRIPT.format(here=str(HERE), given=given, out=out))
    tasks, done = run.root / "tasks", run.root / "done"
    tasks.write_text("".join(f"{script}\n" for script in scripts))
    os.sync()
    with (run.root / "maps.h5").open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    command = [sys.executable, "-P", "-m", "loraport.runtime.batch", str(tasks), str(done)]
    subprocess.run(command, check=True, env=run.environment)
    weights = {(Path(out) / "adapter_model.safetensors").read_bytes() for out in outs}
    assert len(weights) == 1, "one adapter carried twice is not the same"
    return [json.loads(Path(f"{out}.json").read_text()) for out in outs]


def rounded(record: dict[str, float]) -> dict[str, float]:
    """Its numbers, to the millisecond."""
    return {key: round(value, 3) for key, value in record.items()}


def main() -> None:
    """Run it and write what was measured."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="loraport-benchmark-") as folder:
        run = Pipeline(Path(folder), "cpu", 1, options.roles)
        prepare(run, options)
        size = (run.root / "maps.h5").stat().st_size
        records = carry(run, options)
    further = {key: statistics.median(each[key] for each in records[1:]) for key in records[0]}
    content = {
        "settings": {key: value for key, value in vars(options).items() if key != "out"},
        "maps_mib": round(size / 2**20, 1),
        "first": rounded(records[0]),
        "further": rounded(further),
        "further_to_first_cpu": round(further["cpu"] / records[0]["cpu"], 3),
        "cpu_seconds": [round(each["cpu"], 3) for each in records],
        "load": os.getloadavg()[0],
        "machine": machine("cpu"),
        "versions": versions("numpy", "h5py"),
    }
    print(json.dumps(content, indent=1))
    if options.out:
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
