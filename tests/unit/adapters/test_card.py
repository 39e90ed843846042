"""Model cards and the names of base models in them: ids of the hub, never folders."""

import pytest

from loraport.adapters.base_names import hub_id
from loraport.adapters.card import base_name, write_card

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CACHED = f"/home/me/.cache/hub/models--Own--Base-1B/snapshots/{COMMIT}"


@pytest.mark.parametrize(
    ("source", "known_as", "expected"),
    [
        ("Own/Base-1B", (), "Own/Base-1B"),
        (CACHED, (), "Own/Base-1B"),
        ("/cache/models--gpt2/snapshots/0123", (), ""),
        ("/data/base", (), ""),
        ("/data/base", ("base", "Own/Base-1B"), "Own/Base-1B"),
        ("/data/models/base", ("models/base", "base"), ""),  # the path as the user wrote it
        ("/data/base", ("Own/Base-1B", "Other/Base-1B"), ""),  # which of them, nobody knows
    ],
)
def test_an_id_is_what_the_source_or_the_only_other_name_says(source, known_as, expected):
    assert hub_id(source, known_as) == expected


def test_a_folder_that_looks_like_an_id_is_none(tmp_path, monkeypatch):
    (tmp_path / "models/base").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert hub_id("models/base") == ""


def test_a_card_loads_the_base_by_id_and_commit_and_names_no_folder(tmp_path):
    base = base_name(CACHED)
    write_card(tmp_path, "tickets", base, ["Made for a test."])
    text = (tmp_path / "README.md").read_text()
    assert text.startswith("---\nlibrary_name: peft\nbase_model: Own/Base-1B\n")
    assert f'from_pretrained("Own/Base-1B", revision="{COMMIT}")' in text
    assert "/home/me" not in text


def test_a_base_without_an_id_is_called_by_its_last_part(tmp_path):
    base = base_name("/home/me/models/base", COMMIT)
    write_card(tmp_path, "tickets", base, [f"For {base.told()}."])
    text = (tmp_path / "README.md").read_text()
    assert "base_model:" not in text and COMMIT not in text
    assert "For `base`." in text and "/home/me" not in text
