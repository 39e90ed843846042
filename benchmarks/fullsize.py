"""Every rule of the workflow at the real shapes of published pairs, on random weights.

    python benchmarks/fullsize.py --pair qwen --device cpu --threads 2 --out benchmarks/results

Makes both models in a temporary folder (bfloat16, sharded, never held whole), runs the workflow's
own scripts on them, each in a process of its own, and writes time and peak memory of each beside
what the plan asks for. See README.md beside this file.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any

import table
from pipeline import ROLES, Pipeline, machine

from loraport.models.families import Dimensions
from loraport.planning import plan

EXAMPLES, WORDS = 512, 128  # calibration texts and their words, a token each
RANK = 32
COLUMNS = {
    "seconds": "seconds",
    "median": "median",
    "runs": "runs",
    "cpu": "CPU seconds",
    "process": "process",
    "peak_mib": "peak MiB",
    "gpu_mib": "GPU MiB",
    "read_mib": "read MiB",
    "others": "others' load",
}
# Sizes as the LoRASuite paper prints them (arXiv 2505.13515); the vocabularies are the defaults of
# transformers' config classes. A head of its own or a tied one is what gives the printed sizes.
PAIRS: dict[str, dict[str, Any]] = {
    "qwen": {
        "title": "Qwen1.5-1.8B → Qwen2.5-3B",
        "kind": "Qwen2Config",
        "old": (151936, 2048, 5504, 24, 16, 16, False),
        "new": (151936, 2048, 11008, 36, 16, 2, True),
        "layers": None,
    },
    "small": {
        "title": "Qwen2.5-0.5B → Qwen2.5-1.5B",
        "kind": "Qwen2Config",
        "old": (151936, 896, 4864, 24, 14, 2, True),
        "new": (151936, 1536, 8960, 28, 12, 2, True),
        "layers": None,
    },
    "llama": {
        "title": "Llama-2-13B → Llama-3.1-70B",
        "kind": "LlamaConfig",
        "old": (32000, 5120, 13824, 40, 40, 40, False),
        "new": (128256, 8192, 28672, 80, 64, 8, False),
        "layers": 1,  # of each model are made, with few tokens and a random W_h
        "tokens": 1024,
    },
}


def sizes(pair: str, side: str, shrink: int, layers: int | None) -> dict[str, int]:
    """Sizes of one model, in fixtures' words, divided by `shrink` for a trial."""
    vocab, hidden, intermediate, depth, heads, kv_heads, _ = PAIRS[pair][side]
    return {
        "vocab": vocab // shrink if shrink > 1 or not layers else PAIRS[pair].get("tokens", vocab),
        "hidden": hidden // shrink,
        "intermediate": intermediate // shrink,
        "layers": layers or depth,
        "heads": heads,
        "kv_heads": kv_heads,
        "head_dim": hidden // shrink // heads,
    }


def dimensions(given: dict[str, int]) -> Dimensions:
    """The same as the plan reads them."""
    names = {"vocab": "vocabulary"}
    return Dimensions(**{names.get(key, key): value for key, value in given.items()})


def plans(pair: str) -> dict[str, dict[str, int]]:
    """Rule -> what the workflow asks a scheduler for, at the pair's whole size."""
    models = [dimensions(sizes(pair, side, 1, None)) for side in ("old", "new")]
    return {row.rule: {"mib": row.need.mib, "seconds": round(row.need.seconds)}
            for row in plan.table(*models)}  # fmt: skip


def make_model(run: Pipeline, pair: str, side: str, given: dict[str, int]) -> None:
    """The model of one side with random weights, in bfloat16, in the folder of its name."""
    config = {
        "vocab_size": given["vocab"],
        "hidden_size": given["hidden"],
        "intermediate_size": given["intermediate"],
        "num_hidden_layers": given["layers"],
        "num_attention_heads": given["heads"],
        "num_key_value_heads": given["kv_heads"],
        "tie_word_embeddings": PAIRS[pair][side][-1],
        "pad_token_id": 1,
    }
    made = {"directory": str(run.root / side), "kind": PAIRS[pair]["kind"], "config": config,
            "dtype": "bfloat16", "device": run.device, "seed": int(side == "new")}  # fmt: skip
    run.note("fixture", f"model {side}", 0, run.child("fixtures.py", "whole", made))


def make_models(run: Pipeline, options: argparse.Namespace, layers: int | None) -> None:
    """Both models, their specs, and an adapter on q, k, v, o and one on all linear modules."""
    for side in ("old", "new"):
        make_model(run, options.pair, side, sizes(options.pair, side, options.shrink, layers))
        run.spec(side)
    given = sizes(options.pair, "old", options.shrink, layers)
    for name, roles in (("adapter", ROLES[:4]), ("adapter_all", ROLES)):
        made = {"directory": str(run.root / name), "sizes": given, "seed": 20, "rank": RANK,
                "roles": roles}  # fmt: skip
        run.child("fixtures.py", "adapter", made)


def make_features(run: Pipeline, options: argparse.Namespace, layers: int | None) -> None:
    """Features of calibration texts by rule activations, or random ones."""
    if options.activations:
        texts = str(run.root / "texts.txt")
        vocab = PAIRS[options.pair]["old"][0] // options.shrink
        drawn = {"path": texts, "examples": EXAMPLES, "words": WORDS, "vocab": vocab, "seed": 5}
        run.child("fixtures.py", "texts", drawn)
        for side in ("old", "new"):
            run.activations(side, texts, EXAMPLES)
        return
    for seed, side in enumerate(("old", "new")):
        given = sizes(options.pair, side, options.shrink, layers)
        run.features(side, given, EXAMPLES, 10 + seed)


