"""The page of a pair: one HTML file that needs nothing else, the verdicts first."""

import base64
import html
from collections.abc import Iterable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any

from . import render
from .fleet import App, Flip

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
MEASURES = {  # column of an app's table -> title; those that are known of a row at least are shown
    "retention": "share of a full retraining's gain",
    "nll": "NLL (nats)",
    "transfer_s": "carrying (s)",
    "train_s": "training (s)",
    "eval_s": "scoring (s)",
    "peak_mib": "memory (MiB)",
    "gpu_peak_mib": "GPU (MiB)",
    "note": "note",
}
NONE = "–"
LEGEND = (
    "Scores in % (BLEU and chrF as they are). Items lost and gained, against the old model with "
    "its adapter, and the time of carrying and training, are those of what may be deployed: the "
    "bold line of each adapter's plot."
)
FEW = 4  # adapters whose likelihoods, times and memory are not folded
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
        *(_section(app, unfolded=len(apps) <= FEW) for app in apps),
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
        "RETRAIN": "RETRAIN: it is worse by more than the margin; train a new one.",
        "UNDECIDED": "UNDECIDED: more test items would settle it.",
        "FAILED": "FAILED: it could not be made; the reason stands with it.",
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
    titles = ["adapter", "verdict", *stages, "items lost / gained", "time (s)"]
    rows = []
    for app in apps:
        cells = [
            f'<td><a href="#{_text(app.name)}">{_text(app.name).replace("_", "_<wbr>")}</a></td>',
            f'<td class="verdict {app.verdict}">{app.verdict or NONE}</td>',
            *(_score_cell(app.row(stage)) for stage in stages.values()),
            _flips_cell(app),
            _number_cell(_seconds(app), 0),
        ]
        rows.append(f"<tr{_about(app)}>{''.join(cells)}</tr>")
    more = "<span class=narrow>The table goes on to the right. </span>"
    return f"{_table(titles, rows)}\n<p class=soft>{more}{LEGEND}</p>"


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


def _section(app: App, *, unfolded: bool) -> str:
    """An adapter by itself: its verdict, scores, flips and cost."""
    heading = f'<h3>{_text(app.name)} <span class="verdict {app.verdict}">{app.verdict}</span></h3>'
    why = f"<p>{_text(app.why)}</p>" if app.why else ""
    parts = [heading, why, _plot(app.rows, app.stage)]
    parts += [_flips(app), _costs(app.rows, unfolded), _rates(app, unfolded)]
    return f'<section id="{_text(app.name)}"{_about(app)}>{"".join(parts)}</section>'


def _plot(rows: Sequence[Mapping[str, Any]], stage: str) -> str:
    """Scores with their intervals, a line each, that of `stage` bold; the track is the scale."""
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
            f"<div><span>{_bold(row, stage)}</span><span class=track>"
            f'<span class=span style="left:{left:.2f}%;width:{right - left:.2f}%"></span>'
            f'<span class=dot style="left:{place:.2f}%"></span></span>'
            f"<span class=number>{mean:.1f}{_interval(low, high)}</span></div>"
        )
    ends = f"<span class=ends><span>0</span><span>{top:.0f}</span></span>"
    words = "score (interval)" if any(row.get("high") for row in shown) else "score"
    scale = f'<div class="soft scale"><span></span>{ends}<span class=number>{words}</span></div>'
    return f'<div class="plot">{scale}{"".join(lines)}</div>'


def _bold(row: Mapping[str, Any], stage: str) -> str:
    label = _text(render.name_of(row))
    return f"<b>{label}</b>" if row["stage"] == stage else label


def _is_there(value: Any) -> bool:
    return render.is_number(value) or (isinstance(value, str) and value != "")


def _measure_cell(key: str, value: Any) -> str:
    if isinstance(value, str):  # a note, or a share that is not defined
        return f"<td{' class=words' if key == 'note' else ''}>{_text(value)}</td>"
    return _number_cell(_number(value), {"retention": 2, "nll": 3}.get(key, 0))


def _details(summary: str, content: str, unfolded: bool) -> str:
    """A table under its heading, folded or not; on paper it never is."""
    start = "<details class=numbers open>" if unfolded else "<details class=numbers>"
    return f"{start}<summary>{summary}</summary>{content}</details>"


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


def _costs(rows: Sequence[Mapping[str, Any]], unfolded: bool) -> str:
    """Retention, time and memory of each row, where they are known."""
    if not any(render.is_number(row.get("eval_s")) for row in rows):
        return ""
    known = {
        key: title
        for key, title in MEASURES.items()
        if any(_is_there(row.get(key)) for row in rows)
    }
    lines = []
    for row in rows:
        cells = (_measure_cell(key, row.get(key)) for key in known)
        lines.append(
            f'<tr><td class="words">{_text(render.name_of(row))}</td>{"".join(cells)}</tr>'
        )
    table = _table(["", *known.values()], lines, "plain")
    return _details("Likelihood, time and memory", table, unfolded)


def _rates(app: App, unfolded: bool) -> str:
    """The sweep of the learning rate, a row a rate and a column an arm, where it was run."""
    tried = [row for row in app.rates if row.get("value") not in (None, "")]
    if not tried:
        return ""
    rates, arms = (list(dict.fromkeys(row[key] for row in tried)) for key in ("value", "row"))
    held = {(row["value"], row["row"]): {"metric": "acc", **row} for row in tried}
    lines = [
        f"<tr><td>{_text(rate)}</td>"
        f"{''.join(_score_cell(held.get((rate, arm), {})) for arm in arms)}</tr>"
        for rate in rates
    ]
    table = _table(["learning rate", *arms], lines)
    return _details("Scores by learning rate", table, unfolded)


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
