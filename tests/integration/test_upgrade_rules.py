"""`lora_upgraded`, `verdict.json` and the fleet as the workflow makes them, on a pico pair."""

import csv
import json
from pathlib import Path

import jsonschema
import pytest
from workdir import PROJECT, Workdir

from loraport.adapters.attach import attach
from loraport.models.loading import load_base
from loraport.upgrade.base import Base, Limits

pytestmark = pytest.mark.usefixtures("one_thread")
FLEET = "artifacts/p/fleet.csv"
QUICK = {"teacher": "old", "rates": [0.01], "epochs": 2, "at_least": 0, "new_tokens": 24}
QUICK |= {"prompts": 80, "verify": 30, "temperature": 0.01, "device": "cpu"}


@pytest.fixture(scope="module")
def work(tmp_path_factory):
    """Two apps: one with prompts alone, one with a test, whose gold the old adapter knows."""
    work = Workdir(tmp_path_factory.mktemp("upgrade"), shared=True)
    rows = [{"prompt": f"the word {n} is", "completion": " unknown"} for n in range(120)]
    write(work.root / "t.jsonl", rows)
    old = Base.load(work.root / "old", Limits(new_tokens=16), device="cpu")
    asked = [f"a test of {n} is" for n in range(40)]
    with old.wearing(work.root / "adapter"):
        answers = [each.text for each in old.write(asked)]
    pairs = [pair for pair in zip(asked, answers, strict=True) if pair[1].strip()]
    write(work.root / "test.jsonl", [{"prompt": p, "completion": a} for p, a in pairs])
    lines = ["app\tmodel\tsource\ttask", "a\told\tadapter\tt", "b\told\tadapter\ttested"]
    (work.root / "adapters.tsv").write_text("\n".join([*lines, "c\told\tadapter\t"]) + "\n")
    work.configure(
        tasks={
            "t": {"train": "t.jsonl", "template": "plain"},
            "tested": {"train": "t.jsonl", "test": "test.jsonl", "score": "contains"},
        },
        upgrade=QUICK,
        evaluation={"device": "cpu"},
    )
    return work


def write(path, records):
    path.write_text("\n".join(map(json.dumps, records)) + "\n")


def test_a_fleet_is_upgraded_and_judged(work):
    planned = work.planned(FLEET)
    assert planned["lora_upgraded"] == planned["verdict"] == 2 and planned["fleet"] == 1
    work.run(FLEET)
    schema = json.loads((PROJECT / "workflow/schemas/verdict.schema.json").read_text())
    for app, rests_on in (("a", "agreement"), ("b", "labels")):
        verdict = read(work.root / f"artifacts/p/{app}/verdict.json")
        jsonschema.validate(verdict, schema)
        assert verdict["rests_on"] == rests_on and verdict["about"] == {"app": app, "pair": "p"}
        model, _ = load_base(work.root / "new", device="cpu")
        attach(model, work.root / f"artifacts/p/{app}/lora_upgraded")
        report = read(work.root / f"artifacts/p/{app}/lora_upgraded/upgrade.json")
        assert report["prompts"]["labelled"] == 0 and "lorasuite" in report["start"]["tried"]
    with (work.root / FLEET).open() as file:
        rows = list(csv.DictReader(file))
    assert [row["name"] for row in rows] == ["a", "b"] and float(rows[0]["minutes"]) > 0
    assert work.planned(FLEET) == {}


def test_labels_are_read_where_they_are_asked_for_and_a_margin_judges_anew(work):
    changed = ["--config", "upgrade={margin: 99}"]
    assert set(work.planned(*changed, "--", FLEET)) <= {"lora_upgraded", "verdict", "fleet"}
    target = "artifacts/p/a/lora_upgraded"
    work.run("--config", "upgrade={labels: 7}", "--", target)
    assert read(work.root / target / "upgrade.json")["prompts"]["labelled"] == 7


def test_an_app_without_prompts_is_told(work):
    done = work.run("-n", "artifacts/p/c/lora_upgraded", ok=False)
    assert "has no task" in done.stdout


def read(path: Path) -> dict:
    return json.loads(path.read_text())
