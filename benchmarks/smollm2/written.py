"""Texts that a chat model writes: questions of its own with their answers, and answers to ours.

    python benchmarks/smollm2/written.py MODEL OUT.jsonl --seed N [--batches 1 --size 512]

Half of the texts begin where the user speaks, so that the model writes the question as well; the
other half answer a request made of a form and a subject. Sampled at temperature 1 from the top
95 % of the probability. None of it comes from the sets that the benchmark trains or tests on.
"""

import argparse
import json
import random
from pathlib import Path

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraport.artifacts import atomic

FORMS = (
    "Write a word problem about {} and solve it step by step.",
    "Write a short story about {}, with numbers in it.",
    "Explain to a child how {} works.",
    "What are five facts about {}?",
    "Ask a question with four choices about {}, and say which is right.",
    "How many, and how much? Make up a calculation about {}.",
    "Write a paragraph of an encyclopedia about {}.",
    "Give an example from school science that has to do with {}.",
)
SUBJECTS = (
    "apples", "a train", "money", "a garden", "the weather", "a football team", "plants", "a shop",
    "magnets", "cooking", "the moon", "a library", "rocks", "a birthday party", "energy", "books",
    "animals", "a bakery", "rivers", "a class of children", "electricity", "cars", "health",
    "a farm", "sound", "a journey", "the human body", "toys", "the ocean", "work and wages",
)  # fmt: skip


def prompts(count: int, seed: int) -> list[str]:
    """Beginnings of conversations."""
    rng = random.Random(seed)
    open_ended = "<|im_start|>user\n"
    found = []
    for number in range(count):
        asked = rng.choice(FORMS).format(rng.choice(SUBJECTS))
        said = f"<|im_start|>user\n{asked}<|im_end|>\n<|im_start|>assistant\n"
        found.append(said if number % 2 else open_ended)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batches", type=int, default=1)
    parser.add_argument("--size", type=int, default=512)
    parser.add_argument("--tokens", type=int, default=256)
    asked = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    tokenizer = AutoTokenizer.from_pretrained(asked.model, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.bfloat16).to(device)
    torch.manual_seed(asked.seed)
    begun = prompts(asked.batches * asked.size, asked.seed)
    texts = []
    for first in range(0, len(begun), asked.size):
        batch = tokenizer(begun[first : first + asked.size], padding=True, return_tensors="pt")
        with torch.inference_mode():
            ids = model.generate(
                **batch.to(device), max_new_tokens=asked.tokens, do_sample=True, top_p=0.95,
                top_k=0, temperature=1.0, eos_token_id=_endless(tokenizer),
                pad_token_id=tokenizer.pad_token_id,
            )  # fmt: skip
        padding = (batch["attention_mask"] == 0).sum(dim=1).tolist()
        texts += [
            tokenizer.decode(row[skip:]) for row, skip in zip(ids.tolist(), padding, strict=True)
        ]
        print(f"{len(texts)} of {len(begun)}", flush=True)
    with atomic(Path(asked.out)) as temporary:
        temporary.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))


def _endless(tokenizer) -> int:
    """A turn's end does not end the text: the model goes on with the next turn."""
    return tokenizer.convert_tokens_to_ids("<|endoftext|>")


if __name__ == "__main__":
    main()
