"""Likelihoods of answers: the head runs on what is asked for, and the numbers stay."""

import families
import pytest
import torch

from loraport.evaluation.likelihood import answer_losses, batches_of
from loraport.models.loading import load_base
from loraport.training.data import IGNORED, Example
from loraport.training.losses import needed_logits, token_losses

pytestmark = pytest.mark.usefixtures("one_thread")
EXAMPLES = [Example(f"the word {n} of the text is " * 3, f" {n}") for n in range(6)]


def rows_of_the_head(model):
    """How many positions the head is given, call by call."""
    seen = []
    model.get_output_embeddings().register_forward_pre_hook(
        lambda module, inputs: seen.append(inputs[0].shape[1])
    )
    return seen


@pytest.mark.parametrize("family", ["llama", "gemma2"])  # the second caps its logits
def test_no_logits_are_made_of_prompts(family, tmp_path):
    families.make_model(tmp_path / "m", family, seed=1)
    model, tokenizer = load_base(tmp_path / "m", dtype="float32", device="cpu")
    seen = rows_of_the_head(model)
    losses = answer_losses(model, tokenizer, EXAMPLES, 512, 3)
    for place, answers in enumerate(batches_of(tokenizer, EXAMPLES, 512, 3)):
        first = min(row.ne(IGNORED).nonzero().min() for row in answers.labels)
        assert seen[place] == answers.labels.shape[1] - first + 1 < answers.labels.shape[1] / 2
        logits = model(**answers.inputs, use_cache=False).logits
        likely = torch.log_softmax(logits.double(), dim=-1)[:, :-1]
        labels = answers.labels[:, 1:]
        each = likely.gather(2, labels.clamp(min=0)[..., None])[..., 0] * (labels != IGNORED)
        assert losses[answers.places] == pytest.approx(-each.sum(dim=1).detach().numpy(), rel=1e-5)


def test_losses_stand_at_the_tokens_that_they_are_of():
    logits = torch.randn(2, 7, 11, generator=torch.Generator().manual_seed(0))
    labels = torch.full((2, 7), IGNORED)
    labels[0, 5], labels[1, 4:6] = 3, 2
    whole = token_losses(logits, labels)
    assert torch.equal(token_losses(logits[:, 3:], labels), whole) and whole.shape == (2, 6)
    assert (whole != 0).nonzero().tolist() == [[0, 4], [1, 3], [1, 4]]


class Plain:
    """A model whose code makes all logits."""

    def forward(self, input_ids, attention_mask=None):
        pass


def test_models_that_know_nothing_of_it_are_called_as_ever():
    labels = torch.tensor([[IGNORED, IGNORED, 4]])
    assert needed_logits(Plain(), labels) == {}
    known = type("Known", (), {"forward": lambda self, logits_to_keep=0: None})()
    assert needed_logits(known, labels)["logits_to_keep"].tolist() == [1, 2]
    worn = type("Worn", (), {"get_base_model": lambda self: known})()
    assert needed_logits(worn, labels)["logits_to_keep"].tolist() == [1, 2]
    assert needed_logits(known, torch.full((1, 3), IGNORED)) == {}
    assert needed_logits(known, torch.tensor([[IGNORED, 5, 4]])) == {}
