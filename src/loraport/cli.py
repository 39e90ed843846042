"""The `loraport` command: a front on `commands/`, one file a command."""

import argparse
import sys
import traceback
from collections.abc import Sequence
from importlib import import_module

from . import commands
from .errors import LoraportError
from .runtime.faults import explained


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; errors are told in one paragraph and give status 1."""
    parser = argparse.ArgumentParser(
        prog="loraport",
        description="Carry LoRA adapters from one version of a language model to the next.",
    )
    parser.add_argument(
        "--verbose", action="store_true", help="show where in the code an error was raised"
    )
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name in commands.names():
        command = import_module(f".commands.{name}", __package__)
        part = subparsers.add_parser(name, help=command.HELP, description=command.__doc__)
        command.add_arguments(part)
        part.set_defaults(run=command.run)
    given = parser.parse_args(arguments)
    try:
        return given.run(given)
    except Exception as error:
        if given.verbose:
            traceback.print_exc()
        told: object = f"unexpected {type(error).__name__}: {error} (--verbose shows where)"
        if isinstance(error, LoraportError):
            told = error
        elif known := explained(error, given.command, None):
            told = known
        print(f"loraport: {told}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
