"""The `loraport` command: a front on `commands/`, one file a command."""

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module

from . import commands
from .errors import LoraportError


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; errors are told in one paragraph and give status 1."""
    parser = argparse.ArgumentParser(
        prog="loraport",
        description="Carry LoRA adapters from one version of a language model to the next.",
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
    except LoraportError as error:
        print(f"loraport: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
