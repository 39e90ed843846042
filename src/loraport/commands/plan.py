"""`loraport plan`: memory and time of each rule for a pair of models, before anything runs.

Only config.json of each model is read (and fetched, for a model of the hub). Memory is what the
workflow asks a scheduler for, without a GPU and with one. Time is an estimate, on one core of a CPU
and with a GPU; a scheduler is asked for four times as much and ten minutes. Where the pair is there
already, in the artifacts of this folder, what each step took stands beside it.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

HELP = "memory and time that a pair of models will need, step by step"
LEGEND = """
memory, one core: of a machine without a GPU, and time on one core of it. host, GPU, with GPU: of a
machine that has one, of the GPU, and time there. Times are estimates."""
EXAMPLES = ("loraport plan Qwen/Qwen1.5-1.8B Qwen/Qwen2.5-3B",)


def add_arguments(parser: ArgumentParser) -> None:
    """Both models."""
    parser.add_argument("old", metavar="OLD", help="a directory with config.json, or a hub id")
    parser.add_argument("new", metavar="NEW", help="the same of the new model")


def run(arguments: Namespace) -> int:
    """Print both models' dimensions, and the table."""
    from ..models.spec import open_model, resolve
    from ..planning import plan
    from ..planning.sizes import parameters
    from ..report.terminal import table
    from ._steps import does

    sources = arguments.old, arguments.new
    models = [open_model(resolve(source, patterns=["config.json"])[0]) for source in sources]
    for side, model in zip(("old", "new"), models, strict=True):
        dims = model.dims
        experts = f" in {dims.experts} experts" if dims.experts > 1 else ""
        print(
            f"{side}  {model.architecture.name}, {_count(parameters(dims))} weights: "
            f"{dims.layers} layers, hidden {dims.hidden}, intermediate "
            f"{dims.intermediate}{experts},\n"
            f"     {dims.heads} heads of {dims.head_dim} ({dims.attention}, {dims.kv_heads}), "
            f"{dims.vocabulary:,} tokens"
        )
    taken = measured(arguments.old, arguments.new)
    rows = []
    for row in plan.table(models[0].dims, models[1].dims):
        rule, _, side = row.rule.partition(" ")
        words = f"{does(rule)} ({side})" if side else does(rule)
        need = row.need
        with_gpu = [_gib(need.host_mib), _gib(need.gpu_mib), _time(need.gpu_seconds)]
        planned = [_gib(need.mib), _time(need.seconds), *with_gpu]
        rows.append([words, rule, *planned, *taken.get(row.rule, ["", ""])])
    header = ["step", "rule", "memory", "one core", "host", "GPU", "with GPU", "took", "in"]
    shown = rows if taken else [row[:7] for row in rows]
    print(f"\n{table(header[: len(shown[0])], shown)}\n{LEGEND}")
    return 0


def measured(old: str, new: str, artifacts: Path = Path("artifacts")) -> dict[str, list[str]]:
    """Row of the plan -> most memory and time that it took, in words, from logs that are there."""
    from .. import methods
    from ..planning import layout
    from ..runtime.job import last_record
    from ._one_run import Request

    request = Request(old, new, (), ())
    folders = {f" {side}": artifacts / "models" / name for side, name in request.models.items()}
    folders[""] = artifacts / Path(layout.home(request.pair)).name
    most: dict[str, tuple[float, float]] = {}
    for side, folder in folders.items():
        for path in folder.glob("logs/**/*.log"):
            record = last_record(path)
            if record.get("status") != "done":
                continue
            rule = record["rule"].removesuffix("_by_method")
            method = record["wildcards"].get("method", "")
            if rule == "maps" and method in methods.names() and "moments" in methods.needs(method):
                rule = "fitted_maps"
            held = most.get(rule + side, (0.0, 0.0))
            now = record["peak_mib"], record["seconds"]
            most[rule + side] = max(held[0], now[0]), max(held[1], now[1])
    return {row: [f"{mib:,.0f} MiB", f"{seconds:,.1f} s"] for row, (mib, seconds) in most.items()}


def _count(weights: int) -> str:
    """A number of weights in words."""
    return f"{weights / 1e9:.1f} billion" if weights >= 1e9 else f"{weights / 1e6:.0f} million"


def _gib(mib: int) -> str:
    return f"{mib / 1024:,.1f} GiB" if mib else "–"


def _time(seconds: float) -> str:
    """Seconds in words; 0 is none."""
    if not seconds:
        return "–"
    for size, unit in ((86400, "days"), (3600, "h"), (60, "min")):
        if seconds >= 2 * size:
            return f"{seconds / size:,.0f} {unit}"
    return f"{seconds:,.0f} s"
