"""What carried adapters do on a model pair before any fine-tuning, by method and setting.

    python benchmarks/aligned.py resources/nano --limit 60 --out benchmarks/results/aligned.json

For each adapter of the pair's old model and each method: the answers' negative log-likelihood in
nats, summed over an answer's tokens, mean over items, and the paired differences from aligned's and
from those of the method's default settings. `--draw validation` takes items that the generators of
the pair write under another seed, none of them in a training or test file: settings are chosen on
these, and the test items are read once. `--vary METHOD` varies the constants in the method's file,
one at a time. A GPU is used where there is one; what is scored is written at once.
"""

import argparse
import json
import random
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from loraport.adapters.attach import attach
from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter, write_adapter
from loraport.artifacts import write_json
from loraport.calibration.activations import pooled_features, read_texts
from loraport.calibration.batches import make_batches
from loraport.calibration.gradients import TEXTS_AT_ONCE, layer_gradients
from loraport.calibration.sums import layer_moments
from loraport.calibration.walk import Walk
from loraport.evaluation.statistics import bootstrap, difference
from loraport.mapping.cka import cka, hsic_sums
from loraport.mapping.embedding import map_embedding
from loraport.mapping.heads import match_layer, read_heads
from loraport.mapping.layers import layer_path
from loraport.mapping.pair import Adapted, Pair
from loraport.methods import make_maps, make_outputs, needs, per_adapter
from loraport.models.blocks import Whole
from loraport.models.loading import load_base
from loraport.models.side import Side
from loraport.models.spec import Model, open_model
from loraport.provenance import versions
from loraport.runtime.device import pick_device
from loraport.training.data import Example, encode, subset
from loraport.training.own_answers import task_texts
from loraport.transfer.carry import carry
from loraport.transfer.maps import open_maps, write_maps

