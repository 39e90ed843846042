"""Faults of models, texts, adapters and tasks of a plan are told in one list."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from workdir import CONFIG, PROJECT

from loraport.errors import LoraportError
from loraport.planning.checks import load
from loraport.planning.lookups import Lookups
from loraport.planning.together import with_the_rest

SOUND = {"prompt": "1 + 1 =", "completion": " 2"}


@pytest.fixture
def planned(pico_pair, tmp_path, monkeypatch):
    """Look-ups of a pico pair with one adapter and its task; sections replace those of CONFIG."""
    monkeypatch.chdir(tmp_path)
    Path("sound.jsonl").write_text(json.dumps(SOUND) + "\n")
    Path("texts.txt").write_text("a text\n" * 40)

    def build(adapter=str(pico_pair.adapter), new=str(pico_pair.new), **sections) -> Lookups:
        row = f"a\told\t{adapter}\tt"
        Path("adapters.tsv").write_text(f"app\tmodel\tsource\ttask\n{row}\n")
        models = {"old": {"source": str(pico_pair.old)}, "new": {"source": new}}
        tasks = {"t": {"train": "sound.jsonl", "test": "sound.jsonl", "score": "exact"}}
        finetune = {"examples": 1}
        content = {**CONFIG, "models": models, "tasks": tasks, "finetune": finetune, **sections}
        config = load(content, PROJECT / "workflow/schemas")
        return Lookups(config, given=str, source=lambda path: PROJECT / path)

    return build


def refusal(look: Lookups) -> LoraportError:
    """What stands against carrying the adapter, alone."""
    with pytest.raises(LoraportError) as told:
        look.transfer_inputs(SimpleNamespace(pair="p", app="a"))
    return told.value


def test_all_kinds_of_faults_stand_in_one_list(planned):
    task = {"train": "gone.jsonl", "test": "sound.jsonl", "score": "exact"}
    texts = {"texts": "nowhere.txt", "examples": 40}
    look = planned("nothing", tasks={"t": task}, calibration=texts)
    first = refusal(look)
    head, *listed = str(with_the_rest(first, look)).split("\n- ")
    assert head == "the plan has 3 errors:"
    assert listed[0] == str(first) and listed[0].startswith("nothing/adapter_config.json cannot")
    assert listed[1].startswith("calibration texts nowhere.txt cannot be read")
    assert listed[2].startswith("training data 'gone.jsonl' of task 't' is not there")


def test_an_error_alone_stays_as_it_is(planned):
    look = planned("nothing")
    assert with_the_rest(first := refusal(look), look) is first


def test_a_model_that_fails_hides_what_follows_from_it(planned, tmp_path):
    (tmp_path / "empty").mkdir()
    look = planned(new=str(tmp_path / "empty"))
    with pytest.raises(LoraportError) as told:
        look.pair_specs(SimpleNamespace(pair="p"))
    assert with_the_rest(told.value, look) is told.value
