"""Advice from hand-made cases: what it names, what it says of how little it rests on."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from loraport.advice import main
from loraport.artifacts import write_json
from loraport.models.families import Dimensions
from loraport.report import advice, advice_page, plots, plots_compared
from loraport.report import cases as measured_cases
from loraport.report.render import write_csv

KNOWN = {
    "same_shapes": False,
    "distance": None,
    "path_dissimilarity": 0.2,
    "residual": 0.5,
    "heads_assigned": 0.1,
    "heads_random": 0.0,
    "magnitude": 3.0,
    "depth": [2, 3],
    "width": [16, 32],
}


def numbers(share, **more):
    ends = {"nll_retention_low": share - 0.01, "nll_retention_high": share + 0.01}
    return {"average": 0.1, "nll": 5.0, "nll_retention": share, **ends, **more}


def case(pair, app, shares, tuned=0.5, examples=100, same=False, **facts):
    """A case in which each method of `shares` keeps that share; after LFT `tuned` more."""
    methods = {
        name: {
            "transferred": numbers(share),
            "finetuned": numbers(share + tuned, difference_low=0.01, nll_difference_high=-0.1),
        }
        for name, share in shares.items()
    }
    about = {**KNOWN, "same_shapes": same, **facts}
    return {"pair": pair, "app": app, "by": "make", "examples": examples, "facts": about,
            "baselines": {}, "methods": methods}  # fmt: skip


ALIKE = {"lacks": (), "by_layer": ()}  # all layers


def dims(**changes):
    filled = dict.fromkeys(Dimensions.__dataclass_fields__, 4)
    return Dimensions(**{**filled, **ALIKE, "hidden": 32, "layers": 2, **changes})


def test_the_best_method_of_alike_pairs_is_named():
    cases = [
        case("p", "a", {"x": 0.2, "y": 0.1}),
        case("q", "a", {"x": 0.1, "y": 0.3}),
        case("r", "a", {"x": 0.0, "z": 0.99}, same=True),
    ]
    found = advice.advise("new", "a", KNOWN, cases)
    assert found["method"] == "y"  # means 0.15 and 0.2; z was measured on equal shapes only
    assert found["finetuning_needed"] is True and found["examples"] is None
    assert {row["pair"] for row in found["evidence"]} == {"p", "q"}
    said = " ".join(found["reasons"])
    assert "0 of 2 measured app(s) were carried" in said and "more than 100 examples" in said
    assert "by score in 2 of 2 and by the answers' likelihood in 2 of 2" in said


def test_no_method_is_named_where_none_kept_a_share_or_beat_nothing():
    harmed = case("p", "a", {"x": -0.1, "y": -0.3})
    for stages in harmed["methods"].values():
        stages["finetuned"] |= {"difference_low": -0.02, "nll_difference_high": 0.1}
    found = advice.advise("new", "a", KNOWN, [harmed])
    assert found["method"] is None and found["finetuning_needed"] is True
    assert found["reasons"][0] == "No method is known to help here, on p/a."
    harmed["methods"]["x"]["finetuned"]["difference_low"] = 0.01
    assert advice.advise("new", "a", KNOWN, [harmed])["method"] == "x"


def test_no_finetuning_where_the_intervals_lower_end_is_enough():
    found = advice.advise("new", "a", KNOWN, [case("p", "a", {"x": 0.95})])
    assert found["finetuning_needed"] is False
    found = advice.advise("new", "a", KNOWN, [case("p", "a", {"x": 0.905})])
    assert found["finetuning_needed"] is True


def test_the_smallest_measured_set_that_was_enough():
    cases = [
        case("p", "a", {"x": 0.2}, tuned=0.3, examples=50),
        case("p", "a", {"x": 0.2}, tuned=0.75, examples=200),
        case("p", "a", {"x": 0.2}, tuned=0.8, examples=400),
    ]
    assert advice.advise("new", "a", KNOWN, cases)["examples"] == 200


@pytest.mark.parametrize(
    ("gain", "expected"),
    [
        ({"difference_low": 0.01, "p_high": 0.9}, True),
        ({"difference_low": -0.01, "p_high": 0.001, "difference": 0.1}, False),
        ({"difference": 0.1, "p_high": 0.01}, True),
        ({"difference": -0.1, "p_high": 0.01}, False),
        ({}, None),
    ],
)
def test_beyond_chance_is_by_the_interval_or_by_the_test(gain, expected):
    assert advice._better_score(gain) is expected


def test_what_was_never_fine_tuned_says_so_and_no_more():
    only = case("p", "a", {"x": 0.2})
    del only["methods"]["x"]["finetuned"]
    found = advice.advise("new", "a", KNOWN, [only])
    assert found["finetuning_needed"] is True and found["examples"] is None
    assert found["reasons"][-1] == "Light fine-tuning was not measured there."


def test_what_was_measured_on_the_app_itself_comes_first():
    cases = [case("p", "a", {"x": 0.2, "y": 0.1}), case("q", "a", {"x": 0.1, "y": 0.9})]
    found = advice.advise("p", "a", KNOWN, cases)
    assert found["method"] == "x"
    assert any("itself was measured" in line for line in found["limits"])


def test_what_is_not_offered_is_not_advised_and_stays_in_the_evidence():
    shares = {"aligned_sequential": 0.9, "its_variant": 0.8, "other_variant": 0.3, "aligned": 0.2}
    known = case("p", "a", shares)
    known["variants"] = {"its_variant": "aligned_sequential", "other_variant": "lorasuite"}
    found = advice.advise("p", "a", KNOWN, [known])
    assert found["method"] == "other_variant"
    assert {row["method"] for row in found["evidence"]} == set(shares)
    assert measured_cases.points([known], "residual") == [("p/a", 0.5, 0.3)]


def test_without_a_case_there_is_no_advice():
    for cases in ([], [case("p", "a", {"x": 0.5}, same=True)]):
        found = advice.advise("new", "a", KNOWN, cases)
        assert found["method"] is found["finetuning_needed"] is found["examples"] is None
        assert any("there is no advice" in line for line in found["limits"])
        assert "not known" in advice_page.page("t", [found])


def test_leaving_pairs_out_counts_what_the_others_would_have_named():
    cases = [case("p", "a", {"x": 0.2, "y": 0.1}), case("p", "b", {"x": 0.2, "y": 0.1})]
    assert measured_cases.left_out(cases) == (0, 0)  # apps of one pair do not check one another
    cases += [case("q", "a", {"x": 0.1, "y": 0.4})]
    assert measured_cases.left_out(cases) == (0, 3)
    cases += [case("r", "a", {"x": 0.9, "y": 0.1})]
    assert measured_cases.left_out(cases) == (
        2,
        4,
    )  # both of p; of q the others name x, of r they name y
    assert "in 2 of 4 apps" in " ".join(advice.limits("n", "a", KNOWN, cases, cases, []))


def test_pearson_is_numpys_and_not_given_where_it_means_nothing():
    x, y = [1.0, 2.0, 4.0], [3.0, 2.0, -1.0]
    assert measured_cases.pearson(x, y) == pytest.approx(np.corrcoef(x, y)[0, 1])
    assert measured_cases.pearson(x, [2 * each + 1 for each in x]) == pytest.approx(1)
    assert measured_cases.pearson(x[:2], y[:2]) is None
    assert measured_cases.pearson([1.0, 1.0, 1.0], y) is None


def test_points_are_logs_of_the_distance_and_the_best_share(tmp_path):
    cases = [
        case("p", "a", {"x": 0.2, "y": 0.4}, same=True, distance=0.01),
        case("q", "a", {"x": 0.1}, residual=0.7),
    ]
    assert measured_cases.points(cases, "distance") == [("p/a", math.log10(0.01), 0.4)]
    assert measured_cases.points(cases, "residual") == [("p/a", 0.5, 0.4), ("q/a", 0.7, 0.1)]
    panels = {"d": (measured_cases.points(cases, "residual"), None), "e": ([], None)}
    plots.save(plots_compared.distance(panels, "p"), tmp_path / "d.svg")
    plots.save(plots_compared.distance({"d": ([], None)}, "p"), tmp_path / "none.svg")


def test_facts_are_those_of_the_artifacts():
    distance = {
        "distance": {"mean": 0.3},
        "path": {"mean": 0.8},
        "embedding": {"residual": 0.5},
        "heads": {"assigned": 0.2, "random": 0.1},
    }
    found = advice.facts(distance, {"total": 7.0}, dims(), dims())
    assert found["same_shapes"] and found["distance"] == 0.3
    assert found["path_dissimilarity"] == pytest.approx(0.2) and found["magnitude"] == 7
    found = advice.facts(distance, {"total": 7.0}, dims(), dims(layers=3))
    assert not found["same_shapes"] and found["distance"] is None


def test_a_case_is_added_by_one_command(tmp_path, capsys):
    advised = advice.advise("p", "a", KNOWN, [])
    write_json(tmp_path / "advice.json", "advice", {}, advised)
    rows = [
        {"stage": "new", "method": "", "seeds": 1, "average": 0.1, "nll": 9.0},
        {"stage": "transferred", "method": "x", "seeds": 1, "average": 0.2, "nll_retention": 0.3},
        {"stage": "finetuned", "method": "x", "seeds": 2, "average": 0.4, "retention": "undefined"},
        {"stage": "finetuned", "method": "x", "seed": 0, "average": 0.5},
        {"stage": "transferred", "method": "y", "note": "not served: shapes", "variant_of": "x"},
    ]
    keys = (
        "stage",
        "method",
        "variant_of",
        "seed",
        "seeds",
        "average",
        "nll",
        "nll_retention",
        "retention",
    )
    write_csv(tmp_path / "t.csv", rows, [*keys, "note"])
    arguments = [str(tmp_path / "advice.json"), str(tmp_path / "t.csv"), "--by", "make compare"]
    folder = tmp_path / "measured"
    assert main([*arguments, "--folder", str(folder)]) == 0
    (added,) = measured_cases.read_cases(folder)
    assert added["by"] == "make compare" and added["facts"] == advised["facts"]
    assert added["baselines"]["new"]["average"] == 0.1
    assert added["methods"]["x"]["transferred"]["nll_retention"] == 0.3
    assert added["methods"]["x"]["finetuned"]["average"] == 0.4
    assert added["methods"]["y"] == {"note": "not served: shapes"}
    assert added["variants"] == {"y": "x"}
    assert main(["nowhere.json", "nowhere.csv", "--by", "x"]) == 2
    with pytest.raises(SystemExit):
        main(["nowhere.json", "nowhere.csv"])
    capsys.readouterr()


def test_on_the_terminal_it_is_four_sentences_that_name_the_file(tmp_path, capsys):
    path = tmp_path / "advice.json"
    cases = {
        "y is the method": [case("p", "a", {"x": 0.1, "y": 0.2}), case("q", "a", {"y": 0.2})],
        "good enough without": [case("p", "a", {"x": 0.95})],
        "no method is known": [case("p", "a", {"x": -0.1})],
        "Nothing like new": [],
    }
    for stages in cases["no method is known"][0]["methods"].values():
        stages["finetuned"] |= {"difference_low": -0.02, "nll_difference_high": 0.1}
    for words, measured in cases.items():
        write_json(path, "advice", {}, advice.advise("new", "a", KNOWN, measured))
        assert main([str(path)]) == 0
        told = capsys.readouterr().out.splitlines()
        assert words in " ".join(told) and len(told) <= 4
        assert all(line.endswith(".") for line in told)
        assert all(len(line) <= 100 for line in told if str(path) not in line)
        assert not measured or told[-1] == f"The evidence is in {path}."


def test_shipped_cases_name_their_command_and_can_be_advised_from():
    cases = measured_cases.read_cases()
    assert all(each["by"] and each["facts"].keys() == KNOWN.keys() for each in cases)
    assert all(Path(path).stem.count(".") >= 2 for path in measured_cases.MEASURED.glob("*.json"))
    json.dumps(advice.advise("new", "a", KNOWN, cases), allow_nan=False)
    assert {measured_cases.best_method([each], "transferred") for each in cases} == {
        "aligned", "directalgebra"
    }  # fmt: skip


def test_what_the_page_of_methods_says_of_the_shipped_cases_is_so():
    page = (Path(__file__).parents[3] / "docs" / "methods.md").read_text()
    cases = measured_cases.read_cases()
    for fact, words in (("path_dissimilarity", "along the path, r = "), ("residual", "map, r = ")):
        _, x, y = zip(*measured_cases.points(cases, fact), strict=True)
        assert f"{words}{measured_cases.pearson(x, y):.2f}".replace("-", "−") in page
    hits, tried = measured_cases.left_out(cases)
    assert f"the best method in {hits} of the {tried} apps" in page
