"""The page of a pair: its numbers are the table's, in a real browser where there is one."""

import re

import pytest
from browser import CHROMIUM, dom_of

from loraport.artifacts import write_json
from loraport.cli import main
from loraport.report import fleet, fleet_page

STAGES = {"old": 0.1, "old_lora": 0.9, "new": 0.2, "transferred": 0.4, "finetuned": 0.85}


def rows(app, **changes):
    return [
        {"app": app, "row": f"row {stage}", "stage": stage, "metric": "acc", "average": score,
         "low": score - 0.05, "high": score + 0.05, "train_s": 8.0, "transfer_s": 0.5,
         "retention": 0.5, "nll": 1.25, "eval_s": 3.0, "peak_mib": 500.0, **changes}
        for stage, score in STAGES.items()
    ]  # fmt: skip


def scored(items, **more):
    outputs = [f"said {item}" for item in items]
    return {
        "stage": "s",
        "tasks": {"t": {"items": items, "items_sha256": "x", "outputs": outputs}},
        **more,
    }


def apps(count):
    verdicts = ["DEPLOY", "RETRAIN", "UNDECIDED", ""]
    flip = fleet.Flip("<b>2 + 2</b>", "4", "4", "5", True)
    return [
        fleet.App(
            f"app{n}", rows(f"app{n}"), "finetuned", verdicts[n % 4], f"why {n}", [flip], (7, 2)
        )
        for n in range(count)
    ]


def test_the_stage_that_may_be_deployed_is_the_last_that_was_scored():
    assert fleet.result_stage(rows("a")) == "finetuned"
    assert fleet.result_stage(rows("a")[:4]) == "transferred"
    assert fleet.result_stage(rows("a")[:3]) == ""


def test_a_row_says_which_start_was_the_best():
    best = {**rows("a")[-1], "start": "taught"}
    page = fleet_page.page("p", [fleet.App("a", [*rows("a")[:-1], best], "finetuned")])
    assert page.count("row finetuned: taught<") == 2  # by its score, and by its costs


def test_a_verdict_compares_the_same_items():
    old, bare = [1] * 900 + [0] * 100, [0] * 950 + [1] * 50
    scores = {"old": scored(bare), "old_lora": scored(old), "finetuned": scored(old)}
    assert fleet.verdict(scores, "finetuned")[0] == "DEPLOY"
    scores["finetuned"] = scored([0] * 1000)
    verdict, why = fleet.verdict(scores, "finetuned")
    assert verdict == "RETRAIN" and "90.0 %" in why
    scores["old"] = scored(old)
    verdict, why = fleet.verdict(scores, "finetuned")
    assert verdict == "" and "do not measure" in why
    assert fleet.verdict({}, "finetuned") == ("", "")


def test_flips_are_shown_with_prompt_gold_and_both_outputs():
    old, new = scored([1, 1, 0, 1]), scored([1, 0, 1, 0])
    asked = {"t": [(f"prompt {n}", f"gold {n}") for n in range(4)]}
    shown, counted = fleet.flips(old, new, asked)
    assert counted == (2, 1) and [flip.lost for flip in shown] == [True, True, False]
    assert shown[0] == fleet.Flip("prompt 1", "gold 1", "said 1", "said 0", True)
    assert fleet.flips(old, new, {}) == ([], (2, 1))
    assert fleet.flips(None, new, asked) == ([], (0, 0))


def test_the_page_needs_nothing_else_and_escapes_what_models_say():
    page = fleet_page.page("p → q", apps(4), facts={"Models": [("old", "a <model>")]})
    assert not re.search(r"(src|href)=\"?(https?:)?//", page) and "<b>2 + 2" not in page
    assert "&lt;b&gt;2 + 2" in page and "a &lt;model&gt;" in page
    assert page.index("1 DEPLOY") < page.index("<table") < page.index("why 0")
    assert "7 items lost and 2 gained" in page


