"""Likelihood of worked answers for every adapter below a folder; the base is loaded once.

    python benchmarks/smollm2/likelihood.py MODEL RECORDS.jsonl OUT.json ADAPTERS...

The math sets' own gold answers are bare numbers, which an adapter that learnt to work them out
finds no likelier; here the gold is the whole worked answer. Nats, summed over an answer's tokens.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from loraport.adapters.attach import attach
from loraport.artifacts import atomic
from loraport.models.loading import load_base
from loraport.training.data import IGNORED, encode, read

BATCH = 25
LONGEST = 1024


def nll(model: Any, rows: list[dict[str, list[int]]], pad: int) -> list[float]:
    """Negative log-likelihood of each row's labelled tokens."""
    found: list[float] = []
    for first in range(0, len(rows), BATCH):
        batch = rows[first : first + BATCH]
        width = max(len(row["input_ids"]) for row in batch)
        ids = torch.full((len(batch), width), pad)
        labels = torch.full((len(batch), width), IGNORED)
        for number, row in enumerate(batch):
            size = len(row["input_ids"])
            ids[number, :size] = torch.tensor(row["input_ids"])
            labels[number, :size] = torch.tensor(row["labels"])
        mask = torch.arange(width)[None] < torch.tensor([[len(r["input_ids"])] for r in batch])
        device = model.device
        with torch.no_grad():
            logits = model(input_ids=ids.to(device), attention_mask=mask.long().to(device)).logits
        each = torch.nn.functional.cross_entropy(
            logits[:, :-1].float().transpose(1, 2), labels[:, 1:].to(device),
            ignore_index=IGNORED, reduction="none",
        )  # fmt: skip
        found += each.double().sum(dim=1).tolist()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("model")
    parser.add_argument("records")
    parser.add_argument("out", type=Path)
    parser.add_argument(
        "adapters", nargs="*", type=Path, help="adapters, or folders that hold some"
    )
    asked = parser.parse_args()
    base, tokenizer = load_base(asked.model)
    rows = encode(read(asked.records), tokenizer, LONGEST, "answer").rows
    held = json.loads(asked.out.read_text()) if asked.out.exists() else {}
    if "bare" not in held:
        held["bare"] = nll(base, rows, tokenizer.pad_token_id)
    folders = [p.parent for each in asked.adapters for p in each.rglob("adapter_model.safetensors")]
    for folder in sorted(folders):
        if str(folder) in held or folder.name == "lora_source":
            continue
        model = attach(base, folder).eval()
        held[str(folder)] = nll(model, rows, tokenizer.pad_token_id)
        base = model.unload()
        print(f"{folder}: {np.mean(held[str(folder)]):.2f}", flush=True)
    with atomic(asked.out) as temporary:
        temporary.write_text(json.dumps({k: [round(x, 4) for x in v] for k, v in held.items()}))


if __name__ == "__main__":
    main()
