"""One adapter upgraded: what is taught, held back and verified, by whom, and what is written."""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import numpy as np
import pytest
import torch

from loraport.commands import _fleet_jobs, _fleet_run
from loraport.commands._names import distinct_names
from loraport.errors import LoraportError
from loraport.evaluation.verdict import Settings as Judging
from loraport.evaluation.verdict import Verdict
from loraport.report.terminal import table
from loraport.upgrade import base as base_models
from loraport.upgrade import chat as chats
from loraport.upgrade import choice, more_prompts, teach
from loraport.upgrade.base import Base, Limits
from loraport.upgrade.fleet import TOLD, Row, all_deployed, cells, failed, write_fleet
from loraport.upgrade.learn import prepare
from loraport.upgrade.parts import LEAST_TEST, Parts, Settings, set_apart, split
from loraport.upgrade.prompts import Record
from loraport.upgrade.teach import Settings as Teaching
from loraport.upgrade.upgrade import judged_of, upgrade

pytestmark = pytest.mark.usefixtures("one_thread")
SCHEMA = Path(__file__).parents[3] / "workflow" / "schemas" / "verdict.schema.json"
RECORDS = [Record(f"the word {n} is") for n in range(40)]
MANY = [Record(f"the word {n} is") for n in range(160)]
QUICK = Settings(
    teacher="old",
    at_least=0,
    teaching=Teaching(rates=(1e-2,), epochs=15, patience=15),
    verdict=Judging(margin=10, temperature=0.01),  # random models know no answer for sure
)


def test_parts_share_no_prompt():
    settings = Settings(prompts=20, verify=9)
    parts = split(RECORDS, (), settings)
    sizes = len(parts.taught), len(parts.held), len(parts.test)
    assert sizes == (16, 4, 9)
    every = [each.prompt for part in (parts.taught, parts.held, parts.test) for each in part]
    assert len(set(every)) == len(every)
    assert split(RECORDS, (), settings) == parts != split(RECORDS, (), replace(settings, seed=1))
    test = [Record(RECORDS[n].prompt, " gold") for n in range(10)]
    parts = split(RECORDS, test, Settings())
    assert parts.test == test and len(parts.taught) + len(parts.held) == 30
    assert not {each.prompt for each in test} & {each.prompt for each in parts.taught}
    assert [len(part) for part in vars(split(RECORDS, (), Settings())).values()] == [24, 6, 10, 0]


@pytest.mark.parametrize(
    ("records", "test"), [([], RECORDS), (RECORDS[:1], []), (RECORDS[:1], MANY[50:]), (MANY, MANY)]
)
def test_too_few_prompts_are_refused_before_a_model_is_asked(pico_pair, tmp_path, records, test):
    old, new = SimpleNamespace(wrote={}), SimpleNamespace(wrote={})
    with pytest.raises(LoraportError, match="too few prompts to teach"):
        upgrade(old, new, pico_pair.adapter, {}, records, tmp_path / "out", test=test)
    assert not (tmp_path / "out").exists()


def test_two_prompts_are_enough_to_teach_one(pico_pair, bases, tmp_path):
    settings, two = replace(QUICK, at_least=4), [Record(f"word {n} is", " yes") for n in "ab"]
    done = upgrade(*bases, pico_pair.adapter, {}, two, tmp_path / "out", settings, test=MANY[50:60])
    prompts = done.report["prompts"]
    assert (prompts["given"], prompts["held"]) == (2, 1) and prompts["taught"] >= 1


