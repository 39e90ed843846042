"""A task's training data as prompts of an upgrade."""

import json

from loraport.upgrade.prompts import Record
from loraport.upgrade.rule import records_of

SECTION = {
    "teacher": "auto", "prompts": 400, "verify": 500, "at_least": 0, "minutes": 0, "seed": 0,
    "soft": False, "alpha": 1.0, "weighted": False, "shots": 8, "rates": [1e-3], "epochs": 1,
    "patience": 1, "margin": 2.0, "level": 0.9, "match": "exact", "temperature": 0.7, "labels": 1,
}  # fmt: skip


def test_conversations_stay_messages_and_only_so_many_labels_are_read(tmp_path):
    rows = [
        {"messages": [{"role": "user", "content": word}, {"role": "assistant", "content": "r"}]}
        for word in "abcd"
    ]
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    records = records_of({"source": str(tmp_path / "t.jsonl")}, SECTION)
    assert [each.prompt for each in records] == [(("user", word),) for word in "abcd"]
    assert sum(each.gold == "r" for each in records) == 1
    assert sum(each.gold is None for each in records) == 3
    plain = [{"prompt": "a", "completion": " b"}, {"prompt": "c", "completion": " d"}]
    (tmp_path / "p.jsonl").write_text("\n".join(map(json.dumps, plain)))
    records = records_of({"source": str(tmp_path / "p.jsonl"), "template": "plain"}, SECTION)
    assert Record("a") in records or Record("a", " b") in records
