"""Pieces of a SentencePiece model file (tokenizer.model), read as data with no library.

The file is a protocol buffer, `ModelProto` of sentencepiece_model.proto: field 1, repeated, is a
piece with its text (1), its score (2) and its kind (3). All other fields are passed over.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

VARINT, DOUBLE, BYTES, SINGLE = 0, 1, 2, 5  # wire types
NORMAL, UNKNOWN, CONTROL = 1, 2, 3  # kinds of pieces: the last two are special tokens


def read_pieces(path: str | Path) -> list[tuple[str, int]]:
    """Text and kind of every piece, in the order of their ids.

    Raises
    ------
    ValueError
        If the file is not such a model.
    """
    pieces = []
    for number, value in _fields(memoryview(Path(path).read_bytes())):
        if number == 1 and isinstance(value, memoryview):
            parts = dict(_fields(value))
            if not isinstance(parts.get(1), memoryview):
                raise ValueError(f"{Path(path).name} holds a piece without a text")
            pieces.append((bytes(parts[1]).decode("utf-8"), parts.get(3, NORMAL)))
    if not pieces:
        raise ValueError(f"{Path(path).name} holds no pieces")
    return pieces


def as_document(path: str | Path) -> dict[str, Any]:
    """The same as a tokenizer.json would put it."""
    pieces = read_pieces(path)
    added = [
        {"content": text, "id": place, "special": True}
        for place, (text, kind) in enumerate(pieces)
        if kind in (UNKNOWN, CONTROL)
    ]
    vocab = {text: place for place, (text, _) in enumerate(pieces)}
    return {"model": {"vocab": vocab}, "added_tokens": added}


def _fields(data: memoryview) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message; a value of bytes is a view of them."""
    value: Any
    place = 0
    while place < len(data):
        tag, place = _varint(data, place)
        kind = tag & 7
        if kind == VARINT:
            value, place = _varint(data, place)
        elif kind in (BYTES, DOUBLE, SINGLE):
            size = {DOUBLE: 8, SINGLE: 4}.get(kind)
            if size is None:
                size, place = _varint(data, place)
            value, place = data[place : place + size], place + size
            if place > len(data):
                raise ValueError("a field that runs beyond its message")
        else:
            raise ValueError(f"a field of wire type {kind}")
        yield tag >> 3, value


def _varint(data: memoryview, place: int) -> tuple[int, int]:
    value = shift = 0
    while place < len(data) and shift < 64:
        byte = data[place]
        value |= (byte & 127) << shift
        place, shift = place + 1, shift + 7
        if byte < 128:
            return value, place
    raise ValueError("a number that does not end")