def test_rates_stand_side_by_side_for_both_arms():
    tried = [{"row": "new model", "value": "", "average": 0.01}]
    tried += [
        {"row": arm, "value": rate, "average": score}
        for rate, scores in {"1e-4": (0.1, 0.2), "1e-3": (0.3, 0.44)}.items()
        for arm, score in zip(("carried, fine-tuned", "new LoRA"), scores, strict=True)
    ]
    page = fleet_page.page("p", [fleet.App("a", rows("a"), "finetuned", rates=tried)])
    table = page.partition("Scores by learning rate")[2].partition("</table>")[0]
    lines = [re.findall(r">([^<>]+)</t[dh]>", line) for line in table.split("</tr>")]
    assert lines[:3] == [
        ["learning rate", "carried, fine-tuned", "new LoRA"],
        ["1e-4", "10.0", "20.0"],
        ["1e-3", "30.0", "44.0"],
    ]
    assert "Scores by learning rate" not in fleet_page.page("p", apps(1))


def test_columns_without_a_number_are_not_shown_and_few_adapters_are_unfolded():
    page = fleet_page.page("p", apps(2))
    assert "memory (MiB)" in page and "GPU (MiB)" not in page and "<th scope=col>note" not in page
    assert "<details class=numbers open>" in page
    given = [fleet.App("a", rows("a", gpu_peak_mib=7.0, note="failed: no room"), "finetuned")]
    shown = fleet_page.page("p", given)
    assert "GPU (MiB)" in shown and "failed: no room" in shown
    assert "<details class=numbers open>" not in fleet_page.page("p", apps(40))


def test_upgraded_adapters_are_a_page(tmp_path, capsys):
    row = {"name": "tickets", "verdict": "DEPLOY", "why": "even", "minutes": 2.5}
    row |= {"old": 91.5, "carried": 40.0, "upgraded": 92.25}
    bad = {**row, "name": "mails", "verdict": "FAILED", "why": "no adapter there"}
    bad |= {"old": None, "carried": None, "upgraded": None}
    write_json(tmp_path / "fleet.json", "fleet", {}, {"rows": [row, bad]})
    assert main(["report", str(tmp_path)]) == 0
    page = (tmp_path / "report.html").read_text()
    body = page.partition("<tbody>")[2].partition("</tbody>")[0]
    for words in ("tickets", "DEPLOY", ">91.5<", ">92.2<", ">150<", "mails", "FAILED"):
        assert words in body, words
    assert "no adapter there" in page
    assert main(["report", str(tmp_path / "none")]) == 1
    assert "no fleet.json" in capsys.readouterr().err


FLIP = {"prompt": "2 + 2 =", "gold": "4", "old": "said four", "new": "said five", "lost": True}
JUDGED = {
    "verdict": "RETRAIN", "why": "much worse", "about": {"name": "tickets", "adapter": "x/a"},
    "evidence": {"scores": {"new_adapted": 70.0, "lost": 7, "gained": 2}, "flips": [FLIP]},
}  # fmt: skip


def test_what_changed_of_an_upgraded_adapter_is_shown(tmp_path):
    row = {"name": "tickets", "verdict": "RETRAIN", "why": "worse", "minutes": 2.5}
    row |= {"old": 91.5, "carried": 40.0, "upgraded": 70.0}
    many, alone = tmp_path / "many", tmp_path / "alone"
    for folder in (many / "tickets", alone):
        folder.mkdir(parents=True)
        write_json(folder / "verdict.json", "verdict", {}, JUDGED)
    write_json(many / "fleet.json", "fleet", {}, {"rows": [row]})
    report = {"scores": {"old": 91.5, "carried": 40.0, "upgraded": 70.0}}
    report |= {"choice": {"teacher": "old"}, "start": {"start": "aligned"}}
    write_json(alone / "upgrade.json", "upgrade", {}, report)
    for folder in (many, alone):
        assert main(["report", str(folder)]) == 0
        page = (folder / "report.html").read_text()
        assert page.index("RETRAIN") < page.index("said five")
        for words in ("7 items lost and 2 gained", "2 + 2 =", "said four", ">91.5<", ">70.0<"):
            assert words in page, words


