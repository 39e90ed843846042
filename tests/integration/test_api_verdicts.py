"""`loraport.upgrade` and `loraport.check`, as they are called from Python."""

import json

import pytest

import loraport
from loraport.errors import LoraportError

pytestmark = pytest.mark.usefixtures("one_thread")
QUICK = {"rates": "1e-2", "epochs": 3, "new_tokens": 5, "temperature": 0.01, "device": "cpu"}
QUICK |= {"start": ["nothing"], "at_least": 0}


@pytest.fixture(scope="module")
def prompts(tmp_path_factory):
    path = tmp_path_factory.mktemp("prompts") / "p.jsonl"
    path.write_text("\n".join(json.dumps({"prompt": f"the word {n} is"}) for n in range(140)))
    return path


def test_an_upgrade_gives_a_row_and_what_it_wrote_can_be_checked(pico_pair, prompts, tmp_path):
    out = tmp_path / "upgraded"
    places = pico_pair.old, pico_pair.new, pico_pair.adapter, out
    rows = loraport.upgrade(*places, prompts=prompts, teacher="old", margin=100, **QUICK)
    assert [row.verdict for row in rows] == ["DEPLOY"] and rows[0].source == str(pico_pair.adapter)
    assert json.loads((out / "verdict.json").read_text())["verdict"] == "DEPLOY"
    options = {key: QUICK[key] for key in ("new_tokens", "temperature", "device")}
    pair = pico_pair.old, pico_pair.adapter, pico_pair.new, out
    file = tmp_path / "verdict.json"
    verdict = loraport.check(*pair, test=prompts, margin=100, out=file, limit=20, **options)
    assert isinstance(verdict, loraport.Verdict) and verdict.verdict == "DEPLOY"
    assert json.loads(file.read_text())["verdict"] == "DEPLOY"


def test_what_is_asked_wrongly_is_told(pico_pair, prompts, tmp_path):
    places = pico_pair.old, pico_pair.new, pico_pair.adapter, tmp_path / "out"
    with pytest.raises(LoraportError, match="unknown option 'shot'"):
        loraport.upgrade(*places, prompts=prompts, shot=3)
    pair = pico_pair.old, pico_pair.adapter, pico_pair.new, pico_pair.adapter
    for both in ({}, {"test": prompts, "tasks": ["arc_easy"]}):
        with pytest.raises(LoraportError, match="a check needs one test"):
            loraport.check(*pair, **both)
    assert not (tmp_path / "out").exists()
