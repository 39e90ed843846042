"""Light fine-tuning on a third of the examples, from each start, and from nothing.

    python benchmarks/smollm2/few.py PAIR APP [--starts scratch aligned …]

The workflow's own schedule, draw and seeds, with a third of its examples (the smaller draw is part
of the larger one), scored as the workflow scores: {start}/seed{n} and scores/{start}.seed{n}.json
below built/few/{pair}/{app}/{examples}. What is there is not made again.
"""

import argparse
import sys
from pathlib import Path

from asked import a_third, few_folder, new_model, score, settings

from loraport.planning import stages
from loraport.planning.queries import Config
from loraport.training.data import read
from loraport.training.settings import Settings
from loraport.training.starts import Fresh, fresh_like
from loraport.training.train import train_lora

SCRATCH = "scratch"
STARTS = (SCRATCH, "aligned", "sequential_generic", "aligned_sequential")


def begun(pair: str, app: str, start: str) -> Fresh | Path:
    """A carried adapter, or a fresh one like that which the workflow's own baseline is like."""
    home = Path("artifacts") / pair / app
    if start == SCRATCH:
        return fresh_like(home / "lora_transferred")
    return home / start / "lora_transferred"


def train(asked: Config, pair: str, app: str, start: str, seed: int) -> Path:
    """The adapter that one start and seed give."""
    out = few_folder(asked, pair, app) / start / f"seed{seed}"
    if out.exists():
        return out
    model, _ = new_model(asked, pair)
    task = stages.task_of(asked, app, *reversed(asked.pair(pair)))
    wanted = stages.training(asked, "lft", seed=seed, examples=a_third(asked))
    small = stages.small_set(asked, pair, app, task, wanted)
    train_lora(
        model.directory,
        read(**small["data"]),
        out,
        start=begun(pair, app, start),
        settings=Settings(**small["settings"]),
        base_name=asked.model(asked.pair(pair)[1])["source"],
    )
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pair")
    parser.add_argument("app")
    parser.add_argument("--starts", nargs="*", default=STARTS, choices=STARTS)
    given = parser.parse_args()
    asked = settings()
    for start in given.starts:
        made = {
            f"{start}.seed{seed}": str(train(asked, given.pair, given.app, start, seed))
            for seed in asked.content["finetune"]["seeds"]
        }
        home = few_folder(asked, given.pair, given.app) / "scores"
        files = {name: home / f"{name}.json" for name in made}
        score(asked, given.pair, given.app, files, made)
        print(given.pair, given.app, start, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
