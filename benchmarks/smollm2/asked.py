"""What the benchmark's scripts ask for: its configuration, its folders, and how it scores."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from loraport.artifacts import identities, identity
from loraport.evaluation.evaluate import Settings, Stage, score_stages
from loraport.models.spec import Model, load_spec
from loraport.planning import stages
from loraport.planning.checks import load
from loraport.planning.queries import Config

ROOT = Path(__file__).resolve().parents[2]
FILES = (ROOT / "config" / "config.yaml", Path(__file__).with_name("config.yaml"))
BUILT = Path("benchmarks/smollm2/built")
MODELS = Path("artifacts/models")


def merged(into: dict[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """Maps merge, everything else is replaced: as Snakemake does with a second file."""
    for key, value in other.items():
        both = isinstance(value, Mapping) and isinstance(into.get(key), Mapping)
        into[key] = merged(dict(into[key]), value) if both else value
    return into


def settings() -> Config:
    """The benchmark's configuration, with the file that the variable EXTRA names over it."""
    content: dict[str, Any] = {}
    for path in (*FILES, *filter(None, [os.environ.get("EXTRA")])):
        content = merged(content, yaml.safe_load(Path(path).read_text()))
    return load(content, ROOT / "workflow" / "schemas")


def a_third(asked: Config) -> int:
    """Of the examples of a light fine-tuning."""
    return int(asked.content["finetune"]["examples"]) // 3


def few_folder(asked: Config, pair: str, app: str) -> Path:
    """Where what was trained on a third of the examples lies, with its scores."""
    return BUILT / "few" / pair / app / str(a_third(asked))


def adapters(asked: Config, pair: str, app: str, methods: Sequence[str]) -> dict[str, str]:
    """What an app's table compares -> its adapter, an empty one for the bare model.

    Names are paths: `baselines/new`, `aligned/transferred`, `aligned/finetuned_seed0`, and
    `few/aligned/seed0` of what was trained on a third of the examples.
    """
    found = stages.baseline_adapters(asked, pair, app)
    each = {f"baselines/{stage}": adapter for stage, adapter in found.items()}
    for method in methods:
        carried = stages.method_adapters(asked, pair, app, method)
        each |= {f"{method}/{stage}": adapter for stage, adapter in carried.items()}
    home = few_folder(asked, pair, app)
    few = sorted(path.parent for path in home.glob("*/seed*/adapter_model.safetensors"))
    return each | {f"few/{path.relative_to(home)}": str(path) for path in few}


def score(
    asked: Config,
    pair: str,
    app: str,
    each: Mapping[str, Path],
    adapters: Mapping[str, str],
    **more: Any,
) -> None:
    """Score adapters as the workflow does.

    Parameters
    ----------
    each : name -> the JSON file to write
    adapters : name -> adapter, an empty one for the bare model
    more : other settings of the evaluation than the configured ones
    """
    model, spec = new_model(asked, pair)
    task = stages.task_of(asked, app, *reversed(asked.pair(pair)))
    score_stages(
        model.directory,
        [
            Stage(
                name.replace("/", "."),
                Path(adapters[name]) if adapters[name] else None,
                out,
                tuple(task["eval"]),
                task["template"],
            )
            for name, out in each.items()
        ],
        asked.content["evaluation"]["tasks_dir"] or ROOT / "resources" / "tasks",
        Settings(**{**stages.scoring(asked), **more}),
        cache="artifacts/.resume/scores",
        model_identity=identity(spec)[0],
        inputs=identities({"spec": spec}),
    )


def new_model(asked: Config, pair: str) -> tuple[Model, Path]:
    """A pair's new model, and the file that describes it."""
    return opened(asked, asked.pair(pair)[1])


def opened(asked: Config, name: str) -> tuple[Model, Path]:
    """A model of the configuration, and the file that describes it."""
    spec = MODELS / name / "spec.json"
    return load_spec(spec, asked.model(name)["source"]), spec
