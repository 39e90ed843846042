"""What was run: models, revisions, settings, seeds, versions and the kind of machine; no host."""

import json
import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import __version__, provenance
from ..artifacts import read_json
from . import render
from .tables import cost_records, training_of

Facts = list[tuple[str, str]]
HASH_DIGITS = 12  # digits of a hash that are shown


def models(specs: Mapping[str, str], sources: Mapping[str, str]) -> Facts:
    """What each model is; `specs` and `sources` by the model's name."""
    facts = []
    for name, path in specs.items():
        spec = read_json(path, "spec")
        sizes = ", ".join(f"{key} {value}" for key, value in spec["dimensions"].items())
        files = ", ".join(
            f"{file} sha256 {about['sha256'][:HASH_DIGITS]}…"
            for file, about in spec["files"].items()
            if file.endswith(".safetensors")
        )
        revision = spec["revision"] or "none (a local folder)"
        facts.append(
            (name, f"{sources[name]}, revision {revision}; {spec['family']}: {sizes}; {files}")
        )
    return facts


def settings(sections: Mapping[str, Any]) -> Facts:
    """The configuration's sections, one a line."""
    return [
        (name, ", ".join(f"{key}: {json.dumps(value)}" for key, value in section.items()))
        for name, section in sections.items()
    ]


def adapters(folders: Mapping[str, str]) -> Facts:
    """Of each adapter that was trained here: seed, examples, steps; others are said to be given."""
    facts = []
    for name, folder in folders.items():
        done = training_of(folder)
        if not done:
            facts.append((name, f"{folder}: not trained here"))
            continue
        about = done["settings"]
        facts.append(
            (
                name,
                f"{folder}: seed {about['seed']}, {done['examples']} examples "
                f"(draw {about['subset_seed']}, sha256 {done['data_sha256'][:HASH_DIGITS]}…), "
                f"{done['steps']} steps at {about['learning_rate']:g}, "
                f"{done['trained_parameters']} parameters",
            )
        )
    return facts


def versions(documents: Iterable[Mapping[str, Any]]) -> Facts:
    """Versions that the scored and trained artifacts record; several where they differ."""
    used: dict[str, set[str]] = {"loraport": {__version__}}
    for held in (*(d["versions"] for d in documents), provenance.versions()):
        for name, version in held.items():
            used.setdefault(name, set()).add(version)
    used["snakemake"] = {provenance.versions("snakemake")["snakemake"]}
    return [(name, " and ".join(sorted(seen))) for name, seen in sorted(used.items())]


def machines(documents: Iterable[Mapping[str, Any]]) -> Facts:
    """Kinds of machine: processor or GPU and threads, as trained and scored artifacts record."""
    kinds = set()
    for document in documents:
        runs = document["run"].get("tasks", {"": document["run"]}).values()
        kinds |= {f"{run['device']}, {run['threads']} threads" for run in runs}
    here = f"{platform.system()} on {platform.machine()}, {os.cpu_count()} processors"
    return [("trained and scored on", "; ".join(sorted(kinds)) or "nothing"), ("report on", here)]


def once(logs: Sequence[str], *, some_failed: bool = False) -> list[list[str]]:
    """Rule, seconds and peak memory of what a pair needs once, for all of its adapters.

    Parameters
    ----------
    some_failed : whether logs may be missing, of what would have come after a rule that failed
    """
    records = cost_records(log for log in logs if not some_failed or Path(log).is_file())
    return [
        [
            " ".join([record["rule"], *record["wildcards"].values()]),
            f"{record['seconds']:.1f}",
            f"{record['peak_mib']:.0f}",
        ]
        for record in records
        if record["status"] == "done"
    ]


def page(title: str, facts: Mapping[str, Facts], costs: Sequence[Sequence[str]]) -> str:
    """The HTML page of what was run."""
    parts = []
    for heading, rows in facts.items():
        grid = render.grid(["", ""], rows).replace("<table>", '<table class="facts">')
        parts += [f"<h2>{heading}</h2>", grid]
    parts += [
        "<h2>Once per model and pair, for any number of adapters</h2>",
        render.grid(["rule", "seconds", "peak MiB"], costs),
    ]
    return render.document(title, parts)


def documents(scores: Iterable[str], folders: Iterable[str]) -> list[dict[str, Any]]:
    """Score files and training.json of what there is."""
    scored = [read_json(path, "eval") for path in scores if Path(path).is_file()]
    return scored + [done for folder in folders if (done := training_of(folder))]
