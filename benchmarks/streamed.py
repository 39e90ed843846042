"""Rules that run models, with the models whole and streamed block by block: time and memory.

    python benchmarks/streamed.py --hidden 512 --layers 24 --out benchmarks/results/streamed.json

Makes two random Llama-shaped models and texts in a temporary folder, and runs the scripts of rules
activations and moments alternately with `calibration.stream` never and always, each in a process of
its own, and so the choice of an adapter's gain. What they give is compared. Beside them stands a
plain pass of the whole model over the same batches, with its head, as `forward`.
"""

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from pipeline import ROLES, SPECS, Pipeline, machine

STREAMS = ("never", "always")
RULES = ("activations", "moments", "gain")


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    add = parser.add_argument
    add("--hidden", type=int, default=512)
    add("--intermediate", type=int, default=1408)
    add("--layers", type=int, default=24, help="of both models")
    add("--heads", type=int, default=8)
    add("--vocab", type=int, default=32000)
    add("--texts", type=int, default=32)
    add("--words", type=int, default=128)
    add("--threads", type=int, default=1)
    add("--repeats", type=int, default=2)
    add("--device", default="cpu")
    add("--dtype", default="bfloat16", help="of the models' files")
    add("--out", type=Path)
    return parser.parse_args()


def make(run: Pipeline, options: argparse.Namespace) -> dict[str, Any]:
    """Both models, their specs, the texts, a layer path; the settings of their reading."""
    sizes = {
        "vocab": options.vocab, "hidden": options.hidden, "heads": options.heads,
        "kv_heads": options.heads, "head_dim": options.hidden // options.heads,
        "intermediate": options.intermediate, "layers": options.layers,
    }  # fmt: skip
    for seed, side in enumerate(("old", "new")):
        made = {"directory": str(run.root / side), "sizes": sizes, "dtype": options.dtype,
                "seed": seed}  # fmt: skip
        run.child("fixtures.py", "model", made)
        run.spec(side)
    texts = {"path": str(run.root / "texts.txt"), "examples": options.texts,
             "words": options.words, "vocab": options.vocab, "seed": 5}  # fmt: skip
    run.child("fixtures.py", "texts", texts)
    adapter = {"directory": str(run.root / "adapter"), "sizes": sizes, "seed": 20, "rank": 16,
               "roles": ROLES}  # fmt: skip
    run.child("fixtures.py", "adapter", adapter)
    lines = (run.root / "texts.txt").read_text().splitlines()
    cut = [len(line) // 2 for line in lines]
    records = [{"prompt": line[:n], "completion": line[n:]}
               for line, n in zip(lines, cut, strict=True)]  # fmt: skip
    (run.root / "small.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    return {"examples": options.texts, "max_tokens": options.words, "batch_size": 16,
            "pooling": "mean", "device": options.device, "device_map": ""}  # fmt: skip


def run_rules(run: Pipeline, options: argparse.Namespace) -> None:
    """Each rule both ways, and the plain pass, in turns."""
    reading, texts = make(run, options), str(run.root / "texts.txt")
    sources = {side: str(run.root / side) for side in ("old", "new")}
    for repeat in range(options.repeats):
        forward = {"directory": sources["new"], "texts": texts, **reading}
        run.note("whole", "forward", repeat, run.child("streamed.py", "forward", forward))
        for stream in STREAMS:
            params = {"calibration": {**reading, "stream": stream}, "texts_version": "1",
                      "sources": {"model": sources["new"], "texts": texts},
                      "remote_code": False}  # fmt: skip
            for side in ("old", "new") if repeat == 0 else ("new",):
                params["sources"] = {"model": sources[side], "texts": texts}
                name = f"{side}_activations_{stream}.h5"
                run.rule("activations", name, {"spec": SPECS[f"{side}_spec"]}, params, repeat,
                         name=f"activations {stream}" if side == "new" else "")  # fmt: skip
            if repeat == 0 and stream == "never":
                features = {f"{side}_activations": f"{side}_activations_never.h5"
                            for side in ("old", "new")}  # fmt: skip
                settings = {"minibatch": 64, "similarity": "cka"}
                run.rule("cka", "cka.h5", {**SPECS, **features}, {"settings": settings})
                settings = {"layers": "first", "max_offset": None, "unmatched": "empty"}
                run.rule(
                    "layers", "layers.json", {**SPECS, "cka": "cka.h5"}, {"settings": settings}
                )
            known = ("examples", "max_tokens", "batch_size", "device")
            asked = {**{key: reading[key] for key in known}, "stream": stream}
            params = {"sources": {**sources, "texts": texts}, "settings": {"modules": ROLES},
                      "reading": {"texts_version": "1", "remote_code": [False] * 2,
                                  "calibration": asked}}  # fmt: skip
            inputs = {**SPECS, "layers": "layers.json"}
            run.rule("moments", f"moments_{stream}.h5", inputs, params, repeat,
                     name=f"moments {stream}")  # fmt: skip
            asked = {"root": str(run.root), "stream": stream, **reading}
            run.note("", f"gain {stream}", repeat, run.child("streamed.py", "gain", asked))


def forward(directory: str, texts: str, max_tokens: int, batch_size: int, **how: Any) -> None:
    """A plain pass over the texts in batches; prints its seconds beside those of the loading."""
    import time

    import torch

    from loraport.models.loading import load_base
    from loraport.runtime.memory import peak_mib

    start = time.perf_counter()
    base, tokenizer = load_base(directory, device=how["device"])
    lines = Path(texts).read_text().splitlines()
    encoded = [tokenizer(line, truncation=True, max_length=max_tokens).input_ids for line in lines]
    for first in range(0, len(lines), batch_size):
        ids = {"input_ids": encoded[first : first + batch_size]}
        batch = tokenizer.pad(ids, return_tensors="pt").to(base.device)
        with torch.no_grad():
            base(**batch, use_cache=False)
    found = {"seconds": time.perf_counter() - start, "own_mib": peak_mib()}
    used = torch.cuda.is_initialized()
    print(json.dumps({**found, "gpu_mib": torch.cuda.max_memory_allocated() / 2**20 * used}))


def gain(
    root: str, stream: str, examples: int, max_tokens: int, batch_size: int, **how: Any
) -> None:
    """The choice of an adapter's gain on the new model; prints its curve, seconds and memory."""
    import time

    import torch

    from loraport.evaluation.gain import choose_for
    from loraport.models.spec import open_model
    from loraport.runtime.memory import peak_mib

    start, cpu, folder = time.perf_counter(), time.process_time(), Path(root)
    data = {"source": str(folder / "small.jsonl"), "template": "plain"}
    settings = {"examples": examples, "subset_seed": 0, "cutoff": max_tokens, "stream": stream,
                "batch_size": batch_size, "micro_batch": 0, "dtype": "auto",
                "device": how["device"], "device_map": ""}  # fmt: skip
    chosen = choose_for(
        open_model(folder / "new"), folder / "adapter", data, settings, {"remote_code": False}
    )
    used = torch.cuda.is_initialized()
    found = {"seconds": time.perf_counter() - start, "cpu": time.process_time() - cpu,
             "own_mib": peak_mib(), "curve": list(chosen.curve.values()),
             "gpu_mib": torch.cuda.max_memory_allocated() / 2**20 * used}  # fmt: skip
    print(json.dumps(found))


def summed_up(run: Pipeline) -> list[dict[str, Any]]:
    """A row for each step: medians over its repeats."""
    rows = []
    names = ("forward", *(f"{r} {how}" for r in RULES for how in STREAMS))
    keys = ("seconds", "cpu", "read_mib", "own_mib", "gpu_mib", "others")
    for step in names:
        of = [record for record in run.records if record["step"] == step]
        medians = {k: round(statistics.median(r[k] for r in of), 2) for k in keys if k in of[0]}
        rows.append({"step": step, **medians})
    return rows


def main() -> None:
    """Run it and write what was found."""
    options = arguments()
    with tempfile.TemporaryDirectory(prefix="loraport-benchmark-") as folder:
        run = Pipeline(Path(folder), options.device, options.threads, ROLES)
        run_rules(run, options)
        weights = sum(path.stat().st_size for path in run.root.glob("new/*.safetensors"))
        same = {
            kind: len({(run.root / f"{kind}_{stream}.h5").read_bytes() for stream in STREAMS}) == 1
            for kind in ("new_activations", "moments")
        }
    curves = [record["curve"] for record in run.records if "curve" in record]
    same["curve of gains"] = all(curve == curves[0] for curve in curves)
    rows = {row["step"]: row for row in summed_up(run)}
    ratios = {
        f"{rule} {key}": round(rows[f"{rule} always"][key] / rows[f"{rule} never"][key], 3)
        for rule in RULES
        for key in ("seconds", "cpu", "own_mib")
    }
    content = {
        "settings": {key: value for key, value in vars(options).items() if key != "out"},
        "weights_mib": round(weights / 2**20, 1),
        "same_bytes": same,
        "streamed / whole": ratios,
        "steps": list(rows.values()),
        "machine": machine(options.device),
    }
    print(json.dumps(content, indent=1))
    if options.out:
        options.out.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    children = {"forward": forward, "gain": gain}
    if sys.argv[1:2] and sys.argv[1] in children:
        children[sys.argv[1]](**json.loads(sys.argv[2]))
    else:
        main()
