"""Figures of the report: legible in print, told apart by shape and hatch as well as by colour."""

import csv
import math
from collections.abc import Iterable, Mapping, Sequence
from itertools import cycle, pairwise
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.patheffects as effects
import numpy as np
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from .artifacts import atomic
from .render import SCORE, is_number

# Okabe and Ito's palette, which colour-blind readers can tell apart
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
MARKERS = "osD^vPX*<>"
DASHES: tuple[Any, ...] = ("-", "--", "-.", ":", (0, (6, 1, 1, 1, 1, 1)), (0, (1, 3)), (0, (8, 3)))
HATCHES = ("", "///", "...")
HEATMAP = "cividis"  # even in lightness, in colour and in grey
OUTLINE = [effects.Stroke(linewidth=4, foreground="black"), effects.Normal()]
STYLE: Any = {
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.constrained_layout.use": True,
    "svg.fonttype": "path",
    "svg.hashsalt": "loraport",
}
matplotlib.rcParams.update(STYLE)


def save(figure: Figure, path: str | Path) -> None:
    """Write a figure in the format of its name; the same figure gives the same bytes."""
    kind = Path(path).suffix[1:]
    with atomic(path) as temporary:
        metadata: dict[str, Any] = {"Date": None} if kind == "svg" else {"Software": None}
        figure.savefig(temporary, format=kind, dpi=150, metadata=metadata)
    plt.close(figure)


def message(text: str) -> Figure:
    """A figure that says why there is nothing to draw."""
    figure, axes = plt.subplots(figsize=(6, 1.2))
    axes.axis("off")
    axes.text(0.5, 0.5, text, ha="center", va="center", wrap=True)
    return figure


def cka(similarity: np.ndarray, path: Sequence[Sequence[float]], names: tuple[str, str]) -> Figure:
    """Layer similarities as a heatmap with the chosen path on it.

    Parameters
    ----------
    similarity : (l_o, l_n)
    path : (old, new, …) layers, as in layers.json
    names : of the old and the new model
    """
    rows, columns = similarity.shape
    size = max(3.4, 0.34 * columns + 1.6), max(2.8, 0.34 * rows + 1.0)
    figure, axes = plt.subplots(figsize=(min(size[0], 11), min(size[1], 10)))
    image = _heatmap(axes, similarity)
    if similarity.size <= 200:
        _numbers(axes, similarity, image)
    places = np.array([[new, old] for old, new, *_ in path], float)
    for x, y in places:
        axes.add_patch(_box(x, y))
    for here, there in pairwise(places):
        step = there - here
        edge = 0.45 * step / np.abs(step).max()  # from box to box, not over the numbers
        ends = np.array([here + edge, there - edge])
        axes.plot(*ends.T, color="white", linewidth=2, path_effects=OUTLINE, zorder=3)
    axes.set_xlabel(f"layer of {names[1]} (new)")
    axes.set_ylabel(f"layer of {names[0]} (old)")
    axes.set_title("Layer similarity; boxes and line: the chosen path", fontsize=9)
    figure.colorbar(image, ax=axes, label="similarity", shrink=0.9)
    return figure


def heads(layers: Sequence[tuple[int, int, np.ndarray, np.ndarray]]) -> Figure:
    """Head similarities of each layer pair, the assigned pairs boxed; each panel on its own scale.

    Parameters
    ----------
    layers : (old layer, new layer, similarity (H_o, H_n), assignment (k, 2)) of each pair
    """
    across = min(4, len(layers))
    down = math.ceil(len(layers) / across)
    tall = layers[0][2].shape[0] / layers[0][2].shape[1]
    figure, grid = plt.subplots(
        down, across, figsize=(2 * across + 0.9, down * (0.8 + 1.6 * tall)), squeeze=False
    )
    for axes, (old, new, similarity, assignment) in zip(grid.flat, layers, strict=False):
        top = float(np.abs(similarity).max()) or 1.0
        image = _heatmap(axes, similarity / top, low=-1, high=1)
        for a, b in assignment:
            axes.add_patch(_box(b, a))
        axes.set_title(f"old layer {old} → new {new}\nlargest {top:.2g}", fontsize=8)
    for axes in list(grid.flat)[len(layers) :]:
        axes.axis("off")
    for axes in grid[-1]:
        axes.set_xlabel("new head")
    for axes in grid[:, 0]:
        axes.set_ylabel("old head")
    figure.colorbar(image, ax=grid, label="cosine, as a share of the panel's largest", shrink=0.9)
    return figure


