"""A task's prompts, alone or with answers given or written: texts for maps, and small sets."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..adapters.attach import attach
from ..artifacts import atomic
from ..errors import LoraportError
from ..models.loading import load_base
from ..numerics.linalg import chunks
from .data import Example, fingerprint

KINDS = ("generic", "inputs", "answers", "own_answers")
LABELLED = ("answers",)  # the only kind that needs a task's answers
NEW_TOKENS = 128  # of a written answer


@dataclass(frozen=True)
class Answer:
    """What a model wrote to a prompt.

    Attributes
    ----------
    text : without the prompt, its own leading space included
    whole : the model read the whole prompt, and ended the answer itself
    """

    text: str
    whole: bool


def write_answers(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[str],
    max_tokens: int,
    batch_size: int,
    new_tokens: int = NEW_TOKENS,
    temperature: float = 0.0,
    also: Sequence[Any] = (),
) -> list[Answer]:
    """Answers of a model to prompts; each ends where the model ends it.

    Parameters
    ----------
    max_tokens : prompts longer than that are cut at their start
    new_tokens : that an answer has at most
    temperature : 0 takes the likeliest token; above it, torch's generator draws them
    also : transformers' LogitsProcessors that have a say in each token
    """
    answers = [Answer("", False)] * len(prompts)
    encoded = [tokenizer(prompt)["input_ids"] for prompt in prompts]
    order = sorted(range(len(prompts)), key=lambda place: (len(prompts[place]), place))
    cut = [encoded[place][-max_tokens:] for place in order]
    tails = write_tokens(model, tokenizer, cut, batch_size, new_tokens, temperature, also)
    ends = ends_of(model, tokenizer)
    for place, tail in zip(order, tails, strict=True):
        answers[place] = answer_of(tokenizer, encoded[place], max_tokens, tail, ends)
    return answers


@torch.no_grad()
def write_tokens(
    model: Any,
    tokenizer: Any,
    prompts: Sequence[list[int]],
    batch_size: int,
    new_tokens: int,
    temperature: float = 0.0,
    also: Sequence[Any] = (),
) -> list[list[int]]:
    """Tokens that a model writes behind those of prompts, as for `write_answers`, batch by batch in
    their order; one that ended before others of its batch is filled up.
    """
    sampling: dict[str, Any] = {"do_sample": False}
    if temperature > 0:
        sampling = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0}
    tails: list[list[int]] = []
    for span in chunks(len(prompts), batch_size):
        batch = tokenizer.pad(
            {"input_ids": prompts[span]}, padding_side="left", return_tensors="pt"
        ).to(model.device)
        written = model.generate(
            input_ids=batch["input_ids"],
            attention_mask=batch["attention_mask"],
            max_new_tokens=new_tokens,
            logits_processor=list(also),
            **sampling,
            repetition_penalty=1.0,  # whatever a chat model's own configuration says
            no_repeat_ngram_size=0,
            eos_token_id=sorted(ends_of(model, tokenizer)),
            pad_token_id=tokenizer.pad_token_id,
        )
        tails += written[:, batch["input_ids"].shape[1] :].tolist()
    return tails


def answer_of(
    tokenizer: Any, prompt: list[int], max_tokens: int, tail: list[int], ends: set[int]
) -> Answer:
    """The answer whose tokens are `tail`, behind the last `max_tokens` of a prompt's."""
    whole = len(prompt) <= max_tokens and not ends.isdisjoint(tail)
    return Answer(decoded(tokenizer, prompt[-max_tokens:], tail), whole)


def ends_of(model: Any, tokenizer: Any) -> set[int]:
    """Tokens at which an answer ends: the model's own, and the one that trainings put there."""
    known = model.generation_config.eos_token_id
    return {tokenizer.eos_token_id, *(known if isinstance(known, list) else [known])} - {None}


def decoded(tokenizer: Any, prompt: list[int], tail: list[int]) -> str:
    """The text that `tail` adds behind a prompt: some tokenizers drop a leading space otherwise."""
    before = tokenizer.decode(prompt, skip_special_tokens=True)
    both = tokenizer.decode(prompt + tail, skip_special_tokens=True)
    if both.startswith(before):
        return both[len(before) :]
    return tokenizer.decode(tail, skip_special_tokens=True)


def own_examples(
    prompts: Sequence[str | Example], answers: Sequence[Answer]
) -> tuple[list[Example], dict[str, int]]:
    """Training examples with written answers, without those that are empty or cut; and the counts.

    An answer is cut where it has as many tokens as were allowed, or was written to a cut prompt.

    Raises
    ------
    LoraportError
        If no answer is left.
    """
    kept, counts = [], {"prompts": len(prompts), "kept": 0, "empty": 0, "cut": 0}
    for prompt, answer in zip(prompts, answers, strict=True):
        kind = "empty" if not answer.text.strip() else "kept" if answer.whole else "cut"
        counts[kind] += 1
        if kind == "kept":
            asked = prompt if isinstance(prompt, Example) else Example(prompt, "")
            kept.append(asked.answered(answer.text))
    if not kept:
        raise LoraportError(
            "the old model with its adapter answers none of the prompts",
            got=f"{counts['empty']} empty and {counts['cut']} cut answers",
            expected="an answer that the model ends itself",
            todo="raise `finetune.cutoff`, or set `finetune.answers` to given",
        )
    return kept, counts


def write_own_answers(
    path: str | Path,
    model_dir: str | Path,
    adapter: str | Path,
    examples: Sequence[Example],
    *,
    cutoff: int,
    batch_size: int,
    **where: Any,
) -> dict[str, Any]:
    """Write a task's prompts with the answers of a model and its adapter, one JSON object a line.

    Conversations keep their turns, the last one answered anew: the new model writes them out by its
    own template.

    Parameters
    ----------
    cutoff : tokens of a prompt, and of an answer, at most
    where : of the model: `dtype`, `device`, `device_map`, `trust_remote_code`

    Returns
    -------
    how many prompts there were, what became of them, and the examples' fingerprint
    """
    model, tokenizer = load_base(model_dir, **where)
    model = attach(model, adapter).merge_and_unload()
    prompts = [example.written(tokenizer).prompt for example in examples]
    answers = write_answers(model, tokenizer, prompts, cutoff, batch_size, cutoff)
    kept, counts = own_examples(examples, answers)
    with atomic(path) as temporary:  # as `data.read` takes it with the template `plain`
        lines = [json.dumps(each.record(), ensure_ascii=False) + "\n" for each in kept]
        temporary.write_text("".join(lines), encoding="utf-8")
    return {**counts, "data_sha256": fingerprint(kept)}


def task_texts(
    kind: str, examples: Sequence[Example], model: Any, tokenizer: Any, **limits: Any
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
    examples = [example.written(tokenizer) for example in examples]
    if kind == "answers":
        return [each.prompt + each.completion for each in examples]
    prompts = [each.prompt for each in examples]
    if kind == "inputs":
        return prompts
    answers = write_answers(model, tokenizer, prompts, **limits)
    return [prompt + answer.text for prompt, answer in zip(prompts, answers, strict=True)]
