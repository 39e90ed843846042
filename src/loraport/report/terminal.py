"""Tables on the terminal: they fit 100 columns, and the first column is folded where it is long."""

import io
import textwrap
from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

WIDTH = 100  # columns, whatever the terminal has: what is printed looks alike in a log
NAMED = 3  # adapters before a remark that many have


def table(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table as text: the first column to the left, the others to the right.

    Examples
    --------
    >>> print(table(["model", "score"], [["old", 1], ["new", 12]]))
    model  score
    ────────────
    old        1
    new       12
    """
    grid = Table(box=SIMPLE_HEAD, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    for number, title in enumerate(header):
        first = number == 0
        grid.add_column(
            title, justify="left" if first else "right", no_wrap=not first, overflow="fold"
        )
    for row in rows:
        grid.add_row(*map(str, row))
    written = io.StringIO()
    console = Console(
        file=written, width=WIDTH, color_system=None, markup=False, highlight=False, emoji=False
    )
    console.print(grid)
    return "\n".join(line.rstrip() for line in written.getvalue().strip("\n").splitlines())


def listed(names: Sequence[str]) -> str:
    """Adapters that have a remark in common, the first ones by name."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return f"{', '.join(names[:NAMED])}{more}"


def in_lines(text: str, width: int) -> str:
    """A text folded between words; paths, flags and names stay whole."""
    return "\n".join(
        textwrap.fill(line, width, break_long_words=False, break_on_hyphens=False)
        for line in text.splitlines()
    )
