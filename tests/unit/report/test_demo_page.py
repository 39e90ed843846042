"""The demo's transcript is what its commands print, rendered anew from the numbers in it."""

import json
import re
from pathlib import Path

import pytest

from loraport.artifacts import write_json
from loraport.planning import layout
from loraport.planning.stages import STAGES
from loraport.report import render, tables
from loraport.report.summary import summarise
from loraport.runtime.job import last_record

PAGE = (Path(__file__).parents[3] / "docs" / "demo.md").read_text()
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.M | re.S)
STEPS, SUMMARY, TABLE = (text for language, text in BLOCKS if not language)
PAIR, APP, METHOD = "nano_v1_to_v2", "math", "lorasuite"
LAYER = re.compile(r"^layer (\d+) +(?:layer (\d+)|none) +\d of (\d)(?: +([\d.]+) % +([\d.]+) %)?$")
STEP = re.compile(r"^(\w+) (\S+(?: \S+)*?)  +([\d.]+) s +(\d+) MiB$")
GAIN = {
    "gain": 0.0, "curve": {}, "improvement": -0.88, "standard_error": 0.41, "examples": 50,
    "chosen_on": "the task's answers",
}  # fmt: skip
ROWS = {  # stage -> score and its interval, retention and its own, flips, seconds
    "old": ((2.5, 0.5, 5.0), None, None, None),
    "old_lora": ((100, 100, 100), None, None, None),
    "new": ((2.0, 0.5, 4.0), (0.0,), (196, 0), None),
    "transferred": ((2.0, 0.5, 4.0), (0.0, 0.0, 0.0), (196, 0), {"transfer_s": 0.3}),
    "lora_small_matched": ((33.5, 27.0, 40.5), (0.33, 0.26, 0.41), (133, 0), {"train_s": 9}),
    "finetuned": (
        (35.5, 29.0, 42.0), (0.35, 0.28, 0.43), (129, 0), {"transfer_s": 0.3, "train_s": 43},
    ),
    "lora_full": ((96.5, 93.5, 99.0), (1.0,), (7, 0), None),
}  # fmt: skip


@pytest.fixture
def made(tmp_path, monkeypatch):
    """A folder with the artifacts that the transcript is of, as far as they are read."""
    monkeypatch.chdir(tmp_path)
    modules, logs = {}, {}
    for place_of_line, line in enumerate(SUMMARY.splitlines()):
        if match := LAYER.match(line):
            number, source, count, before, after = match.groups()
            for place in range(int(count)):
                entry = {"source": None if source is None else int(source)}
                if before:
                    sizes = (float(before) / 100, float(after) / 100)
                    entry |= dict(
                        zip(("relative_norm_before", "relative_norm_after"), sizes, strict=True)
                    )
                modules[f"model.layers.{number}.self_attn.{place}"] = entry
        elif match := STEP.match(line):
            rule, names, seconds, peak = match.groups()
            logs[rule, names] = {
                "rule": rule, "status": "done", "peak_mib": int(peak),
                "seconds": float(seconds) - 1e-6 * place_of_line,  # of equal ones the first is more
                "wildcards": dict(enumerate(names.split())),
            }  # fmt: skip
    for (rule, names), record in logs.items():
        pattern = layout.LOGS[rule]
        keys = re.findall(r"{(\w+)}", pattern)
        path = Path(layout.path(pattern, **dict(zip(keys, names.split(), strict=True))))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"said\n{json.dumps(record)}\n")
        assert last_record(path)["rule"] == rule
    report = {
        "of": {"old": "nano_v1", "new": "nano_v2", "app": APP, "method": METHOD},
        "method": METHOD, "modules": modules, "left_behind": [], "warnings": [], "gain": GAIN,
    }  # fmt: skip
    folder = Path(layout.path(f"{layout.APP}/{layout.TRANSFERRED}", pair=PAIR, app=APP))
    folder.mkdir(parents=True)
    write_json(folder / "transfer.json", "transfer", {}, report)
    return folder


def test_the_summary_is_printed_so(made):
    assert summarise(made) == SUMMARY.rstrip("\n")


def row(stage):
    (average, low, high), kept, flips, seconds = ROWS[stage]
    label = STAGES[stage].label.format(method=METHOD, set="100 examples")
    made = {"app": APP, "row": label, "stage": stage, "metric": "exact_match", "start": ""}
    if stage == "finetuned":  # the demo's start is chosen
        made["row"] = "fine-tuned on 100 examples from the best start"
        made["start"] = "carried"
    made |= {"average": average / 100, "low": low / 100, "high": high / 100}
    made |= dict(zip(("retention", "retention_low", "retention_high"), kept or (), strict=False))
    if flips:
        made |= dict(zip(("negative_flips", "positive_flips"), flips, strict=True))
    return {**made, **(seconds or {})}


def test_the_table_is_printed_so(made, capsys):
    path = Path(f"{layout.path(layout.TABLE, pair=PAIR, app=APP)}.csv")
    path.parent.mkdir(parents=True)
    rows = [row(stage) for stage in ROWS]
    columns = list(dict.fromkeys(key for each in rows for key in each))
    render.write_csv(path, rows, columns)
    assert tables.main([str(path)]) == 0
    assert capsys.readouterr().out.rstrip("\n") == TABLE.rstrip("\n")


def test_a_step_is_a_line_of_rule_names_and_time():
    lines = STEPS.splitlines()
    total = int(re.match(r"(\d+) steps to do$", lines[0])[1])
    for number, line in enumerate(lines[1:-1], 1):
        match = re.match(r"[ \d]+/\d+  (\w+) +(\S+(?: \S+)*?)  +(\S+(?: \S+)*)$", line)
        rule, names, time = match.groups()
        width = len(str(total))
        assert line == f"{number:>{width}}/{total}  {rule:<26}  {names:<40}  {time:>9}"
        assert rule in layout.LOGS
    assert number == total and re.match(r"Done in .+\.$", lines[-1])
