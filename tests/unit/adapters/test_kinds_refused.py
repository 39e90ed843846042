"""What is not carried is refused by name, and what an audit of an adapter tells."""

import shutil

import families
import numpy as np
import pico
import pytest
from kindcase import carried, config_of, edit, edit_tensors, make, same_tokens
from peft import LoraConfig

from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter
from loraport.errors import LoraportError
from loraport.models.side import Side
from loraport.models.spec import describe, open_model
from loraport.transfer.modules_to_save import check_saved, keep_saved

pytestmark = pytest.mark.usefixtures("one_thread")

ALL = pico.ALL_LINEAR


def lora(tmp_path, base, **arguments):
    given = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj"], **arguments}
    return make(tmp_path / "source", base, LoraConfig(**given))


REFUSED = [
    ({"init_lora_weights": "pissa"}, r"changed its base.*path_initial_model"),
    ({"init_lora_weights": "pissa_niter_4"}, "changed its base"),
    ({"init_lora_weights": "olora"}, "changed its base"),
    ({"init_lora_weights": "corda"}, "changed its base"),
    ({"init_lora_weights": "lora_ga"}, "changed its base"),
    ({"init_lora_weights": "loftq"}, "changed its base"),
    ({"init_lora_weights": "mica"}, "changed its base"),
    ({"loftq_config": {"loftq_bits": 4}}, r"loftq_config.*unquantised base"),
    ({"use_qalora": True}, r"use_qalora.*unquantised base"),
    ({"target_parameters": ["mlp.experts"]}, r"target_parameters.*on modules"),
    ({"layer_replication": [[0, 2], [1, 2]]}, r"layer_replication.*without replicated"),
    ({"alora_invocation_tokens": [5]}, r"alora_invocation_tokens.*invocation tokens"),
    ({"trainable_token_indices": [1, 2]}, "trainable_token_indices"),
    ({"some_field_of_the_future": 3}, "some_field_of_the_future = 3"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ({"peft_type": "IA3"}, r"IA3.*plain LoRA"),
    ({"r": 5}, "tensors of rank 4"),
    ({"lora_alpha": None}, "no usable lora_alpha"),
    ({"lora_alpha": float("nan")}, "no usable lora_alpha"),
    ({"rank_pattern": {"(a+)+": 3}}, r"not evaluated.*by name"),
    ({"alpha_pattern": {"(q_proj": 3}}, "not evaluated"),
    ({"use_dora": True}, "is incomplete"),
    ({"lora_bias": True}, "is incomplete"),
]


@pytest.mark.parametrize(("change", "message"), REFUSED, ids=str)
def test_what_is_not_carried_is_refused_by_name_with_the_way_out(tmp_path, bases, change, message):
    source = edit(lora(tmp_path, bases["llama"]), **change)
    with pytest.raises(LoraportError, match=f"(?s){message}"):
        read_adapter(source)


def test_biases_of_the_base_are_refused(tmp_path, bases):
    source = lora(tmp_path, bases["qwen2"], bias="lora_only")
    with pytest.raises(LoraportError, match=r"(?s)biases.*lora_bias=True"):
        read_adapter(source)


def test_parts_beside_the_language_model_stay_alone(tmp_path, bases):
    """Modules that see bear the same names: refused in the source, and not meant in the result."""
    base = bases["gemma3_multimodal"]
    with pytest.raises(LoraportError, match=r"beside the language model.*vision_tower"):
        check(lora(tmp_path, base, target_modules=["q_proj"]), base)
    assert describe(base, "x", "")["other_tensors"] == []
    inside = lora(tmp_path / "inside", base, target_modules=r".*language_model.*q_proj")
    result = carried(tmp_path, base, inside)
    assert all("language_model" in path for path in config_of(result)["target_modules"])


def test_an_adapter_names_modules_as_an_older_checkpoint_does(tmp_path, bases):
    base = bases["gemma3_multimodal"]
    source = lora(tmp_path, base, target_modules=r".*language_model.*q_proj")

    def older(tensors):
        new, old = "model.model.language_model.", "model.language_model.model."
        return {name.replace(new, old): values for name, values in tensors.items()}

    edit_tensors(source, older)
    edit(source, target_modules=["q_proj"])
    check(source, base)


def check(source, base, known=(), revision=""):
    """What an audit warns of."""
    model = open_model(base)
    adapter = read_adapter(source)
    audit(adapter, model.architecture, model.dims, {str(base), *known}, revision)
    return adapter.warnings


@pytest.mark.parametrize("saved", [["lm_head"], ["layers.0.input_layernorm"]], ids=str)
def test_whole_modules_without_a_place_are_refused_by_name(tmp_path, bases, saved):
    source = lora(tmp_path, bases["llama"], modules_to_save=saved)
    wider = families.make_model(tmp_path / "wider", "llama", seed=2, wider=True)
    sides = [Side(m.architecture, m.dims) for m in (open_model(bases["llama"]), open_model(wider))]
    with pytest.raises(LoraportError, match=rf"no place in the new model.*{saved[0][-7:]}"):
        check_saved(read_adapter(source), *sides)


def test_saved_modules_take_the_new_familys_names(tmp_path, bases):
    source = lora(tmp_path, bases["llama"], modules_to_save=["embed_tokens"])
    other = families.make_model(tmp_path / "neox", "gpt_neox", seed=1)
    sides = [Side(m.architecture, m.dims) for m in (open_model(bases["llama"]), open_model(other))]
    adapter = read_adapter(source)
    same = same_tokens(tmp_path / "embedding.h5", bases["llama"])
    kept = keep_saved(adapter, *sides, same, None)
    assert list(kept) == ["gpt_neox.embed_in.weight"]
    assert "tokenizers are the same" in adapter.warnings[-1]


def test_audit_tells_of_another_revision_and_of_odd_norms(tmp_path, bases):
    base = bases["llama"]
    source = edit(lora(tmp_path, base, target_modules=ALL), revision="aaa")
    assert any("revision aaa" in warning for warning in check(source, base, revision="bbb"))
    assert check(source, base, revision="aaa") == []

    def tilt(tensors):
        name = "base_model.model.model.layers.0.mlp.up_proj.lora_B.weight"
        return {**tensors, name: tensors[name] * 1e3}

    edit_tensors(source, tilt)
    assert "layers.0.mlp.up_proj: update norm" in check(source, base)[0]


def test_audit_reads_regular_expressions_as_targets(tmp_path, bases):
    """A target that the expression promises and the file lacks; one that is unsafe is passed by."""
    base = bases["llama"]
    source = lora(tmp_path, base, target_modules=r".*self_attn\.(q|v)_proj")
    check(source, base)

    def without(tensors):
        return {name: values for name, values in tensors.items() if "1.self_attn.v" not in name}

    edit_tensors(source, without)
    with pytest.raises(LoraportError, match=r"nothing for model\.layers\.1\.self_attn\.v_proj"):
        check(source, base)
    check(edit(source, target_modules=r"(.*)+self_attn\.(q|v)_proj"), base)


def test_audit_refuses_another_base(tmp_path, bases):
    source = lora(tmp_path, bases["llama"])
    with pytest.raises(LoraportError, match=r"lacks|another base model"):
        check(source, bases["phi3"])
    with pytest.raises(LoraportError, match="records another base"):
        check(edit(source, base_model_name_or_path="someone/else"), bases["llama"])


def test_adapters_of_old_peft_versions_are_read(tmp_path, bases):
    """`.default` in the names, and DoRA's magnitude with `.weight`."""
    base = bases["llama"]
    source = lora(tmp_path, base, use_dora=True)
    old = tmp_path / "old"
    shutil.copytree(source, old)
    edit_tensors(
        old,
        lambda tensors: {
            name.replace("lora_A.weight", "lora_A.default.weight").replace(
                "lora_magnitude_vector", "lora_magnitude_vector.weight"
            ): values
            for name, values in tensors.items()
        },
    )
    new, read = read_adapter(source).modules, read_adapter(old).modules
    for path, weights in new.items():
        assert np.array_equal(read[path].a, weights.a)
        assert np.array_equal(read[path].magnitude, weights.magnitude)
