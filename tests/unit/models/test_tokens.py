"""One token, however its tokenizer spells it: byte-level, SentencePiece, tiktoken."""

import base64
import json
import shutil
import struct

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from loraport.errors import LoraportError
from loraport.models.tokens import byte_alphabet, overlap, read_vocabulary, shared_tokens

TEXTS = [
    "the cat sat on the mat and the dog sat there",
    "the café costs 3 € — naïve, isn't it? 日本語",
    "there and then the other cats and dogs sat",
] * 4
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]


def save(directory, tokenizer, **roles):
    directory.mkdir()
    tokenizer.save(str(directory / "tokenizer.json"))
    (directory / "tokenizer_config.json").write_text(json.dumps(roles))
    return read_vocabulary(directory)


def byte_level(directory, bos="<|begin|>", size=330):
    """GPT-2, Llama 3, Qwen: `Ġthe`, a byte as a character of the byte alphabet."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=size,
            special_tokens=[bos, "<|end|>"],
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    return save(directory, tokenizer, bos_token=bos, eos_token={"content": "<|end|>"})


def sentencepiece_bpe(directory):
    """Llama 2, Mistral: `▁the`, a byte as `<0xE2>`."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.train_from_iterator(
        TEXTS,
        trainers.BpeTrainer(
            vocab_size=400,
            special_tokens=["<unk>", "<s>", "</s>", *BYTES],
            show_progress=False,
        ),
    )
    document = json.loads(tokenizer.to_str())  # bytes are plain tokens in published files
    document["added_tokens"] = [t for t in document["added_tokens"] if t["content"] not in BYTES]
    directory.mkdir()
    (directory / "tokenizer.json").write_text(json.dumps(document))
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (directory / "tokenizer_config.json").write_text(json.dumps(roles))
    return read_vocabulary(directory)


