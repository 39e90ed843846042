"""Prompts that a model writes: new, in form, and what the adapter was made for."""

import pytest

from loraport.upgrade import more_prompts
from loraport.upgrade.base import Limits
from loraport.upgrade.prompts import Record

pytestmark = pytest.mark.usefixtures("one_thread")
RECORDS = [Record(f"the word {n} is") for n in range(40)]


def saying(text, asked=None):
    """An old model that writes what `text()` gives; `asked` keeps the lists and their limits."""
    old = type("old", (), {})()

    def write(prompts, **how):
        (asked if asked is not None else []).append((prompts, how))
        return [type("a", (), {"text": text()}) for _ in prompts]

    old.write, old.limits = write, Limits()
    old.tokenizer = lambda given: {"input_ids": given.split()}
    return old


def source(given, **bases):
    """Given prompts with writers by name, the first of which is the old model as well."""
    among = {name: more_prompts.Writer(each) for name, each in bases.items()}
    return more_prompts.Source(next(iter(bases.values())), among, given)


def test_prompts_of_several_paragraphs_are_continued_to_their_end(monkeypatch):
    end = "\n\nAnswer with a letter.\nAnswer:"
    given = [Record(f"Which {n} {10 * n}?\n\nA: {n} B: {n + 1}{end}") for n in range(9)]
    new = f"Which 77?\n\nA: 7 B: 8{end}"
    asked = []
    said = iter([f"{new} A\n\n\nWhich 3?", "Which\n\n\nA: 7"] + [""] * 999)
    monkeypatch.setattr(more_prompts, "excess", lambda _, new: more_prompts.np.ones(len(new)))
    old = saying(lambda: next(said), asked)
    written = more_prompts.write_more(source(given, old=old), 1)
    assert [record.prompt for record in written.records] == [new]
    assert not written.recombined
    lists, how = asked[0]
    assert all(len(text.split("\n\n\n")) == more_prompts.SHOTS + 1 for text in lists)
    # an answer's limit is not a prompt's
    assert how["new_tokens"] >= max(len(record.prompt.split()) for record in given)


def test_the_model_that_writes_most_new_prompts_in_form_writes_them(monkeypatch):
    given = [Record(f"Question: word {n}\nAnswer:") for n in range(6)]
    monkeypatch.setattr(more_prompts, "excess", lambda _, new: more_prompts.np.ones(len(new)))
    counts = {"repeats": iter(range(999)), "writes": iter(range(999))}
    bases = {
        "answers": saying(lambda: " word\n\nQuestion"),
        "repeats": saying(lambda: f"Question: word {next(counts['repeats']) % 7}\nAnswer:"),
        "writes": saying(lambda: f"Question: new {next(counts['writes'])}\nAnswer: x"),
    }
    written = more_prompts.write_more(source(given, **bases), 50)
    assert (written.writer, len(written.records), written.recombined) == ("writes", 50, 0)
    assert written.tried == {"answers": 0, "repeats": 1 / more_prompts.TRIED, "writes": 1}
    again = more_prompts.write_more(source(given, answers=bases["answers"]), 5)
    assert again.writer == "" and again.recombined == len(again.records)


@pytest.mark.parametrize("every", [1, 3])
def test_as_many_lists_are_continued_as_the_share_in_form_asks_for(monkeypatch, every):
    """Where one list in three gives a prompt, three times as many are continued for as many."""
    given = [Record(f"Question: word {n}\nAnswer:") for n in range(6)]
    monkeypatch.setattr(more_prompts, "excess", lambda _, new: more_prompts.np.ones(len(new)))
    numbers, asked = iter(range(9999)), []

    def text():
        number = next(numbers)
        return f"Question: new {number}\nAnswer:" if number % every == 0 else " no"

    written = more_prompts.write_more(source(given, old=saying(text, asked)), 300)
    assert (len(written.records), written.recombined) == (300, 0)
    second = len(asked[1][0])
    kept = -(-more_prompts.TRIED // every)
    share = kept / more_prompts.TRIED
    assert abs(second - 1.2 * (300 - kept) / share) < 1
    assert len(asked) <= 3


def test_writers_wear_what_they_are_called(room):
    among = more_prompts.writers(room.old, room.new)
    prompt = [RECORDS[0].prompt]
    before = room.old.write(prompt)
    with room.old.without_adapter():
        bare = room.old.write(prompt)
    assert bare != before
    for name, expected in (("old with its adapter", before), ("old", bare)):
        with among[name].wearing():
            assert among[name].base.write(prompt) == expected
    assert among["new"].base is room.new and room.old.write(prompt) == before


def test_written_prompts_are_new_shaped_and_marked(room, monkeypatch):
    given = [Record(f"Question: word {n}\nAnswer:") for n in range(6)]
    said = iter(
        [
            "Question: fresh\nAnswer: and more\n\nQuestion: other",
            "Question: word 3\nAnswer:",
            "no shape at all",
            "Question:  FRESH\nAnswer:",
            "Question: unlike\nAnswer:",
        ]
        + [""] * 999
    )
    old = saying(lambda: next(said))
    monkeypatch.setattr(
        more_prompts,
        "excess",
        lambda _, prompts: more_prompts.np.array([0.0 if "unlike" in p else 1.0 for p in prompts]),
    )
    written = more_prompts.write_more(source(given, old=old), 3)
    assert written.records == [Record("Question: fresh\nAnswer:", synthetic=True)]
    assert (written.repeated, written.filtered) == (2, 1) and written.misshapen > 1


def test_prompts_that_can_t_be_written_are_recombined_from_the_given_ones(monkeypatch):
    given = [Record(f"Question: what is {n} and then {n + 1}\nAnswer:") for n in range(6)]
    old = saying(lambda: "nothing like it")
    monkeypatch.setattr(
        more_prompts, "excess", lambda _, prompts: more_prompts.np.ones(len(prompts))
    )
    written = more_prompts.write_more(source(given, old=old), 12)
    assert written.recombined == len(written.records) == 12
    assert not {record.prompt for record in written.records} & {record.prompt for record in given}
    assert all(record.synthetic for record in written.records)
    assert all(record.prompt.endswith("\nAnswer:") for record in written.records)


def test_excess_is_what_the_adapter_makes_likelier(room):
    prompts = [each.prompt for each in RECORDS[:4]]
    answers = [answer.text for answer in room.old.write(prompts)]
    gain = more_prompts.excess(room.old, prompts)
    with room.old.without_adapter():
        assert (more_prompts.excess(room.old, prompts) <= gain.max()).all()
        bare = room.old.losses(prompts, answers)
    adapted = room.old.losses(prompts, answers)
    assert gain[0] == pytest.approx((bare[0] - adapted[0]) / len(answers[0]))


def test_a_chats_new_prompt_keeps_its_system_message():
    like = (("system", "s"), ("user", "u"))
    assert more_prompts._as_given("new", like) == (("system", "s"), ("user", "new"))
