"""What users read of an error."""

import pytest

from loraport.errors import LoraportError


@pytest.mark.parametrize(
    ("got", "shown"),
    [
        (OSError(), "OSError"),
        (ValueError("  "), "ValueError"),
        ("", "nothing"),
        ("\n", "nothing"),
        ([], "[]"),
        (0, "0"),
        (OSError("gone"), "gone"),
    ],
)
def test_what_was_got_is_never_empty(got, shown):
    assert str(LoraportError("x", got=got)) == f"x. Got: {shown}."
