"""The model card of a trained adapter: what it began as, and that nothing has judged it."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters import card
from ..artifacts import read_json

UNJUDGED = (
    "**No verdict.** Whether it may take the place of another adapter says `loraport check`; the "
    "workflow's scores of it are in its tables."
)


@dataclass(frozen=True)
class Names:
    """What a card calls an adapter and its base.

    Attributes
    ----------
    adapter : such as the app's name
    base : of the base model: its id on the hub, or where it lies
    commit : of the base on the hub; empty where it is not known
    """

    adapter: str
    base: str
    commit: str = ""


def write_card(
    folder: Path, report: Mapping[str, Any], names: Names, start: str | Path | None = None
) -> None:
    """Write README.md beside a trained adapter.

    Parameters
    ----------
    report : content of training.json
    start : folder of the adapter that it began as; None for a new one
    """
    base, settings = card.base_name(names.base, names.commit), report["settings"]
    body = [
        f"Trained for {base.told()} on {report['examples']} examples.",
        "",
        UNJUDGED,
        "",
        f"- Start: {_new(report['start']) if start is None else _told(Path(start))}.",
        f"- Steps: {report['steps']}, of at most {settings['batch_size']} examples each, at a "
        f"learning rate of {settings['learning_rate']:g}, seed {settings['seed']}.",
        "",
        "`training.json` holds every setting, and `loss.csv` the loss of every step.",
    ]
    card.write_card(folder, f"{names.adapter}: a trained LoRA adapter", base, body)


def _new(shape: Mapping[str, Any]) -> str:
    return f"a new adapter ({shape['kind']}, rank {shape['rank']})"


def _told(start: Path) -> str:
    """Where an adapter came from that a training went on with, by the file beside it."""
    if (start / "start.json").is_file():
        chosen = read_json(start / "start.json", "start")["start"]
        return f"{chosen}, as chosen by short trainings that leave answers out"
    if (start / "transfer.json").is_file():
        report = read_json(start / "transfer.json", "transfer")
        of = report["of"]
        return (
            f"the adapter `{of.get('source') or of['app']}` of `{of['old']}`, carried by "
            f"`{report['method']}`, its update multiplied by {report['gain']['gain']:g}"
        )
    return f"the adapter `{start.name}`"
