"""What carried adapters do on a model pair before any fine-tuning, by method and setting.

    python benchmarks/aligned.py resources/nano --limit 60 --out benchmarks/results/aligned.json

For each adapter of the pair's old model and each method: the answers' negative log-likelihood in
nats, summed over an answer's tokens, mean over the first test items. Maps are made once and see the
generic calibration texts only; a GPU is used where there is one.
"""

import argparse
import json
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from loraport.activations import pooled_features, read_texts
from loraport.adapter import read_adapter, write_adapter
from loraport.artifacts import write_json
from loraport.audit import audit
from loraport.cka import cka, hsic_sums
from loraport.data import Example, encode
from loraport.device import pick_device
from loraport.embedding import map_embedding
from loraport.heads import match_layer, read_heads
from loraport.layers import best_path
from loraport.maps import open_maps, write_maps
from loraport.methods import Pair, make_maps
from loraport.models import attach, load_base
from loraport.moments import layer_moments, make_batches
from loraport.provenance import versions
from loraport.scores import bootstrap
from loraport.side import Side
from loraport.spec import Model, open_model
from loraport.transfer import carry

MAPPING = {"modules": ["q", "k", "v", "o", "gate", "up", "down"], "wi": "code", "ridge": "auto",
           "prior": "procrustes", "writes": "stream", "singular": 320}  # fmt: skip
METHODS: dict[str, tuple[str, dict[str, Any], str]] = {  # name -> method, mapping settings, scale
    "lorasuite (paper)": ("lorasuite", {}, "paper"),
    "lorasuite (norm)": ("lorasuite", {}, "norm"),
    "crosslora k=64": ("crosslora", {"singular": 64}, "paper"),
    "aligned": ("aligned", {}, "paper"),
    "aligned, scale norm": ("aligned", {}, "norm"),
    "aligned, writes module": ("aligned", {"writes": "module"}, "paper"),
    "aligned, writes module, ridge 1e-2": (
        "aligned", {"writes": "module", "ridge": 1e-2}, "paper"
    ),
    "aligned, writes module, ridge 1e-2, prior zero": (
        "aligned", {"writes": "module", "ridge": 1e-2, "prior": "zero"}, "paper"
    ),
    "procrustes alone": ("aligned", {"writes": "module", "ridge": 1e6}, "paper"),
}  # fmt: skip


def make_pair(old: Model, new: Model, texts: list[str], device: str) -> Pair:
    """Everything that any method needs of a pair, in memory."""
    features = [pooled_features(model, texts, device=device) for model in (old, new)]
    kept = features[0][1] & features[1][1]
    seen = [torch.from_numpy(values[:, kept]) for values, _ in features]
    path = best_path(cka(*hsic_sums(*seen, 64)[:3]).numpy())
    hidden_map = map_embedding(old, new, device=device).hidden_map
    weights = old.checkpoint(), new.checkpoint()
    heads = {
        j: match_layer(
            read_heads(old, weights[0], i, device),
            read_heads(new, weights[1], j, device),
            hidden_map,
        )[1]
        for i, j in path
    }
    loaded = [load_base(model.directory, device=device, dtype="float32") for model in (old, new)]
    bases, tokenizers = zip(*loaded, strict=True)
    batches = make_batches(tokenizers, texts, 256, 16)
    with tqdm(total=len(texts), desc="moments") as bar:
        found = layer_moments((old, new), bases, batches, path, device, bar.update)
    moments = {j: each for (_, j), each in zip(path, found, strict=True)}
    return Pair(old, new, dict(MAPPING), device, hidden_map, path, heads.__getitem__,
                moments.__getitem__)  # fmt: skip


@torch.no_grad()
def answer_nll(model: Any, tokenizer: Any, examples: list[Example]) -> list[float]:
    """Nats of each answer given its prompt."""
    found = []
    for row in encode(examples, tokenizer, 256, "answer").rows:
        ids = torch.tensor([row["input_ids"]], device=model.device)
        labels = torch.tensor(row["labels"][1:], device=model.device)
        scores = model(input_ids=ids).logits[0, :-1].float()
        found.append(float(torch.nn.functional.cross_entropy(scores, labels, reduction="sum")))
    return found


def carried(pair: Pair, source: Path, maps_file: Path, scale: str, folder: Path) -> Path:
    """An adapter through maps, as a PEFT directory."""
    sides = [Side(model.architecture, model.dims) for model in (pair.old, pair.new)]
    adapter = read_adapter(source)
    names = {str(adapter.config.get("base_model_name_or_path"))}
    located = audit(adapter, sides[0].family, sides[0].dims, names)
    with open_maps(maps_file) as maps:
        weights, _ = carry(located, maps, *sides, scale=scale)
    folder.mkdir()
    write_adapter(folder, adapter.config, str(pair.new.directory), "", sides[1].family,
                  sides[1].dims.layers, weights, "float32")  # fmt: skip
    return folder


def examples(root: Path, app: str, limit: int) -> list[Example]:
    """The first test items of an app."""
    lines = (root / "data" / f"{app.removesuffix('_all')}.test.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines[:limit]]
    return [Example(row["prompt"], row["completion"]) for row in rows]


def score(directory: Path, adapter: Path | None, items: list[Example], device: str) -> list[float]:
    """NLL of the answers by a model of its own, with an adapter or without."""
    base, tokenizer = load_base(directory, device=device, dtype="float32")
    return answer_nll(attach(base, adapter) if adapter else base, tokenizer, items)


def main() -> None:
    """Score all methods on all adapters and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder with v1, v2, adapters, data, calibration")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--texts", type=int, default=512)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    torch.manual_seed(0)
    device = pick_device(asked.device)
    old, new = (open_model(asked.root / side) for side in ("v1", "v2"))
    texts = read_texts(asked.root / "calibration.txt", asked.texts)
    pair = make_pair(old, new, texts, device)
    apps = sorted(path.name for path in (asked.root / "adapters" / "v1").iterdir())
    rows: dict[str, dict[str, list[float]]] = {}
    for app in apps:
        items = examples(asked.root, app, asked.limit)
        adapters = asked.root / "adapters"
        rows.setdefault("bare new model", {})[app] = score(new.directory, None, items, device)
        full = adapters / "v2" / app
        rows.setdefault("LoRA(full)", {})[app] = score(new.directory, full, items, device)
    with TemporaryDirectory() as temporary:
        for number, (name, (method, settings, scale)) in enumerate(METHODS.items()):
            maps_file = Path(temporary) / f"{number}.h5"
            pair.settings.update({**MAPPING, **settings})
            write_maps(maps_file, method, {}, make_maps(method, pair))
            for app in apps:
                source, out = asked.root / "adapters" / "v1" / app, maps_file.with_suffix(f".{app}")
                folder = carried(pair, source, maps_file, scale, out)
                items = examples(asked.root, app, asked.limit)
                rows.setdefault(name, {})[app] = score(new.directory, folder, items, device)
            print(
                name, {app: round(float(np.mean(rows[name][app])), 1) for app in apps}, flush=True
            )
    table = {
        name: {
            app: dict(zip(("mean", "low", "high"), _interval(values), strict=True))
            for app, values in each.items()
        }
        for name, each in rows.items()
    }
    about = {"limit": asked.limit, "texts": asked.texts, "path": pair.path, "device": device}
    content = {"about": about, "versions": versions(), "answer_nll": table}
    write_json(asked.out, "benchmark", {}, content)


def _interval(values: list[float]) -> tuple[float, float, float]:
    found = bootstrap(values)
    return found.mean, found.low, found.high


if __name__ == "__main__":
    main()
