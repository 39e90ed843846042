"""The page of a pair: one HTML file that needs nothing else, the verdicts first."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from . import render
from .fleet import App, Flip
from .tables import COSTS, UNDEFINED

VERDICTS = ("DEPLOY", "RETRAIN", "UNDECIDED", "FAILED")
COLUMNS = {  # title -> stage of the score that it shows
    "old + adapter": "old_lora",
    "new model": "new",
    "carried": "transferred",
    "fine-tuned": "finetuned",
    "taught": "upgraded",
    "new LoRA, same examples": "lora_small_matched",
    "new LoRA, all data": "lora_full",
}
NONE = "–"
Facts = Sequence[tuple[str, str]]


def page(
    title: str,
    apps: Sequence[App],
    *,
    figures: Mapping[str, str] = {},
    facts: Mapping[str, Facts] = {},
    links: Mapping[str, str] = {},
) -> str:
    """The page.

    Parameters
    ----------
    figures : what a figure shows -> its SVG file
    facts : heading -> (name, text), of what was run
    links : words -> a page beside this one
    """
    sections = [
        f"<h1>{_text(title)}</h1>",
        _summary(apps),
        _controls(apps),
        _fleet(apps),
        "<h2>Each adapter</h2>",
        *map(_section, apps),
    ]
    if figures:
        sections += ["<h2>How the models correspond</h2>", *map(_figure, figures.items())]
    if facts or links:
        sections += ["<h2>What was run</h2>", *_provenance(facts, links)]
    return _document(title, sections)


def _document(title: str, parts: Iterable[str]) -> str:
    folder = files(__package__) / "page"
    style, script = ((folder / name).read_text() for name in ("style.css", "script.js"))
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(title)}</title><style>{style}</style></head>\n<body>\n"
        + "\n".join(parts)
        + f"\n<script>{script}</script></body></html>\n"
    )


def _text(value: object) -> str:
    return html.escape(str(value))


def _summary(apps: Sequence[App]) -> str:
    """How many of each verdict, and what to do."""
    counts = {name: sum(app.verdict == name for app in apps) for name in VERDICTS}
    told = [
        f'<span class="verdict {name}">{count} {name}</span>'
        for name, count in counts.items()
        if count
    ]
    without = sum(not app.verdict for app in apps)
    told += [f"{without} without a verdict"] if without else []
    words = {
        "DEPLOY": "DEPLOY: the new adapter may take the old one's place.",
        "RETRAIN": "RETRAIN: it is worse by more than 2 points.",
        "UNDECIDED": "UNDECIDED: more test items would settle it.",
    }
    means = " ".join(words[name] for name in words if counts[name])
    return f"<p>{' · '.join(told) or 'No adapter was scored.'}</p>\n<p class=soft>{means}</p>"


def _controls(apps: Sequence[App]) -> str:
    if len(apps) < 2:
        return ""
    there = [name for name in VERDICTS if any(app.verdict == name for app in apps)]
    options = "".join(f"<option>{name}</option>" for name in there)
    return (
        '<div class="controls"><label>Adapter <input id="text" type="search"></label>'
        f'<label>Verdict <select id="verdict"><option value="">all</option>{options}</select>'
        "</label></div>"
    )


def _fleet(apps: Sequence[App]) -> str:
    """A row an adapter."""
    stages = {
        title: stage
        for title, stage in COLUMNS.items()
        if any(render.is_number(app.row(stage).get("average")) for app in apps)
    }
    titles = ["adapter", "verdict", *stages, "lost / gained", "seconds"]
    rows = []
    for app in apps:
        cells = [
            f'<td><a href="#{_text(app.name)}">{_text(app.name)}</a></td>',
            f'<td class="verdict {app.verdict}">{app.verdict or NONE}</td>',
            *(_score_cell(app.row(stage)) for stage in stages.values()),
            _flips_cell(app),
            _number_cell(_seconds(app), 0),
        ]
        rows.append(f"<tr{_about(app)}>{''.join(cells)}</tr>")
    return _table(titles, rows)


def _about(app: App) -> str:
    return f' data-app="{_text(app.name)}" data-verdict="{app.verdict}"'


def _table(titles: Sequence[str], rows: Sequence[str], kind: str = "sortable") -> str:
    head = "".join(f"<th scope=col>{_text(title)}</th>" for title in titles)
    return (
        f'<div class="wide" tabindex="0"><table class="{kind}"><thead><tr>{head}</tr></thead>\n'
        f"<tbody>{chr(10).join(rows)}</tbody></table></div>"
    )


def _score_cell(row: Mapping[str, Any]) -> str:
    value = _number(row.get("average"))
    return _number_cell(None if value is None else value * _scale(row), 1)


def _number_cell(value: float | None, digits: int) -> str:
    if value is None:
        return f"<td>{NONE}</td>"
    return f'<td data-value="{value:.6g}">{value:.{digits}f}</td>'


def _flips_cell(app: App) -> str:
    if not app.stage or not any(app.flipped):
        return f"<td>{NONE}</td>"
    lost, gained = app.flipped
    return f'<td data-value="{lost}">{lost} / {gained}</td>'


def _seconds(app: App) -> float | None:
    """Of carrying and training what may be deployed."""
    row = app.row(app.stage)
    parts = [row[key] for key in ("transfer_s", "train_s") if render.is_number(row.get(key))]
    return sum(parts) if parts else None


def _scale(row: Mapping[str, Any]) -> float:
    return 1 if row.get("metric") in ("bleu", "chrf") else 100


def _section(app: App) -> str:
    """An adapter by itself: its verdict, scores, flips and cost."""
    heading = f'<h3>{_text(app.name)} <span class="verdict {app.verdict}">{app.verdict}</span></h3>'
    parts = [heading, f"<p>{_text(app.why)}</p>" if app.why else "", _plot(app.rows)]
    parts += [_flips(app), _costs(app.rows), _rates(app)]
    return f'<section id="{_text(app.name)}"{_about(app)}>{"".join(parts)}</section>'


def _plot(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scores with their intervals, a line each; the track is the whole scale."""
    shown = [row for row in rows if render.is_number(row.get("average"))]
    if not shown:
        return "<p class=soft>Nothing was scored.</p>"
    top = 100.0 if all(0 <= row["average"] <= 1 for row in shown) else 0.0
    highs = [_scale(row) * (row.get("high") or row["average"]) for row in shown]
    top = top or max(highs) or 1.0
    lines = []
    for row in shown:
        mean, low, high = (
            _scale(row) * (row[key] if render.is_number(row.get(key)) else row["average"])
            for key in ("average", "low", "high")
        )
        left, right, place = (max(0.0, min(100.0, 100 * part / top)) for part in (low, high, mean))
        lines.append(
            f"<div><span>{_text(row['row'])}</span><span class=track>"
            f'<span class=span style="left:{left:.2f}%;width:{right - left:.2f}%"></span>'
            f'<span class=dot style="left:{place:.2f}%"></span></span>'
            f"<span class=number>{mean:.1f}{_interval(low, high)}</span></div>"
        )
    return f'<div class="plot">{"".join(lines)}</div>'


