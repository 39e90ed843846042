"""Figures: written whole, the same bytes twice, and a message where there is nothing to draw."""

from pathlib import Path

import numpy as np
import pytest

from loraport.report import plots, plots_compared

ROW = {"metric": "acc", "method": "", "low": 0.1, "high": 0.4, "eval_s": 3.0, "peak_mib": 500.0}
STAGES = {"new": (0.1, 0.0), "finetuned": (0.3, 0.5), "lora_full": (0.5, 1.0)}


def table(**changes):
    return [
        ROW
        | {"row": stage, "stage": stage, "average": score, "retention": kept, "train_s": 10 * kept}
        | changes
        for stage, (score, kept) in STAGES.items()
    ]


def curves():
    return {"LFT": ([1, 2, 3], [2.0, 1.0, 0.5]), "LoRA(small)": ([1, 2, 3], [2.0, 1.9, 1.8])}


def compared():
    """A comparison of two methods, one of them without a number."""
    keys = {"metric": "acc", "retention": 0.5, "retention_low": 0.4, "retention_high": 0.6}
    numbers = keys | {"average": 0.3, "low": 0.2, "high": 0.4, "nll": 5.0, "score t": 0.3}
    numbers |= {"transfer_s": 1.0, "train_s": 8.0}
    names = {"new": "", "lora_full": "", "lora_small_matched": ""}
    rows = [numbers | {"row": stage, "stage": stage, "method": ""} for stage in names]
    rows += [
        numbers | {"row": f"x {stage}", "stage": stage, "method": "x", "average": average}
        for stage, average in (("transferred", 0.1), ("finetuned", 0.6))
    ]
    refused = {"row": "y", "stage": "transferred", "method": "y", "note": "not served: shapes"}
    return [*rows, refused]


def figures():
    rng = np.random.default_rng(0)
    heads = [(i, i + 1, rng.normal(size=(4, 6)), np.array([[0, 1], [2, 3]])) for i in range(3)]
    points = [
        {"value": value, "row": row, "metric": "acc", "average": 0.1, "low": 0.05, "high": 0.2}
        for row in ("carried, fine-tuned", "new LoRA, same examples")
        for value in ("4", "8")
    ]
    return {
        "cka": lambda: plots.cka(rng.uniform(size=(3, 4)), [[0, 0, 1], [1, 2, 1]], ("a", "b")),
        "heads": lambda: plots.heads(heads),
        "losses": lambda: plots.losses(curves()),
        "retention": lambda: plots.retention(table()),
        "undefined": lambda: plots.retention(table(retention="undefined")),
        "costs": lambda: plots.costs(table()),
        "sweep": lambda: plots.sweep(points, "rank", ["4", "8", "16"]),
        "methods": lambda: plots_compared.methods(compared()),
        "methods of apps": lambda: plots_compared.methods_of_apps(
            {"a": compared(), "b": compared()[3:]}
        ),
        "method costs": lambda: plots_compared.method_costs(compared()),
        "magnitudes": lambda: plots_compared.magnitudes({"a": {"kinds": {"q": 1.0, "v": 2.0}}}),
        "no method": lambda: plots_compared.methods(compared()[:3]),
        "no retention": lambda: plots_compared.method_costs([]),
        "no adapter": lambda: plots_compared.magnitudes({}),
        "no curve": lambda: plots.losses({}),
        "no row": lambda: plots.retention([]),
        "no time": lambda: plots.costs([]),
        "no point": lambda: plots.sweep([], "rank", ["4"]),
    }


def test_retention_stands_beside_the_old_model_with_its_adapter():
    old = ROW | {"row": "old model + adapter", "stage": "old_lora", "average": 0.6}
    axes = plots.retention([old, *table()]).axes[0]
    assert "old model + adapter" in axes.get_legend_handles_labels()[1]
    assert "retraining's gain" in axes.child_axes[0].get_ylabel()


@pytest.mark.parametrize("name", figures())
def test_every_figure_is_drawn(name, tmp_path):
    plots.save(figures()[name](), tmp_path / "figure.svg")
    content = (tmp_path / "figure.svg").read_text()
    assert content.rstrip().endswith("</svg>")
    assert "Date" not in content.partition("<defs>")[0].replace("<dc:date>", "Date")


def test_same_figure_same_bytes(tmp_path):
    for name in ("a.svg", "b.svg", "c.png", "d.png"):
        plots.save(plots.losses(curves()), tmp_path / name)
    a, b, c, d = ((tmp_path / name).read_bytes() for name in ("a.svg", "b.svg", "c.png", "d.png"))
    assert a == b
    assert c == d


def test_boxes_mark_the_path():
    figure = plots.cka(np.eye(3, 4), [[0, 1, 0.0], [2, 3, 0.0]], ("a", "b"))
    centres = np.array([box.get_center() for box in figure.axes[0].patches])
    assert centres.ravel().tolist() == pytest.approx([1, 0, 3, 2])
    (line,) = figure.axes[0].lines  # from the first box's corner to the second's
    assert line.get_xydata().ravel().tolist() == pytest.approx([1.45, 0.45, 2.55, 1.55])


def test_retention_axis_maps_bare_to_zero_and_full_to_one():
    figure = plots.retention(table())
    (second,) = figure.axes[0].child_axes
    forward, back = second._functions
    assert (forward(10), forward(50)) == pytest.approx((0, 1))
    assert back(0.5) == pytest.approx(30)
    assert plots.retention(table(retention="undefined")).axes[0].child_axes == []


def test_series_differ_by_more_than_colour():
    axes = plots.losses(curves()).axes[0]
    assert len({line.get_linestyle() for line in axes.lines}) == 2


def test_curves_are_read_from_what_was_trained(tmp_path):
    folder = tmp_path / "lora_small"
    folder.mkdir()
    (folder / "loss.csv").write_text("step,epoch,loss,learning_rate,grad_norm\n1,0.5,2.5,1e-3,\n")
    found = plots.read_curves([("small", folder), ("given", Path("nowhere"))])
    assert found == {"small": ([1.0], [2.5])}


def test_methods_have_two_bars_and_those_without_a_number_their_reason():
    score, nll = plots_compared.methods(compared()).axes
    widths = [round(bar.get_width()) for bar in score.patches]
    assert widths == [10, 60]
    assert [text.get_text().strip() for text in score.texts] == ["10", "60", "not served"]
    assert [text.get_text() for text in score.get_yticklabels()] == ["x", "y"]
    assert len(score.lines) >= 3 and nll.get_xlabel() == "answer NLL (nats)"


def test_magnitudes_are_stacked_by_kind():
    figure = plots_compared.magnitudes(
        {"a": {"kinds": {"q": 1.0, "v": 2.0}}, "b": {"kinds": {"q": 4.0}}}
    )
    bars = [(bar.get_x(), bar.get_width()) for bar in figure.axes[0].patches]
    assert bars == [(0, 1), (0, 4), (1, 2), (4, 0)]


def test_apps_stand_beside_one_another():
    figure = plots_compared.methods_of_apps({"a": compared(), "b": compared()})
    labels = [axes.get_xlabel() for axes in figure.axes]
    nll = ["a: answer NLL (nats)", "b: answer NLL (nats)"]
    assert labels == ["a: score (%)", "b: score (%)", *nll]