VALIDATION_SEED = 77
MAPPING = {"modules": ["q", "k", "v", "o", "gate", "up", "down"], "wi": "code", "ridge": "auto",
           "prior": "procrustes", "writes": "stream", "singular": 320,
           "calibrate_on": "own_answers"}  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A method with mapping settings, and with other values of the constants in its file."""

    method: str
    mapping: dict[str, Any] = field(default_factory=dict)
    scale: str = "paper"
    constants: dict[str, float] = field(default_factory=dict)


METHODS = {
    "lorasuite (paper)": Entry("lorasuite"),
    "lorasuite (norm)": Entry("lorasuite", scale="norm"),
    "crosslora k=64": Entry("crosslora", {"singular": 64}),
    "aligned": Entry("aligned"),
    "aligned, scale norm": Entry("aligned", scale="norm"),
    "aligned, writes module": Entry("aligned", {"writes": "module"}),
    "aligned, writes module, ridge 1e-2": Entry("aligned", {"writes": "module", "ridge": 1e-2}),
    "aligned, writes module, ridge 1e-2, prior zero": Entry(
        "aligned", {"writes": "module", "ridge": 1e-2, "prior": "zero"}
    ),
    "theseus": Entry("theseus"),
    "aligned_gradients": Entry("aligned_gradients"),
    "procrustes alone": Entry("aligned", {"writes": "module", "ridge": 1e6}),
    "aligned_sequential": Entry("aligned_sequential"),
    **{
        f"aligned_sequential, {kind}": Entry("aligned_sequential", {"calibrate_on": kind})
        for kind in ("generic", "inputs", "answers")
    },
}
FACTORS = {  # constants that are varied one at a time, around the values in the methods' files
    "aligned": {
        "GAIN": (0.0, 0.5, 1.0),
        "OUTPUT_RIDGE": (0.3, 3.0),
        "STREAM_RIDGE": (3e-4, 3e-3, 1e-2),
    },
    "aligned_sequential": {
        "GAIN": (0.0, 0.5, 1.0),
        "OUTPUT_RIDGE": (0.1, 10.0),
        "STREAM_RIDGE": (1e-3, 1e-1),
        "TARGET_RIDGE": (1e-3, 1e-1),
    },
}
VARIED = {
    f"{method}, {name} {value:g}": Entry(method, constants={name: value})
    for method, each in FACTORS.items()
    for name, values in each.items()
    for value in values
}
METHODS |= VARIED


def make_pair(
    old: Model, new: Model, texts: list[str], device: str, unmatched: str = "empty"
) -> Pair:
    """Everything that any method needs of a pair, in memory."""
    features = [pooled_features(model, texts, device=device) for model in (old, new)]
    kept = features[0][1] & features[1][1]
    seen = [torch.from_numpy(values[:, kept]) for values, _ in features]
    path = layer_path(cka(*hsic_sums(*seen, 64)[:3]).numpy(), "cka", None, unmatched)
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
    old_base, new_base = (Whole(base) for base in bases)
    walks = Walk(old, old_base, batches, 0), Walk(new, new_base, batches, 1)
    with tqdm(total=len(texts) * len(path), desc="moments") as bar:
        found = layer_moments((old, new), walks, batches, path, device, bar.update)
        moments = {j: each for (_, j), each in zip(path, found, strict=True)}
    few = make_batches(tokenizers, texts, 256, TEXTS_AT_ONCE)
    answered = layer_gradients((old, new), bases, few, path, device)
    gradients = {j: each for (_, j), each in zip(path, answered, strict=True)}
    return Pair(old, new, dict(MAPPING), device, hidden_map, path, heads.__getitem__,
                moments.__getitem__,
                gradients=lambda layer, role: gradients[layer][role])  # fmt: skip


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
    with open_maps(maps_file) as maps:
        weights, _ = carry(located(pair, source), maps, *sides, scale=scale)
    folder.mkdir()
    write_adapter(folder, adapter.config, str(pair.new.directory), "", sides[1].family,
                  sides[1].dims.layers, weights, "float32")  # fmt: skip
    return folder


def adapted(pair: Pair, root: Path, app: str, count: int, generic: list[str]) -> Adapted:
    """An adapter with the texts on which maps of its own are fitted."""
    source = root / "adapters" / "v1" / app
    kind = pair.settings["calibrate_on"]

    def texts(model: Any, tokenizer: Any) -> list[str]:
        if kind == "generic":
            return generic
        if (root, app, count, kind) not in WRITTEN:  # once for all settings of a method
            prompts = subset(read_rows(root, app, "train"), count, 0)
            WRITTEN[root, app, count, kind] = task_texts(
                kind, prompts, model, tokenizer, max_tokens=256, batch_size=64
            )
        return WRITTEN[root, app, count, kind]

    return Adapted(source, located(pair, source), texts)


WRITTEN: dict[tuple[Path, str, int, str], list[str]] = {}


def located(pair: Pair, source: Path) -> Any:
    """(layer, module) -> factors of an adapter of the old model."""
    held = read_adapter(source)
    names = {str(held.config.get("base_model_name_or_path"))}
    return audit(held, pair.old.architecture, pair.old.dims, names)


def carried_by(
    pair: Pair,
    root: Path,
    entry: Entry,
    apps: list[str],
    folder: Path,
    name: str,
    count: int,
    generic: list[str],
) -> None:
    """`folder/{app}/{name}`: the adapters of the apps carried by a method, as PEFT directories."""
    pair.settings.clear()
    pair.settings.update({**MAPPING, **entry.mapping})
    own = per_adapter(entry.method)
    if "outputs" in needs(entry.method):  # fitted once for all apps
        pair = replace(pair, outputs=cache(make_outputs(entry.method, pair)))
    with constants(entry):
        for number, app in enumerate(apps):
            (folder / app).mkdir(exist_ok=True)
            maps_file = folder / f"{name}{number if own else ''}.h5"
            if own:
                needed = replace(pair, adapter=adapted(pair, root, app, count, generic))
                write_maps(maps_file, entry.method, {}, make_maps(entry.method, needed))
            elif not number:
                write_maps(maps_file, entry.method, {}, make_maps(entry.method, pair))
            source = root / "adapters" / "v1" / app
            carried(pair, source, maps_file, entry.scale, folder / app / name)


@contextmanager
def constants(entry: Entry) -> Iterator[None]:
    """The method's constants as the entry has them."""
    module = import_module(f"loraport.methods.{entry.method}")
    before = {name: getattr(module, name) for name in entry.constants}
    vars(module).update(entry.constants)
    try:
        yield
    finally:
        vars(module).update(before)


