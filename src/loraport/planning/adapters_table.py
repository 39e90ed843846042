"""The adapters table: its rows, and what is wrong with them."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from .schema import explain, problem

COLUMNS = ("app", "model", "source", "task")
ERRORS_SHOWN = 50  # errors that are told in full


def read_table(
    path: str, schema: dict[str, Any], errors: list[str]
) -> Iterator[tuple[int, dict[str, str]]]:
    """Rows of the adapters table with their line numbers; what is wrong is added to `errors`."""
    try:
        lines = Path(path).read_text(encoding="utf-8-sig").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        errors.append(
            problem(
                f"{path}: cannot be read",
                error,
                "a tab-separated table",
                "correct `adapters` in config.yaml",
            )
        )
        return
    header = tuple(lines[0].split("\t")) if lines else ()
    if header != COLUMNS:
        expected = f"{', '.join(COLUMNS)}, tab-separated"
        errors.append(
            problem(f"{path}, line 1: wrong columns", ", ".join(header), expected, "repair it")
        )
        return
    validator = Draft202012Validator(schema)
    names = {
        key: re.compile(part["pattern"])
        for key, part in schema["properties"].items()
        if "pattern" in part
    }
    for number, line in enumerate(lines[1:], 2):
        cells = line.split("\t")
        where = f"{path}, line {number}"
        if not any(cells) or cells[0].startswith("#"):
            continue
        if len(cells) > len(COLUMNS):
            todo = "put one tab between two cells"
            errors.append(problem(f"{where}: too many columns", len(cells), len(COLUMNS), todo))
            continue
        row = dict(zip(COLUMNS, [*cells, *[""] * (len(COLUMNS) - len(cells))], strict=True))
        fits = all(pattern.search(row[key]) for key, pattern in names.items())  # fast for 10⁵ rows
        if not fits and len(errors) >= ERRORS_SHOWN:
            errors.append(where)
            continue
        violations = () if fits else validator.iter_errors(row)
        wrong = [explain(f"{where}, {e.json_path[2:]}", e) for e in violations]
        errors += wrong
        if not wrong:
            yield number, row
