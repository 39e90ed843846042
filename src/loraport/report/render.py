"""Tables as CSV, Markdown, HTML, and as text for the terminal; all show the same cells."""

import csv
import html
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from textwrap import fill
from typing import Any

from ..artifacts import atomic
from ..errors import LoraportError
from ..planning import layout
from .terminal import WIDTH
from .terminal import table as text_table

Row = Mapping[str, Any]
DIGITS = 6
SCORE = "score "
NONE = "–"
LEGEND = (
    "Scores in % where the metric is a share of right answers, with the bootstrap 95 % interval of "
    "the average. NLL: of the right answers, in nats; less is better. Retention: (row − new model) "
    "/ (new LoRA on all data − new model), with its interval; undefined where that gain is under "
    "twice its own. Flips: items that the old model with its adapter got right and the row gets "
    "wrong (−), and the reverse (+). p: McNemar's exact test against the new LoRA on the same "
    "examples and seed. The best start is named: nothing, the carried update, or a taught adapter. "
    "Transfer, training (with the choice of its start), scoring: wall time; memory: the peak of "
    "any of them. What was not done here has no time."
)
COMPARED = (
    "Methods and variants on the same items; where there are several seeds of training, their "
    "mean, ± its standard deviation over seeds. Scores in % where the metric is a share of right "
    "answers; intervals: bootstrap 95 %, over items. NLL: of the right answers, in nats; less is "
    "better. Retention: share of the gain of a new LoRA on all data that is kept; NLL kept: "
    "the same of the answers' NLL. − matched: the difference to a new LoRA on the same examples, "
    "schedule and seeds; p: McNemar's exact test against it, least to greatest over seeds. "
    "Flips: items that the old model with its LoRA got right and the row gets wrong (−), and the "
    "reverse (+), mean over seeds. Maps: once for the pair, for any number of adapters. Transfer, "
    "training: one adapter. Memory: the peak of any part."
)


