"""Teaching and its start: what is learned is known, and a start is taken only where it pays."""

from dataclasses import replace

import numpy as np
import pico
import pytest
import torch
from safetensors.torch import load_file

from loraport.adapters.attach import attach
from loraport.errors import LoraportError
from loraport.evaluation.gain import gained, row_norms
from loraport.training.starts import Fresh
from loraport.upgrade import teach as lessons
from loraport.upgrade.base import Base, Limits
from loraport.upgrade.candidates import NOTHING, Start, choose_start, fitting, multiply
from loraport.upgrade.spans import Span
from loraport.upgrade.teach import Row, Settings, batch_loss, encoded, teach
from loraport.upgrade.teachers import Classroom, Target, old, on_policy
from loraport.upgrade.teachers import Settings as TeacherSettings

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPTS = [f"the word {n} is" for n in range(16)]
LIKE = Fresh(rank=8, alpha=16, target_modules="all-linear")
FROM_NOTHING = Start(NOTHING, None, 0.0, {})


@pytest.fixture
def new(pico_pair):
    return Base.load(pico_pair.new, Limits(batch_size=8, new_tokens=8), device="cpu")


def targets(count=16):
    return [Target(prompt, " yes" if n % 2 else " no") for n, prompt in enumerate(PROMPTS)][:count]


def test_a_student_learns_its_targets_and_the_base_stays_bare(new, pico_pair, tmp_path):
    before = new.first_logits(PROMPTS)
    settings = Settings(rates=(1e-4, 1e-2), epochs=25, patience=25, batch_size=8)
    taught = teach(new, FROM_NOTHING, LIKE, targets(), targets(), tmp_path / "out", settings)
    assert taught.best.agreement == 1.0 and taught.best.rate == 1e-2
    assert torch.equal(new.first_logits(PROMPTS), before)
    with new.wearing(tmp_path / "out"):
        assert [a.text for a in new.write(PROMPTS)] == [each.answer for each in targets()]
    first = (tmp_path / "out/adapter_model.safetensors").read_bytes()
    teach(new, FROM_NOTHING, LIKE, targets(), targets(), tmp_path / "again", settings)
    assert (tmp_path / "again/adapter_model.safetensors").read_bytes() == first


def test_a_rate_ends_when_agreement_no_longer_improves(new, tmp_path):
    unheard = [Target("nothing like the others", " a b c d e f")]
    settings = Settings(rates=(1e-9,), epochs=9, patience=2, batch_size=8)
    taught = teach(new, FROM_NOTHING, LIKE, targets(), unheard, tmp_path / "out", settings)
    improved = [each for each in taught.epochs if each.nats == min(e.nats for e in taught.epochs)]
    assert len(taught.epochs) <= max(improved[0].epoch + 2, 3)


def test_epochs_are_fewer_over_more_targets_than_they_are_meant_for():
    asked = Settings(trial=3, epochs=16, meant_for=320)
    fewer = asked.over(1280)
    assert (fewer.trial, fewer.epochs) == (1, 4)
    assert asked.over(320) == asked == replace(asked, meant_for=320).over(9)
    assert Settings().over(10**6) == Settings()
    most = asked.over(10**6)
    assert (most.trial, most.epochs) == (1, 1)


def test_the_clock_ends_it_after_an_epoch(new, tmp_path):
    settings = Settings(rates=(1e-3, 1e-2), epochs=5, minutes=1e-9)
    taught = teach(new, FROM_NOTHING, LIKE, targets(), targets(4), tmp_path / "out", settings)
    assert len(taught.epochs) == 1 and not taught.in_time


def test_a_start_that_no_teaching_betters_is_kept(new, pico_pair, tmp_path):
    carried = pico.make_adapter(tmp_path / "carried", pico_pair.new, seed=4)
    with new.wearing(carried):
        own = [Target(p, a.text) for p, a in zip(PROMPTS, new.write(PROMPTS), strict=True)]
        worn = new.first_logits(PROMPTS)
    settings = Settings(rates=(0.3,), epochs=1)
    start = Start("carried", carried, 1.0, {})
    taught = teach(new, start, LIKE, targets(), own, tmp_path / "out", settings)
    assert taught.best.epoch == 0 and taught.best.agreement == 1.0
    with new.wearing(tmp_path / "out"):
        assert torch.allclose(new.first_logits(PROMPTS), worn, atol=1e-5)


def test_a_batch_that_memory_is_too_small_for_is_taught_in_parts(new, tmp_path, monkeypatch):
    settings = Settings(rates=(1e-3,), epochs=1, batch_size=8)
    small = replace(settings, micro_batch=2)
    teach(new, FROM_NOTHING, LIKE, targets(), targets(4), tmp_path / "small", small)
    loss = lessons.batch_loss

    def full(model, pad, rows):
        made = loss(model, pad, rows)
        if len(rows) > 2:
            made.backward()  # what an attempt may leave behind
            raise RuntimeError("CUDA out of memory. Tried to allocate 2 GiB")
        return made

    monkeypatch.setattr(lessons, "batch_loss", full)
    new.limits.batch_size = 8
    teach(new, FROM_NOTHING, LIKE, targets(), targets(4), tmp_path / "full", settings)
    made, known = (
        load_file(tmp_path / name / "adapter_model.safetensors") for name in ("full", "small")
    )
    assert new.limits.batch_size == 2
    assert all(torch.allclose(made[key], known[key], atol=1e-6) for key in known)