def test_a_verdict_that_is_there_stands_on_the_page_of_a_pair():
    given = fleet.App("a", rows("a"), "finetuned", "DEPLOY", "even")
    shown = fleet.with_verdict(given, JUDGED)
    assert (shown.stage, shown.verdict, shown.why) == ("upgraded", "RETRAIN", "much worse")
    assert shown.row("upgraded")["average"] == pytest.approx(0.7) and shown.flipped == (7, 2)
    assert shown.flips == [fleet.Flip("2 + 2 =", "4", "said four", "said five", True)]
    page = fleet_page.page("p", [shown])
    assert "said five" in page and ">70.0<" in page


@pytest.fixture(scope="module")
def opened(tmp_path_factory):
    """The page of forty adapters as a browser has it after its script ran."""
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    path = tmp_path_factory.mktemp("page") / "report.html"
    path.write_text(fleet_page.page("p", apps(40)))
    return dom_of(path)


def test_in_a_browser_its_numbers_are_those_of_the_table(opened):
    body = opened.partition("<tbody>")[2].partition("</tbody>")[0]
    lines = re.findall(r"<tr.*?</tr>", body, re.S)
    assert len(lines) == 40
    for number, line in enumerate(lines):
        cells = [re.sub("<.*?>", "", cell) for cell in re.findall(r"<td.*?</td>", line, re.S)]
        scores = [
            f"{100 * STAGES[stage]:.1f}"
            for stage in ("old_lora", "new", "transferred", "finetuned")
        ]
        verdict = ["DEPLOY", "RETRAIN", "UNDECIDED", "–"][number % 4]
        assert cells == [f"app{number}", verdict, *scores, "7 / 2", "8"]


def test_at_no_width_the_page_is_wider_than_the_screen(tmp_path):
    """What is wide scrolls by itself, in its frame."""
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    long = fleet.App(
        "an_adapter_" + 9 * "with_a_long_name_", rows("x"), "finetuned", "DEPLOY", "ok"
    )
    (tmp_path / "report.html").write_text(fleet_page.page("p", [*apps(3), long]))
    widths = (400, 800, 1440)
    frames = "".join(
        f'<iframe src="report.html" width={width} height=900></iframe>' for width in widths
    )
    script = (
        "onload = () => { document.title = [...document.querySelectorAll('iframe')].map((each) =>"
        " each.contentDocument.documentElement.scrollWidth).join(' ') }"
    )
    (tmp_path / "frames.html").write_text(f"<title></title>{frames}<script>{script}</script>")
    found = re.search(r"<title>([\d ]+)</title>", dom_of(tmp_path / "frames.html"))[1].split()
    assert [int(each) <= width for each, width in zip(found, widths, strict=True)] == [True] * 3


def test_in_a_browser_columns_can_be_sorted(opened):
    head = opened.partition("<thead>")[2].partition("</thead>")[0]
    assert head.count("<button>") == 8


def test_in_a_browser_rows_are_sorted_and_filtered(tmp_path):
    if not CHROMIUM:
        pytest.skip("Chromium is not installed")
    given = [
        fleet.App(name, rows(name, average=score), "finetuned", verdict)
        for name, score, verdict in (("b", 0.5, "DEPLOY"), ("a", 0.25, "RETRAIN"), ("c", 0.75, ""))
    ]
    (tmp_path / "report.html").write_text(fleet_page.page("p", given))
    script = """onload = () => {
      const page = document.querySelector("iframe").contentDocument, told = [];
      const shown = () => [...page.querySelectorAll("tbody")[0].rows].filter((row) => !row.hidden)
        .map((row) => row.cells[0].textContent).join("");
      const button = (at) => page.querySelectorAll("th button")[at];
      told.push(shown());
      button(0).click(); told.push(shown());
      button(2).click(); told.push(shown());
      button(2).click(); told.push(shown());
      const verdict = page.getElementById("verdict"), text = page.getElementById("text");
      verdict.value = "DEPLOY"; verdict.dispatchEvent(new Event("input")); told.push(shown());
      verdict.value = ""; text.value = "A"; text.dispatchEvent(new Event("input"));
      told.push(shown());
      document.title = told.join(" "); }"""
    frame = '<iframe src="report.html" width=800 height=600></iframe>'
    path = tmp_path / "frame.html"
    path.write_text(f"<title></title>{frame}<script>{script}</script>")
    assert re.search("<title>(.*)</title>", dom_of(path))[1] == "bac abc abc cba b a"
