"""Which tokens two vocabularies share, whatever their tokenizers' spelling.

Byte-level BPE writes ` the` as `Ġthe`, SentencePiece as `▁the` and a byte as `<0xE2>`, tiktoken as
base64: tokens are compared by the bytes that they stand for, special tokens by their role.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from ..errors import LoraportError, words
from .folder import refuse_pointer
from .sentencepiece import as_document

Key = tuple[str, bytes | str]  # ("bytes" | "special", what it stands for)
ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "sep_token", "cls_token", "mask_token")


@dataclass(frozen=True)
class Vocabulary:
    """Tokens of one tokenizer.

    Attributes
    ----------
    raw : token as the tokenizer writes it -> id, added tokens included
    keys : what a token stands for -> id; of several, a plain token goes before a byte-fallback one
    """

    raw: Mapping[str, int]
    keys: Mapping[Key, int]


def byte_alphabet() -> dict[str, int]:
    """The characters by which byte-level BPE writes bytes (GPT-2's published table)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    table = {chr(byte): byte for byte in printable}
    table.update({chr(256 + place): byte for place, byte in enumerate(others)})
    return table


def read_vocabulary(directory: str | Path) -> Vocabulary:
    """The vocabulary of a model directory; tokenizer.json is read as data, with no library.

    Raises
    ------
    LoraportError
        If there is no tokenizer that can be read.
    """
    directory = Path(directory)
    document = _tokenizer_json(directory)
    try:
        vocab = document["model"]["vocab"]
        plain = (
            {token: place for place, (token, _) in enumerate(vocab)}  # Unigram: [token, score]
            if isinstance(vocab, list)
            else dict(vocab)
        )
        added = {entry["content"]: entry["id"] for entry in document.get("added_tokens") or []}
        if any(
            type(number) is not int or number < 0 for number in (*plain.values(), *added.values())
        ):
            raise ValueError("token ids that are no whole numbers from 0")
        special = {e["content"] for e in document.get("added_tokens") or [] if e["special"]}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise LoraportError(
            f"{directory}/tokenizer.json has no vocabulary that loraport can read",
            got=f"{type(error).__name__}: {error}",
            expected="model.vocab as in the tokenizers library",
            todo="save the model's tokenizer again with save_pretrained()",
        ) from error
    roles = _special_roles(directory)
    return Vocabulary({**plain, **added}, _keys(document, plain, added, special, roles))


def _tokenizer_json(directory: Path) -> dict[str, Any]:
    path = directory / "tokenizer.json"
    try:
        for file in (path, directory / "tokenizer.model"):
            if file.is_file():
                refuse_pointer(file)
        if path.is_file():
            return json.loads(path.read_text(encoding="utf-8"))
        if ranks := sorted(directory.glob("*.tiktoken")):
            return _from_tiktoken(ranks[0])
        if (directory / "tokenizer.model").is_file():
            return as_document(directory / "tokenizer.model")
        from transformers import AutoTokenizer  # for classes with files of their own

        loaded = AutoTokenizer.from_pretrained(directory, trust_remote_code=False)
        backend = getattr(loaded, "backend_tokenizer", None)
        if backend is None:
            raise ValueError("the tokenizer has no fast form")
        return json.loads(backend.to_str())
    except (OSError, ValueError, ImportError, KeyError, RecursionError) as error:
        raise LoraportError(
            f"{directory} has no tokenizer that can be read",
            got=_what_lies_there(directory, error),
            expected="tokenizer.json, tokenizer.model or a .tiktoken file",
            todo="save the model's tokenizer beside its weights with save_pretrained()",
        ) from error


def _what_lies_there(directory: Path, error: Exception) -> str:
    """The tokenizer files of a folder, and what the library says of them."""
    held = sorted(p.name for each in ("tekken.json", "tok*") for p in directory.glob(each))
    return f"{', '.join(held) or 'no tokenizer file'}: {words(error)}"


def _from_tiktoken(path: Path) -> dict[str, Any]:
    """A tiktoken file, lines of base64 and rank, as a byte-level tokenizer.json would put it."""
    characters = {byte: character for character, byte in byte_alphabet().items()}
    vocab = {}
    for line in path.read_text(encoding="ascii").splitlines():
        token, rank = line.split()
        vocab["".join(characters[byte] for byte in base64.b64decode(token))] = int(rank)
    return {"model": {"vocab": vocab}, "decoder": {"type": "ByteLevel"}}


def _special_roles(directory: Path) -> dict[str, str]:
    """Special token as written -> its role; the first role of a token that has several."""
    roles: dict[str, str] = {}
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        path = directory / name
        content = _json_object(path) if path.is_file() else {}
        for role in ROLES:
            token = content.get(role)
            token = token.get("content") if isinstance(token, dict) else token
            if isinstance(token, str):
                roles.setdefault(token, role)
    return roles


def _json_object(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("not a JSON object")
    except (OSError, ValueError, RecursionError) as error:
        raise LoraportError(
            f"{path} cannot be read",
            got=error,
            expected="a JSON object",
            todo="save the model's tokenizer again with save_pretrained()",
        ) from error
    return content


def _keys(
    document: Mapping[str, Any],
    plain: Mapping[str, int],
    added: Mapping[str, int],
    special: set[str],
    roles: Mapping[str, str],
) -> dict[Key, int]:
    alphabet = byte_alphabet()
    byte_level = '"ByteLevel"' in json.dumps(
        [document.get("pre_tokenizer"), document.get("decoder")]
    )
    keys: dict[Key, int] = {}
    fallback: dict[Key, int] = {}
    for token, number in sorted({**plain, **added}.items(), key=lambda item: item[1]):
        if token in special or token in roles:
            keys.setdefault(("special", roles.get(token, token)), number)
        elif token in added:
            keys.setdefault(("bytes", token.encode()), number)
        elif byte_level:
            known = all(character in alphabet for character in token)
            text = bytes(alphabet[c] for c in token) if known else token.encode()
            keys.setdefault(("bytes", text), number)
        elif re.fullmatch("<0x[0-9A-Fa-f]{2}>", token):
            fallback[("bytes", bytes([int(token[3:5], 16)]))] = number
        else:
            keys.setdefault(("bytes", token.replace("▁", " ").encode()), number)
    return {**fallback, **keys}


def shared_tokens(
    old: Vocabulary,
    new: Vocabulary,
    rows_old: int,
    rows_new: int,
    how: Literal["bytes", "literal"] = "bytes",
) -> tuple[np.ndarray, np.ndarray]:
    """Ids of the tokens that both vocabularies hold, one to one, in the order of the old ids.

    Parameters
    ----------
    rows_old, rows_new : rows of the embeddings; ids beyond them have no vector
    how : `bytes` compares what tokens stand for, `literal` how they are written

    Returns
    -------
    (n,) and (n,) int64
    """
    left: Mapping[Any, int] = old.keys if how == "bytes" else old.raw
    right: Mapping[Any, int] = new.keys if how == "bytes" else new.raw
    pairs = sorted(
        (number, right[key])
        for key, number in left.items()
        if key in right and number < rows_old and right[key] < rows_new
    )
    ids = np.array(pairs, dtype=np.int64).reshape(-1, 2)
    return ids[:, 0], ids[:, 1]


def overlap(old: Vocabulary, new: Vocabulary) -> dict[str, int]:
    """Tokens that two vocabularies hold and share: as they are written, and by what they mean."""
    rows_old, rows_new = (1 + max(each.raw.values(), default=0) for each in (old, new))
    return {
        "tokens_old": len(old.raw),
        "tokens_new": len(new.raw),
        "tokens_shared_as_written": len(shared_tokens(old, new, rows_old, rows_new, "literal")[0]),
        "tokens_shared": len(shared_tokens(old, new, rows_old, rows_new, "bytes")[0]),
        "tokens_at_the_same_id": len(old.raw.items() & new.raw.items()),
    }
