"""Greedy completions and exact match, for the apps and for the base skills.

    python resources/nano/score.py resources/nano/v1 --adapter resources/nano/adapters/v1/math \
        --app math

A completion ends at `<eos>` or at a line break. math: the last number in it is the answer;
mcq and command: the stripped line is the answer.
"""

import argparse
import json
import random
import re
from pathlib import Path

import torch
from nanopair.corpus import documents
from torch import Tensor

HERE = Path(__file__).resolve().parent
NEW_TOKENS, PAD, EOS = 64, 0, 2
LINE_BREAK = "\u010a"  # as byte-level BPE writes it
SKILL_SEED = 770_001


def is_right(app: str, completion: str, answer: str) -> bool:
    """Exact match of one completion."""
    line = completion.split("\n")[0].strip()
    if app == "math":
        numbers = re.findall(r"-?\d+", line)
        return bool(numbers) and int(numbers[-1]) == int(answer)
    return line == answer


def interval(right: int, total: int) -> tuple[float, float]:
    """Wilson's 95 % interval of a proportion."""
    z, p = 1.96, right / total
    middle = (p + z * z / (2 * total)) / (1 + z * z / total)
    half = z / (1 + z * z / total) * (p * (1 - p) / total + z * z / (4 * total**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def read_examples(app: str, split: str) -> list[dict[str, str]]:
    """The shipped examples of an app."""
    lines = (HERE / "data" / f"{app}.{split}.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def load(folder: Path, adapter: Path | None, device: str) -> tuple[torch.nn.Module, object]:
    """(model in float32, with its adapter where one is given; tokenizer)."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    if adapter is not None:
        model = PeftModel.from_pretrained(model, adapter)
    return model.to(device).eval(), AutoTokenizer.from_pretrained(folder)


@torch.no_grad()
def complete(model, tokenizer, prompts: list[str], batch: int = 500) -> list[str]:
    """The first line of the greedy completion of each prompt."""
    device, texts = next(model.parameters()).device, []
    breaks = [i for token, i in tokenizer.get_vocab().items() if LINE_BREAK in token]
    stops = [EOS, *breaks]
    for start in range(0, len(prompts), batch):
        inputs = tokenizer(prompts[start : start + batch], return_tensors="pt", padding=True)
        ids: Tensor = inputs["input_ids"].to(device)
        mask: Tensor = inputs["attention_mask"].to(device)
        output = model.generate(
            input_ids=ids,
            attention_mask=mask,
            do_sample=False,
            max_new_tokens=NEW_TOKENS,
            pad_token_id=PAD,
            eos_token_id=stops,
        )
        texts += tokenizer.batch_decode(output[:, ids.shape[1] :], skip_special_tokens=True)
    return [text.split("\n")[0] for text in texts]


def score_app(model, tokenizer, app: str, limit: int | None = None) -> dict:
    """Accuracy on an app's test set, with n, interval and the first completions."""
    rows = read_examples(app, "test")[:limit]
    said = complete(model, tokenizer, [row["prompt"] for row in rows])
    right = sum(is_right(app, s, row["answer"]) for s, row in zip(said, rows, strict=True))
    low, high = interval(right, len(rows))
    return {"right": right, "n": len(rows), "accuracy": round(right / len(rows), 4),
            "low": round(low, 4), "high": round(high, 4), "shown": said[:4]}  # fmt: skip


def arithmetic_prompts(count: int) -> list[dict[str, str]]:
    """Sums and differences up to 40 in one of the base corpus's forms."""
    rng, rows = random.Random(SKILL_SEED), []
    for _ in range(count):
        a, b = int(rng.random() * 21), int(rng.random() * 20) + 1
        a, b, op = (a, b, "+") if rng.random() < 0.5 else (max(a, b), min(a, b), "-")
        prompt = f"Question: What is {a} {op} {b}?\nAnswer:"
        rows.append({"prompt": prompt, "answer": str(a + b if op == "+" else a - b)})
    return rows


def skill_prompts(version: str, count: int) -> list[dict[str, str]]:
    """The last question of unseen base documents, the earlier ones of its form before it."""
    rows = []
    for text in documents(version, SKILL_SEED, 60 * count):
        blocks = text.split("\n\n")
        lines = text.splitlines()
        if len(blocks) < 3 or ": " not in lines[-1] or len(text) > 400:
            continue
        label, answer = lines[-1].split(": ", 1)
        prompt = "\n".join([*lines[:-1], f"{label}:"])
        rows.append({"prompt": prompt, "answer": answer})
    return rows[:count]


def score_base(model, tokenizer, version: str, count: int = 500) -> dict[str, dict]:
    """Exact match on arithmetic, and on base question forms given by example."""
    result = {}
    sets = {"arithmetic": arithmetic_prompts(count), "forms": skill_prompts(version, count)}
    for name, rows in sets.items():
        said = complete(model, tokenizer, [row["prompt"] for row in rows])
        right = sum(is_right("", s, row["answer"]) for s, row in zip(said, rows, strict=True))
        low, high = interval(right, len(rows))
        result[name] = {"right": right, "n": len(rows), "accuracy": round(right / len(rows), 4),
                        "low": round(low, 4), "high": round(high, 4)}  # fmt: skip
    return result


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--app", choices=("math", "mcq", "command"), required=True)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = auto if args.device == "auto" else args.device
    model, tokenizer = load(args.model, args.adapter, device)
    print(json.dumps(score_app(model, tokenizer, args.app, args.limit), indent=1))


if __name__ == "__main__":
    main()