def measure(options: argparse.Namespace, root: Path) -> list[dict[str, Any]]:
    """Everything once, and the adapters several times; again the adapters alone, where asked."""
    run = Pipeline(root, options.device, options.threads, ROLES if options.all else ROLES[:4])
    if not options.again:
        make_models(run, options, options.layers)
        make_features(run, options, options.layers)
        if options.pair == "llama":
            run.random_map()
        run.mapping(embedding=options.pair != "llama")
    adapters = {"adapter": "q k v o", **({"adapter_all": "all linear"} if options.all else {})}
    for repeat in range(options.adapters):
        for adapter, which in adapters.items():
            run.transferred(adapter, repeat, name=f"transferred, {which}", threads=1)
    return run.records


def summarise(records: list[dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Step -> best and median seconds, peak MiB and MiB read; `process` is with the imports."""
    found = {}
    for step in dict.fromkeys(each["step"] for each in records if each["side"] == "pipeline"):
        mine = [each for each in records if each["step"] == step]
        found[step] = {
            "seconds": min(each["seconds"] for each in mine),
            "median": statistics.median(each["seconds"] for each in mine),
            "process": min(each["wall"] for each in mine),
            "process_median": statistics.median(each["wall"] for each in mine),
            "cpu": min(each["cpu"] for each in mine),
            "peak_mib": max(each["own_mib"] for each in mine),
            "gpu_mib": max(each["gpu_mib"] for each in mine),
            "read_mib": max(each["read_mib"] for each in mine),
            "others": statistics.median(each["others"] for each in mine),
            "runs": len(mine),
        }
    return found


def markdown(results: dict[str, Any]) -> str:
    """All runs that the JSON file holds, and the plan of each pair."""
    lines = []
    for run in results["runs"].values():
        where = run["machine"]["gpu"] or f"{run['threads']} threads of {run['machine']['cpu']}"
        lines += [f"## {PAIRS[run['pair']]['title']}, {where}", ""]
        notes = [f"{run['layers']} layer(s) of each model"] if run["layers"] else []
        notes += ["1024 tokens and a random W_h"] if run["pair"] == "llama" else []
        notes += [f"maps for {', '.join(run['roles'])}"] if run["roles"] != ROLES else []
        notes += run.get("notes", [])
        lines += [f"{'; '.join(notes)}.", ""] if notes else []
        lines += [row(["rule", *COLUMNS.values()]), "|---" * (len(COLUMNS) + 1) + "|"]
        for step, each in run["steps"].items():
            shown = ["–" if each.get(key) is None else f"{each[key]:.{digits(key)}f}"
                     for key in COLUMNS]  # fmt: skip
            lines.append(row([step, *shown]))
        lines.append("")
    for pair, rules in results["plans"].items():
        lines += [f"## The plan of {PAIRS[pair]['title']}", "", row(["rule", "MiB", "seconds"]),
                  "|---|---|---|"]  # fmt: skip
        lines += [row([rule, each["mib"], each["seconds"]]) for rule, each in rules.items()]
        lines.append("")
    return "\n".join(lines)


def digits(key: str) -> int:
    """Decimals that are shown."""
    return 0 if key.endswith("mib") or key == "runs" else 2


def row(cells: list[Any]) -> str:
    """One line of a Markdown table."""
    return f"| {' | '.join(map(str, cells))} |"


def main() -> None:
    """Run one pair and add it to the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("--pair", choices=PAIRS, required=True)
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--activations", action="store_true", help="run the models on texts")
    parser.add_argument("--adapters", type=int, default=5, help="times that each is carried")
    parser.add_argument("--shrink", type=int, default=1, help="divides all widths, for a trial")
    parser.add_argument("--layers", type=int, help="of each model; default: all, of llama one")
    parser.add_argument("--attention", dest="all", action="store_false",
                        help="maps for q, k, v, o alone")  # fmt: skip
    parser.add_argument(
        "--folder", type=Path, help="for the models, kept; default: a temporary one"
    )
    parser.add_argument("--again", action="store_true", help="the adapters alone, in --folder")
    parser.add_argument("--out", type=Path, help="folder of fullsize.json and fullsize.md")
    options = parser.parse_args()
    options.layers = options.layers or PAIRS[options.pair]["layers"]
    with tempfile.TemporaryDirectory(prefix="loraport-fullsize-") as folder:
        root = options.folder or Path(folder)
        root.mkdir(parents=True, exist_ok=True)
        records = measure(options, root)
    path = (options.out or Path()) / "fullsize.json"
    known = json.loads(path.read_text()) if options.out and path.exists() else {"runs": {}}
    name = f"{options.pair}_{options.device}" + (f"_{options.layers}" if options.layers else "")
    if options.again:
        records = [*known["runs"][name]["records"], *records]
    run = {
        "pair": options.pair,
        "threads": options.threads,
        "layers": options.layers,
        "roles": ROLES if options.all else ROLES[:4],
        "machine": machine(options.device),
        "versions": table.versions(),
        "sizes": {side: asdict(dimensions(sizes(options.pair, side, options.shrink, None)))
                  for side in ("old", "new")},
        "steps": summarise(records),
        "records": records,
    }  # fmt: skip
    known["runs"][name] = run
    known["plans"] = {pair: plans(pair) for pair in PAIRS}
    print(text := markdown(known))
    if options.out:
        options.out.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(known, indent=1) + "\n")
        path.with_suffix(".md").write_text(text)


if __name__ == "__main__":
    main()
