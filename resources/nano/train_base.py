"""Train one base model from scratch and write it as a transformers checkpoint.

    python resources/nano/train_base.py v1 --out resources/nano/v1
    python resources/nano/train_base.py v2 --out resources/nano/v2

The corpus is generated here, shard by shard, from fixed seeds. Weights are float32 while they
are trained (products in bfloat16) and bfloat16 in the checkpoint.
"""

import argparse
import json
import math
import multiprocessing
import os
import time
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from nanopair.corpus import documents
from nanopair.llama import NORM_EPS, ROPE_THETA, SHAPES, Llama
from tokenizers import Tokenizer

HERE = Path(__file__).resolve().parent
LENGTH = 256  # tokens a row
SHARD_DOCUMENTS = 20_000
FIRST_SEED = {"v1": 100_000, "v2": 200_000}
TOKENS = {"v1": 170_000_000, "v2": 168_000_000}
UNIQUE_TOKENS = 64_000_000  # made once, then read in a new order each epoch
PEAK_RATE, WARMUP_STEPS, WEIGHT_DECAY, CLIP = 2e-3, 200, 0.1, 1.0
EOS = 2


def shard_rows(task: tuple[str, int]) -> np.ndarray:
    """Rows `(n, LENGTH)` uint16 of one shard: whole documents with `<eos>` after each.

    Every row starts at a document's start, as a prompt does in use; its last document is cut.
    """
    version, seed = task
    tokenizer = Tokenizer.from_file(str(HERE / version / "tokenizer.json"))
    rows: list[list[int]] = []
    row: list[int] = []
    texts = list(documents(version, seed, SHARD_DOCUMENTS))
    for encoding in tokenizer.encode_batch_fast(texts):
        row += [*encoding.ids, EOS]
        if len(row) >= LENGTH:
            rows.append(row[:LENGTH])
            row = []
    return np.array(rows, dtype=np.uint16)


def corpus_rows(version: str, tokens: int, workers: int) -> np.ndarray:
    """At least `tokens` tokens as rows, from shards with consecutive seeds."""
    rows, total, seed = [], 0, FIRST_SEED[version]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with multiprocessing.get_context("spawn").Pool(workers) as pool:
        while total < tokens:
            tasks = [(version, seed + i) for i in range(workers)]
            seed += workers
            for part in pool.map(shard_rows, tasks, chunksize=1):
                rows.append(part)
                total += part.size
    return np.concatenate(rows)


def optimizer_of(model: torch.nn.Module, device: str) -> torch.optim.AdamW:
    """AdamW with weight decay on matrices other than the embedding."""
    decayed = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim != 2 or "embed" in n]
    groups = [
        {"params": decayed, "weight_decay": WEIGHT_DECAY},
        {"params": rest, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=PEAK_RATE, betas=(0.9, 0.95), fused=device == "cuda")


def rate_factor(step: int, steps: int) -> float:
    """Linear warm-up, then a cosine to zero."""
    if step < WARMUP_STEPS:
        return (step + 1) / WARMUP_STEPS
    return 0.5 * (1 + math.cos(math.pi * (step - WARMUP_STEPS) / max(1, steps - WARMUP_STEPS)))


def loss_of(model: torch.nn.Module, rows: torch.Tensor, device: str) -> torch.Tensor:
    """Mean next-token cross-entropy (nats) of `rows (batch, LENGTH)`."""
    with torch.autocast(device, dtype=torch.bfloat16, enabled=device == "cuda"):
        logits = model(rows[:, :-1])
    return F.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def train(
    version: str, rows: np.ndarray, batch: int, tokens: int, device: str
) -> tuple[Llama, list[dict[str, float]]]:
    """Train on rows, shuffled anew each epoch; returns (model, loss log)."""
    torch.manual_seed(1 if version == "v1" else 2)
    torch.set_float32_matmul_precision("high")
    model = Llama(SHAPES[version]).to(device)
    loss_fn = torch.compile(loss_of) if device == "cuda" else loss_of
    optimizer = optimizer_of(model, device)
    steps = tokens // (batch * LENGTH)
    data = torch.from_numpy(rows.astype(np.int16)).to(device)
    held, data = data[:batch], data[batch:]
    order = torch.cat([torch.randperm(len(data)) for _ in range(1 + steps * batch // len(data))])
    order, log, start = order.to(device), [], time.perf_counter()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * rate_factor(step, steps)
        chosen = order[step * batch : (step + 1) * batch]
        loss = loss_fn(model, data[chosen].long(), device)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % 200 == 0 or step == steps - 1:
            with torch.no_grad():
                check = loss_fn(model, held.long(), device).item()
            entry = {"step": step, "train": round(loss.item(), 4), "held_out": round(check, 4)}
            log.append({**entry, "seconds": round(time.perf_counter() - start, 1)})
            print(version, steps, json.dumps(log[-1]), flush=True)
    return model, log


def export(model: Llama, version: str, out: Path) -> None:
    """Write config, bfloat16 weights and generation config in transformers' layout."""
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        **SHAPES[version], max_position_embeddings=512, rms_norm_eps=NORM_EPS, head_dim=32,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
        tie_word_embeddings=False, bos_token_id=EOS, eos_token_id=EOS, pad_token_id=0,
    )  # fmt: skip
    target = LlamaForCausalLM(config)
    target.load_state_dict(model.state_dict())
    ids = torch.arange(3, 60)[None]
    with torch.no_grad():
        torch.testing.assert_close(target(ids).logits, model.cpu()(ids), atol=1e-3, rtol=1e-3)
    target.to(torch.bfloat16).save_pretrained(out)


def main() -> None:
    """Command line; `--tokens` below the default makes a quick rehearsal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("version", choices=("v1", "v2"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--tokens", type=int)
    parser.add_argument("--batch", type=int, default=128, help="rows a step")
    parser.add_argument("--workers", type=int, default=8, help="processes that write the corpus")
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = auto if args.device == "auto" else args.device
    tokens = args.tokens or TOKENS[args.version]
    start = time.perf_counter()
    rows = corpus_rows(args.version, min(tokens, UNIQUE_TOKENS), args.workers)
    made = time.perf_counter()
    print(f"{args.version}: {rows.size:,} tokens in {made - start:.1f} s", flush=True)
    model, log = train(args.version, rows, args.batch, tokens, device)
    export(model, args.version, args.out)
    record = {
        "version": args.version, "parameters": sum(p.numel() for p in model.parameters()),
        "tokens": tokens, "unique_tokens": int(rows.size), "corpus_seconds": round(made - start, 1),
        "train_seconds": log[-1]["seconds"], "torch": torch.__version__, "log": log,
        "device": torch.cuda.get_device_name() if device == "cuda" else "cpu",
    }  # fmt: skip
    Path(args.out / "train_log.json").write_text(json.dumps(record, indent=1) + "\n")


if __name__ == "__main__":
    main()
