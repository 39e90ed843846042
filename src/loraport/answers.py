"""Texts of a task for the fitting of maps: its prompts, alone or with answers given or written."""

from collections.abc import Sequence
from typing import Any

import torch

from .data import Example
from .errors import LoraportError
from .linalg import chunks

KINDS = ("generic", "inputs", "answers", "own_answers")
LABELLED = ("answers",)  # the only kind that needs a task's answers
NEW_TOKENS = 128  # of a written answer


@torch.no_grad()
def write_answers(
    model: Any, tokenizer: Any, prompts: Sequence[str], max_tokens: int, batch_size: int
) -> list[str]:
    """Greedy answers of a model to prompts; each ends where the model ends it.

    Parameters
    ----------
    max_tokens : prompts longer than that are cut at their start; an answer has `NEW_TOKENS` at most
    """
    answers = [""] * len(prompts)
    order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place]), place))
    for span in chunks(len(order), batch_size):
        places = order[span]
        batch = tokenizer(
            [prompts[place] for place in places],
            padding=True,
            padding_side="left",
            truncation=True,
            max_length=max_tokens,
            return_tensors="pt",
        ).to(model.device)
        written = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.pad_token_id,
        )
        tails = written[:, batch["input_ids"].shape[1] :]
        decoded = tokenizer.batch_decode(tails, skip_special_tokens=True)
        for place, answer in zip(places, decoded, strict=True):
            answers[place] = answer
    return answers


def task_texts(
    kind: str, examples: Sequence[Example], model: Any, tokenizer: Any, **limits: int
) -> list[str]:
    """What the maps are fitted on, of `KINDS` but `generic`.

    Parameters
    ----------
    kind : `inputs` (prompts alone), `own_answers` (prompts with what `model`, the old one with its
        adapter, writes: no label is needed), `answers` (prompts with the task's own: labelled data)
    limits : `max_tokens` and `batch_size` of the writing
    """
    if kind not in KINDS[1:]:
        raise LoraportError(
            f"unknown `calibrate_on` {kind!r}", got=kind, expected=f"one of {', '.join(KINDS)}"
        )
    if kind == "answers":
        return [each.prompt + each.completion for each in examples]
    prompts = [each.prompt for each in examples]
    if kind == "inputs":
        return prompts
    answers = write_answers(model, tokenizer, prompts, **limits)
    return [prompt + answer for prompt, answer in zip(prompts, answers, strict=True)]
