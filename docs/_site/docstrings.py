"""Reads the package's docstrings as they are written: `name : what it is`.

In numpydoc's style the text after the colon is the type. Here types are annotations, so that the
text is put where numpydoc expects a description.
"""

import re

import griffe

ENTRY = re.compile(r"^(\*{0,2}\w+(?:, \*{0,2}\w+)*) : (.+)$")
SECTION = re.compile(r"^(Parameters|Attributes|Other Parameters)$")


class Descriptions(griffe.Extension):
    """Moves descriptions to a line of their own before a docstring is parsed."""

    def on_object(self, *, obj: griffe.Object, **others: object) -> None:
        """Change the text of an object's docstring."""
        if obj.docstring is not None:
            obj.docstring.value = with_descriptions(obj.docstring.value)


def with_descriptions(text: str) -> str:
    """A docstring whose entries of Parameters and Attributes have descriptions, and no types."""
    written, inside = [], False
    for line, after in zip(lines := text.splitlines(), [*lines[1:], ""], strict=True):
        if after and set(after.strip()) == {"-"}:
            inside = SECTION.match(line) is not None
        entry = ENTRY.match(line) if inside else None
        written += [entry[1], f"    {entry[2]}"] if entry else [line]
    return "\n".join(written)
