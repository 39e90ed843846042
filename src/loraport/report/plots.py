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

from ..artifacts import atomic
from .render import is_number

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
    legend(axes)
    return figure


def legend(axes: Axes) -> None:
    """A legend to the right of the axes."""
    axes.legend(loc="upper left", bbox_to_anchor=(1.02, 1), frameon=False, fontsize=8)


def percent(row: Mapping[str, Any]) -> float:
    """What a row's score is multiplied by to be shown of 100: 1 for metrics that are so already."""
    return 1.0 if row.get("metric") in ("bleu", "chrf") else 100.0


def retention(rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Score against the seconds of transfer and training, with retention on the right-hand axis.

    Rows that cost nothing here (the bare model, a given adapter, the old model with its own) are
    horizontal lines.
    """
    rows = [row for row in rows if row["stage"] != "old"]
    rows = [row for row in rows if is_number(row.get("average"))]
    if not any(row["stage"] != "old_lora" for row in rows):
        return message("No row of the new model has a score.")
    figure, axes = plt.subplots(figsize=(7, 3.8))
    for row, colour, marker, dash in zip(
        rows, cycle(COLOURS), cycle(MARKERS), cycle(DASHES), strict=False
    ):
        scale = percent(row)
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
    axes.set_ylabel("average score" + (" (%)" if percent(rows[0]) == 100 else ""))
    axes.grid(alpha=0.3)
    _retention_axis(axes, rows)
    axes.legend(loc="upper left", bbox_to_anchor=(1.16, 1), frameon=False, fontsize=8)
    return figure


def _retention_axis(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    """A second axis on which the new model is 0 and a new LoRA on all data 1, where defined."""
    ends = {row["stage"]: percent(row) * row["average"] for row in rows if not row.get("method")}
    defined = any(is_number(row.get("retention")) for row in rows)
    if not defined or ends["lora_full"] == ends["new"]:
        axes.set_title("Retention is undefined or has no reference here: scores alone", fontsize=9)
        return
    bare, gain = ends["new"], ends["lora_full"] - ends["new"]
    second = axes.secondary_yaxis(
        "right", functions=(lambda y: (y - bare) / gain, lambda r: bare + r * gain)
    )
    second.set_ylabel("retention: share of a full retraining's gain")


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
    _sweep_panel(panels[0], series, shown, "average", percent(rows[0]))
    _sweep_panel(panels[1], series, shown, "nll", 1)
    unit = " (%)" if percent(rows[0]) == 100 else ""
    for axes, label in zip(panels, (f"average score{unit}", "answer NLL (nats)"), strict=True):
        axes.set_xticks(range(len(shown)), shown)
        axes.set_xlim(-0.5, len(shown) - 0.5)
        axes.set_xlabel(name.replace("_", " "))
        axes.set_ylabel(label)
        axes.grid(alpha=0.3, axis="y")
    legend(panels[1])
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
    curves = {}
    for label, folder in folders:
        path = folder / "loss.csv"
        if path.is_file():
            with path.open(newline="") as file:
                lines = list(csv.DictReader(file))
            steps, loss = ([float(line[key]) for line in lines] for key in ("step", "loss"))
            curves[label] = (steps, loss)
    return curves
