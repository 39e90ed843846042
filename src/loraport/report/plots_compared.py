"""Figures of what is compared: methods side by side, and diagnostics against what was kept."""

from collections.abc import Mapping, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from .plots import COLOURS, HATCHES, MARKERS, legend, message, percent
from .render import SCORE, is_number

LINES = {
    "new": ("black", ":"),
    "lora_small_matched": (COLOURS[3], "--"),
    "lora_full": ("black", "-"),
}
STARTS = {"transferred": "as transferred", "finetuned": "after light fine-tuning"}


def methods(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Scores of all methods, task by task, and the answers' NLL: bars with intervals.

    Parameters
    ----------
    rows : of a comparison, over seeds
    """
    tasks = list(dict.fromkeys(key for row in rows for key in row if key.startswith(SCORE)))
    panels = [("average", "average score" if len(tasks) > 1 else "score")]
    panels += [(key, key.removeprefix(SCORE)) for key in tasks] if len(tasks) > 1 else []
    panels += [("nll", "answer NLL (nats)")]
    return _methods([[(rows, key, label) for key, label in panels]])


def methods_of_apps(tables: Mapping[str, Sequence[Mapping[str, Any]]]) -> Figure:
    """Scores of all methods, and below them the answers' NLL, app by app.

    Parameters
    ----------
    tables : app -> rows of its comparison, over seeds
    """
    keys = {"average": "score", "nll": "answer NLL (nats)"}
    return _methods(
        [[(rows, key, f"{app}: {label}") for app, rows in tables.items()]
         for key, label in keys.items()]
    )  # fmt: skip


def _methods(panels: Sequence[Sequence[tuple[Sequence[Mapping[str, Any]], str, str]]]) -> Figure:
    """A grid of panels, each of (rows of a comparison, column, label)."""
    every = [row for rows, *_ in panels[0] for row in rows if row.get("method")]
    order = list(dict.fromkeys(str(row["method"]) for row in every))
    if not any(is_number(row.get("average")) for row in every):
        return message("No method has a score.")
    size = (2.2 + 2.6 * len(panels[0]), len(panels) * (0.3 * len(order) + 0.8) + 0.8)
    figure, grid = plt.subplots(
        len(panels), len(panels[0]), figsize=size, sharey=True, squeeze=False
    )
    for axes, (rows, key, label) in zip(
        grid.flat, (each for line in panels for each in line), strict=True
    ):
        _method_bars(axes, rows, order, key)
        scaled = key != "nll" and percent(rows[0]) == 100
        axes.set_xlabel(f"{label} (%)" if scaled else label)
        axes.grid(alpha=0.3, axis="x")
    grid[0, 0].set_yticks(range(len(order)), order)
    grid[0, 0].set_ylim(len(order) - 0.4, -0.6)
    handles, labels = grid[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=3, frameon=False, fontsize=8)
    return figure


def _method_bars(
    axes: Axes, rows: Sequence[Mapping[str, Any]], order: Sequence[str], key: str
) -> None:
    """Two bars a method, and a line for each baseline; methods without a number say so."""
    scale = 1 if key == "nll" else percent(rows[0])
    for row in rows:
        if not row.get("method") and is_number(row.get(key)):
            colour, dash = LINES[row["stage"]]
            axes.axvline(scale * row[key], color=colour, linestyle=dash, label=row["row"], zorder=3)
    for number, (stage, label) in enumerate(STARTS.items()):
        own = [row for row in rows if row.get("method") and row["stage"] == stage]
        own = [row for row in own if is_number(row.get(key))]
        if not own:
            continue
        values = np.array([scale * row[key] for row in own])
        errors = None
        if key == "average" and all(is_number(row.get("low")) for row in own):
            ends = [scale * np.array([row[end] for row in own]) for end in ("low", "high")]
            errors = [np.maximum(values - ends[0], 0), np.maximum(ends[1] - values, 0)]
        places = [order.index(row["method"]) + (number - 0.5) * 0.4 for row in own]
        for place, value in zip(places, values, strict=True):
            axes.annotate(f"{value:.3g}", (value, place), xytext=(10, 0), va="center", fontsize=6,
                          textcoords="offset points", zorder=4)  # fmt: skip
        axes.barh(
            places,
            values,
            height=0.38,
            xerr=errors,
            color=COLOURS[4 - 4 * number],
            hatch=HATCHES[1 - number],
            edgecolor="white",
            error_kw={"elinewidth": 0.8, "capsize": 1.5},
            label=label,
        )
    scored = {row["method"] for row in rows if is_number(row.get(key))}
    for row in rows:
        if row.get("method") and row["method"] not in scored:
            word = str(row.get("note") or "").partition(":")[0] or "no score"
            axes.text(0, order.index(row["method"]), f" {word}", va="center", fontsize=7)


def method_costs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Retention of all methods against seconds of transfer and training of one adapter.

    One panel for the score and one for the answers' likelihood; what is undefined has none.
    """
    own = [row for row in rows if row.get("method") or row["stage"] == "lora_small_matched"]
    labels = {"retention": "retention", "nll_retention": "share of the NLL's gain kept"}
    panels = [key for key in labels if any(is_number(row.get(key)) for row in own)]
    if not panels:
        return message("Retention is undefined here, of the score and of the answers' likelihood.")
    own = [row for row in own if any(is_number(row.get(key)) for key in panels)]
    names = dict.fromkeys(str(row.get("method") or row["row"]) for row in own)
    looks = dict(zip(names, zip(cycle(COLOURS), cycle(MARKERS), strict=False), strict=False))
    size = (1.8 + 4.1 * len(panels), 4.4)
    figure, grid = plt.subplots(1, len(panels), figsize=size, squeeze=False)
    for axes, key in zip(grid[0], panels, strict=True):
        for row in own:
            _cost_point(axes, row, key, *looks[str(row.get("method") or row["row"])])
        axes.axhline(0, color="black", linestyle=":", linewidth=1)
        axes.axhline(1, color="black", linewidth=1)
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel("seconds of transfer and training, one adapter")
        axes.set_ylabel(labels[key])
        axes.grid(alpha=0.3)
    grid[0, 0].set_title("Open: as transferred; filled: after fine-tuning", fontsize=9)
    for name, (colour, marker) in looks.items():
        grid[0, -1].plot([], [], color=colour, marker=marker, linestyle="none", label=name)
    legend(grid[0, -1])
    return figure


def _cost_point(axes: Axes, row: Mapping[str, Any], key: str, colour: str, marker: str) -> None:
    if not is_number(row.get(key)):
        return
    value: Any = row[key]
    ends: list[Any] = [row.get(f"{key}_{end}") for end in ("low", "high")]
    errors = None
    if all(map(is_number, ends)):
        errors = [[max(0, value - ends[0])], [max(0, ends[1] - value)]]
    axes.errorbar(
        max(sum(row.get(part) or 0 for part in ("transfer_s", "train_s")), 0.1),
        value,
        yerr=errors,
        color=colour,
        marker=marker,
        markerfacecolor="white" if row["stage"] == "transferred" else colour,
        markersize=6,
        capsize=2,
        elinewidth=0.8,
        linestyle="none",
    )


def distance(
    panels: Mapping[str, tuple[Sequence[tuple[str, float, float]], float | None]], pair: str
) -> Figure:
    """What is kept against how far apart the models are, with Pearson's r.

    Parameters
    ----------
    panels : label of a distance -> points (pair/app, distance, share kept) and r, or None
    pair : whose points are filled
    """
    if not any(points for points, _ in panels.values()):
        return message("No app was measured.")
    figure, grid = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.2), sharey=True)
    for axes, (label, (points, r)) in zip(np.atleast_1d(grid), panels.items(), strict=True):
        names = sorted({name.partition("/")[0] for name, *_ in points})
        for name, x, y in points:
            mark = names.index(name.partition("/")[0])
            colour = COLOURS[mark % len(COLOURS)]
            own = name.startswith(f"{pair}/")
            axes.plot(x, y, MARKERS[mark % len(MARKERS)], color=colour,
                      markerfacecolor=colour if own else "white")  # fmt: skip
            axes.annotate(name.partition("/")[2], (x, y), xytext=(5, 3),
                          textcoords="offset points", fontsize=7)  # fmt: skip
        axes.margins(x=0.3)
        told = f"r = {r:.2f}" if r is not None else "no r" if points else "not measured"
        if not points:
            axes.set_xticks([])
        axes.set_title(f"{told} ({len(points)} apps of {len(names)} pairs)", fontsize=9)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    np.atleast_1d(grid)[0].set_ylabel("share of the NLL's gain kept, as carried")
    return figure


def magnitudes(apps: Mapping[str, Mapping[str, Any]]) -> Figure:
    """Squared norm of each app's update, stacked by kind of module.

    Parameters
    ----------
    apps : app -> content of its magnitude.json
    """
    if not apps:
        return message("No app has an adapter.")
    kinds = list(dict.fromkeys(kind for each in apps.values() for kind in each["kinds"]))
    figure, axes = plt.subplots(figsize=(6.5, 0.45 * len(apps) + 1.2))
    start = np.zeros(len(apps))
    for kind, colour, hatch in zip(kinds, cycle(COLOURS), cycle(HATCHES), strict=False):
        width = np.array([each["kinds"].get(kind, 0.0) for each in apps.values()])
        axes.barh(list(apps), width, left=start, color=colour, hatch=hatch, edgecolor="white",
                  label=kind)  # fmt: skip
        start += width
    axes.invert_yaxis()
    axes.set_xlabel("‖sBA‖², summed over modules")
    legend(axes)
    return figure
