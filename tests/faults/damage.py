"""Bits that are flipped in files, and what a rule says of a fault."""

import os
from pathlib import Path

import pytest

from loraport.models.weights import TensorFile


def told(capsys, step) -> str:
    """What a rule says before it ends with status 1."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        step()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and "unexpected" not in said, said
    assert "Got: " in said and "Expected: " in said and "What to do: " in said, said
    return said


def flip(path: Path, place: int) -> None:
    """Change one bit, and nothing that a listing of the folder would show."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=times)


def flip_tensor(path: Path, name: str) -> None:
    """The same to a number of one tensor of a safetensors file."""
    file = TensorFile(path)
    flip(path, file.start + file.tensors[name][2] + 2)
