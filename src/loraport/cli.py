"""The `loraport` command: a front on `commands/`, one file a command."""

import argparse
import shutil
import sys
import traceback
import warnings
from collections.abc import Sequence
from importlib import import_module
from typing import TextIO

from . import __version__, commands
from .commands._words import in_flags
from .errors import LoraportError
from .runtime.faults import explained

INTERRUPTED = 130  # status of a command that was interrupted by hand, as shells have it
EXAMPLES = (
    "loraport inspect ADAPTER --to NEW         # what it is, and whether it can be carried",
    "loraport plan OLD NEW                     # what a pair of models will need",
    "loraport transfer OLD NEW ADAPTER… OUT    # carry adapters",
    "loraport upgrade OLD NEW ADAPTER… OUT --prompts FILE   # carry, teach and verify them",
    "loraport COMMAND --help                   # arguments and examples of one command",
)


class _Snakefile(argparse.Action):
    """Print the path of the workflow's Snakefile, of the checkout or of the installed package."""

    def __call__(self, parser: argparse.ArgumentParser, *given: object) -> None:
        from .commands._one_run import workflow_root

        print(workflow_root() / "Snakefile")
        parser.exit()


def parser() -> argparse.ArgumentParser:
    """Of the command line, with all commands and their examples."""
    whole = argparse.ArgumentParser(
        prog="loraport",
        description="Carry LoRA adapters from one version of a language model to the next.",
        epilog=_examples(EXAMPLES),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = whole.add_argument
    add("--version", action="version", version=f"loraport {__version__}")
    add("--snakefile", action=_Snakefile, nargs=0, help="say where the workflow is, for snakemake")
    add("--verbose", action="store_true",
        help="show where in the code an error was raised, and warnings of libraries")  # fmt: skip
    parts = whole.add_subparsers(dest="command", metavar="COMMAND", title="commands")
    for name in commands.names():
        command = import_module(f".commands.{name}", __package__)
        part = parts.add_parser(
            name,
            help=command.HELP,
            description=command.__doc__,
            epilog=_examples(getattr(command, "EXAMPLES", ())),
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        command.add_arguments(part)
        part.set_defaults(run=command.run)
    return whole


def _examples(lines: Sequence[str]) -> str:
    return "\n  ".join(["examples:", *lines]) if lines else ""


CONFIGURED = ("pack", "unpack")  # commands for artifacts of the workflow, whose users write files


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; errors are told in one paragraph and give status 1."""
    whole = parser()
    given = whole.parse_args(arguments)
    if given.command is None:
        whole.print_help()
        return 0
    try:
        with warnings.catch_warnings():
            if not given.verbose:
                warnings.simplefilter("ignore")  # of libraries: what users must know is told
            return given.run(given)
    except KeyboardInterrupt:
        print("\rloraport: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception as error:
        if given.verbose:
            traceback.print_exc()
        told: object = f"unexpected {type(error).__name__}: {error} (--verbose shows where)"
        if isinstance(error, LoraportError):
            told = error if given.command in CONFIGURED else in_flags(str(error))
        elif known := explained(error, given.command, None):
            told = known
        print(folded(f"loraport: {told}", sys.stderr), file=sys.stderr)
        return 1


def folded(text: str, stream: TextIO) -> str:
    """A message in lines that end between words where they go to a terminal; else as it is."""
    if not stream.isatty():
        return text
    from .report.terminal import in_lines

    return in_lines(text, shutil.get_terminal_size().columns)


if __name__ == "__main__":
    sys.exit(main())