def unigram(directory):
    """Gemma-like pieces with scores, and byte fallback."""
    pieces = ["<unk>", "<s>", "</s>", *BYTES, "▁the", "▁cat", "the", "▁", "日", "é", "a", "."]
    tokenizer = Tokenizer(models.Unigram([(p, -1.0) for p in pieces], 0, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    return save(directory, tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>")


def message(number, value):
    """A field of a protocol buffer: bytes, a float or a whole number."""
    if isinstance(value, float):
        return bytes([number << 3 | 5]) + struct.pack("<f", value)
    if isinstance(value, int):
        return bytes([number << 3]) + varint(value)
    return bytes([number << 3 | 2]) + varint(len(value)) + value


def varint(value):
    low = value & 127
    return bytes([low]) if value < 128 else bytes([low | 128]) + varint(value >> 7)


def model_file(directory, pieces):
    """A tokenizer.model of (text, kind) as sentencepiece_model.proto lays it out."""
    directory.mkdir()
    each = [
        message(
            1, message(1, text.encode()) + message(2, -1.5) + (message(3, kind) if kind else b"")
        )
        for text, kind in pieces
    ]
    trainer = message(2, message(1, b"corpus") + message(4, 300) + message(10, 0.9995))
    (directory / "tokenizer.model").write_bytes(b"".join(each) + trainer)


def id_of(vocabulary, token):
    return vocabulary.raw[token]


def pairs(old, new, how="bytes"):
    left, right = shared_tokens(old, new, 10_000, 10_000, how)
    return dict(zip(left.tolist(), right.tolist(), strict=True))


def test_the_three_spellings_of_a_token_meet(tmp_path):
    level, piece = byte_level(tmp_path / "a"), sentencepiece_bpe(tmp_path / "b")
    scored = unigram(tmp_path / "c")
    assert pairs(level, piece)[id_of(level, "Ġthe")] == id_of(piece, "▁the")
    assert pairs(level, scored)[id_of(level, "Ġthe")] == id_of(scored, "▁the")
    assert pairs(scored, piece)[id_of(scored, "▁the")] == id_of(piece, "▁the")
    assert pairs(piece, scored)[id_of(piece, "é")] == id_of(scored, "é")


def test_bytes_meet_bytes_and_plain_tokens_go_before_them(tmp_path):
    """`a` is a token of its own beside `<0x61>`; 0xE6, which begins 日, is a byte everywhere."""
    level, piece = byte_level(tmp_path / "a"), sentencepiece_bpe(tmp_path / "b")
    found = pairs(level, piece)
    character = {byte: char for char, byte in byte_alphabet().items()}
    assert found[id_of(level, character[0xE6])] == id_of(piece, "<0xE6>")
    assert found[id_of(level, "a")] == id_of(piece, "a") != id_of(piece, "<0x61>")
    assert id_of(piece, "<0x61>") not in found.values()
    newline = id_of(level, character[0x0A])
    assert found[newline] == id_of(piece, "<0x0A>")


def test_special_tokens_meet_by_role_and_not_by_spelling(tmp_path):
    level, piece = byte_level(tmp_path / "a"), sentencepiece_bpe(tmp_path / "b")
    found = pairs(level, piece)
    assert found[id_of(level, "<|begin|>")] == id_of(piece, "<s>")
    assert found[id_of(level, "<|end|>")] == id_of(piece, "</s>")
    other = byte_level(tmp_path / "c", bos="<s>")
    assert pairs(level, other)[id_of(level, "<|begin|>")] == id_of(other, "<s>")
    assert id_of(level, "<|begin|>") not in pairs(level, other, "literal")


def test_matches_are_one_to_one_and_within_the_embeddings(tmp_path):
    level, piece = byte_level(tmp_path / "a"), sentencepiece_bpe(tmp_path / "b")
    old, new = shared_tokens(level, piece, 10_000, 10_000)
    assert len(set(old.tolist())) == len(set(new.tolist())) == len(old)
    assert (np.diff(old) > 0).all()
    cut_old, cut_new = shared_tokens(level, piece, 300, 290)
    assert cut_old.max() < 300
    assert cut_new.max() < 290
    kept = (old < 300) & (new < 290)
    assert cut_old.tolist() == old[kept].tolist()


def test_counts_of_what_is_shared_before_and_after(tmp_path):
    """Every kind of tokenizer against every other: by spelling few are shared, by meaning many."""
    kinds = {
        "byte-level": byte_level(tmp_path / "a"),
        "byte-level, other specials": byte_level(tmp_path / "b", bos="<s>"),
        "SentencePiece BPE": sentencepiece_bpe(tmp_path / "c"),
        "Unigram": unigram(tmp_path / "d"),
    }
    for one, left in kinds.items():
        for two, right in kinds.items():
            counts = overlap(left, right)
            assert counts["tokens_shared"] == len(pairs(left, right))
            assert counts["tokens_shared_as_written"] == len(pairs(left, right, "literal"))
            if one == two:
                twice = len(left.raw) - len(left.keys)  # plain characters beside their byte token
                assert counts["tokens_shared"] == len(left.keys)
                assert counts["tokens_shared_as_written"] - counts["tokens_shared"] == twice
    across = overlap(kinds["byte-level"], kinds["SentencePiece BPE"])
    assert across["tokens_shared"] > 2 * across["tokens_shared_as_written"]


def test_tiktoken_files_are_read_by_their_bytes(tmp_path):
    """Ranks of byte strings in base64, as Qwen's first tokenizer came."""
    level = byte_level(tmp_path / "a")
    words = [bytes([byte]) for byte in range(256)] + [b" t", b"he", b" the", b" ca", b" cat"]
    lines = [f"{base64.b64encode(word).decode()} {rank}" for rank, word in enumerate(words)]
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "qwen.tiktoken").write_text("\n".join(lines))
    tik = read_vocabulary(tmp_path / "b")
    assert pairs(level, tik)[id_of(level, "Ġthe")] == words.index(b" the")
    character = {byte: char for char, byte in byte_alphabet().items()}
    assert pairs(level, tik)[id_of(level, character[0xE6])] == 0xE6
    piece = sentencepiece_bpe(tmp_path / "c")
    assert pairs(piece, tik)[id_of(piece, "▁the")] == words.index(b" the")


def test_a_sentencepiece_model_file_is_read_as_its_tokenizer_json(tmp_path):
    """Kinds: 1 (left out) normal, 2 unknown, 3 control, 6 byte."""
    piece = sentencepiece_bpe(tmp_path / "a")
    special = {"<unk>": 2, "<s>": 3, "</s>": 3}
    ordered = sorted(piece.raw, key=piece.raw.get)
    kinds = {**special, **dict.fromkeys(BYTES, 6)}
    model_file(tmp_path / "b", [(token, kinds.get(token, 0)) for token in ordered])
    roles = tmp_path / "a" / "tokenizer_config.json"
    shutil.copy(roles, tmp_path / "b")
    read = read_vocabulary(tmp_path / "b")
    assert read.raw == piece.raw
    assert read.keys == piece.keys
    level = byte_level(tmp_path / "c")
    assert pairs(level, read) == pairs(level, piece)


@pytest.mark.parametrize("damage", [lambda b: b[:-3], lambda b: b"", lambda b: b"\xff" * 40])
def test_a_damaged_sentencepiece_file_is_told(tmp_path, damage):
    model_file(tmp_path / "b", [("a", 0), ("b", 1)])
    path = tmp_path / "b" / "tokenizer.model"
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(LoraportError, match=r"tokenizer\.model"):
        read_vocabulary(tmp_path / "b")


def test_added_tokens_are_text_and_odd_byte_names_are_too(tmp_path):
    directory = tmp_path / "odd"
    directory.mkdir()
    document = {
        "model": {"vocab": {"a": 0, "<0xZZ>": 1, "<0x41>": 2}},
        "added_tokens": [
            {"content": "  ", "id": 3, "special": False},
            {"content": "<pad>", "id": 4, "special": True},
        ],
    }
    (directory / "tokenizer.json").write_text(json.dumps(document))
    keys = read_vocabulary(directory).keys
    assert keys["bytes", b"<0xZZ>"] == 1
    assert keys["bytes", b"A"] == 2
    assert keys["bytes", b"  "] == 3
    assert keys["special", "<pad>"] == 4


@pytest.mark.parametrize("content", ["{", '{"model": {}}', '{"model": {"vocab": 3}}'])
def test_tokenizers_that_cannot_be_read_are_told(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(LoraportError, match=r"tokenizer"):
        read_vocabulary(tmp_path)


def test_a_damaged_tiktoken_file_is_told(tmp_path):
    (tmp_path / "x.tiktoken").write_text("no ranks here at all\n")
    with pytest.raises(LoraportError, match=r"\.tiktoken file"):
        read_vocabulary(tmp_path)