def test_an_upgrade_is_written_with_its_record_card_and_verdict(pico_pair, bases, tmp_path):
    old, new = bases
    before = new.first_logits(["the word"])
    out = tmp_path / "out"
    done = upgrade(
        old, new, pico_pair.adapter, {}, MANY, out, QUICK,
        texts=["some text of no task"], base_name="new", about={"name": "a"},
    )  # fmt: skip
    assert torch.equal(new.first_logits(["the word"]), before)
    content = json.loads((out / "verdict.json").read_text())
    jsonschema.validate(content, json.loads(SCHEMA.read_text()))
    assert content["verdict"] == done.verdict.verdict
    assert content["evidence"]["generic_text"]["texts"] == 1
    report = json.loads((out / "upgrade.json").read_text())
    assert report["prompts"]["taught"] == 96 and report["prompts"]["test"] == 40
    assert report["start"]["start"] == "nothing" and report["choice"]["teacher"] == "old"
    assert "generator" not in report  # transformers wrote all answers
    assert report["taught"]["epochs"][-1]["loss"] < report["taught"]["epochs"][0]["loss"]
    assert set(report["scores"]) == {
        "old", "carried", "upgraded",
    }  # fmt: skip
    assert content["verdict"] in (out / "README.md").read_text()
    config = json.loads((out / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "new"


def test_a_yardstick_that_measures_nothing_stops_before_teaching(pico_pair, bases, tmp_path):
    old, new = bases
    wrong = [Record(each.prompt, "no model says this") for each in RECORDS[:12]]
    with pytest.raises(LoraportError, match="do not measure"):
        upgrade(old, new, pico_pair.adapter, {}, RECORDS, tmp_path / "out", QUICK, test=wrong)
    assert not (tmp_path / "out").exists()


def test_an_old_model_that_ends_no_answer_teaches_nothing(pico_pair, bases, tmp_path):
    old, new = bases
    old.limits.new_tokens = 1
    with pytest.raises(LoraportError, match="nothing to teach"):
        upgrade(old, new, pico_pair.adapter, {}, RECORDS, tmp_path / "out", QUICK)


def test_gold_answers_are_taught_and_decide(pico_pair, bases, tmp_path):
    old, new = bases
    with old.wearing(pico_pair.adapter):
        golds = [answer.text for answer in old.write([each.prompt for each in RECORDS])]
    labelled = [Record(r.prompt, gold) for r, gold in zip(RECORDS, golds, strict=True)]
    settings = replace(QUICK, teacher="auto")
    done = upgrade(
        old, new, pico_pair.adapter, {}, labelled, tmp_path / "out", settings, test=labelled[:12]
    )
    assert done.verdict.rests_on == "labels" and done.scores["old"] == 100
    assert done.report["prompts"]["labelled"] == 28
    assert done.report["choice"]["teacher"] == "labels"


def counting(base, monkeypatch):
    """Prompts of each call of a model's `write` from here on."""
    asked, write = [], base.write

    def written(prompts, **how):
        asked.append(list(prompts))
        return write(prompts, **how)

    monkeypatch.setattr(base, "write", written)
    return asked


@pytest.mark.parametrize("labels", [True, False])
@pytest.mark.parametrize("side", ["old", "new"])  # its own adapter is the start; or nothing is
def test_the_test_is_answered_once_a_side(pico_pair, tmp_path, monkeypatch, side, labels):
    old = Base.load(pico_pair.old, Limits(new_tokens=5), device="cpu")
    new = Base.load(getattr(pico_pair, side), Limits(new_tokens=5), device="cpu")
    parts = split(MANY, (), QUICK)
    prompts = [record.prompt for record in parts.test]
    bare = [answer.text for answer in new.write(prompts)]
    with old.wearing(pico_pair.adapter):
        golds = [answer.text for answer in old.write(prompts)]
    test = [Record(*pair) for pair in zip(prompts, golds, strict=True)] if labels else parts.test
    asked = counting(new, monkeypatch)
    settings = replace(QUICK, teaching=Teaching(rates=(1e-4,), epochs=1))
    out = tmp_path / "out"
    done = upgrade(old, new, pico_pair.adapter, {}, MANY, out, settings, test=test)
    from_nothing = done.report["start"]["start"] == "nothing"
    assert from_nothing == (side == "new")
    # at the start and at the end; and alone, where that is not the start
    assert asked.count(prompts) == (3 if labels and not from_nothing else 2)
    assert (done.answers["start"] == bare) == from_nothing
    assert done.answers["old"] == golds
    with new.wearing(out):
        assert done.answers["upgraded"] == [answer.text for answer in new.write(prompts)]
    assert ("alone" in done.verdict.evidence) == labels
    if labels and from_nothing:
        assert done.scores["carried"] == done.verdict.evidence["alone"]["new_bare"]


def test_some_of_a_large_labelled_test_is_set_apart_for_the_choice_of_a_teacher():
    test = [Record(f"item {n}", f" {n}") for n in range(LEAST_TEST)]
    judged, tested = set_apart(RECORDS, test)
    assert len(tested) == choice.READ and len(judged) == len(test) - choice.READ
    assert sorted([*judged, *tested], key=test.index) == test
    assert [judged, tested] == [sorted(each, key=test.index) for each in (judged, tested)]
    assert (
        set_apart(RECORDS, test)
        == (judged, tested)
        != set_apart(RECORDS, test, replace(QUICK, teacher="auto", seed=1))
    )
    unlabelled = [*test[1:], Record("item")]
    for settings, given in (
        (replace(QUICK, teacher="old"), test), (Settings(), test[1:]), (Settings(), unlabelled)
    ):  # fmt: skip
        assert set_apart(RECORDS, given, settings) == (given, [])


def test_none_of_a_test_is_set_apart_where_no_teacher_writes_a_target():
    test = [Record(f"item {n}", f" {n}") for n in range(LEAST_TEST)]
    known = [Record(each.prompt, " right") for each in MANY]  # of which 32 are held back
    assert set_apart(known, test, Settings(at_least=128)) == (test, [])
    for records, settings in (
        (known, Settings(at_least=129)),  # one prompt is written
        ([*known, test[0]], Settings(at_least=129)),  # a prompt of the test is not taught
        ([*known[1:], MANY[0]], Settings(at_least=0)),
    ):
        assert len(set_apart(records, test, settings)[1]) == choice.READ
    few = Settings(at_least=0, prompts=40)
    parts = split(known, test, few)
    used = [*parts.taught, *parts.held]
    others = [each if each in used else replace(each, gold=None) for each in known]
    assert set_apart(others, test, few) == (test, [])


@pytest.mark.parametrize("open_ended", ["none", "taught", "held", "written"])
def test_no_teacher_is_asked_where_every_prompt_has_its_own_answer(room, monkeypatch, open_ended):
    asked, answered, labelled = [], counting(room.old, monkeypatch), Record("q", " right")
    known = [Record(each.prompt, " right") for each in RECORDS]
    taught, held = known[:30], known[30:]
    if open_ended in ("taught", "held"):
        (taught if open_ended == "taught" else held)[0] = RECORDS[0]
    monkeypatch.setattr(
        "loraport.upgrade.learn.choose_teacher",
        lambda *_: asked.append(1) or choice.Choice("old", ""),
    )
    made = more_prompts.Written([Record("a new one is", synthetic=True)])
    monkeypatch.setattr("loraport.upgrade.learn.write_more", lambda *_: made)
    settings = replace(QUICK, teacher="auto", at_least=31 if open_ended == "written" else 30)
    lesson = prepare(room, Parts(taught, held, [], [labelled]), settings)
    if open_ended == "none":
        named = prepare(room, Parts(taught, held, [], []), replace(settings, teacher="context"))
        assert (asked, answered) == ([], [])
        assert lesson.choice.name == named.choice.name == "labels"
        assert {target.answer for target in lesson.targets} == {" right"}
    else:
        assert asked and answered and lesson.choice.name == "old"


def test_a_verdict_by_agreement_can_t_reject_what_may_be_wiser_than_the_old_adapter():
    retrain = Verdict("RETRAIN", "It agrees less.", "agreement")
    for teacher in ("context", "delta", "labels"):
        assert judged_of(retrain, teacher).verdict == "UNDECIDED"
    assert judged_of(retrain, "old") == retrain
    assert judged_of(replace(retrain, rests_on="labels"), "labels").verdict == "RETRAIN"


def test_the_command_sets_items_of_a_test_apart(monkeypatch):
    test, seen = [Record(f"item {n}", f" {n}") for n in range(LEAST_TEST)], {}
    monkeypatch.setattr(_fleet_run, "upgrade", lambda *_, **named: seen.update(named))
    job = _fleet_jobs.Job("a", Path("a"), Path("out"), RECORDS, test, [])
    _fleet_run._upgrade(job, None, None, {}, [], {"new": "new"}, Settings())
    assert (seen["test"], seen["tested"]) == set_apart(RECORDS, test)


def test_what_the_teacher_is_chosen_on_is_neither_taught_nor_judged(
    pico_pair, bases, tmp_path, monkeypatch
):
    monkeypatch.setattr(choice, "ENOUGH_LABELS", 2)
    monkeypatch.setattr(choice, "AMONG", ("old",))
    old, new = bases
    with old.wearing(pico_pair.adapter):
        answers = [each.text for each in old.write([record.prompt for record in MANY])]
    golds = [Record(r.prompt, text) for r, text in zip(MANY, answers, strict=True)]
    test, tested, given = golds[:30], golds[30:40], MANY[30:]
    settings = replace(QUICK, teacher="auto", teaching=Teaching(rates=(1e-4,), epochs=1))
    done = upgrade(old, new, pico_pair.adapter, {}, given, tmp_path / "out", settings,
                   test=test, tested=tested)  # fmt: skip
    assert done.report["choice"]["why"].startswith("On 10 items of the test")
    told = done.report["prompts"]
    assert (told["test"], told["tested"]) == (30, 10)
    assert told["taught"] + told["held"] <= len(given) - 10
    assert len(done.answers["upgraded"]) == 30


def test_what_a_new_prompt_is_held_against_is_found_once(room, monkeypatch):
    """Each given prompt is answered for that, and as what is taught."""
    asked, written = counting(room.old, monkeypatch), []
    monkeypatch.setattr(choice, "by_certainty", lambda *_: choice.Choice("old", ""))
    monkeypatch.setattr(
        more_prompts.Writer,
        "continued",
        lambda self, form, count, rng, seed: (
            written.append(seed) or [f"the word new {seed} {n} is" for n in range(count)]
        ),
    )
    prepare(room, Parts(MANY[:40], MANY[80:], []), replace(QUICK, teacher="auto", at_least=45))
    assert written and max(written) < more_prompts.ROUNDS  # with the seed of the upgrade
    for record in MANY[:40]:
        assert sum(record.prompt in prompts for prompts in asked) == 2


def test_nothing_that_is_held_back_or_tested_is_made_a_prompt(room, monkeypatch):
    held, tested = Record("take the road to the mill", " a"), Record("find the way to the lake")
    taught = [Record("take the road to the lake", " a"), Record("find the way to the mill", " b")]
    made_of = []

    def recombined(texts, count, rng, known=()):
        made_of.extend(texts)
        return [held.prompt, "find  the way to the LAKE", "a new one"]

    monkeypatch.setattr(more_prompts, "recombine", recombined)
    monkeypatch.setattr(more_prompts.Form, "first", lambda *_: None)  # none can be written
    monkeypatch.setattr(more_prompts, "excess", lambda _, asked: more_prompts.np.ones(len(asked)))
    settings = replace(QUICK, at_least=3)
    lesson = prepare(room, Parts(taught, [held], [tested]), settings)
    assert set(made_of) == {record.prompt for record in taught}
    prompts = [target.prompt for target in lesson.targets]
    assert {held.prompt, tested.prompt}.isdisjoint(prompts)
    assert lesson.counts["synthetic"]["repeated"] > 0


def test_fleets_have_a_row_each(tmp_path):
    rows = [
        Row("a", "DEPLOY", "x/a", "it is as good", 1.5, 90.0, 50.0, 91.0, "old", "aligned"),
        failed("b", "x/b", 0.0, "no such file"),
    ]
    write_fleet(tmp_path, rows, {"old": "o"}, {})
    lines = (tmp_path / "fleet.csv").read_text().splitlines()
    assert lines[0].startswith("name,verdict,old,carried,upgraded") and len(lines) == 3
    content = json.loads((tmp_path / "fleet.json").read_text())
    assert [each["verdict"] for each in content["rows"]] == ["DEPLOY", "FAILED"]
    text = table(TOLD, map(cells, rows))
    assert "91.0" in text and max(map(len, text.splitlines())) <= 100
    assert not all_deployed(rows) and all_deployed(rows[:1]) and not all_deployed([])


def test_names_are_what_tells_folders_apart(tmp_path):
    folders = [Path("/x/customer/final"), Path("/x/legal/final"), Path("/x/b"), Path("/x/b")]
    assert distinct_names(folders) == ["customer_final", "legal_final", "b", "b_2"]
    assert distinct_names([Path("/x/maps")], ["maps"]) == ["maps_2"]


def test_a_good_student_is_deployed(pico_pair, tmp_path):
    """The new model is the old one, and its adapter is the start: it fits as it is."""
    old, new = (Base.load(pico_pair.old, Limits(new_tokens=5), device="cpu") for _ in range(2))
    settings = replace(QUICK, teaching=Teaching(rates=(1e-4,), epochs=1), verify=200)
    done = upgrade(old, new, pico_pair.adapter, {}, MANY, tmp_path / "out", settings)
    assert done.report["start"]["start"] == "simplecopy" and done.verdict.verdict == "DEPLOY"


class Pretender:
    """An old model whose adapter makes its answers likelier: by so much with, and without."""

    def __init__(self, chat, text):
        self.gains = {True: chat, False: text}


@pytest.mark.parametrize(("chat", "text", "doubt"), [(0.1, 0.9, True), (0.9, 1.0, False)])
def test_an_adapter_that_does_more_without_the_template_is_doubted(monkeypatch, chat, text, doubt):
    monkeypatch.setattr(
        chats,
        "excess",
        lambda old, prompts: np.array([old.gains[not isinstance(p, str)] for p in prompts]),
    )
    prompts = [(("user", f"{n}?"),) for n in range(3)]
    told = chats.template_doubt(Pretender(chat, text), prompts)
    assert bool(told) == doubt and ("0.90" in told) == doubt
    assert chats.template_doubt(Pretender(chat, text), ["text alone"]) == ""


def chat_template(mark):
    return (
        "{% for m in messages %}" + mark + "{{ m.role }} {{ m.content }} {% endfor %}"
        "{% if add_generation_prompt %}" + mark + "assistant{% endif %}"
    )


def test_a_chat_is_written_by_the_old_template_and_learnt_by_the_new_one(
    pico_pair, bases, tmp_path, monkeypatch
):
    old, new = bases
    old.tokenizer.chat_template, new.tokenizer.chat_template = (
        chat_template("<"),
        chat_template("["),
    )
    asked, taught = [], []
    write, encode = base_models.write_answers, teach.encode_answer

    def written(model, tokenizer, texts, *more):
        asked.append((tokenizer, texts))
        return [replace(each, whole=True) for each in write(model, tokenizer, texts, *more)]

    def encoded(tokenizer, text, answer):
        taught.append((tokenizer, text))
        return encode(tokenizer, text, answer)

    monkeypatch.setattr(base_models, "write_answers", written)
    monkeypatch.setattr(teach, "encode_answer", encoded)
    chats = [Record((("system", "s"), ("user", each.prompt))) for each in RECORDS]
    upgrade(old, new, pico_pair.adapter, {}, chats, tmp_path / "out", QUICK)
    assert taught and all(
        t is new.tokenizer and text.startswith("[system s [user") for t, text in taught
    )
    marks = {"<" if t is old.tokenizer else "[" for t, _ in asked}
    assert marks == {"<", "["}
    for tokenizer, texts in asked:
        mark = "<" if tokenizer is old.tokenizer else "["
        shaped = [
            text for text in texts if not text.startswith("the word")
        ]  # the doubt's bare ones
        assert all(text.endswith(f"{mark}assistant") for text in shaped)