def _interval(low: float, high: float) -> str:
    return f" ({low:.1f}–{high:.1f})" if high > low else ""


def _flips(app: App) -> str:
    if not any(app.flipped):
        return ""
    lost, gained = app.flipped
    words = f"{lost} items lost and {gained} gained against the old model with its adapter"
    if not app.flips:
        return f"<p>{words}.</p>"
    shown = "".join(map(_flip, app.flips))
    return f"<details><summary>{words}: {len(app.flips)} of them</summary>{shown}</details>"


def _flip(flip: Flip) -> str:
    parts = {"prompt": flip.prompt, "right answer": flip.gold}
    parts |= {"old + adapter": flip.old, "new + adapter": flip.new}
    told = "".join(f"<span class=soft>{name}</span><pre>{_text(text.strip())}</pre>"
                   for name, text in parts.items())  # fmt: skip
    return f'<div class="flip"><b>{"lost" if flip.lost else "gained"}</b><br>{told}</div>'


def _costs(rows: Sequence[Mapping[str, Any]]) -> str:
    """Retention, time and memory of each row, where they are known."""
    if not any(render.is_number(row.get("eval_s")) for row in rows):
        return ""
    lines = []
    for row in rows:
        kept = row.get("retention")
        cells = [f'<td class="words">{_text(row["row"])}</td>']
        cells += [f"<td>{kept}</td>" if kept == UNDEFINED else _number_cell(_number(kept), 2)]
        cells += [_number_cell(_number(row.get("nll")), 3)]
        cells += [_number_cell(_number(row.get(key)), 0) for key in COSTS]
        note = str(row.get("note") or "")
        lines.append(f"<tr>{''.join(cells)}<td class=words>{_text(note)}</td></tr>")
    titles = ["", "share of a full retraining's gain", "NLL (nats)", "carrying (s)", "training (s)",
              "scoring (s)", "memory (MiB)", "GPU (MiB)", "note"]  # fmt: skip
    table = _table(titles, lines, "plain")
    return f"<details><summary>Likelihood, time and memory</summary>{table}</details>"


def _rates(app: App) -> str:
    """The sweep of the learning rate, both arms, where it was run."""
    if not app.rates:
        return ""
    lines = [
        f'<tr><td class="words">{_text(row["row"])}</td><td>{_text(row.get("value") or NONE)}</td>'
        f"{_score_cell({'metric': 'acc', **row})}</tr>"
        for row in app.rates
    ]
    table = _table(["", "learning rate", "score"], lines)
    return f"<details><summary>Learning rates that were tried</summary>{table}</details>"


def _number(value: Any) -> float | None:
    return value if render.is_number(value) else None


def _figure(named: tuple[str, str]) -> str:
    """A figure's SVG inside the page, apart from its styles and names."""
    about, path = named
    data = base64.b64encode(Path(path).read_bytes()).decode()
    words = _text(about)
    return f'<h3>{words}</h3><img alt="{words}" src="data:image/svg+xml;base64,{data}">'


def _provenance(facts: Mapping[str, Facts], links: Mapping[str, str]) -> Iterable[str]:
    for heading, entries in facts.items():
        told = "".join(f"<dt>{_text(name)}</dt><dd>{_text(text)}</dd>" for name, text in entries)
        yield f"<details><summary>{_text(heading)}</summary><dl>{told}</dl></details>"
    if links:
        told = " · ".join(
            f'<a href="{_text(to)}">{_text(words)}</a>' for words, to in links.items()
        )
        yield f"<p>{told}</p>"
