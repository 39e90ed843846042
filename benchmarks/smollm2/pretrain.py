"""Train all weights of a model on texts, or let it learn a larger model's predictions there.

    python benchmarks/smollm2/pretrain.py MODEL OUT --texts FILE... [--teacher MODEL] --steps N

With a teacher (whose first tokens are the student's tokens, with the same numbers) the loss is the
divergence of the student's predictions from the teacher's over the tokens that both have;
otherwise it is the likelihood of the text. AdamW, one warm-up, linear decay to zero; bfloat16
where there is a GPU, weights in float32. A run that is killed goes on from its last checkpoint.
"""

import argparse
import hashlib
import json
import math
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from loraport.artifacts import atomic

SEPARATOR = "<|endoftext|>"


@dataclass(frozen=True)
class Plan:
    """steps of `batch` blocks of `length` tokens, `micro` blocks at once; every block is drawn
    once before any is drawn again."""

    steps: int
    batch: int = 64
    micro: int = 16
    length: int = 512
    learning_rate: float = 5e-4
    warmup: int = 50
    seed: int = 0
    save: int = 100


def blocks(tokenizer: Any, texts: list[str], length: int) -> torch.Tensor:
    """Texts one after the other, with the separator between, in blocks (n, length)."""
    end = tokenizer.convert_tokens_to_ids(SEPARATOR)
    if end is None:
        end = tokenizer.eos_token_id
    ids = [token for each in tokenizer(texts).input_ids for token in (*each, end)]
    count = len(ids) // length
    if not count:
        raise SystemExit(f"the texts are {len(ids)} tokens, fewer than one block of {length}")
    return torch.tensor(ids[: count * length]).view(count, length)


def draws(count: int, plan: Plan) -> Iterator[torch.Tensor]:
    """Places of the blocks of each step."""
    generator = torch.Generator().manual_seed(plan.seed)
    needed = plan.steps * plan.batch
    order = torch.cat(
        [torch.randperm(count, generator=generator) for _ in range(math.ceil(needed / count))]
    )
    return iter(order[:needed].view(plan.steps, plan.batch))


def rate(step: int, plan: Plan) -> float:
    """Learning rate of a step: linear up, then linear down to zero."""
    up = min(1.0, (step + 1) / max(1, min(plan.warmup, plan.steps // 4)))
    return plan.learning_rate * up * (plan.steps - step) / plan.steps


def divergence(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    """Mean over tokens of KL(teacher ‖ student), nats; (…, v) and (…, at least v) logits."""
    student = student.float().log_softmax(-1)
    teacher = teacher[..., : student.shape[-1]].float().log_softmax(-1)
    return (teacher.exp() * (teacher - student)).sum(-1).mean()


def step_loss(model: Any, teacher: Any, ids: torch.Tensor) -> torch.Tensor:
    """Loss of some blocks: divergence from the teacher, or of the text itself."""
    logits = model(input_ids=ids, use_cache=False).logits
    if teacher is not None:
        with torch.no_grad():
            said = teacher(input_ids=ids, use_cache=False).logits
        return divergence(logits, said)
    return torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1).float(),
                                             ids[:, 1:].flatten())  # fmt: skip


def train(model: Any, teacher: Any, data: torch.Tensor, plan: Plan, resume: Path) -> list[float]:
    """Train `model` in place; the loss of every step. Checkpoints lie in `resume`."""
    device = next(model.parameters()).device
    optimiser = torch.optim.AdamW(
        model.parameters(), lr=0.0, betas=(0.9, 0.95), weight_decay=0.01,
        fused=device.type == "cuda",
    )  # fmt: skip
    losses: list[float] = []
    checkpoint = resume / "state.pt"
    if checkpoint.is_file():
        state = torch.load(checkpoint, map_location=device, weights_only=True)
        model.load_state_dict(state["model"])
        optimiser.load_state_dict(state["optimiser"])
        losses = state["losses"]
    start = time.perf_counter()
    for step, places in enumerate(draws(len(data), plan)):
        if step < len(losses):
            continue
        for group in optimiser.param_groups:
            group["lr"] = rate(step, plan)
        total = torch.zeros((), device=device)
        for part in data[places].split(plan.micro):
            with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
                loss = step_loss(model, teacher, part.to(device)) * len(part) / plan.batch
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        losses.append(float(total))
        if len(losses) % plan.save == 0 or len(losses) == plan.steps:
            print(f"{len(losses)} of {plan.steps}: {losses[-1]:.4f}, "
                  f"{time.perf_counter() - start:.0f} s", flush=True)  # fmt: skip
            with atomic(checkpoint) as temporary:
                torch.save({"model": model.state_dict(), "optimiser": optimiser.state_dict(),
                            "losses": losses}, temporary)  # fmt: skip
    return losses


def read(paths: list[str]) -> list[str]:
    """Texts of .txt files (one a line) and .jsonl files (field `text`)."""
    found = []
    for path in paths:
        lines = Path(path).read_text(encoding="utf-8").split("\n")
        lines = [line for line in lines if line.strip()]
        found += [json.loads(x)["text"] for x in lines] if path.endswith(".jsonl") else lines
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("out")
    parser.add_argument("--texts", nargs="+", required=True)
    parser.add_argument("--teacher", default="")
    parser.add_argument("--steps", type=int, required=True)
    parser.add_argument("--learning_rate", type=float, default=5e-4)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--micro", type=int, default=16)
    asked = parser.parse_args()
    plan = Plan(asked.steps, asked.batch, asked.micro, learning_rate=asked.learning_rate)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.manual_seed(plan.seed)
    tokenizer = AutoTokenizer.from_pretrained(asked.model)
    model = AutoModelForCausalLM.from_pretrained(asked.model, dtype=torch.float32).to(device)
    teacher = None
    if asked.teacher:
        teacher = AutoModelForCausalLM.from_pretrained(asked.teacher, dtype=torch.bfloat16)
        teacher.to(device).eval()
    data = blocks(tokenizer, read(asked.texts), plan.length)
    about = {**asdict(plan), "model": asked.model, "teacher": asked.teacher, "blocks": len(data)}
    key = hashlib.sha256(json.dumps(about).encode() + data.numpy().tobytes()).hexdigest()[:16]
    resume = Path(f"{asked.out}.{key}")
    start = time.perf_counter()
    losses = train(model.train(), teacher, data, plan, resume)
    about |= {"seconds": time.perf_counter() - start, "losses": losses}
    if device == "cuda":
        about["gpu_peak_mib"] = torch.cuda.max_memory_allocated() / 2**20
    with atomic(asked.out) as temporary:
        model.to(torch.bfloat16).save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
        (temporary / "pretrain.json").write_text(json.dumps(about) + "\n")
    shutil.rmtree(resume, ignore_errors=True)


if __name__ == "__main__":
    main()
