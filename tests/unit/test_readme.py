"""README is short, its numbers are the measured ones, and its links lead somewhere."""

import json
import re
from pathlib import Path
from statistics import mean

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
REAL = (ROOT / "benchmarks/results/real.md").read_text()
PACKAGE = ROOT / "src" / "loraport"
ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
TREE = ARCHITECTURE.partition("## What is where")[2].partition("\n## ")[0]
PAGES = [ROOT / name for name in ("README.md", "CONTRIBUTING.md", "config/README.md")]
PAGES += sorted((ROOT / "docs").rglob("*.md"))
ROWS = {  # of README's table -> of the results
    "ARC-Easy": "arc",
    "commands": "command",
    "text to JSON": "extract",
    "GSM8K": "math",
}
COLUMNS = [  # row and examples in the results, in README's order
    ("old, LoRA(full)", ""),
    ("new, bare", ""),
    ("lorasuite:fresh", "no LFT"),
    ("nothing", "100"),
    ("chosen", "100"),
    ("new, LoRA(full)", ""),
]


def measured(results: str = REAL) -> dict[tuple[str, str, str], list[list[str]]]:
    """App, row and examples -> that row's cells, of each pair."""
    cells: dict[tuple[str, str, str], list[list[str]]] = {}
    for section in re.split(r"^## ", results, flags=re.M)[2:]:
        _, app = section.splitlines()[0].split(", ")
        for line in section.splitlines():
            row = [each.strip() for each in line.strip("|").split("|")]
            if len(row) == 7:
                start = "chosen" if row[0].startswith("chosen") else row[0]
                cells.setdefault((app, start, row[1]), []).append(row)
    return cells


