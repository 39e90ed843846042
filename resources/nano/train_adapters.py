"""Train LoRA adapters on the shipped base models and score all of them.

    python resources/nano/train_adapters.py --out resources/nano/adapters \
        --results resources/nano/results.json

Jobs run side by side in worker processes. Each loads the base from its bfloat16 checkpoint,
trains, writes the adapter in bfloat16, loads it back from disk and scores that.
"""

import argparse
import hashlib
import json
import multiprocessing
import random
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from score import EOS, HERE, load, read_examples, score_app, score_base

APPS = ("math", "mcq", "command")
ATTENTION = ["k_proj", "o_proj", "q_proj", "v_proj"]
FULL_EPOCHS = {"math": 3, "mcq": 1, "command": 3}
TARGETS = {"": ATTENTION, "_all": sorted([*ATTENTION, "gate_proj", "up_proj", "down_proj"])}
RANK, ALPHA = 32, 32
SMALL_SEED = 0  # draws the 100 examples
IGNORED = -100


@dataclass(frozen=True)
class Job:
    """One row of the results. `kind`: bare, full (shipped), small (100 examples, not shipped)."""

    kind: str
    version: str
    app: str
    suffix: str = ""
    rate: float = 0.0
    epochs: int = 0
    batch: int = 16


def all_jobs() -> list[Job]:
    """The longest first, so that workers end together."""
    both = [(version, app) for version in ("v2", "v1") for app in APPS]
    rates = {"_all": 1e-3, "": 2e-3}
    jobs = [Job("full", v, a, s, r, FULL_EPOCHS[a], 32) for s, r in rates.items() for v, a in both]
    small = [(1e-3, 3), (3e-3, 3), (1e-3, 10), (3e-3, 10)]
    for suffix in TARGETS:
        jobs += [Job("small", "v2", a, suffix, r, e) for a in APPS for r, e in small]
    jobs += [Job("bare", v, a) for v, a in both]
    return jobs + [Job("base_skills", v, "") for v in ("v1", "v2")]


