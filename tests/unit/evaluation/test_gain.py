"""The gain of a carried update: which one is chosen, and that it is measured as it will act."""

import numpy as np
import pico
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from loraport.adapters.attach import attach
from loraport.errors import LoraportError
from loraport.evaluation.gain import GAINS, choose, gained, measure, row_norms
from loraport.evaluation.likelihood import answer_losses
from loraport.models.loading import load_base
from loraport.training.data import Example

EXAMPLES = [Example(f"the word {n} is", f" number {n} of them") for n in range(12)]


def curves(best: float, depth: float, noise: float, count: int = 50):
    """Losses that are least at `best`, by `depth` nats below none."""
    rng = np.random.default_rng(1)
    gains = np.array(GAINS)
    shape = depth * ((gains - best) ** 2 - best**2) / max(best**2, 1)
    return 10 + shape[:, None] + noise * rng.standard_normal((len(gains), count))


def test_the_best_gain_is_taken_where_it_pays():
    chosen = choose(GAINS, curves(best=1.0, depth=5.0, noise=0.3))
    assert chosen.gain == 1.0
    assert chosen.improvement == pytest.approx(5.0, abs=0.3)
    assert chosen.curve[0.0] > chosen.curve[1.0]


def test_a_little_likelihood_is_not_enough():
    chosen = choose(GAINS, curves(best=1.0, depth=3.0, noise=0.3))
    assert chosen.gain == 0 and chosen.improvement == pytest.approx(3.0, abs=0.3)


def test_harm_gives_a_gain_of_zero():
    worse = curves(best=1.0, depth=3.0, noise=0.3)[::-1]
    assert choose(GAINS, 20 + np.cumsum(np.abs(worse), axis=0)).gain == 0


def test_what_is_chance_gives_zero_more_often_than_not():
    rng = np.random.default_rng(0)
    gains = [choose(GAINS, 10 + rng.standard_normal((len(GAINS), 50))).gain for _ in range(100)]
    assert sum(gain > 0 for gain in gains) < 25


def test_a_gain_that_destroys_the_model_is_left_out():
    losses = curves(best=1.0, depth=5.0, noise=0.3)
    losses[-1] = np.nan
    chosen = choose(GAINS, losses)
    assert chosen.gain == 1.0 and 2.0 not in chosen.curve


def test_a_model_without_likelihoods_is_told():
    with pytest.raises(LoraportError, match=r"transfer\.gain"):
        choose(GAINS, np.full((len(GAINS), 5), np.nan))


@given(st.integers(1, 7))
def test_few_answers_are_enough_to_end(count):
    chosen = choose(GAINS, curves(1.0, 3.0, 0.1, count))
    assert chosen.examples == count and np.isfinite(chosen.improvement)


@pytest.fixture(scope="module", params=[{}, {"use_dora": True}, {"use_rslora": True}])
def adapted(request, tmp_path_factory):
    root = tmp_path_factory.mktemp("gain")
    sizes = {"hidden": 32, "intermediate": 56, "layers": 2, "heads": 4, "kv_heads": 2}
    base = pico.make_model(root / "base", seed=1, **sizes)
    adapter = pico.make_adapter(root / "adapter", base, seed=2, **request.param)
    return base, adapter


def test_losses_are_the_models_own(adapted):
    model, tokenizer = load_base(adapted[0], device="cpu")
    text = EXAMPLES[3]
    ids = torch.tensor([tokenizer(text.prompt + text.completion)["input_ids"]])
    if ids[0, -1] != tokenizer.eos_token_id:
        ids = torch.cat([ids, torch.tensor([[tokenizer.eos_token_id]])], dim=1)
    start = len(tokenizer(text.prompt)["input_ids"])
    with torch.no_grad():
        likely = model(ids).logits[0, :-1].log_softmax(-1)
    by_hand = -likely[torch.arange(start - 1, ids.shape[1] - 1), ids[0, start:]].sum()
    losses = answer_losses(model, tokenizer, EXAMPLES, 64, 5)
    assert losses[3] == pytest.approx(float(by_hand), rel=1e-4)


def test_no_gain_is_the_bare_model_and_a_whole_one_the_adapted(adapted):
    base, adapter = adapted
    model, tokenizer = load_base(base, device="cpu")
    bare = answer_losses(model, tokenizer, EXAMPLES, 64, 4)
    model = attach(model, adapter)
    whole = answer_losses(model, tokenizer, EXAMPLES, 64, 4)
    with gained(model, row_norms(model)) as set_gain:
        set_gain(0.0)
        assert np.allclose(answer_losses(model, tokenizer, EXAMPLES, 64, 4), bare, atol=1e-4)
    assert np.allclose(answer_losses(model, tokenizer, EXAMPLES, 64, 4), whole, atol=1e-6)
    assert not np.allclose(bare, whole, atol=1e-3)
    chosen = measure(model, tokenizer, EXAMPLES, 64, 4)
    assert chosen.curve[0.0] == pytest.approx(bare.mean(), abs=1e-4)
    assert chosen.curve[1.0] == pytest.approx(whole.mean(), abs=1e-6)


def test_a_gain_is_undone_to_the_bit(adapted):
    model = attach(load_base(adapted[0], device="cpu")[0], adapted[1])
    weights = dict(model.named_parameters())
    for name, values in weights.items():
        if "magnitude" in name:
            values.data = values.data * 3.3  # far from the rows' norms
    before = {name: values.clone() for name, values in weights.items()}
    with gained(model, row_norms(model)) as set_gain:
        set_gain(0.5)
    assert all(torch.equal(values, before[name]) for name, values in weights.items())