def read_rows(root: Path, app: str, split: str) -> list[Example]:
    """All shipped examples of an app; apps named …_all share the data of the others."""
    lines = (root / "data" / f"{app.removesuffix('_all')}.{split}.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [Example(row["prompt"], row["completion"]) for row in rows]


def examples(root: Path, app: str, limit: int, draw: str = "test") -> list[Example]:
    """Items of an app: the first of its test file, or fresh ones of the validation draw."""
    if draw == "test":
        return read_rows(root, app, "test")[:limit]
    if str(root) not in sys.path:
        sys.path.insert(0, str(root))
    from nanopair.apps import MAKERS

    known = {each.prompt for split in ("train", "test") for each in read_rows(root, app, split)}
    rng, found = random.Random(VALIDATION_SEED), []
    while len(found) < limit:
        _, row = MAKERS[app.removesuffix("_all")](rng, False)  # a key of the training side
        if row["prompt"] not in known:
            known.add(row["prompt"])
            found.append(Example(row["prompt"], row["completion"]))
    return found


def score(directory: Path, adapter: Path | None, items: list[Example], device: str) -> list[float]:
    """NLL of the answers by a model of its own, with an adapter or without."""
    base, tokenizer = load_base(directory, device=device, dtype="float32")
    return answer_nll(attach(base, adapter) if adapter else base, tokenizer, items)


def main() -> None:
    """Score all methods on all adapters and write one JSON file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("root", type=Path, help="folder with v1, v2, adapters, data, calibration")
    parser.add_argument("--limit", type=int, default=60)
    parser.add_argument("--draw", choices=("validation", "test"), default="validation")
    parser.add_argument("--apps", nargs="*", help="adapters; all of them by default")
    plain = [name for name in METHODS if name not in VARIED]
    parser.add_argument("--methods", nargs="*", choices=list(METHODS), default=plain)
    parser.add_argument("--vary", nargs="*", choices=list(FACTORS), default=[],
                        help="methods whose constants are varied, one at a time")  # fmt: skip
    parser.add_argument("--texts", type=int, default=512, help="generic texts")
    parser.add_argument("--prompts", type=int, default=400, help="of each app, for its own maps")
    parser.add_argument("--unmatched", choices=("empty", "next"), default="empty",
                        help="new layers that no old one is matched with")  # fmt: skip
    parser.add_argument("--device", default="auto")
    parser.add_argument("--out", type=Path, required=True)
    asked = parser.parse_args()
    varied = [name for name, entry in VARIED.items() if entry.method in asked.vary]
    methods = list(dict.fromkeys([*asked.methods, *asked.vary, *varied]))
    torch.manual_seed(0)
    device = pick_device(asked.device)
    old, new = (open_model(asked.root / side) for side in ("v1", "v2"))
    texts = read_texts(asked.root / "calibration.txt", asked.texts)
    pair = make_pair(old, new, texts, device, asked.unmatched)
    known = sorted(path.name for path in (asked.root / "adapters" / "v1").iterdir())
    apps = asked.apps or known
    rows: dict[str, dict[str, list[float]]] = {}
    items = {app: examples(asked.root, app, asked.limit, asked.draw) for app in apps}
    for app in apps:
        rows.setdefault("bare new model", {})[app] = score(new.directory, None, items[app], device)
        full = asked.root / "adapters" / "v2" / app
        rows.setdefault("LoRA(full)", {})[app] = score(new.directory, full, items[app], device)
    with TemporaryDirectory() as temporary:
        for name in methods:
            folder = Path(temporary)
            carried_by(pair, asked.root, METHODS[name], apps, folder, name, asked.prompts,
                       texts[: asked.prompts])  # fmt: skip
            for app in apps:
                adapter = folder / app / name
                rows.setdefault(name, {})[app] = score(new.directory, adapter, items[app], device)
            print(
                name, {app: round(float(np.mean(rows[name][app])), 1) for app in apps}, flush=True
            )
            write(asked, rows, pair.path)


def write(
    asked: argparse.Namespace, rows: dict[str, dict[str, list[float]]], path: Sequence[Any]
) -> None:
    """One JSON file of what has been scored so far."""
    table = {
        name: {
            app: {**vars(bootstrap(values)), **_less(name, values, rows, app)}
            for app, values in each.items()
        }
        for name, each in rows.items()
    }
    keys = ("limit", "draw", "texts", "prompts", "unmatched", "device")
    about = {key: getattr(asked, key) for key in keys} | {"path": list(path)}
    content = {"about": about, "versions": versions(), "answer_nll": table}
    write_json(asked.out, "benchmark", {}, content)


def _less(
    name: str, values: list[float], rows: dict[str, dict[str, list[float]]], app: str
) -> dict[str, Any]:
    """Paired differences from aligned, and from the method's own default settings."""
    default = METHODS[name].method if name in METHODS else ""
    references = [each for each in {"aligned", default} if each in rows and each != name]
    return {
        f"less_{each}": vars(difference(values, rows[each][app])) for each in sorted(references)
    }


if __name__ == "__main__":
    main()
