"""`loraport plan`: memory and time of each rule for a pair of models, before anything runs.

Only config.json of each model is read (and fetched, for a model of the hub). The figures are what
the workflow asks a scheduler for: generous, on a small CPU job.
"""

from argparse import ArgumentParser, Namespace

HELP = "what each rule will need for a pair of models"
EXAMPLES = ("loraport plan Qwen/Qwen1.5-1.8B Qwen/Qwen2.5-3B",)


def add_arguments(parser: ArgumentParser) -> None:
    """Both models."""
    parser.add_argument("old", metavar="OLD", help="a directory with config.json, or a hub id")
    parser.add_argument("new", metavar="NEW", help="the same of the new model")


def run(arguments: Namespace) -> int:
    """Print both models' dimensions, and the table."""
    from ..models.spec import open_model, resolve
    from ..planning import needs
    from ..report.terminal import table

    sources = arguments.old, arguments.new
    models = [open_model(resolve(source, patterns=["config.json"])[0]) for source in sources]
    for side, model in zip(("old", "new"), models, strict=True):
        dims = model.dims
        print(
            f"{side}  {model.architecture.name}: {dims.layers} layers, hidden {dims.hidden}, "
            f"intermediate {dims.intermediate}, {dims.heads} heads of {dims.head_dim} "
            f"({dims.attention}, {dims.kv_heads}), {dims.vocabulary} tokens, "
            f"{needs.parameters(dims) / 1e9:.1f} billion weights"
        )
    rows = needs.table(models[0].dims, models[1].dims)
    shown = [(rule, f"{mib:,} MiB", f"{minutes:,} min") for rule, mib, minutes in rows]
    print(f"\n{table(['rule', 'memory', 'time'], shown)}")
    return 0
