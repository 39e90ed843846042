"""`loraport transfer`: carry adapters from an old model to a new one, by one command.

It runs the workflow, whose artifacts stay in `--work`: a second adapter of the same two models
takes seconds. Several adapters go into subfolders of OUT.
"""

import os
import shlex
from argparse import ArgumentParser, Namespace
from dataclasses import replace
from pathlib import Path

HELP = "carry adapters from an old model to a new one"
EXAMPLES = (
    "loraport transfer Qwen/Qwen1.5-1.8B Qwen/Qwen2.5-3B adapter carried",
    "loraport transfer old/ new/ tickets mails carried --method aligned --texts texts.txt",
)


def add_arguments(parser: ArgumentParser) -> None:
    """Models, adapters and where they go, as `cp` takes them."""
    add = parser.add_argument
    add("old", metavar="OLD", help="the adapters' base model: a directory or a hub id")
    add("new", metavar="NEW", help="the model to carry them to: a directory or a hub id")
    add("adapters", metavar="ADAPTER", nargs="+", type=Path, help="PEFT directories")
    add("out", metavar="OUT", type=Path, help="new folder; of several adapters a subfolder each")
    add("--method", default="lorasuite", help="transfer method (default: lorasuite)")
    add("--set", dest="settings", metavar="SECTION.KEY=VALUE", action="append", default=[],
        help="a setting of config.yaml, such as transfer.scale=norm; may be repeated")  # fmt: skip
    add("--texts", metavar="FILE", default="",
        help="calibration texts, one a line, that both models read so that adapters can be carried "
        "(default: Wikitext-2); `loraport upgrade` calls it --calibration")  # fmt: skip
    add("--known-as", action="append", default=[],
        help="a name under which the adapters may record OLD; may be repeated")  # fmt: skip
    add("--merged", choices=["base", "float32", "bfloat16"], default="",
        help="write the whole new model with each adapter in its weights as well")  # fmt: skip
    add("--allow-large", action="store_true",
        help="write updates of many times their weight, which are refused otherwise")  # fmt: skip
    add("--cores", type=int, default=os.cpu_count(), help="for the workflow (default: all)")
    add("--configfile", type=Path, action="append", default=[], metavar="FILE",
        help="a configuration to start from; none is read otherwise, config/config.yaml of this "
        "folder included; may be repeated")  # fmt: skip
    add("--profile", default="",
        help="a profile of Snakemake, for a cluster; none is read otherwise")  # fmt: skip
    add("--work", type=Path, default=Path(), help="folder of artifacts/ (default: this one)")


def run(arguments: Namespace) -> int:
    """Run the workflow and tell what it did."""
    from ..report.summary import summarise, summarise_all
    from . import _one_run
    from ._words import in_flags

    out, adapters = arguments.out, arguments.adapters
    request = _one_run.Request(
        old=arguments.old,
        new=arguments.new,
        adapters=tuple(adapters),
        outs=(out,),
        method=arguments.method,
        merged=arguments.merged,
        texts=arguments.texts,
        known_as=tuple(arguments.known_as),
        settings=tuple(arguments.settings),
        allow_large=arguments.allow_large,
        work=arguments.work,
        cores=arguments.cores,
        configs=tuple(arguments.configfile),
        profile=arguments.profile,
    )
    if len(adapters) > 1:
        request = replace(request, outs=tuple(out / app for app in request.apps))
    results = _one_run.run(request)
    if len(results) == 1:
        print(summarise(results[0], shown=out, words=in_flags))
    else:
        print(summarise_all(results, request.outs, words=in_flags))
    for result in results if arguments.merged else []:
        print(f"The merged model: {result.with_name('model_merged')}")
    print("\nA transfer alone may do little. Next, with the task's prompts, one a line, in a file:")
    print(f"  {shlex.join(_next(arguments))}")
    return 0


def _next(arguments: Namespace) -> list[str]:
    """The upgrade of the same adapters, with what this transfer was told of them."""
    words = ["loraport", "upgrade", arguments.old, arguments.new, *map(str, arguments.adapters)]
    words += ["upgraded", "--prompts", "prompts.txt"]
    words += ["--calibration", arguments.texts] if arguments.texts else []
    words += [word for name in arguments.known_as for word in ("--known-as", name)]
    return words + (["--work", str(arguments.work)] if arguments.work != Path() else [])
