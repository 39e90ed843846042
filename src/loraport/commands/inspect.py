"""`loraport inspect`: an adapter told in a few lines, or why it can't be carried."""

from argparse import ArgumentParser, Namespace
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ..adapters.files import Adapter

HELP = "what an adapter is, and whether it can be carried"
EXAMPLES = (
    "loraport inspect path/to/adapter",
    "loraport inspect path/to/adapter --base Qwen/Qwen2.5-0.5B",
)


def add_arguments(parser: ArgumentParser) -> None:
    """An adapter and, to audit it against, its base."""
    parser.add_argument("adapter", type=Path, help="a PEFT directory")
    parser.add_argument("--base", type=Path, help="directory of its base model, to audit against")


def run(arguments: Namespace) -> int:
    """Read the adapter, audit it where its base is given, and print what it is."""
    from ..adapters.audit import audit
    from ..adapters.files import read_adapter
    from ..models.spec import open_model

    adapter = read_adapter(arguments.adapter)
    if arguments.base is not None:
        model = open_model(arguments.base)
        recorded = str(adapter.config.get("base_model_name_or_path"))
        known = {str(arguments.base), arguments.base.name, recorded}  # the user says which it is
        audit(adapter, model.architecture, model.dims, known, vocabulary=True)
    print(summary(adapter))
    return 0


def summary(adapter: "Adapter") -> str:
    """What an adapter is, a line for each fact and for each kind of module."""
    from ..adapters.kinds import kind_of

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
