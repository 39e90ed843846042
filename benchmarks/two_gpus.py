"""Light fine-tuning on the GPUs of one machine: two side by side, and one spread over two.

    python benchmarks/two_gpus.py --out benchmarks/results/two_gpus.json

Each training is a process of its own that takes free GPUs as a rule's job does. It
trains an adapter of the embedded nano_v2: first alone, then two at once, then with
`device_map: balanced` over all GPUs. Without GPUs it runs on the CPU, to see that all is there.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from loraport.artifacts import sha256, write_json
from loraport.provenance import versions

NANO = Path(__file__).resolve().parents[1] / "resources" / "nano"


def train(app: str, out: Path, count: int, device_map: str, steps: int) -> dict[str, Any]:
    """One training in this process; what it used and what came of it."""
    import torch

    from loraport.runtime import gpus
    from loraport.training.data import read
    from loraport.training.settings import Settings
    from loraport.training.train import train_lora

    with gpus.held(count) as mine:
        begun = time.time()
        settings = Settings(
            examples=100, max_steps=steps, device_map=device_map, dtype="float32", save_steps=10_000
        )
        content = train_lora(
            NANO / "v2",
            read(str(NANO / f"data/{app}.train.jsonl"), "plain"),
            out,
            start=NANO / f"adapters/v2/{app}",
            settings=settings,
        )
        used = range(torch.cuda.device_count()) if torch.cuda.is_available() else range(0)
        return {
            "app": app,
            "held": mine,
            "cards": [str(torch.cuda.get_device_properties(gpu).uuid) for gpu in used],
            "peak_mib": [round(torch.cuda.max_memory_allocated(gpu) / 2**20, 1) for gpu in used],
            "begun": begun,
            "ended": time.time(),
            "seconds": content["run"]["seconds"],
            "last_loss": content["last_loss"],
            "adapter": sha256(out / "adapter_model.safetensors"),
        }


def at_once(folder: Path, *jobs: tuple[str, int, str], steps: int) -> list[dict[str, Any]]:
    """Trainings (app, GPUs, device_map) that are started together."""
    started = []
    for number, job in enumerate(jobs):
        out = folder / f"{time.monotonic_ns()}_{number}"
        command = [sys.executable, __file__, "--job", json.dumps([*job, str(out), steps])]
        started.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
    told = [process.communicate()[0] for process in started]
    if any(process.returncode for process in started):
        sys.exit("a training failed")
    return [json.loads(text.rstrip().rpartition("\n")[2]) for text in told]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--out", type=Path)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--job", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.job:
        app, count, device_map, out, steps = json.loads(asked.job)
        print(json.dumps(train(app, Path(out), count, device_map, steps)))
        return
    cards: dict[str, int] = {}
    with TemporaryDirectory() as folder:
        root = Path(folder)
        alone = at_once(root, ("math", 1, ""), steps=asked.steps)
        pair = at_once(root, ("math", 1, ""), ("mcq", 1, ""), steps=asked.steps)
        spread = at_once(root, ("math", 2, "balanced"), steps=asked.steps)
    for job in (*alone, *pair, *spread):  # which of them, and not their serial numbers
        job["cards"] = [f"GPU {cards.setdefault(uuid, len(cards))}" for uuid in job["cards"]]
    overlap = min(job["ended"] for job in pair) - max(job["begun"] for job in pair)
    content = {
        "alone": alone[0],
        "side_by_side": pair,
        "overlap_seconds": round(overlap, 3),
        "spread": spread[0],
        "same_bytes_alone_and_beside_another": alone[0]["adapter"] == pair[0]["adapter"],
        "versions": versions(),
    }
    print(json.dumps(content, indent=1))
    if asked.out:
        write_json(asked.out, "benchmark", {}, content)


if __name__ == "__main__":
    main()
