"""The `loraport` command: look at an adapter before anything is done with it."""

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from .adapter import Adapter, read_adapter
from .audit import audit
from .errors import LoraportError
from .kinds import kind_of
from .spec import open_model


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; errors are told in one paragraph and give status 1."""
    parser = argparse.ArgumentParser(prog="loraport", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    look = commands.add_parser("inspect", help="what an adapter is, and whether it can be carried")
    look.add_argument("adapter", type=Path, help="a PEFT directory")
    look.add_argument("--base", type=Path, help="directory of its base model, to audit it against")
    given = parser.parse_args(arguments)
    try:
        adapter = read_adapter(given.adapter)
        if given.base is not None:
            model = open_model(given.base)
            recorded = str(adapter.config.get("base_model_name_or_path"))
            known = {str(given.base), given.base.name, recorded}  # the user says which base it is
            audit(adapter, model.architecture, model.dims, known)
        print(summary(adapter))
    except LoraportError as error:
        print(f"loraport: {error}", file=sys.stderr)
        return 1
    return 0


def summary(adapter: Adapter) -> str:
    """What an adapter is, a line for each fact and for each kind of module."""
    config = adapter.config
    kind = kind_of(config, adapter.directory).__name__.rpartition(".")[2]
    name = "rslora" if kind == "lora" and config.get("use_rslora") else kind
    lines = [
        f"kind      {name}",
        f"base      {config.get('base_model_name_or_path') or 'not recorded'}"
        f"{' @ ' + config['revision'] if config.get('revision') else ''}",
        f"modules   {len(adapter.modules)}",
    ]
    ends = Counter(path.rpartition(".")[2] for path in adapter.modules)
    for end, count in sorted(ends.items()):
        held = [w for path, w in adapter.modules.items() if path.rpartition(".")[2] == end]
        ranks = sorted({weights.rank for weights in held})
        norms = sorted(weights.norm() for weights in held)
        lines.append(
            f"  {end:<16} {count:>4} layers   rank {', '.join(map(str, ranks))}   "
            f"shape {held[0].b.shape[0]}×{held[0].a.shape[1]}   "
            f"‖ΔW‖ {norms[0]:.3g} to {norms[-1]:.3g}"
        )
    lines += [f"whole     {name} {values.shape}" for name, values in adapter.saved.items()]
    lines += [f"warning   {warning}" for warning in adapter.warnings]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
