"""Configs of every family as transformers makes them, and models of them without weights."""

import json
from importlib.resources import files

import families
import pico
import torch
from families import FAMILIES

from loraport.models import families as architectures

VOCABULARY = 48


def make_config(name, wider=False, **changes):
    """A config as its class makes it, and the same as it would stand in config.json."""
    given = families.sizes(name, wider)
    fields = {
        "vocab_size": VOCABULARY,
        "hidden_size": given["hidden"],
        "num_hidden_layers": given["layers"],
        "num_attention_heads": given["heads"],
        "pad_token_id": 0,
        "eos_token_id": 2,
    }
    if name != "bloom":
        fields["intermediate_size"] = given["intermediate"]
    if FAMILIES[name].sizes is not families.MHA:
        fields["num_key_value_heads"] = given["kv_heads"]
    if "head_dim" in given:
        fields["head_dim"] = given["head_dim"]
    return FAMILIES[name].config_class(**{**fields, **changes})


def on_meta(config):
    """A model of the config, whose weights have shapes alone."""
    with torch.device("meta"):
        return pico.auto_class(config).from_config(config)


def written(config):
    """The fields of config.json, with those of a default value."""
    return json.loads(config.to_json_string(use_diff=False))


def content(name):
    """What stands in a family's file."""
    return json.loads((files(architectures) / f"{name}.json").read_text())
