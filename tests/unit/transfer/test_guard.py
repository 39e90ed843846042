"""Updates that are large beside their weights: told, or refused."""

import json
from pathlib import Path

import numpy as np
import pico
import pytest
from inprocess import PairRun
from safetensors.numpy import load_file, save_file

from loraport.artifacts import read_json
from loraport.commands import _one_run
from loraport.commands.transfer import add_arguments
from loraport.errors import LoraportError
from loraport.report.summary import summarise
from loraport.transfer.guard import (
    MAX_SIZE,
    MODULES_LISTED,
    TOLD_ABOVE,
    TOLD_GROWTH,
    by_definition,
    check_size,
    listed,
)
from loraport.transfer.maps import ModuleMap


def entry(before: float, after: float, source: int | None = 0, **more: float) -> dict:
    return {"source": source, "relative_norm_before": before,
            "relative_norm_after": after, **more}  # fmt: skip


@pytest.mark.parametrize(
    ("before", "after", "is_told"),
    [
        (0.2, TOLD_ABOVE - 0.01, False),
        (0.2, TOLD_ABOVE + 0.01, True),
        (0.01, 0.01 * TOLD_GROWTH - 1e-4, False),
        (0.01, 0.01 * TOLD_GROWTH + 1e-4, True),
        (0.0, 0.0, False),
        (0.0, 0.3, False),  # nothing before: no growth
    ],
)
def test_an_update_of_half_its_weight_or_of_ten_times_its_size_before_is_told(
    before, after, is_told
):
    told, oversized = check_size({"m": entry(before, after)})
    assert (len(told), len(oversized)) == (is_told, is_told)
    if is_told:
        assert oversized == [{"module": "m", "source": 0, "before": before, "after": after}]


def test_a_warning_is_one_line_that_names_the_worst_three_and_counts_the_rest():
    modules = {f"layer.{i}.o": entry(0.1, 0.6 + i / 10) for i in range(30)}
    modules["new"] = {"source": None}
    (told,), oversized = check_size(modules)
    assert "\n" not in told and told.startswith("30 of 30 carried updates")
    assert [f"layer.{i}.o" in told for i in (29, 28, 27, 26)] == [True, True, True, False]
    assert "350 % (before: 10 %)" in told and "27 more" in told and "scale: norm" in told
    kept = listed(oversized)
    assert kept["oversized_count"] == 30 and len(kept["oversized"]) == MODULES_LISTED
    assert [each["after"] for each in kept["oversized"]] == sorted(
        (each["after"] for each in kept["oversized"]), reverse=True
    )


def test_nothing_large_is_nothing_told():
    assert check_size({"a": entry(0.1, 0.2), "b": {"source": None}}) == ([], [])
    assert listed([]) == {"oversized": [], "oversized_count": 0}


def test_an_update_of_many_times_its_weight_is_refused_unless_that_is_allowed():
    at, beyond = (
        {"m": entry(0.1, MAX_SIZE)},
        {"m": entry(0.1, MAX_SIZE + 0.1), "n": entry(0.1, 0.6)},
    )
    assert len(check_size(at)[0]) == 1
    with pytest.raises(LoraportError, match=r"1 of 2 .* m 810 % .*allow_large: true, or --allow"):
        check_size(beyond)
    (told,), oversized = check_size(beyond, allow_large=True)
    assert told.startswith("2 of 2") and [each["module"] for each in oversized] == ["m", "n"]


def test_a_difference_of_weights_is_told_and_its_own_size_is_not_refused():
    size = {"relative_constant": 30.0}
    (told,), _ = check_size({"m": entry(0.1, 31.0, **size)})
    assert "difference of the two models' weights" in told
    with pytest.raises(LoraportError, match="1 of 1"):
        check_size({"m": entry(0.1, 30.0 + MAX_SIZE + 0.1, **size)})


def test_the_size_of_a_difference_is_that_of_all_roles_of_a_module():
    plain = ModuleMap(0, "q", 0, (), 1.0, 1.0)
    three, four = (ModuleMap(0, role, 0, (), 1.0, 1.0, constant=np.full((1, 1), size))
                   for role, size in (("k", 3.0), ("v", 4.0)))  # fmt: skip
    assert by_definition([plain], 2.0) == {}
    assert by_definition([plain, three, four], 2.0) == {"relative_constant": 2.5}


@pytest.fixture(scope="module")
def loud(pico_pair, tmp_path_factory) -> Path:
    """An adapter whose updates are some hundred times their weights."""
    directory = pico.make_adapter(
        tmp_path_factory.mktemp("loud") / "loud", pico_pair.old, seed=3, targets=["q_proj"]
    )
    file = directory / "adapter_model.safetensors"
    save_file({name: 100 * values for name, values in load_file(file).items()}, file)
    return directory


def test_a_refused_transfer_leaves_nothing_and_an_allowed_one_says_it(pico_pair, loud, tmp_path):
    run = PairRun(tmp_path, pico_pair.old, pico_pair.new, pico_pair.texts)
    run.maps()
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(SystemExit):
        run.transferred(loud)
    left = {path.name for path in tmp_path.iterdir() if not path.name.endswith(".log")}
    assert left <= set(before)
    out = run.transferred(loud, allow_large=True)
    report = read_json(out / "transfer.json", "transfer")
    served = [each for each in report["modules"].values() if each["source"] is not None]
    large = [each for each in served if each["relative_norm_after"] > TOLD_ABOVE]
    assert report["oversized_count"] >= len(large) > 0
    worst = report["oversized"][0]
    assert worst["after"] == max(each["relative_norm_after"] for each in served) > MAX_SIZE
    assert any(worst["module"] in warning for warning in report["warnings"])
    log = Path(f"{out}.log").read_text()
    assert log.count("carried updates are large") == 1


def test_new_layers_that_are_served_by_the_next_pairs_old_one_are_told_as_well(
    pico_pair, loud, tmp_path
):
    run = PairRun(tmp_path, pico_pair.old, pico_pair.new, pico_pair.texts, unmatched="next")
    report = read_json(run.transferred(loud, allow_large=True) / "transfer.json", "transfer")
    sources = [old for old, _ in run.path()]
    assert len(set(sources)) < len(sources)  # one old layer serves two
    assert len(report["oversized"]) == len(sources)


def test_the_summary_tells_of_large_updates(pico_pair, loud, tmp_path):
    run = PairRun(tmp_path, pico_pair.old, pico_pair.new, pico_pair.texts)
    out = run.transferred(loud, allow_large=True)
    text = " ".join(summarise(out).split())  # it is folded to the terminal's width
    assert text.count("updates are large") == 1
    line = text[text.index("warning: ") :]
    assert "updates are large" in line and "q_proj" in line and "scale: norm" in line


def test_the_command_allows_large_updates_by_a_flag():
    from argparse import ArgumentParser

    parser = ArgumentParser()
    add_arguments(parser)
    for flags in ([], ["--allow-large"]):
        arguments = parser.parse_args(["old", "new", "adapter", "out", *flags])
        assert arguments.allow_large == bool(flags)
        request = _one_run.Request(
            "a", "o/n", (), (), allow_large=arguments.allow_large, settings=()
        )
        project = Path(__file__).parents[3]
        table = json.dumps("adapters.tsv")
        content = _one_run.configuration(request, project, Path(table))
        assert content["transfer"].get("allow_large", False) == bool(flags)
