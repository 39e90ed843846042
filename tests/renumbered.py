"""A model with other token ids, and an adapter carried to it by the workflow's own scripts."""

import json

import pico
from inprocess import PairRun

ROWS = ("model.embed_tokens.weight", "lm_head.weight")


def renumber(directory, source, order, drop=()):
    """The same model with other token ids (`order`: new id -> old id); some tokens respelt."""
    new = pico.edit_model(
        directory,
        source,
        lambda tensors: {k: v[order] if k in ROWS else v for k, v in tensors.items()},
    )
    where = {int(old): place for place, old in enumerate(order)}
    path = new / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"] = {
        f"{token}\u00ff" if number in drop else token: where[number]
        for token, number in content["model"]["vocab"].items()
    }
    content["model"]["merges"] = []
    for token in content["added_tokens"]:
        token["id"] = where[token["id"]]
    path.write_text(json.dumps(content))
    return new, where


def carried(tmp_path, old, new, adapter):
    run = PairRun(tmp_path, old, new, pico.make_texts(tmp_path / "texts.txt", 24))
    inputs = {**run._specs(), "maps": run.maps(), "embedding": run.embedding(), "adapter": adapter}
    params = {
        "settings": {"scale": "paper", "new_layers": "zero", "dtype": "float32"},
        "known_as": [str(old)],
        "base": str(new),
        "revision": "",
        "of": {"old": "old", "new": "new", "app": "app", "method": "lorasuite"},
    }
    return run._script("transferred", "out", inputs, transfer=params)
