"""Commands of the terminal: one file each, found by its name.

A command is a module with

`HELP` : what it does, one line.
`EXAMPLES` : command lines, for its help.
`add_arguments(parser)` : declare its arguments on an argparse parser.
`run(arguments)` : do it; returns the exit status. A LoraportError is told and gives status 1.

All of them are imported to print the help: what takes time to import is imported in `run`.
"""

from ..runtime.by_name import names_of


def names() -> tuple[str, ...]:
    """All commands, by their files."""
    return names_of(__package__)
