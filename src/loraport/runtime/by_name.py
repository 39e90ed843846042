"""Things that are found by the name of their file: methods, teachers, generators, commands."""

from collections.abc import Iterable
from difflib import get_close_matches
from functools import cache
from importlib.resources import files


@cache
def names_of(package: str) -> tuple[str, ...]:
    """Modules of a package, by their files; those whose name begins with _ are its own."""
    stems = (path.name.removesuffix(".py") for path in files(package).iterdir())
    return tuple(sorted(name for name in stems if name.isidentifier() and name[0] != "_"))


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The known name that is nearest to one that is not known, as a question; empty without one.

    Examples
    --------
    >>> did_you_mean("odl", ["delta", "old"])
    "did you mean 'old'?"
    >>> did_you_mean("nobody", ["delta", "old"])
    ''
    """
    near = get_close_matches(name, known, 1)
    return f"did you mean {near[0]!r}?" if near else ""