def test_a_loss_that_is_not_finite_is_told_and_the_base_answers_as_before(new, tmp_path):
    settings = Settings(rates=(1e30,), epochs=1, batch_size=8)
    with pytest.raises(LoraportError, match="not finite at any rate"):
        teach(new, FROM_NOTHING, LIKE, targets(), targets(4), tmp_path / "out", settings)
    assert not any(module.training for module in new.model.modules())


def test_nothing_to_teach_is_told(new, tmp_path):
    cut = [Target(PROMPTS[0], " yes", whole=False)]
    with pytest.raises(LoraportError, match="nothing to teach"):
        teach(new, FROM_NOTHING, LIKE, cut, targets(2), tmp_path / "out")


def test_a_soft_student_comes_to_the_teachers_probabilities(pico_pair, tmp_path):
    """Across two tokenizers: the spans' divergence falls, and on-policy targets are made anew."""
    worn = Base.load(pico_pair.old, Limits(new_tokens=6), device="cpu")
    new = Base.load(pico_pair.new, Limits(new_tokens=6), device="cpu")
    with worn.wearing(pico_pair.adapter):
        room = Classroom(worn, new, TeacherSettings(soft=True))
        soft, seen = old.targets(room, PROMPTS), []

        def again(seed):
            seen.append(seed)
            return on_policy.again(room, PROMPTS, seed)

        settings = Settings(rates=(1e-2,), epochs=12, patience=12)
        held = [Target(each.prompt, each.answer) for each in soft]
        taught = teach(new, FROM_NOTHING, LIKE, soft, held, tmp_path / "a", settings)
        taught_on = teach(
            new, FROM_NOTHING, LIKE, soft, held, tmp_path / "b", settings, again=again
        )
    assert taught.epochs[-1].loss < 0.3 * taught.epochs[0].loss
    assert taught_on.epochs[-1].loss < taught_on.epochs[0].loss
    assert seen == list(range(1, 13))


def test_weights_and_soft_spans_make_the_loss(new):
    target = Target(PROMPTS[0], " yes or no", spans=(Span(4, 0.0, 3.0), Span(11, 0.0, 0.5)))
    for values in new.model.parameters():
        values.requires_grad_(False)
    row = encoded(new, [target])[0]
    plain = Row(row.encoded, [], False)
    each = []
    for start, stop, _, _ in row.pieces:
        alone = [(0, len(row.encoded.ends), 0.0, 0.0), (start, stop, 0.0, 1.0)]
        one = batch_loss(new.model, 0, [Row(row.encoded, alone, False)])
        each.append((float(one) * (stop - start), stop - start))
    total = sum(nats for nats, _ in each) / sum(count for _, count in each)
    assert float(batch_loss(new.model, 0, [plain])) == pytest.approx(total, rel=1e-5)
    weights = [piece[3] for piece in row.pieces]
    mean = sum(w * n for w, (n, _) in zip(weights, each, strict=True)) / sum(
        w * c for w, (_, c) in zip(weights, each, strict=True)
    )
    assert float(batch_loss(new.model, 0, [row])) == pytest.approx(mean, rel=1e-5)
    with torch.no_grad():
        said = new.spans([PROMPTS[0]], [" yes or no"])[0]
    same = encoded(new, [Target(PROMPTS[0], " yes or no", spans=tuple(said), soft=True)])
    assert float(batch_loss(new.model, 0, same)) == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("kind", [{}, {"use_dora": True}, {"use_rslora": True}])
def test_a_gain_in_the_weights_is_a_gain_in_the_scale(kind, pico_pair, tmp_path):
    adapter = pico.make_adapter(tmp_path / "a", pico_pair.new, seed=2, **kind)
    ids = torch.arange(1, 40)[None]
    results = []
    for baked in (True, False):
        model = Base.load(pico_pair.new, device="cpu").model
        model = attach(model, adapter).eval()
        norms = row_norms(model)
        with torch.no_grad(), gained(model, norms) as set_gain:
            if baked:
                multiply(model, 0.5, norms)
            else:
                set_gain(0.5)
            results.append(model(ids).logits)
    assert torch.allclose(*results, atol=1e-5)


def test_the_start_that_pays_is_taken_and_harm_is_not(new, pico_pair, tmp_path):
    good, bad = (
        pico.make_adapter(tmp_path / name, pico_pair.new, seed=seed)
        for name, seed in (("good", 4), ("bad", 5))
    )
    with new.wearing(good):
        own = [Target(p, a.text) for p, a in zip(PROMPTS, new.write(PROMPTS), strict=True)]
    chosen = choose_start(new, {"bad": bad, "good": good}, own)
    assert chosen.name == "good" and chosen.gain >= 0.75
    assert set(chosen.told()["tried"]) == {"bad", "good"}
    greedy = [Target(p, a.text) for p, a in zip(PROMPTS, new.write(PROMPTS), strict=True)]
    assert choose_start(new, {"bad": bad}, greedy).name == NOTHING
    assert np.isfinite(chosen.tried["bad"].improvement)


def test_the_old_adapter_is_a_candidate_where_it_fits(new, pico_pair):
    assert fitting(new, {}, pico_pair.adapter) == {}
    same = Base.load(pico_pair.old, device="cpu")
    assert fitting(same, {}, pico_pair.adapter) == {"simplecopy": pico_pair.adapter}
