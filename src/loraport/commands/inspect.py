"""`loraport inspect`: what adapters are, and whether and how they can be carried.

One adapter is told in some lines, several in a table of a row each. With --to it is said of each
whether it can be carried to that model, how, and what will be left. Of base models config.json
alone is read. Exit status 1 where one can't be read or carried.
"""

import sys
from argparse import ArgumentParser, Namespace
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import LoraportError
from ._words import in_flags

if TYPE_CHECKING:
    from ..adapters.files import Adapter
    from ..models.spec import Model
    from ..planning.prospect import Prospect

HELP = "what adapters are, and whether and how they can be carried"
EXAMPLES = (
    "loraport inspect path/to/adapter",
    "loraport inspect path/to/adapter --base Qwen/Qwen2.5-0.5B",
    "loraport inspect tickets mails owner/adapter --to Qwen/Qwen3-4B",
)


@dataclass(frozen=True)
class Inspected:
    """An adapter, its base as far as it is at hand, and what is known of carrying it.

    adapter : None where it can't be read
    """

    name: str
    adapter: "Adapter | None"
    base: "Model | None"
    prospect: "Prospect"


def add_arguments(parser: ArgumentParser) -> None:
    """Adapters, their base to audit them against, and a model to carry them to."""
    add = parser.add_argument
    add("adapters", metavar="ADAPTER", nargs="+", help="PEFT directories or hub ids")
    add("--base", default="", metavar="MODEL",
        help="their base model, a directory or a hub id (default: as each records it)")  # fmt: skip
    add("--to", default="", metavar="NEW", help="a new model: can they be carried to it, and how")


def run(arguments: Namespace) -> int:
    """Look at each adapter, and print what it is."""
    from ..planning.prospect import NOT, named_model
    from ..report.terminal import WIDTH, in_lines

    new = named_model(arguments.to) if arguments.to else None
    alone = len(arguments.adapters) == 1
    every = [
        _inspected(each, arguments.base, arguments.to, new, alone) for each in arguments.adapters
    ]
    if alone:
        print(in_lines(details(every[0], arguments.to), WIDTH))
        for why in every[0].prospect.refused:
            print(f"loraport: {in_flags(why)}", file=sys.stderr)
    else:
        print(overview(every, arguments.to))
    return 1 if any(each.prospect.how == NOT for each in every) else 0


def _inspected(source: str, base: str, to: str, new: "Model | None", alone: bool) -> Inspected:
    """An adapter; one that can't be read is an error where it is `alone`."""
    from ..planning.prospect import NOT, Prospect, look_at

    try:
        seen = look_at(source, base, to, new)
    except LoraportError as error:
        error = LoraportError(in_flags(str(error)))
        if alone:
            raise error from None
        return Inspected(source, None, None, Prospect(NOT, [str(error)]))
    if seen.base is None:
        seen.prospect.notes.append(
            "its base is not at hand: name it by --base to check the adapter on it"
        )
    return Inspected(source, seen.adapter, seen.base, seen.prospect)


def overview(every: list[Inspected], to: str) -> str:
    """A row for each adapter, and below the table why some can't be carried and what is left."""
    from ..report.terminal import WIDTH, in_lines, listed, table

    header = ["adapter", "kind", "rank", "modules", *(["carried"] if to else []), "base"]
    rows: list[list[str]] = []
    told: dict[str, list[str]] = {}  # remark -> the adapters that it is of
    for each in every:
        base = kind = rank = modules = ""
        if each.adapter is not None:
            ranks = sorted({weights.rank for weights in each.adapter.modules.values()})
            kind, modules = kind_name(each.adapter), str(len(each.adapter.modules))
            rank = f"{ranks[0]}" if len(ranks) == 1 else f"{ranks[0]} to {ranks[-1]}"
            base = Path(str(each.adapter.config.get("base_model_name_or_path") or "")).name
        carried = [each.prospect.how] if to else []
        rows.append([each.name, kind, rank, modules, *carried, shortened(base, 28)])
        for line in remarks(each):
            told.setdefault(line, []).append(each.name)
    lines = [in_lines(f"{listed(names)}: {line}", WIDTH) for line, names in told.items()]
    return "\n".join([table(header, rows), *([""] if told else []), *lines])


def shortened(text: str, most: int) -> str:
    """A text of at most so many characters."""
    return text if len(text) <= most else f"{text[: most - 1]}…"


def remarks(each: Inspected) -> list[str]:
    """Why an adapter is refused, what is left of it, and what was noticed, a line each."""
    return [
        *(f"refused: {in_flags(why)}" for why in each.prospect.refused),
        *(f"left: {what}" for what in each.prospect.left),
        *(f"warning: {note}" for note in each.prospect.notes),
    ]


def details(each: Inspected, to: str) -> str:
    """What one adapter is, and what is known of carrying it."""
    lines = [summary(each.adapter)] if each.adapter is not None else []
    if each.base is not None:
        dims = each.base.dims
        family = each.base.architecture.name
        lines.append(f"fits      {'no' if each.prospect.refused else 'yes'}: {family}, "
                     f"{dims.layers} layers, hidden {dims.hidden}")  # fmt: skip
    if to:
        lines.append(f"to {to}: {each.prospect.how}")
    kinds = (("left", each.prospect.left), ("warning", each.prospect.notes))
    lines += [f"{kind:<9} {line}" for kind, told in kinds for line in told]
    return "\n".join(lines)


def kind_name(adapter: "Adapter") -> str:
    """`lora`, `rslora`, `dora`, …"""
    from ..adapters.kinds import kind_of

    kind = kind_of(adapter.config, adapter.directory).__name__.rpartition(".")[2]
    return "rslora" if kind == "lora" and adapter.config.get("use_rslora") else kind


def summary(adapter: "Adapter") -> str:
    """What an adapter is, a line for each fact and for each kind of module."""
    config = adapter.config
    lines = [
        f"kind      {kind_name(adapter)}",
        f"base      {config.get('base_model_name_or_path') or 'not recorded'}"
        f"{' @ ' + config['revision'] if config.get('revision') else ''}",
        f"modules   {len(adapter.modules)}",
    ]
    ends = Counter(path.rpartition(".")[2] for path in adapter.modules)
    for end, count in sorted(ends.items()):
        held = [w for path, w in adapter.modules.items() if path.rpartition(".")[2] == end]
        ranks = sorted({weights.rank for weights in held})
        norms = sorted(weights.norm() for weights in held)
        shapes = sorted({(weights.b.shape[0], weights.a.shape[1]) for weights in held})
        paths = (path for path in adapter.modules if path.rpartition(".")[2] == end)
        unit = "experts" if any(".experts." in path for path in paths) else "layers"
        lines.append(
            f"  {end:<16} {count:>4} {unit:<7}  rank {', '.join(map(str, ranks))}   "
            f"shape {', '.join(f'{rows}×{columns}' for rows, columns in shapes)}   "
            f"‖ΔW‖ {norms[0]:.3g} to {norms[-1]:.3g}"
        )
    lines += [f"whole     {name} {values.shape}" for name, values in adapter.saved.items()]
    return "\n".join(lines)
