"""The card of a trained adapter: what the training began as."""

import pytest
from traincase import FAST, sums

from loraport.artifacts import write_json
from loraport.training.card import Names, write_card
from loraport.training.starts import fresh_like
from loraport.training.train import train_lora

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_card_tells_what_a_training_began_as(tmp_path, model, start):
    names = Names("tickets", "Own/Base-1B", "0123456789abcdef0123456789abcdef01234567")
    fresh = fresh_like(start)
    write_json(start / "start.json", "start", {}, {"start": "carried, times 0.5"})
    try:
        train_lora(model, sums(20), tmp_path / "bare", start=fresh, settings=FAST)
        for name, begun in (("new", fresh), ("on", start)):
            out = tmp_path / name
            train_lora(model, sums(20), out, start=begun, settings=FAST, names=names)
    finally:
        (start / "start.json").unlink()
    new, on = ((tmp_path / name / "README.md").read_text() for name in ("new", "on"))
    assert f"Start: a new adapter (lora, rank {fresh.rank})." in new
    assert "Start: carried, times 0.5, as chosen by short trainings" in on
    for text in (new, on):
        assert "base_model: Own/Base-1B" in text and "# tickets: a trained LoRA adapter" in text
        assert "**No verdict.**" in text and str(tmp_path) not in text
    assert not (tmp_path / "bare" / "README.md").exists()


def test_a_carried_start_is_told_with_where_it_came_from(tmp_path):
    of = {"old": "v1", "app": "tickets", "source": "Own/tickets"}
    content = {"of": of, "method": "aligned", "gain": {"gain": 0.5}}
    write_json(tmp_path / "transfer.json", "transfer", {}, content)
    report = {"examples": 100, "steps": 21, "start": "adapter", "settings": vars(FAST)}
    write_card(tmp_path, report, Names("tickets", "/models/base"), tmp_path)
    text = (tmp_path / "README.md").read_text()
    assert "the adapter `Own/tickets` of `v1`, carried by `aligned`" in text
    assert "multiplied by 0.5" in text and "/models" not in text
