"""Short trainings on pico models: examples, settings, adapters to start from."""

import json
from pathlib import Path

import pico
import torch
import yaml
from peft import AdaLoraConfig, LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM
from workdir import PROJECT

from loraport.training.data import Example
from loraport.training.settings import Settings


def sums(n):
    """Examples of sums of two numbers; they repeat after 63."""
    return [Example(f"{a} + {b} =", f" {a + b}") for a, b in ((i % 9, i % 7) for i in range(n))]


SHIPPED = PROJECT / "config" / "config.yaml"
PUBLISHED = yaml.safe_load(SHIPPED.read_text())["finetune"]["small"]
FAST = Settings(examples=20, batch_size=8, epochs=2, learning_rate=1e-2, dtype="float32")


def make_adapter(directory, model_dir, kind, rank=4):
    """An adapter on attention, of random factors."""
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_pretrained(model_dir, dtype=torch.float32)
    common = {"target_modules": pico.ATTENTION, "lora_alpha": 8, "task_type": "CAUSAL_LM"}
    if kind == "adalora":
        config = AdaLoraConfig(init_r=rank, target_r=2, tfinal=1, total_step=10, **common)
    else:
        config = LoraConfig(r=rank, use_rslora=kind == "rslora", use_dora=kind == "dora", **common)
    adapted = get_peft_model(base, config)
    for name, values in adapted.named_parameters():
        if any(part in name for part in ("lora_B", "lora_A", "lora_E")):
            torch.nn.init.normal_(values, std=0.05)
    adapted.save_pretrained(directory)
    return Path(directory)


def with_empty_layer(directory):
    """The same, with factors of zero in layer 3."""
    path = directory / "adapter_model.safetensors"
    tensors = load_file(path)
    for name in tensors:
        if ".layers.3." in name and "magnitude" not in name:
            tensors[name].zero_()
    save_file(tensors, path, {"format": "pt"})
    return directory


def weights(directory):
    """An adapter's tensors by name."""
    return load_file(Path(directory) / "adapter_model.safetensors")


def same_files(first, second):
    """Refuse two outputs of a training that differ in more than times and host."""
    assert sorted(p.name for p in first.iterdir()) == sorted(p.name for p in second.iterdir())
    for path in first.iterdir():
        if path.name != "training.json":
            assert path.read_bytes() == (second / path.name).read_bytes(), path.name
    one, two = (json.loads((d / "training.json").read_text()) for d in (first, second))
    # times and host, and the checksum over them
    assert all(each.pop(key) for each in (one, two) for key in ("run", "digest"))
    assert one == two