def encode(tokenizer, examples: list[dict[str, str]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Right-padded (ids, labels), `<eos>` after the completion, prompt and padding ignored."""
    pairs = [(tokenizer(e["prompt"])["input_ids"], tokenizer(e["completion"])["input_ids"] + [EOS])
             for e in examples]  # fmt: skip
    length = max(len(p) + len(c) for p, c in pairs)
    ids = torch.zeros(len(pairs), length, dtype=torch.long)
    labels = torch.full_like(ids, IGNORED)
    for i, (prompt, completion) in enumerate(pairs):
        end = len(prompt) + len(completion)
        ids[i, :end] = torch.tensor(prompt + completion)
        labels[i, len(prompt) : end] = torch.tensor(completion)
    return ids, labels


def train_lora(model, ids, labels, job: Job) -> list[float]:
    """AdamW, no weight decay, no warm-up, linear decay; the loss of 20 points on the way."""
    weights = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(weights, lr=job.rate, weight_decay=0.0, fused=ids.is_cuda)
    per_epoch = -(-len(ids) // job.batch)
    steps, losses = per_epoch * job.epochs, []
    for step in range(steps):
        if step % per_epoch == 0:
            order = torch.randperm(len(ids), device=ids.device)
        place = step % per_epoch * job.batch
        chosen = order[place : place + job.batch]
        for group in optimizer.param_groups:
            group["lr"] = job.rate * (1 - step / steps)
        # Causal attention never sees padding on the right: no mask is needed.
        logits = model(input_ids=ids[chosen]).logits[:, :-1]
        loss = torch.nn.functional.cross_entropy(
            logits.flatten(0, 1), labels[chosen][:, 1:].flatten(), ignore_index=IGNORED
        )
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if step % max(1, steps // 20) == 0:
            losses.append(loss.detach())
    return [round(float(value), 4) for value in losses]


def save(model, folder: Path, version: str) -> None:
    """PEFT layout: bfloat16 tensors, a config that is the same in every run, and both checksums."""
    config = model.peft_config["default"]
    config.base_model_name_or_path = f"nano_{version}"
    model.to(torch.bfloat16).save_pretrained(folder, save_embedding_layers=False)
    (folder / "README.md").unlink(missing_ok=True)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    settings["target_modules"] = sorted(settings["target_modules"])
    path.write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n")
    files = (path, folder / "adapter_model.safetensors")
    sums = [f"{hashlib.sha256(each.read_bytes()).hexdigest()}  {each.name}" for each in files]
    (folder / "SHA256SUMS").write_text("\n".join(sums) + "\n")


def fit(job: Job, device: str, folder: Path, limit: int | None) -> dict:
    """Train the job's adapter and write it to `folder`."""
    from peft import LoraConfig, get_peft_model

    model, tokenizer = load(HERE / job.version, None, device)
    settings = LoraConfig(
        r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=TARGETS[job.suffix],
        bias="none", task_type="CAUSAL_LM",
    )  # fmt: skip
    model = get_peft_model(model, settings)
    examples = read_examples(job.app, "train")
    if job.kind == "small":
        examples = random.Random(SMALL_SEED).sample(examples, 100)
    ids, labels = encode(tokenizer, examples[:limit])
    start = time.perf_counter()
    losses = train_lora(model.train(), ids.to(device), labels.to(device), job)
    seconds = round(time.perf_counter() - start, 1)
    save(model, folder, job.version)
    return {"examples": len(ids), "seconds": seconds, "losses": losses}


def run_job(task: tuple[Job, str, str, int | None]) -> dict:
    """One row of the results; trains first unless the job is about a bare model."""
    job, device, out, limit = task
    torch.manual_seed(0)
    torch.set_num_threads(1 if device == "cuda" else torch.get_num_threads())
    row = asdict(job)
    with tempfile.TemporaryDirectory() as scratch:
        adapter = None
        if job.kind in ("full", "small"):
            full = Path(out) / job.version / f"{job.app}{job.suffix}"
            adapter = full if job.kind == "full" else Path(scratch)
            torch.set_float32_matmul_precision("high")
            row |= fit(job, device, adapter, limit)
        torch.set_float32_matmul_precision("highest")
        model, tokenizer = load(HERE / job.version, adapter, device)
        count = limit or 500
        if job.kind == "base_skills":
            row |= score_base(model, tokenizer, job.version, count)
        else:
            row |= score_app(model, tokenizer, job.app, count)
    print(json.dumps({k: v for k, v in row.items() if k != "losses"}), flush=True)
    return row


def write_results(path: Path, rows: list[dict]) -> None:
    """The base models' training logs, where they lie beside the weights, and the rows."""
    logs = [HERE / version / "train_log.json" for version in ("v1", "v2")]
    base = [json.loads(log.read_text()) for log in logs if log.exists()]
    path.write_text(json.dumps({"base_training": base, "rows": rows}, indent=1) + "\n")


def main() -> None:
    """Command line; `--limit` shortens training and test sets to rehearse."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--results", type=Path, required=True)
    parser.add_argument("--kinds", nargs="+", default=["full", "small", "bare", "base_skills"])
    parser.add_argument("--apps", nargs="+", default=[*APPS, ""], help="'' for the base skills")
    parser.add_argument("--workers", type=int, default=15)
    parser.add_argument("--limit", type=int)
    parser.add_argument("--device", choices=("auto", "cpu", "cuda"), default="auto")
    args = parser.parse_args()
    auto = "cuda" if torch.cuda.is_available() else "cpu"
    device = auto if args.device == "auto" else args.device
    jobs = [job for job in all_jobs() if job.kind in args.kinds and job.app in args.apps]
    tasks = [(job, device, str(args.out), args.limit) for job in jobs]
    rows: list[dict] = []
    with multiprocessing.get_context("spawn").Pool(args.workers) as pool:
        for row in pool.imap_unordered(run_job, tasks, chunksize=1):
            rows.append(row)
            # Written after every job: what is done survives a time limit.
            write_results(args.results, rows)


if __name__ == "__main__":
    main()