def write_csv(path: str | Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write rows as CSV; floats with six digits after the point, None as an empty cell."""
    with atomic(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        for row in rows:
            writer.writerow({key: _stored(row.get(key)) for key in columns})


def _stored(value: Any) -> Any:
    if isinstance(value, float):
        return f"{value:.{DIGITS}f}".rstrip("0").rstrip(".") if abs(value) >= 1e-3 else f"{value:g}"
    return "" if value is None else value


def read_csv(path: str | Path) -> list[dict[str, Any]]:
    """Rows of a table written by `write_csv`; numbers as float, empty cells as None."""
    try:
        with Path(path).open(newline="", encoding="utf-8") as file:
            return [
                {key: _loaded(cell) for key, cell in row.items()} for row in csv.DictReader(file)
            ]
    except (OSError, UnicodeDecodeError) as error:
        raise LoraportError(
            f"table {path} cannot be read",
            got=error,
            expected=f"a table such as {layout.path(layout.TABLE, pair='<pair>', app='<app>')}.csv",
            todo=f"build it: snakemake --cores 2 {path}",
        ) from error


def _loaded(cell: str | None) -> Any:
    try:
        return float(cell) if cell else None
    except ValueError:
        return cell


def header(rows: Sequence[Row]) -> list[str]:
    """Column titles of what is shown."""
    return [
        *_score_titles(rows),
        "flips −/+",
        "p",
        "transfer",
        "training",
        "scoring",
        "memory",
    ]


def _score_titles(rows: Sequence[Row]) -> list[str]:
    """Column titles that every table begins with: the row, its scores and what is kept."""
    names = shown_tasks(rows)
    return [
        "",
        *(name.removeprefix(SCORE) for name in names),
        "average (95 %)" if names else "score (95 %)",
        "NLL",
        "retention",
    ]


def shown_tasks(rows: Sequence[Row]) -> list[str]:
    """Columns of tasks' scores; none where there is one task, whose score is the average."""
    names = list(
        dict.fromkeys(
            key for row in rows for key in row if key.startswith(SCORE) and row[key] is not None
        )
    )
    return names if len(names) > 1 else []


def name_of(row: Row) -> str:
    """What a row is called: its label, with what it began from where that was chosen.

    Examples
    --------
    >>> name_of({"row": "fine-tuned on 100 examples from the best start", "start": "taught"})
    'fine-tuned on 100 examples from the best start: taught'
    """
    return f"{row['row']}: {row['start']}" if row.get("start") else str(row["row"])


def cells(row: Row, tasks: Sequence[str]) -> list[str]:
    """One row as it is shown."""
    seconds = [row.get(key) for key in ("transfer_s", "train_s", "eval_s")]
    scale = 1 if row.get("metric") in ("bleu", "chrf") else 100
    average = _number(row.get("average"), scale)
    if row.get("low") is not None:
        average += f" ({_number(row['low'], scale)}–{_number(row['high'], scale)})"
    flips = [row.get("negative_flips"), row.get("positive_flips")]
    return [
        name_of(row),
        *(_number(row.get(name), scale) for name in tasks),
        "failed" if str(row.get("note") or "").startswith("failed") else average,
        _number(row.get("nll"), digits=3),
        _retention(row),
        NONE if None in flips else f"{flips[0]:.0f}/{flips[1]:.0f}",
        _p(row.get("p_matched")),
        *(NONE if part is None else f"{part:.0f} s" for part in seconds),
        _memory(row),
    ]


def compared_header(rows: Sequence[Row]) -> list[str]:
    """Column titles of a comparison of methods."""
    return [
        *_score_titles(rows),
        "NLL kept",
        "− matched",
        "NLL − matched",
        "p",
        "flips −/+",
        "maps",
        "transfer",
        "training",
        "memory",
    ]


def compared_cells(row: Row, tasks: Sequence[str]) -> list[str]:
    """One row of a comparison of methods as it is shown."""
    scale = 1 if row.get("metric") in ("bleu", "chrf") else 100
    note = str(row.get("note") or "")
    gone = next((word for word in ("not served", "failed") if note.startswith(word)), "")
    there = row.get("average") is not None
    flips = [row.get("negative_flips"), row.get("positive_flips")]
    return [
        str(row["row"]),
        *(_number(row.get(name), scale) for name in tasks),
        _spread(row, "average", scale, 1) + _interval(row, "", scale, 1) if there else gone or NONE,
        _spread(row, "nll", 1, 3),
        _share(row, "retention"),
        _share(row, "nll_retention"),
        _signed(row, "difference", scale, 1),
        _signed(row, "nll_difference", 1, 2),
        _range(row.get("p_low"), row.get("p_high")),
        NONE if None in flips else f"{flips[0]:.0f}/{flips[1]:.0f}",
        *(_seconds(row.get(key)) for key in ("pair_s", "transfer_s", "train_s")),
        _memory(row),
    ]


def _spread(row: Row, key: str, scale: float, digits: int) -> str:
    spread = row.get(f"{key}_spread")
    told = "" if spread is None else f" ± {_number(spread, scale, digits)}"
    return _number(row.get(key), scale, digits) + told


def _interval(row: Row, key: str, scale: float, digits: int, between: str = "–") -> str:
    low, high = (row.get(f"{key}_{end}" if key else end) for end in ("low", "high"))
    if low is None or high is None:
        return ""
    return f" ({_number(low, scale, digits)}{between}{_number(high, scale, digits)})"


def _share(row: Row, key: str) -> str:
    value = row.get(key)
    if value is None or isinstance(value, str):
        return value or NONE
    ends = "" if row.get("stage") in ("new", "lora_full") else _interval(row, key, 1, 2, " to ")
    return f"{value:.2f}{ends}"


def _signed(row: Row, key: str, scale: float, digits: int) -> str:
    value = row.get(key)
    if value is None:
        return NONE
    return f"{scale * value:+.{digits}f}{_interval(row, key, scale, digits, ' to ')}"


def _range(low: float | None, high: float | None) -> str:
    first, last = _p(low), _p(high)
    return first if first == last else f"{first}–{last}"


def _seconds(value: float | None) -> str:
    return NONE if value is None else f"{value:.0f} s"


def _number(value: Any, scale: float = 1, digits: int = 1) -> str:
    return NONE if value is None else f"{scale * value:.{digits}f}"


def _retention(row: Row) -> str:
    value = row.get("retention")
    if value is None or isinstance(value, str):
        return value or NONE
    if row.get("stage") in ("new", "lora_full"):
        return f"{value:.2f}"
    told = f"{value:.2f} ({row['retention_low']:.2f}–{row['retention_high']:.2f})"
    return told.replace("-", "−")


def _p(value: float | None) -> str:
    if value is None:
        return NONE
    return "<0.001" if value < 1e-3 else f"{value:.3f}"


def _memory(row: Row) -> str:
    if row.get("peak_mib") is None:
        return NONE
    gpu = f" + {row['gpu_peak_mib']:.0f} GPU" if row.get("gpu_peak_mib") else ""
    return f"{row['peak_mib']:.0f}{gpu} MiB"


@dataclass(frozen=True)
class View:
    """How a table is shown: its titles, its cells, and what they mean; `brief` are the titles of
    the columns that the terminal has room for beside the row, its score and single tasks.
    """

    header: Callable[[Sequence[Row]], list[str]]
    cells: Callable[[Row, Sequence[str]], list[str]]
    legend: str
    brief: tuple[str, ...]


STAGES = View(header, cells, LEGEND, ("retention", "flips −/+", "transfer", "training"))
COMPARISON = View(
    compared_header, compared_cells, COMPARED, ("retention", "− matched", "transfer", "training")
)
TASKS_ON_TERMINAL = 2  # more than these are in the files alone


def view_of(rows: Sequence[Row]) -> View:
    """The view that fits a table's columns."""
    return COMPARISON if rows and "variant_of" in rows[0] else STAGES


def notes(rows: Sequence[Row]) -> list[str]:
    """What rows have to say, each with the row that says it."""
    return [f"{row['row']}: {row['note']}" for row in rows if row.get("note")]


def groups(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """App -> its rows."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(str(row["app"]), []).append(row)
    return groups


def text(rows: Sequence[Row]) -> str:
    """Tables for the terminal, one an app, with the columns that it has room for."""
    blocks, view = [], view_of(rows)
    for app, own in groups(rows).items():
        tasks = shown_tasks(own)
        titles = view.header(own)
        few = titles[1 : 1 + len(tasks)] if len(tasks) <= TASKS_ON_TERMINAL else []
        kept = [titles.index(title) for title in (*few, titles[1 + len(tasks)], *view.brief)]
        shown = [[(all_ := view.cells(row, tasks))[0], *(all_[n] for n in kept)] for row in own]
        block = text_table([app, *(titles[n] for n in kept)], shown)
        blocks.append(
            "\n".join(
                [block, *(fill(f"  {note}", WIDTH, subsequent_indent="  ") for note in notes(own))]
            )
        )
    return "\n\n".join(blocks)


def markdown(title: str, rows: Sequence[Row]) -> str:
    """Tables in Markdown, one an app, under a title and with a legend."""
    view = view_of(rows)
    lines = [f"# {title}", "", view.legend, ""]
    for app, own in groups(rows).items():
        tasks = shown_tasks(own)
        lines += [f"## {app}", ""] if len(groups(rows)) > 1 else []
        lines += [
            _line(view.header(own)),
            _line(["---", *["---:"] * (len(view.header(own)) - 1)]),
        ]
        lines += [_line(view.cells(row, tasks)) for row in own]
        lines += ["", *(f"- {note}" for note in notes(own)), *([""] if notes(own) else [])]
    return "\n".join(lines).rstrip() + "\n"


def _line(values: Sequence[str]) -> str:
    return "| " + " | ".join(value.replace("|", "\\|") for value in values) + " |"


def page(title: str, rows: Sequence[Row]) -> str:
    """Tables as one HTML page that needs nothing else."""
    parts, view = [], view_of(rows)
    for app, own in groups(rows).items():
        tasks = shown_tasks(own)
        parts += [f"<h2>{html.escape(app)}</h2>"] if len(groups(rows)) > 1 else []
        parts += [grid(view.header(own), [view.cells(r, tasks) for r in own])]
        parts += [f"<p class=note>{html.escape(note)}</p>" for note in notes(own)]
    return document(title, [*parts, f"<p class=legend>{html.escape(view.legend)}</p>"])


def grid(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """An HTML table: the first column to the left, the others to the right."""
    head = "".join(f"<th>{html.escape(title)}</th>" for title in titles)
    body = "".join(
        "<tr>" + "".join(f"<td>{html.escape(str(cell))}</td>" for cell in row) + "</tr>\n"
        for row in rows
    )
    return f"<table><thead><tr>{head}</tr></thead>\n<tbody>{body}</tbody></table>"


STYLE = """
body { font: 14px/1.45 system-ui, "DejaVu Sans", sans-serif; margin: 1.5em; color: #111;
  background: #fff; }
h1 { font-size: 1.3em; } h2 { font-size: 1.1em; margin: 1.4em 0 .4em; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3em .7em; text-align: right; border-bottom: 1px solid #ccc;
  white-space: nowrap; }
th { border-bottom: 2px solid #111; } th:first-child, td:first-child { text-align: left; }
table.facts td { text-align: left; white-space: normal; overflow-wrap: anywhere; }
table.facts td:first-child { white-space: nowrap; }
.note, .legend { max-width: 60em; color: #333; } .note { margin: .3em 0; }
"""


def document(title: str, parts: Sequence[str]) -> str:
    """A self-contained HTML page."""
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n"
        f"<body><h1>{html.escape(title)}</h1>\n" + "\n".join(parts) + "\n</body></html>\n"
    )


def write_text(path: str | Path, content: str) -> None:
    """Write a text file, whole or not at all."""
    with atomic(path) as temporary:
        temporary.write_text(content, encoding="utf-8")


def is_number(value: Any) -> bool:
    """Whether a cell holds a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)
