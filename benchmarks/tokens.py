"""How many tokens vocabularies share, as they are written and by what they stand for.

    python benchmarks/tokens.py resources/nano --out benchmarks/results/tokens.md

Tokenizers of every published spelling are trained here on the pair's calibration texts and half of
its training data each: byte-level BPE (GPT-2, Qwen, Llama 3), SentencePiece-like BPE with byte
fallback (Llama 2, Mistral), Unigram (T5, Gemma's pieces) and a tiktoken file; the pair's own two
come beside them.
"""

import argparse
import base64
import json
import tempfile
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from loraport.models.tokens import Vocabulary, byte_alphabet, overlap, read_vocabulary

SIZE = 2000
BYTES = [f"<0x{byte:02X}>" for byte in range(256)]
ROLES = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}


def texts(folder: Path, half: int) -> list[str]:
    """Calibration texts, and every other training example."""
    lines = (folder / "calibration.txt").read_text().splitlines()
    for path in sorted((folder / "data").glob("*.train.jsonl")):
        for line in path.read_text().splitlines()[half::2]:
            entry = json.loads(line)
            lines.append(entry["prompt"] + entry["completion"])
    return lines


def byte_level(lines: list[str], specials: list[str]) -> Tokenizer:
    """Byte-level BPE."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=SIZE, special_tokens=specials,
                                  initial_alphabet=alphabet, show_progress=False)  # fmt: skip
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def sentencepiece(lines: list[str]) -> Tokenizer:
    """BPE over `▁` pieces with byte fallback."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    trainer = trainers.BpeTrainer(vocab_size=SIZE, show_progress=False,
                                  special_tokens=["<unk>", "<s>", "</s>", *BYTES])  # fmt: skip
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def unigram(lines: list[str]) -> Tokenizer:
    """Pieces with scores."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    trainer = trainers.UnigramTrainer(vocab_size=SIZE, unk_token="<unk>", show_progress=False,
                                      special_tokens=["<unk>", "<s>", "</s>"])  # fmt: skip
    tokenizer.train_from_iterator(lines, trainer)
    return tokenizer


def build(folder: Path, root: Path) -> dict[str, Vocabulary]:
    """Name -> vocabulary, each read back from the files that a model would bring."""
    first, second = texts(folder, 0), texts(folder, 1)
    made = {
        "byte-level BPE": byte_level(first, ["<s>", "</s>", "<unk>"]),
        "byte-level BPE, other half": byte_level(second, ["<|begin|>", "<|end|>"]),
        "SentencePiece BPE": sentencepiece(first),
        "Unigram": unigram(second),
    }
    found = {"nano_v1": read_vocabulary(folder / "v1"), "nano_v2": read_vocabulary(folder / "v2")}
    for number, (name, tokenizer) in enumerate(made.items()):
        home = root / str(number)
        home.mkdir()
        document = json.loads(tokenizer.to_str())  # bytes are plain tokens in published files
        document["added_tokens"] = [
            t for t in document["added_tokens"] if t["content"] not in BYTES
        ]
        (home / "tokenizer.json").write_text(json.dumps(document))
        other = {"bos_token": "<|begin|>", "eos_token": "<|end|>"}
        roles = other if "other" in name else ROLES
        (home / "tokenizer_config.json").write_text(json.dumps(roles))
        found[name] = read_vocabulary(home)
    home = root / "tiktoken"
    home.mkdir()
    (home / "model.tiktoken").write_text("\n".join(ranks(made["byte-level BPE, other half"])))
    found["tiktoken file"] = read_vocabulary(home)
    return found


def ranks(tokenizer: Tokenizer) -> list[str]:
    """A byte-level vocabulary as lines of base64 and rank."""
    alphabet, vocab = byte_alphabet(), tokenizer.get_vocab()
    plain = [token for token in sorted(vocab, key=vocab.__getitem__) if token[0] in alphabet]
    words = [
        bytes(alphabet[each] for each in token) for token in plain if set(token) <= set(alphabet)
    ]
    return [f"{base64.b64encode(word).decode()} {rank}" for rank, word in enumerate(words)]


def markdown(found: dict[str, Vocabulary]) -> str:
    """Each against each: by meaning, and in brackets as written."""
    lines = [f"| by meaning (as written) | {' | '.join(found)} |", "|---" * (len(found) + 1) + "|"]
    for name, old in found.items():
        cells = []
        for new in found.values():
            counts = overlap(old, new)
            cells.append(f"{counts['tokens_shared']} ({counts['tokens_shared_as_written']})")
        lines.append(f"| {name}, {len(old.raw)} | {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Build, count, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    parser.add_argument("folder", type=Path, help="resources/nano")
    parser.add_argument("--out", type=Path, help="Markdown file")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as root:
        text = markdown(build(options.folder, Path(root)))
    print(text)
    if options.out:
        options.out.write_text(text)


if __name__ == "__main__":
    main()