def _heatmap(axes: Axes, values: np.ndarray, low: float | None = None, high: float | None = None):
    image = axes.imshow(values, cmap=HEATMAP, vmin=low, vmax=high, aspect="equal")
    for axis, count in ((axes.xaxis, values.shape[1]), (axes.yaxis, values.shape[0])):
        axis.set_ticks(range(0, count, 1 + count // 16))
    axes.spines[:].set_visible(False)
    return image


def _numbers(axes: Axes, values: np.ndarray, image: Any) -> None:
    for (row, column), value in np.ndenumerate(values):
        colour = "black" if image.norm(value) > 0.5 else "white"
        axes.text(column, row, f"{value:.2f}", ha="center", va="center", fontsize=6, color=colour)


def _box(x: float, y: float) -> Any:
    box = plt.Rectangle(
        (x - 0.45, y - 0.45), 0.9, 0.9, fill=False, edgecolor="white", linewidth=1.5
    )
    box.set_clip_on(False)
    box.set_path_effects([effects.Stroke(linewidth=3, foreground="black"), effects.Normal()])
    return box


def losses(curves: Mapping[str, tuple[Sequence[float], Sequence[float]]]) -> Figure:
    """Training losses; `curves` maps a label to (steps, loss in nats a token)."""
    if not curves:
        return message("Nothing was trained here for this app.")
    figure, axes = plt.subplots(figsize=(6.5, 3.6))
    for (label, (steps, loss)), colour, dash in zip(
        curves.items(), cycle(COLOURS), cycle(DASHES), strict=False
    ):
        axes.plot(steps, loss, color=colour, linestyle=dash, linewidth=1.6, label=label)
    longest = max(max(steps) for steps, _ in curves.values())
    if longest > 10 * min(max(steps) for steps, _ in curves.values()):
        axes.set_xscale("log")
    else:
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_xlabel("optimiser step")
    axes.set_ylabel("training loss (nats a token)")
    axes.grid(alpha=0.3)
    _legend(axes)
    return figure


def _legend(axes: Axes) -> None:
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8)


def _percent(row: Mapping[str, Any]) -> float:
    return 1.0 if row.get("metric") in ("bleu", "chrf") else 100.0


def retention(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Score against the seconds of transfer and training, with retention on the right-hand axis.

    Rows that cost nothing here (the bare model, a given adapter) are horizontal lines.
    """
    rows = [row for row in rows if row["stage"] not in ("old", "old_lora")]
    rows = [row for row in rows if is_number(row.get("average"))]
    if not rows:
        return message("No row of the new model has a score.")
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for row, colour, marker, dash in zip(
        rows, cycle(COLOURS), cycle(MARKERS), cycle(DASHES), strict=False
    ):
        scale = _percent(row)
        seconds = sum(row.get(key) or 0 for key in ("transfer_s", "train_s"))
        mean = scale * row["average"]
        if not seconds:
            axes.axhline(mean, color=colour, linestyle=dash, linewidth=1.4, label=row["row"])
            continue
        ends = [scale * row[key] if is_number(row.get(key)) else mean for key in ("low", "high")]
        axes.errorbar(
            seconds,
            mean,
            yerr=[[max(0, mean - ends[0])], [max(0, ends[1] - mean)]],
            color=colour,
            marker=marker,
            markersize=7,
            capsize=3,
            linestyle="none",
            label=row["row"],
        )
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("seconds of transfer and training for this app")
    axes.set_ylabel("average score" + (" (%)" if _percent(rows[0]) == 100 else ""))
    axes.grid(alpha=0.3)
    _retention_axis(axes, rows)
    axes.legend(loc="upper left", bbox_to_anchor=(1.16, 1), frameon=False, fontsize=8)
    return figure


def _retention_axis(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A second axis on which the bare new model is 0 and LoRA(full) is 1, where that is defined."""
    ends = {row["stage"]: _percent(row) * row["average"] for row in rows if not row.get("method")}
    defined = any(is_number(row.get("retention")) for row in rows)
    if not defined or ends["lora_full"] == ends["new"]:
        axes.set_title("Retention is undefined or has no reference here: scores alone", fontsize=9)
        return
    bare, gain = ends["new"], ends["lora_full"] - ends["new"]
    second = axes.secondary_yaxis(
        "right", functions=(lambda y: (y - bare) / gain, lambda r: bare + r * gain)
    )
    second.set_ylabel("retention")


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
        scaled = key != "nll" and _percent(rows[0]) == 100
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
    scale = 1 if key == "nll" else _percent(rows[0])
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
    _legend(grid[0, -1])
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
    if not any(found for found, _ in panels.values()):
        return message("No app was measured.")
    figure, grid = plt.subplots(1, len(panels), figsize=(3.1 * len(panels), 3.2), sharey=True)
    for axes, (label, (found, r)) in zip(np.atleast_1d(grid), panels.items(), strict=True):
        names = sorted({name.partition("/")[0] for name, *_ in found})
        for name, x, y in found:
            mark = names.index(name.partition("/")[0])
            colour = COLOURS[mark % len(COLOURS)]
            own = name.startswith(f"{pair}/")
            axes.plot(x, y, MARKERS[mark % len(MARKERS)], color=colour,
                      markerfacecolor=colour if own else "white")  # fmt: skip
            axes.annotate(name.partition("/")[2], (x, y), xytext=(5, 3),
                          textcoords="offset points", fontsize=7)  # fmt: skip
        axes.margins(x=0.3)
        told = f"r = {r:.2f}" if r is not None else "no r" if found else "not measured"
        if not found:
            axes.set_xticks([])
        axes.set_title(f"{told} ({len(found)} apps of {len(names)} pairs)", fontsize=9)
        axes.set_xlabel(label)
        axes.grid(alpha=0.3)
    np.atleast_1d(grid)[0].set_ylabel("share of the NLL's gain kept, no LFT")
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
    _legend(axes)
    return figure


def costs(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Seconds of transfer, training and scoring, and peak memory, of each row."""
    rows = [row for row in rows if is_number(row.get("eval_s"))]
    if not rows:
        return message("No row of this app has a time.")
    figure, (left, right) = plt.subplots(
        1, 2, figsize=(8.2, 0.34 * len(rows) + 1.3), sharey=True, width_ratios=(3, 2)
    )
    places = np.arange(len(rows))
    start = np.zeros(len(rows))
    parts = {"transfer_s": "transfer", "train_s": "training", "eval_s": "scoring"}
    for (key, label), colour, hatch in zip(parts.items(), COLOURS, HATCHES, strict=False):
        width = np.array([row.get(key) or 0 for row in rows], float)
        left.barh(
            places, width, left=start, color=colour, hatch=hatch, edgecolor="white", label=label
        )
        start += width
    peaks = [row.get("peak_mib") or 0 for row in rows]
    right.barh(places, peaks, color=COLOURS[4], edgecolor="black", label="main memory")
    gpu = [row.get("gpu_peak_mib") or 0 for row in rows]
    if any(gpu):
        right.barh(places, gpu, height=0.35, color=COLOURS[5], hatch="xx", label="GPU memory")
        right.legend(fontsize=8, frameon=False)
    left.set_yticks(places, [row["row"] for row in rows])
    left.invert_yaxis()
    left.set_xlabel("seconds")
    left.legend(ncols=3, loc="lower right", bbox_to_anchor=(1, 1), fontsize=8, frameon=False)
    right.set_xlabel("peak memory (MiB)")
    return figure


def sweep(rows: Sequence[Mapping[str, Any]], name: str, order: Sequence[str]) -> Figure:
    """A sweep's scores with their intervals, and the answers' NLL, in the order of the config."""
    rows = [row for row in rows if is_number(row.get("average"))]
    shown = [value for value in order if value in {row["value"] for row in rows}]
    if not shown:
        return message(f"No point of the sweep of {name.replace('_', ' ')} could be run.")
    series: dict[str, list[Mapping[str, Any]]] = {}
    for row in rows:
        series.setdefault(row["row"], []).append(row)
    figure, panels = plt.subplots(1, 2, figsize=(9, 3.6))
    _sweep_panel(panels[0], series, shown, "average", _percent(rows[0]))
    _sweep_panel(panels[1], series, shown, "nll", 1)
    unit = " (%)" if _percent(rows[0]) == 100 else ""
    for axes, label in zip(panels, (f"average score{unit}", "answer NLL (nats)"), strict=True):
        axes.set_xticks(range(len(shown)), shown)
        axes.set_xlim(-0.5, len(shown) - 0.5)
        axes.set_xlabel(name.replace("_", " "))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3, axis="y")
    _legend(panels[1])
    return figure


def _sweep_panel(
    axes: Axes,
    series: Mapping[str, Sequence[Mapping[str, Any]]],
    shown: Sequence[str],
    key: str,
    scale: float,
) -> None:
    """One line a series; series that are no points of the sweep are horizontal."""
    drawn = [label for label, own in series.items() if own[0]["value"] in shown]
    shift = dict(zip(drawn, np.linspace(-0.06, 0.06, len(drawn)), strict=True))
    for (label, every), colour, marker, dash in zip(
        series.items(), COLOURS, MARKERS, DASHES, strict=False
    ):
        style: dict[str, Any] = {"color": colour, "linestyle": dash, "label": label}
        own = [row for row in every if is_number(row.get(key))]
        values = scale * np.array([row[key] for row in own], float)
        if label not in shift:
            for value in values:
                axes.axhline(value, linewidth=1.2, **style)
            continue
        places = np.array([shown.index(row["value"]) for row in own]) + shift[label]
        errors = None
        if key == "average" and all(is_number(row.get("low")) for row in own):
            ends = [scale * np.array([row[end] for row in own]) for end in ("low", "high")]
            errors = [np.maximum(values - ends[0], 0), np.maximum(ends[1] - values, 0)]
        axes.errorbar(places, values, yerr=errors, marker=marker, capsize=3, linewidth=1.6, **style)


def read_curves(folders: Iterable[tuple[str, Path]]) -> dict[str, tuple[list[float], list[float]]]:
    """Label -> steps and losses, of the trained adapters among (label, directory)."""
    found = {}
    for label, folder in folders:
        path = folder / "loss.csv"
        if path.is_file():
            with path.open(newline="") as file:
                lines = list(csv.DictReader(file))
            steps, loss = ([float(line[key]) for line in lines] for key in ("step", "loss"))
            found[label] = (steps, loss)
    return found
