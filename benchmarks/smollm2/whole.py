"""Scores on all items of an app's test sets, of what its table compares and of `few.py`'s.

    python benchmarks/smollm2/whole.py PAIR APP [--part 0/4] [--methods aligned …]

As the workflow scores but for its limit: built/whole/{pair}/{app}/{name}.json, with every item.
What is scored is not scored again, and what is not there yet is left to a later call; `--part`
takes every fourth, so that four processes share the work.
"""

import argparse
from pathlib import Path

from asked import BUILT, adapters, score, settings

METHODS = ("aligned", "sequential_generic", "aligned_sequential", "lorasuite_norm")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("pair")
    parser.add_argument("app")
    parser.add_argument("--part", default="0/1", help="which of how many")
    parser.add_argument("--methods", nargs="*", default=METHODS)
    given = parser.parse_args()
    part, parts = map(int, given.part.split("/"))
    asked = settings()
    every = adapters(asked, given.pair, given.app, given.methods)
    home = BUILT / "whole" / given.pair / given.app
    mine = {name: home / f"{name.replace('/', '.')}.json" for name in list(every)[part::parts]}
    left = {
        name: out
        for name, out in mine.items()
        if not out.exists() and (not every[name] or Path(every[name]).exists())
    }
    if left:
        score(asked, given.pair, given.app, left, every, limit=0, keep_outputs=False)


if __name__ == "__main__":
    main()
