"""Look-ups of a configuration, and inputs of a pair's rule."""

import json
from pathlib import Path

import pytest
from lookupcase import DIMENSIONS
from workdir import PROJECT

from loraport.planning import layout
from loraport.planning.checks import load
from loraport.planning.lookups import Lookups


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Look-ups of a configuration with two hub models, to which `sections` are added."""
    monkeypatch.chdir(tmp_path)
    lines = ["app\tmodel\tsource\ttask", "a\told\tgiven\tsums", "b\told\t\tsums"]
    Path("adapters.tsv").write_text("\n".join(lines) + "\n")
    Path("sums.jsonl").write_text('{"prompt": "1 + 1 =", "completion": " 2"}\n' * 20)
    Path("texts.txt").write_text("a text of some words\n" * 40)

    def build(**sections):
        content = {
            "models": {"old": {"source": "hub/old"}, "new": {"source": "hub/new"}},
            "pairs": {"p": {"old": "old", "new": "new"}},
            "run": ["p"],
            "adapters": "adapters.tsv",
            "calibration": {"texts": "texts.txt", "examples": 20},
            "finetune": {"examples": 8},
            "tasks": {"sums": {"train": "sums.jsonl", "template": "plain", "eval": ["nano_math"]}},
            "variants": {"v": {"method": "lorasuite", "mapping": {"heads": "none"}}},
            **sections,
        }
        config = load(content, PROJECT / "workflow" / "schemas")
        return Lookups(config, given=lambda file: ("given", file), source=PROJECT.joinpath)

    return build


@pytest.fixture
def specs(made):
    """Inputs of a pair's rule: specs of two models."""
    names = {}
    for side in ("old", "new"):
        path = Path(layout.path(layout.SPEC, model=side))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"dimensions": DIMENSIONS}))
        names[f"{side}_spec"] = str(path)
    return names
