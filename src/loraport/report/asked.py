"""Prompts and right answers of a task's items, which score files name by their hash alone."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..evaluation.evaluate import Settings, Stage, load_tasks


def asked(
    task: Mapping[str, Any], tasks_dir: str | Path, settings: Settings
) -> dict[str, list[tuple[str, str]]]:
    """Harness task -> (prompt, right answer) of each item, in the order of its scores."""
    stage = Stage("", None, Path(), tuple(task["eval"]), task["template"])
    loaded = load_tasks([stage], tasks_dir, settings)["", Path()]
    return {
        name: [
            (str(each.doc_to_text(doc)), str(each.doc_to_target(doc)))
            for doc in list(each.eval_docs)[: settings.limit or None]
        ]
        for name, each in loaded.items()
    }