def test_it_is_read_on_two_screens():
    lines = [1 if line.startswith("|") else max(1, -(-len(line) // 100))
             for line in README.splitlines()]  # fmt: skip
    assert sum(lines) <= 110


@pytest.mark.parametrize("row", ROWS)
def test_its_table_holds_the_means_of_the_measured_scores(row):
    (line,) = re.findall(rf"^\| {row} \| (.+) \|$", README, re.M)
    cells = measured()
    for shown, column in zip(line.split(" | "), COLUMNS, strict=True):
        pairs = [float(each[2]) for each in cells[ROWS[row], *column]]
        assert len(pairs) == 4
        assert abs(float(shown) - mean(pairs)) < 0.0501, column


def test_its_counts_of_cells_are_those_of_the_results():
    cells = measured()
    for (start, examples), told in {
        ("lorasuite:fresh", "no LFT"): r"in (\d) of the 16 cells, level in (\d+)",
        ("chosen", "100"): r"ahead of nothing in (\d) cells and level in (\d+)",
    }.items():
        differences = [row[4] for app in ROWS.values() for row in cells[app, start, examples]]
        above = sum(each.startswith("**+") for each in differences)
        level = sum(not each.startswith("**") for each in differences)
        assert re.search(told, README).groups() == (str(above), str(level))


def test_what_it_says_of_upgrades_was_measured():
    rows = json.loads((ROOT / "benchmarks/results/upgrades.json").read_text())["upgraded"]
    rows = [row for row in rows if not row["labels"]]
    large = [row for row in rows if row["pair"] == "qwen_to_qwen15"]
    assert {row["given"] for row in large} == {400}
    small = [row for row in rows if row["app"] == "command" and row not in large]
    commands = [row for row in small if row["given"] == 400]
    assert len({row["pair"] for row in commands}) == 4 and {row["seeds"] for row in commands} == {1}
    (three,) = [row for row in large if row["seeds"] == 3 and row["app"] == "command"]
    (arc,) = [row for row in large if row["seeds"] == 3 and row["app"] == "arc"]
    plain = [row["against"]["plain"] for row in rows if "plain" in row["against"]]
    ahead = [gap for gap in plain if gap["low"] > 0]
    assert all(gap["high"] > 0 for gap in plain) and arc["items"] == 800
    upgraded = [100 * row["score"] for row in commands]
    labelled = [100 * row["against"]["labelled"]["score"] for row in commands]
    by_teacher = {
        name: [100 * r["score"] for r in large if r["app"] == "arc" and r["taught_by"] == [name]]
        for name in ("context", "old")
    }
    seeds = {
        name: [r["seeds"] for r in large if r["app"] == "arc" and r["taught_by"] == [name]]
        for name in by_teacher
    }
    told = {
        r"commands reach ([\d.]+) to ([\d.]+) %": [min(upgraded), max(upgraded)],
        r"where 100 labels give ([\d.]+) to ([\d.]+) %": [min(labelled), max(labelled)],
        r"and ([\d.]+) to ([\d.]+) % if the new model teaches itself": sorted(
            by_teacher["context"]
        ),
        r"it reaches ([\d.]+) % \(mean of eight seeds\) if the old adapter teaches": [
            np.average(by_teacher["old"], weights=seeds["old"])
        ],
        r"ahead of the bare model by ([\d.]+) points \(([\d.]+) to ([\d.]+)\) on three": [
            100 * arc["against"]["bare"][name] for name in ("mean", "low", "high")
        ],
        r"answers to these 100 alone in (\d) of (\d) cells": [len(ahead), len(plain)],
        r"and ([\d.]+) % from Qwen2.5-Coder 0.5B to 1.5B \(three seeds\)": [100 * three["score"]],
    }
    assert sum(seeds["old"]) == 8
    check_told(told)


def check_told(told):
    """The README's numbers behind some words are these."""
    for words, scores in told.items():
        found = [float(each) for each in re.search(words, README).groups()]
        assert found == pytest.approx(scores, abs=0.051), words


def test_what_it_says_of_long_trainings_was_measured():
    pairs = json.loads((ROOT / "benchmarks/results/taught.json").read_text())["pairs"]
    means = {
        app: np.mean([
            100 * row["score"] for cell in pairs.values() for row in cell[app]["starts"]
            if row["start"] == "nothing:epochs=30"
        ])
        for app in ("command", "extract", "arc")
    }  # fmt: skip
    assert len(pairs) == 4
    check_told({
        r"reaches ([\d.]+) % of the commands and ([\d.]+) % of text to JSON": [
            means["command"], means["extract"]
        ],
        r"ARC-Easy stays at ([\d.]+) %": [means["arc"]],
    })  # fmt: skip


def taught(name: str = "taught") -> dict[tuple[str, str], dict]:
    """Pair and app -> what a taught start gave on 100 examples, or on 33 (`taught_33`)."""
    pairs = json.loads((ROOT / f"benchmarks/results/{name}.json").read_text())["pairs"]
    return {
        (pair, app): row
        for pair, apps in pairs.items()
        for app, cell in apps.items()
        for row in cell["starts"]
        if row["start"] == "taught:as_is"
    }


def test_what_it_says_of_the_default_start_was_measured():
    gaps = [row["less"]["score"] for row in taught().values()]
    above = [100 * gap["mean"] for gap in gaps if gap["holm"] < 0.05]
    assert min(above) > 0
    (found,) = re.findall(
        r"above a LoRA from nothing in (\d+) of the (\d+) cells that were measured, by ([\d.]+) to "
        r"([\d.]+) points, and below in none", README,
    )  # fmt: skip
    assert found[:2] == (str(len(above)), str(len(gaps)))
    assert [float(each) for each in found[2:]] == pytest.approx([min(above), max(above)], abs=0.051)


def wide() -> dict[tuple[str, str, str, int], dict]:
    """Pair, app, start and examples -> what was measured at six rates."""
    content = json.loads((ROOT / "benchmarks/results/taught_1280.json").read_text())
    return {
        (pair, app, row["start"], row["examples"]): row
        for pair, apps in content["pairs"].items()
        for app, cell in apps.items()
        for row in cell["starts"]
    }


def test_what_it_says_of_larger_rates_was_measured():
    cells = wide()
    rates = {key: list(row["rate"].values()) for key, row in cells.items() if key[2] == "nothing"}
    small = {key: each for key, each in rates.items() if key[0] != "qwen_to_smollm2"}
    assert len(small) == 3 * 9 and max(rate for each in small.values() for rate in each) == 3e-3
    few = [
        rate for (pair, app, _, count), each in rates.items() for rate in each
        if pair == "qwen_to_smollm2" and app != "arc" and count < 400
    ]  # fmt: skip
    assert (few.count(1e-2), len(few)) == (7, 8)
    page = " ".join((ROOT / "docs/methods.md").read_text().split())
    assert "1e-2 was best in seven of eight trainings" in page
    nothing = [
        100 * cells["qwen_to_smollm2", app, "nothing", 100]["score"] + 1e-9
        for app in ("command", "extract")
    ]
    of = (
        100 * cells["qwen_to_smollm2", "command", "taught:as_is,prompts=1280", 100]["score"],
        100 * taught()["qwen_to_smollm2", "extract"]["score"],
    )
    check_told({
        r"to ([\d.]+) % of the commands and ([\d.]+) % of text to JSON \(taught: ([\d.]+) and "
        r"([\d.]+) %\)": [*nothing, *of]
    })  # fmt: skip
    told = json.loads((ROOT / "benchmarks/results/large_rates.json").read_text())["cells"]
    on_cpu = {(c["start"], c["app"]): 100 * c["score"] for c in told if c["examples"] == 100}
    words = (
        f"it has {on_cpu['nothing', 'command'] + 1e-9:.1f} and "
        f"{on_cpu['nothing', 'extract']:.1f} % at 1e-2, and with rsLoRA's scale "
        f"{on_cpu['nothing:rs=5.66', 'command']:.1f} %"
    )
    assert words in page
    alone = "aligned:a_only,rs=5.66"
    found = re.search(
        r"SmolLM2-135M, on a CPU .+: ([\d.]+) % of the .+, and ([\d.]+) % of text", page
    )
    assert [float(each) for each in found.groups()] == pytest.approx(
        [on_cpu[alone, "command"], on_cpu[alone, "extract"]], abs=0.051
    )


def test_what_it_says_of_1280_prompts_was_measured():
    cells = wide()
    taught_more = {k: row for k, row in cells.items() if k[2] == "taught:as_is,prompts=1280"}
    page = (ROOT / "docs/methods.md").read_text()
    begin = page.partition("**1280 prompts**")[2].partition("**Larger rates**")[0]
    rows = re.findall(r"^\| .+ \| (\d) \| ([\d.]+) \| ([\d.]+) \| (.+) \|$", begin, re.M)
    on_100 = [row for key, row in taught_more.items() if key[3] == 100]
    assert len(rows) == len(on_100) == 5
    for row in on_100:
        gap = row["less"]["score"]
        score, mean, low, high = (
            100 * x for x in (row["score"], *map(gap.get, ("mean", "low", "high")))
        )
        text = f"{mean:+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")
        (found,) = [each for each in rows if text in each[3]]
        assert ("**" in found[3]) == (gap["holm"] < 0.05)
        assert int(found[0]) == row["seeds"]
        assert [float(each) for each in found[1:3]] == pytest.approx(
            [score - mean, score], abs=0.051
        )
    first = {
        (key[0], key[2]): row["scores"]["0"] for key, row in cells.items()
        if key[1] == "command" and key[3] == 100 and key[2].startswith("taught:as_is")
    }  # fmt: skip
    pairs = [pair for pair, start in first if start.endswith("1280")]
    more = [
        100 * (first[pair, "taught:as_is,prompts=1280"] - first[pair, "taught:as_is"])
        for pair in pairs
    ]
    check_told({r"commands are ([\d.]+) to ([\d.]+) points higher": [min(more), max(more)]})
    assert len(pairs) == 3
    few = {key[:2]: 100 * row["score"] for key, row in taught_more.items() if key[3] == 33}
    words = " ".join(page.split())
    for pair, said in (("qwen_to_smollm2", "commands {:.1f} % on SmolLM2"),
                       ("smollm2_to_qwen", "and {:.1f} % on Qwen from SmolLM2")):  # fmt: skip
        assert said.format(few[pair, "command"] + 1e-9) in words


def test_what_it_says_of_33_examples_was_measured():
    cells = taught("taught_33")
    gaps = {key: row["less"]["score"] for key, row in cells.items()}
    assert {row["examples"] for row in cells.values()} == {33}
    assert all(gap["holm"] < 0.05 and gap["mean"] > 0 for gap in gaps.values())
    means = [100 * gap["mean"] for gap in gaps.values()]
    check_told({r"in all (\d) that were measured, by ([\d.]+) to ([\d.]+)": [
        len(gaps), min(means), max(means)
    ]})  # fmt: skip
    page = (ROOT / "docs/methods.md").read_text()
    rows = re.findall(r"([\d.]+) → \*\*([\d.]+)\*\*", page)
    told = [tuple(map(float, row)) for row in rows]
    for key, row in cells.items():
        score, gap = 100 * row["score"], 100 * gaps[key]["mean"]
        assert any(row == pytest.approx((score - gap, score), abs=0.051) for row in told), key
    assert len(told) == len(cells)


def test_the_teachers_taken_without_labels_are_those_that_were_measured():
    cells = json.loads((ROOT / "benchmarks/results/certainty.json").read_text())["cells"]
    page = (ROOT / "docs/upgrade.md").read_text()
    rows = re.findall(r"^\| [^|]+ \| [^|]+ \| (new|trained on) \| (.+) \|$", page, re.M)
    assert len(rows) == len(cells)
    for (part, line), cell in zip(rows, cells, strict=True):
        assert part == {"held": "new", "trained": "trained on"}[cell["part"]]
        *numbers, taken = line.split(" | ")
        names = (
            "old_drawn",
            "old_drawn_and_halved",
            "context_shown_others",
            "context_shown_thrice",
        )
        expected = [cell["right"]["old"], cell["right"]["context"]]
        expected += [cell["measured"][name] for name in names]
        assert [float(each) for each in numbers] == pytest.approx(
            [100 * each for each in expected], abs=0.51
        )
        assert taken == f"`{cell['taken']}`"


def test_the_table_of_other_scales_is_the_measured_one():
    cells = json.loads((ROOT / "benchmarks/results/gauge_nano.json").read_text())["cells"]
    page = (ROOT / "docs/methods.md").read_text()
    told = re.findall(r"([\d.]+); ([\d.]+) \|", page.partition("## All methods")[0])
    measured = [(min(c["held_nats"].values()), 100 * c["score"]) for c in cells]
    assert len(told) == len(measured)
    for nats, score in told:
        near = pytest.approx((float(nats), float(score)), abs=0.051)
        assert any(each == near for each in measured)


def test_the_table_of_other_scales_on_a_real_pair_is_the_measured_one():
    path = ROOT / "benchmarks/results/gauge_smollm2_gemma3.json"
    apps = json.loads(path.read_text())["pairs"]["smollm2_to_gemma3"]
    page = (ROOT / "docs/methods.md").read_text().partition("On a real pair, SmolLM2")[2]
    lines = re.findall(r"^\| (.+?) \| (.+) \| (.+) \| (.+) \|$", page, re.M)
    told = {name: cells for name, *cells in lines}
    auto = "aligned:fresh,g=auto,qkv=auto"
    starts = {
        "nothing, LoRA+": "nothing:plus=4",
        "nothing, rsLoRA's scale": "nothing:rs=5.66",
        "`theseus`, gain by likelihood": "theseus:fresh,g=auto,qkv=auto",
        "`aligned`, A alone, B zero": "aligned:a_only",
        "`aligned`, gain by likelihood, A a quarter as large": f"{auto},c=0.25",
        "the same, A four times as large": f"{auto},c=4",
        "the same, LoRA+": f"{auto},plus=4",
        "the same, rsLoRA's scale": f"{auto},rs=5.66",
    }
    for place, app in enumerate(("arc", "command", "extract")):
        rows = {row["start"]: row for row in apps[app]["starts"] if row["examples"] == 100}
        assert float(told["nothing"][place]) == pytest.approx(
            100 * rows["nothing"]["score"], abs=0.051
        )
        for name, start in starts.items():
            cell = told[name][place]
            assert (start in rows) == (cell != "not run"), (name, app)
            if start in rows:
                gap = rows[start]["less"]["score"]
                assert ("**" in cell) == (gap["holm"] < 0.05), (name, app)
                shown = float(cell.strip("*").replace("−", "-"))
                assert shown == pytest.approx(100 * gap["mean"], abs=0.051), (name, app)


def test_the_cost_of_an_upgrade_and_the_pages_rows_on_arc_were_measured():
    page = " ".join((ROOT / "docs/upgrade.md").read_text().split())
    cost = json.loads((ROOT / "benchmarks/results/upgrade_cost.json").read_text())
    for side, words in (
        ("upgrade", r"in batches of 8: (\d+) s and ([\d.]+) GiB"),
        ("full", r"score: (\d+) s and ([\d.]+) GiB"),
    ):
        seconds, gib = re.search(words, page).groups()
        told = cost[side]["seconds"], cost[side]["allocated_gib"]
        assert (float(seconds), float(gib)) == pytest.approx(told, abs=0.51)
    assert f"took {cost['ratio']:.1f} times as long" in page
    rows = json.loads((ROOT / "benchmarks/results/upgrades.json").read_text())["upgraded"]
    large = [row for row in rows if row["items"] == 800]
    assert len(large) == 2
    for row in large:
        gaps = row["against"]
        numbers = [gaps["old"]["score"], gaps["bare"]["score"], row["score"]]
        numbers.append(gaps["labelled"]["score"])
        line = " | ".join(f"{100 * each:.1f}" for each in numbers)
        assert f"| `{row['taught_by'][0]}` | nothing | {line} | |" in page
    (gap,) = [row["against"]["labelled"] for row in large if row["labels"]]
    low, high = (f"{100 * gap[name]:+.1f}".replace("-", "−") for name in ("low", "high"))
    assert f"{100 * gap['mean']:+.1f} ({low} to {high}) on LoRA(100) of the same seed" in page


def test_the_table_of_taught_starts_is_the_measured_one():
    page = (ROOT / "docs/methods.md").read_text()
    rows = re.findall(r"^\| [^|]+ → [^|]+ \| ([\d.]+, .+) \|$", page, re.M)
    pairs = ("smollm2_to_gemma3", "smollm2_to_qwen", "gemma3_to_qwen", "qwen_to_smollm2")
    cells = taught()
    for pair, line in zip(pairs, rows, strict=True):
        for app, shown in zip(("command", "extract", "arc"), line.split(" | "), strict=True):
            nothing, score = shown.split(", ")
            if (pair, app) not in cells:
                assert score == "not measured"
                continue
            row = cells[pair, app]
            gap = row["less"]["score"]
            assert float(nothing) == pytest.approx(100 * (row["score"] - gap["mean"]), abs=0.051)
            assert float(score.strip("*")) == pytest.approx(100 * row["score"], abs=0.051)
            assert score.startswith("**") == (gap["holm"] < 0.05)


@pytest.mark.parametrize(("column", "app"), [(0, "command"), (1, "extract"), (2, "arc")])
def test_scores_by_epochs_are_the_measured_ones(column, app):
    page = (ROOT / "docs/expect.md").read_text().partition("## How long to train")[2]
    cells = measured((ROOT / "benchmarks/results/taught.md").read_text())
    both = zip(cells[app, "nothing", "100"], cells[app, "nothing:epochs=30", "100"], strict=True)
    known = set()  # each new model once, though two pairs may share it
    for few, more in both:
        bold = "**" if more[4].startswith("**") else ""
        known.add(f"{few[2]} → {bold}{more[2]}{bold}")
    rows = re.findall(r"^\| [^|]+ \| (.*→.*) \|$", page, re.M)
    assert {row.split(" | ")[column] for row in rows} == known
    assert len(rows) == len(known) == 3


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_of_a_page_lead_to_files(page):
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    for target in re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text):
        assert (page.parent / target).exists(), target


def test_every_room_is_listed_and_no_other():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    assert set(re.findall(r"^  (\w+)/ ", TREE, re.M)) == rooms


def test_what_is_listed_is_there():
    listed = re.findall(r"^(\S+)  ", TREE, re.M)
    assert len(listed) > 8
    for name in listed:
        assert (ROOT / name).exists(), name
    for name in re.findall(r"\b(\w+)/: ", TREE):
        assert any(path.is_dir() for path in ROOT.glob(f"*/**/{name}")), name
