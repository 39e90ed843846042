"""A model in memory: light training, nats of answers, greedy answers. One load for many adapters.

The training is that of `loraport.training.train` without its files: AdamW, linear decay, the same
order of examples for a seed, loss over the answer's tokens of a batch. Logits are taken at those
tokens alone.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from peft import LoraConfig, get_peft_model
from torch.nn import functional
from torch.nn.attention import SDPBackend, sdpa_kernel

from loraport.models.loading import load_base
from loraport.training.data import IGNORED, Example, encode

# all but cuDNN's, whose gradients are NaN where a padded batch is 64 tokens long, or that and a
# multiple of 128 (https://github.com/pytorch/pytorch/issues/196678)
ATTENTION = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH]
MODULES = ("q_proj", "k_proj", "v_proj", "o_proj")
CUTOFF = 512
TOKENS_AT_ONCE = 32768  # of a forward pass without gradients
LOGITS_AT_ONCE = 2**27
Row = dict[str, list[int]]


@dataclass(frozen=True)
class Schedule:
    """A training: `warmup` is a share of its steps, `plus` B's rate as a multiple of A's."""

    learning_rate: float
    epochs: int = 3
    batch_size: int = 16
    warmup: float = 0.0
    plus: float = 1.0
    steps: int = 0  # where above 0, in place of epochs


class Learner:
    """A base model that wears one LoRA of rank `rank`, scale 1, on q, k, v and o."""

    def __init__(self, directory: str, rank: int, device: str = "auto", dtype: str = "auto"):
        base, self.tokenizer = load_base(directory, device=device, dtype=dtype)
        config = LoraConfig(
            r=rank, lora_alpha=rank, target_modules=list(MODULES), task_type="CAUSAL_LM"
        )
        self.model: Any = get_peft_model(base, config)
        self.rank, self.device, self.dtype = rank, base.device, base.dtype
        self.on_gpu = base.device.type == "cuda"
        self.weights = [p for p in self.model.parameters() if p.requires_grad]

    def encoded(self, records: Sequence[dict[str, Any]]) -> list[Row]:
        """Tokens and labels of records."""
        pairs = [Example(each["prompt"], each["completion"]) for each in records]
        rows = encode(pairs, self.tokenizer, CUTOFF, "answer")
        if rows.dropped:
            raise ValueError(f"{rows.dropped} answers lie behind {CUTOFF} tokens")
        return rows.rows

    def train(self, rows: Sequence[Row], schedule: Schedule, seed: int) -> list[float]:
        """Train what the model wears; the loss of each step."""
        self.model.train()
        size = schedule.batch_size
        steps = schedule.steps or -(-len(rows) // size) * schedule.epochs
        warm = int(steps * schedule.warmup)
        optimizer = self._optimizer(schedule)
        decay = torch.optim.lr_scheduler.LambdaLR(
            optimizer,
            lambda n: n / max(1, warm) if n < warm else (steps - n) / max(1, steps - warm),
        )
        losses = []
        with sdpa_kernel(ATTENTION):
            for batch in _drawn(rows, size, steps, seed):
                nats, _ = self._nats(batch)
                loss = nats.mean()
                loss.backward()
                torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
                optimizer.step()
                decay.step()
                optimizer.zero_grad(set_to_none=True)
                losses.append(loss.detach())
        self.model.eval()
        told = torch.stack(losses).tolist()
        if not all(map(_finite, told)):
            raise FloatingPointError(f"losses {told[:3]} … {told[-3:]}")
        return told

    def _optimizer(self, schedule: Schedule) -> torch.optim.Optimizer:
        named = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        rate = schedule.learning_rate
        groups = [
            {"params": [p for n, p in named if "lora_B" not in n], "lr": rate},
            {"params": [p for n, p in named if "lora_B" in n], "lr": rate * schedule.plus},
        ]
        return torch.optim.AdamW(groups, lr=rate, weight_decay=0.0, fused=self.on_gpu or None)

    def _autocast(self) -> Any:
        half = self.dtype == torch.bfloat16
        return torch.autocast(self.device.type, torch.bfloat16) if half else nullcontext()

    def _nats(self, rows: Sequence[Row]) -> tuple[torch.Tensor, torch.Tensor]:
        """Nats of the answers' tokens of a batch, and the row of each token."""
        long = max(len(row["input_ids"]) for row in rows)
        pad = self.tokenizer.pad_token_id
        ids = torch.tensor([_padded(row["input_ids"], long, pad) for row in rows])
        labels = torch.tensor([_padded(row["labels"], long, IGNORED) for row in rows])[:, 1:]
        mask = torch.tensor([_padded([1] * len(row["input_ids"]), long, 0) for row in rows])
        told = (labels != IGNORED).nonzero()
        ids, mask, told_there = (x.to(self.device, non_blocking=True) for x in (ids, mask, told))
        wanted = labels[told[:, 0], told[:, 1]].to(self.device, non_blocking=True)
        core = self.model.get_base_model()
        with self._autocast():
            seen = core.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
            states = seen.last_hidden_state[told_there[:, 0], told_there[:, 1]]
            # a large vocabulary at a few thousand tokens would be many GB at once
            size = max(256, LOGITS_AT_ONCE // core.config.vocab_size)
            parts = zip(states.split(size), wanted.split(size), strict=True)
            nats = torch.cat([_surprise(core, part, right) for part, right in parts])
        return nats, told_there[:, 0]

    @torch.inference_mode()
    def nats(self, rows: Sequence[Row]) -> list[float]:
        """Nats of each row's answer."""
        result = [0.0] * len(rows)
        with sdpa_kernel(ATTENTION):
            for places in _by_length([len(row["input_ids"]) for row in rows], TOKENS_AT_ONCE, 256):
                nats, owners = self._nats([rows[n] for n in places])
                sums = torch.zeros(len(places), device=nats.device, dtype=torch.float64)
                sums.index_add_(0, owners, nats.double())
                for place, value in zip(places, sums.tolist(), strict=True):
                    result[place] = value
        return result

    @torch.inference_mode()
    def answers(self, prompts: Sequence[str], tokens: int) -> list[str]:
        """Greedy answers of at most `tokens` new tokens."""
        lengths = [len(ids) for ids in self.tokenizer(list(prompts))["input_ids"]]
        budget = TOKENS_AT_ONCE * 4
        result = [""] * len(prompts)
        with sdpa_kernel(ATTENTION), self._rounded():
            queue = _by_length([n + tokens for n in lengths], budget, 512)
            while queue:
                places = queue.pop(0)
                try:
                    texts = self._written([prompts[n] for n in places], tokens)
                except torch.OutOfMemoryError:
                    if len(places) == 1:
                        raise
                    torch.cuda.empty_cache()
                    half = len(places) // 2
                    queue[:0] = [places[:half], places[half:]]
                    continue
                for place, text in zip(places, texts, strict=True):
                    result[place] = text
        return result

    def _written(self, prompts: list[str], tokens: int) -> list[str]:
        batch = self.tokenizer(prompts, return_tensors="pt", padding=True, padding_side="left")
        ids = self.model.generate(
            input_ids=batch["input_ids"].to(self.device),
            attention_mask=batch["attention_mask"].to(self.device),
            max_new_tokens=tokens,
            do_sample=False,
            num_beams=1,
            temperature=None,
            top_p=None,
            top_k=None,
            eos_token_id=self.tokenizer.eos_token_id,
            pad_token_id=self.tokenizer.pad_token_id,
        )
        return self.tokenizer.batch_decode(
            ids[:, batch["input_ids"].shape[1] :], skip_special_tokens=True
        )

    @contextmanager
    def _rounded(self) -> Iterator[None]:
        """The adapter in the base's dtype, as a server has it; its own numbers come back after."""
        kept = [weight.data for weight in self.weights]
        for weight in self.weights:
            weight.data = weight.data.to(self.dtype)
        try:
            yield
        finally:
            for weight, data in zip(self.weights, kept, strict=True):
                weight.data = data

    def worn(self) -> list[torch.Tensor]:
        """A copy of the adapter's numbers, for `wear`."""
        return [weight.detach().clone() for weight in self.weights]

    @torch.no_grad()
    def wear(self, numbers: Sequence[torch.Tensor]) -> None:
        for weight, value in zip(self.weights, numbers, strict=True):
            weight.copy_(value)


def _surprise(core: Any, states: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Nats of the tokens `wanted (n,)` after the last states `(n, hidden)`."""
    logits = core.lm_head(states).float()
    if cap := getattr(core.config, "final_logit_softcapping", None):
        logits = torch.tanh(logits / cap) * cap
    return functional.cross_entropy(logits, wanted, reduction="none")


def _finite(value: float) -> bool:
    return value == value and abs(value) != float("inf")


def _padded(values: list[int], long: int, filler: int) -> list[int]:
    return values + [filler] * (long - len(values))


def _drawn(rows: Sequence[Row], size: int, steps: int, seed: int) -> Iterator[list[Row]]:
    """Batches in the order of the Trainer: one permutation an epoch, of seed and epoch."""
    done = epoch = 0
    while done < steps:
        generator = torch.Generator().manual_seed(seed + epoch)
        order = torch.randperm(len(rows), generator=generator).tolist()
        for first in range(0, len(rows), size):
            if done < steps:
                yield [rows[n] for n in order[first : first + size]]
            done += 1
        epoch += 1


def _by_length(lengths: Sequence[int], tokens: int, most: int) -> list[list[int]]:
    """Places in batches of about `tokens` tokens and at most `most` rows, the longest first."""
    batches: list[list[int]] = []
    for place in sorted(range(len(lengths)), key=lambda n: -lengths[n]):
        full = batches and (
            len(batches[-1]) >= most or (len(batches[-1]) + 1) * lengths[batches[-1][0]] > tokens
        )
        if not batches or full:
            batches.append([])
        batches[-1].append(place)
    return batches
