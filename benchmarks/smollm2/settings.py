"""What a pair's carried adapters do before any fine-tuning, by method and by its constants.

    python benchmarks/smollm2/settings.py PAIR OUT.json --vary aligned [--apps arc] [--part 0/4]

As `benchmarks/aligned.py --draw validation` does on nano, on the pair's own artifacts: the answers'
negative log-likelihood (nats, summed over an answer's tokens) on the training records that are held
out, {app}.heldout.jsonl, and never on a test item. Each row is written when it is scored, and one
that is there is not scored again; `--part` takes every fourth, so that four processes share the
work, each with a file of its own.
"""

import argparse
import json
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from asked import BUILT, ROOT, opened
from asked import settings as configured
from likelihood import LONGEST, nll

sys.path.append(str(ROOT / "benchmarks"))
import aligned

from loraport.adapters.attach import attach
from loraport.artifacts import atomic
from loraport.calibration.texts import read_texts
from loraport.mapping.pair import open_pair
from loraport.models.loading import load_base
from loraport.planning import stages
from loraport.planning.queries import Config
from loraport.runtime.device import pick_device
from loraport.training.data import encode, read

PLAIN = [
    "lorasuite (norm)",
    "crosslora k=64",
    "aligned",
    "aligned_sequential",
    "aligned_sequential, generic",
    "aligned_sequential, inputs",
]
FITTED = ("layers", "embedding", "heads", "moments", "gradients")
BARE, FULL = "bare new model", "LoRA(full)"


def view(asked: Config, pair: str) -> Path:
    """The pair as benchmarks/aligned.py reads one: models and adapters by links, training data."""
    folder = BUILT / "view" / pair
    if folder.exists():
        return folder
    with atomic(folder) as temporary:
        (temporary / "data").mkdir(parents=True)
        for side, model in zip(("v1", "v2"), asked.pair(pair), strict=True):
            _link(temporary / side, Path(asked.model(model)["source"]))
            for app in asked.apps(model):
                _link(
                    temporary / "adapters" / side / app, Path(stages.adapter_of(asked, app, model))
                )
        for app in asked.apps(asked.pair(pair)[0]):
            task = stages.task_of(asked, app, *reversed(asked.pair(pair)))
            rows = [
                {"prompt": each.prompt, "completion": each.completion}
                for each in read(**stages.train_data(task))
            ]
            lines = "".join(json.dumps(row) + "\n" for row in rows)
            (temporary / "data" / f"{app}.train.jsonl").write_text(lines)
    return folder


def _link(place: Path, to: Path) -> None:
    place.parent.mkdir(parents=True, exist_ok=True)
    place.symlink_to(to.resolve())


def open_artifacts(asked: Config, pair: str, device: str) -> Any:
    """The pair as the workflow's own rules made it."""
    files = {
        name: f"artifacts/{pair}/{name}.{'json' if name == 'layers' else 'h5'}" for name in FITTED
    }
    old, new = (opened(asked, name)[0] for name in asked.pair(pair))
    return open_pair(old, new, files, {}, device)


def share_answers(root: Path, app: str, count: int) -> None:
    """What the adapted old model writes to an app's prompts, once for all processes."""
    key, file = (root, app, count, "own_answers"), root / "texts" / f"{app}.{count}.json"
    if file.exists():
        aligned.WRITTEN[key] = json.loads(file.read_text())
    elif key in aligned.WRITTEN:
        with atomic(file) as temporary:
            temporary.write_text(json.dumps(aligned.WRITTEN[key]))


class Scorer:
    """The new model, loaded once, and what it is scored on."""

    def __init__(self, model: Path, apps: list[str], device: str):
        self.base, self.tokenizer = load_base(model, device=device)
        self.rows = {
            app: encode(
                read(str(BUILT / "sets" / f"{app}.heldout.jsonl")),
                self.tokenizer,
                LONGEST,
                "answer",
            ).rows
            for app in apps
        }

    def __call__(self, app: str, adapter: Path | None) -> list[float]:
        """Nats of each held-out answer, by the model with an adapter or without."""
        worn = attach(self.base, adapter).eval() if adapter else self.base
        found = nll(worn, self.rows[app], self.tokenizer.pad_token_id)
        if adapter:
            self.base = worn.unload()
        return [round(each, 4) for each in found]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pair")
    parser.add_argument("out", type=Path)
    parser.add_argument("--apps", nargs="*", default=["arc", "math"])
    parser.add_argument("--methods", nargs="*", choices=list(aligned.METHODS), default=PLAIN)
    parser.add_argument("--vary", nargs="*", choices=list(aligned.FACTORS), default=[])
    parser.add_argument("--part", default="0/1", help="which of how many")
    parser.add_argument("--device", default="auto")
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    varied = [name for name, entry in aligned.VARIED.items() if entry.method in given.vary]
    names = list(dict.fromkeys([*given.methods, *given.vary, *varied]))[part::parts]
    torch.manual_seed(0)
    device, asked = pick_device(given.device), configured()
    root, pair = view(asked, given.pair), open_artifacts(asked, given.pair, device)
    score = Scorer(pair.new.directory, given.apps, device)
    calibration = asked.content["calibration"]
    texts = read_texts(Path(calibration["texts"]), calibration["examples"])
    held = json.loads(given.out.read_text()) if given.out.exists() else {}
    for app in given.apps:
        for name in [*([] if part else [BARE, FULL]), *names]:
            if app in held.get(name, {}):
                continue
            with TemporaryDirectory() as temporary:
                adapter = {BARE: None, FULL: root / "adapters" / "v2" / app}.get(name, Path())
                if name in names:
                    share_answers(root, app, calibration["examples"])
                    aligned.carried_by(pair, root, aligned.METHODS[name], [app], Path(temporary),
                                       name, calibration["examples"], texts)  # fmt: skip
                    share_answers(root, app, calibration["examples"])
                    adapter = Path(temporary) / app / name
                held.setdefault(name, {})[app] = score(app, adapter)
            print(app, name, round(float(np.mean(held[name][app])), 2), flush=True)
            with atomic(given.out) as unfinished:
                unfinished.write_text(json.dumps(held))


if __name__ == "__main__":
    main()
