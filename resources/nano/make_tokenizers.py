"""Train the two byte-level BPE tokenizers and write them to `v1/` and `v2/`.

    python resources/nano/make_tokenizers.py

Each digit is its own token, and no token is put before or after a text. The alphabet is ASCII:
any other byte becomes `<unk>`. The corpora are ASCII, and byte tokens that training never shows
would only add untrained rows to the embeddings.
"""

import json
from pathlib import Path

from nanopair.corpus import TOKENIZER_SEED, documents
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers

HERE = Path(__file__).resolve().parent
VOCABULARY = {"v1": 512, "v2": 640}
DOCUMENTS = 60_000
SPECIAL = ["<pad>", "<unk>", "<eos>"]


def ascii_alphabet() -> list[str]:
    """Byte-level characters of the line break and of printable ASCII."""
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    text = "\n" + "".join(map(chr, range(32, 127)))
    return sorted({char for piece, _ in level.pre_tokenize_str(text) for char in piece})


def train(version: str) -> Tokenizer:
    """The tokenizer of a version, from its own corpus."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex("[0-9]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY[version],
        special_tokens=SPECIAL,
        initial_alphabet=ascii_alphabet(),
        show_progress=False,
    )
    seed = TOKENIZER_SEED + (version == "v2")
    tokenizer.train_from_iterator(documents(version, seed, DOCUMENTS), trainer)
    return tokenizer


def tokenizer_config() -> dict:
    """What `AutoTokenizer` needs; `<eos>` separates documents and stands in for a start token."""
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "bos_token": "<eos>",
        "eos_token": "<eos>",
        "pad_token": "<pad>",
        "unk_token": "<unk>",
        "clean_up_tokenization_spaces": False,
        "model_max_length": 512,
        "padding_side": "left",
    }


def main() -> None:
    """Train and save both."""
    for version in VOCABULARY:
        folder = HERE / version
        folder.mkdir(exist_ok=True)
        tokenizer = train(version)
        tokenizer.save(str(folder / "tokenizer.json"))
        config = json.dumps(tokenizer_config(), indent=2) + "\n"
        (folder / "tokenizer_config.json").write_text(config, encoding="ascii")
        print(version, tokenizer.get_vocab_size())


if __name__ == "__main__":
    main()
