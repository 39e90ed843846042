"""A LoRA as GGUF: read back, it computes what peft computes, in llama.cpp's order of rows."""

import families
import numpy as np
import pytest
from kindcase import adalora, edit, make
from peft import LoraConfig

from loraport.adapters.files import read_adapter
from loraport.cli import main
from loraport.errors import LoraportError
from loraport.export import gguf_file
from loraport.export.gguf_file import export_gguf, known, read_gguf
from loraport.export.gguf_rows import row_order
from loraport.models.families import families as all_families
from loraport.models.spec import open_model

pytest.importorskip("gguf", reason="gguf is not installed: pip install .[export]")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    root = tmp_path_factory.mktemp("bases")
    names = ("llama", "gpt_neox", "phi3", "qwen2", "gemma3_multimodal")
    return {name: families.make_model(root / name, name, seed=1) for name in names}


def lora(directory, base, **settings):
    model = open_model(base)
    targets = [module.rpartition(".")[2] for module in model.architecture.modules]
    given = {"r": 4, "lora_alpha": 6, "target_modules": targets, **settings}
    return make(directory, base, LoraConfig(task_type="CAUSAL_LM", **given))


def update(fields, tensors, name):
    """What llama.cpp adds to a weight: α / r · B A, r from the shape of B."""
    a, b = (tensors[f"{name}.weight.lora_{part}"].astype(np.float64) for part in "ab")
    return fields["adapter.lora.alpha"] / b.shape[1] * b @ a


def paired(values, heads):
    """Rows in llama.cpp's order where it turns neighbours, written out row by row."""
    size = len(values) // heads
    rows = [
        head * size + turn + half * (size // 2)
        for head in range(heads)
        for turn in range(size // 2)
        for half in (0, 1)
    ]
    return values[rows]


def test_what_is_read_back_is_each_modules_update_with_rows_of_q_and_k_in_pairs(bases, tmp_path):
    base, model = bases["llama"], open_model(bases["llama"])
    folder = lora(tmp_path / "a", base)
    done = export_gguf(folder, model, tmp_path / "a.gguf", "own/er")
    fields, tensors = read_gguf(tmp_path / "a.gguf")
    assert fields["general.type"] == "adapter"
    assert fields["adapter.type"] == "lora"
    assert fields["general.architecture"] == "llama" == done.architecture
    assert fields["general.base_model.0.repo_url"] == "https://huggingface.co/own/er"
    assert done.rescaled == 0 and fields["adapter.lora.alpha"] == 6
    names = {"q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output",
             "gate": "ffn_gate", "up": "ffn_up", "down": "ffn_down"}  # fmt: skip
    held = read_adapter(folder).modules
    heads = {"q": model.dims.heads, "k": model.dims.kv_heads}
    for layer in range(model.dims.layers):
        for role, name in names.items():
            weights = held[model.architecture.path(layer, model.architecture.module_of(role))]
            wanted = weights.scale * weights.b.astype(np.float64) @ weights.a
            wanted = paired(wanted, heads[role]) if role in heads else wanted
            assert np.allclose(update(fields, tensors, f"blk.{layer}.{name}"), wanted, atol=1e-9)
    assert len(tensors) == 2 * done.modules == 2 * len(held)


def test_a_fused_module_is_laid_out_role_by_role(bases, tmp_path):
    base, model = bases["gpt_neox"], open_model(bases["gpt_neox"])
    folder = lora(tmp_path / "a", base)
    export_gguf(folder, model, tmp_path / "a.gguf")
    fields, tensors = read_gguf(tmp_path / "a.gguf")
    weights = read_adapter(folder).modules["gpt_neox.layers.0.attention.query_key_value"]
    whole = weights.scale * weights.b.astype(np.float64) @ weights.a
    heads = (model.dims.heads, model.dims.kv_heads)
    wanted = np.vstack([families.split("gpt_neox", role, whole, *heads) for role in "qkv"])
    assert np.allclose(update(fields, tensors, "blk.0.attn_qkv"), wanted, atol=1e-9)


def test_scales_that_differ_go_into_b(bases, tmp_path):
    base = bases["qwen2"]
    more = {"use_rslora": True, "rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 11}}
    folder = lora(tmp_path / "a", base, **more)
    done = export_gguf(folder, open_model(base), tmp_path / "a.gguf")
    fields, tensors = read_gguf(tmp_path / "a.gguf")
    held = read_adapter(folder).modules
    for role, name in {"q": "attn_q", "v": "attn_v", "o": "attn_output"}.items():
        weights = held[f"model.layers.1.self_attn.{role}_proj"]
        wanted = weights.scale * weights.b.astype(np.float64) @ weights.a
        assert np.allclose(update(fields, tensors, f"blk.1.{name}"), wanted, atol=1e-7)
    assert 0 < done.rescaled < done.modules


def test_tokens_are_looked_up_in_a(bases, tmp_path):
    folder = lora(tmp_path / "a", bases["llama"], target_modules=["embed_tokens", "q_proj"])
    export_gguf(folder, open_model(bases["llama"]), tmp_path / "a.gguf")
    fields, tensors = read_gguf(tmp_path / "a.gguf")
    weights = read_adapter(folder).modules["model.embed_tokens"]
    a, b = (tensors[f"token_embd.weight.lora_{part}"] for part in "ab")
    assert a.shape == (len(weights.b), 4) and b.shape == (weights.a.shape[1], 4)
    made = fields["adapter.lora.alpha"] / 4 * a.astype(np.float64) @ b.T
    assert np.allclose(made, weights.scale * weights.b.astype(np.float64) @ weights.a, atol=1e-9)


@pytest.mark.parametrize("name", ["phi3", "gemma3_multimodal"])
def test_other_families_are_written_by_their_names(bases, tmp_path, name):
    own = {"target_modules": r".*language_model.*\.(q_proj|down_proj)"} if "multi" in name else {}
    folder = lora(tmp_path / "a", bases[name], **own)
    done = export_gguf(folder, open_model(bases[name]), tmp_path / "a.gguf")
    assert done.architecture == {"phi3": "phi3", "gemma3_multimodal": "gemma3"}[name]
    assert all(each.startswith("blk.") for each in read_gguf(tmp_path / "a.gguf")[1])


def test_adalora_keeps_its_scale(bases, tmp_path):
    folder = make(tmp_path / "a", bases["llama"], adalora())
    export_gguf(folder, open_model(bases["llama"]), tmp_path / "a.gguf")
    fields, tensors = read_gguf(tmp_path / "a.gguf")
    path, weights = next(iter(sorted(read_adapter(folder).modules.items())))
    wanted = np.linalg.norm(update(fields, tensors, "blk.0.ffn_down"))
    assert path.endswith("layers.0.mlp.down_proj")
    assert wanted == pytest.approx(weights.norm(), rel=1e-6)


def test_what_llama_cpp_has_no_place_for_is_refused_in_one_list(bases, tmp_path):
    more = {"use_dora": True, "modules_to_save": ["lm_head"]}
    folder = lora(tmp_path / "a", bases["qwen2"], target_modules=["q_proj"], **more)
    with pytest.raises(LoraportError, match=r"magnitudes.*whole modules"):
        export_gguf(folder, open_model(bases["qwen2"]), tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


def test_a_family_that_is_not_known_here_is_refused_by_name(bases, tmp_path, monkeypatch):
    folder = lora(tmp_path / "a", bases["qwen2"])
    monkeypatch.delitem(known(), "qwen2")
    with pytest.raises(LoraportError, match="model_type 'qwen2'"):
        export_gguf(folder, open_model(bases["qwen2"]), tmp_path / "a.gguf")


def test_the_rows_of_a_head_go_in_pairs_of_its_halves(bases):
    model = open_model(bases["llama"])
    order = row_order(model, "model.layers.0.self_attn.q_proj", ("q", "k"))
    half = model.dims.head_dim // 2
    assert order[:4].tolist() == [0, half, 1, half + 1]
    assert row_order(model, "model.layers.0.self_attn.v_proj", ("q", "k")) is None


NAMES = {
    "q": "attn_q", "k": "attn_k", "v": "attn_v", "o": "attn_output", "gate": "ffn_gate",
    "up": "ffn_up", "down": "ffn_down", "q k v": "attn_qkv", "gate up": "ffn_up",
    "q q_gate": "attn_q", "linear_q linear_k linear_v": "attn_qkv", "linear_z": "attn_gate",
    "linear_b": "ssm_beta", "linear_a": "ssm_alpha", "linear_o": "ssm_out",
}  # fmt: skip
# whose q and k llama.cpp's converter puts in pairs: those that it converts as Llama, and OLMo
PAIRED = {"llama", "mistral", "mixtral", "minicpm", "olmo", "smollm3", "arcee", "granite",
          "granitemoe", "ministral3", "mistral3"}  # fmt: skip


@pytest.mark.parametrize("family", all_families().values(), ids=lambda each: each.name)
def test_the_library_has_a_tensor_for_each_role_of_each_family(family):
    import gguf

    numbers = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}
    for kind in family.model_types:
        if kind not in known():
            pytest.skip(f"what llama.cpp calls {kind} is not told")
        table = gguf.get_tensor_name_map(numbers[known()[kind]["architecture"]], 3)
        for module, roles in family.modules.items():
            wanted = f"blk.2.{NAMES[' '.join(roles)]}.weight"
            assert gguf_file._tensor_name(table, family.path(2, module)) == wanted
        assert gguf_file._tensor_name(table, family.embedding) == "token_embd.weight"


def test_rows_are_paired_where_the_converter_of_llama_cpp_does_it():
    assert {kind for kind, each in known().items() if "interleaved" in each} == PAIRED


@pytest.mark.parametrize("name", ["qwen3_5_text", "qwen3_5"])
def test_value_heads_of_a_deltanet_go_in_turn_through_the_key_heads(tmp_path, name):
    base = families.make_model(tmp_path / "base", name, seed=1)
    model = open_model(base)
    inner = "language_model." if name == "qwen3_5" else ""
    ends = [each.rpartition(".")[2] for each in model.architecture.modules]
    targets = rf".*{inner}.*\.({'|'.join(ends)})"
    folder = lora(tmp_path / "a", base, target_modules=targets)
    assert export_gguf(folder, model, tmp_path / "a.gguf").architecture == "qwen35"
    fields, tensors = read_gguf(tmp_path / "a.gguf")
    held = read_adapter(folder).modules
    block = model.architecture.block
    layer = next(n for n in range(model.dims.layers) if "q" in model.dims.at(n).lacks)
    size = model.dims.linear_values // 4

    def whole(module, number=layer):
        each = held[f"{block.format(layer=number)}.{module}"]
        return each.scale * each.b.astype(np.float64) @ each.a

    def in_turn(values, width):  # heads 0 and 1 are of the first key head, 2 and 3 of the second
        return np.vstack([values[head * width : (head + 1) * width] for head in (0, 2, 1, 3)])

    joint = whole("linear_attn.in_proj_qkv")
    keys = 2 * model.dims.linear_keys
    wanted = {
        "attn_qkv": np.vstack([joint[:keys], in_turn(joint[keys:], size)]),
        "attn_gate": in_turn(whole("linear_attn.in_proj_z"), size),
        "ssm_beta": in_turn(whole("linear_attn.in_proj_b"), 1),
        "ssm_alpha": in_turn(whole("linear_attn.in_proj_a"), 1),
        "ssm_out": in_turn(whole("linear_attn.out_proj").T, size).T,
    }
    for tensor, values in wanted.items():
        assert np.allclose(update(fields, tensors, f"blk.{layer}.{tensor}"), values, atol=1e-7)
    full = next(n for n in range(model.dims.layers) if "q" not in model.dims.at(n).lacks)
    as_it_is = whole("self_attn.q_proj", full)  # queries and their gate stay head by head
    assert np.allclose(update(fields, tensors, f"blk.{full}.attn_q"), as_it_is, atol=1e-7)


@pytest.mark.parametrize("targets", [["mlp.experts.down_proj"], ["mlp.gate.weight"]])
def test_experts_are_refused_by_name(tmp_path, targets):
    base = families.make_model(tmp_path / "base", "qwen3_moe", seed=1)
    folder = lora(tmp_path / "a", base, target_modules=["q_proj"], target_parameters=targets)
    with pytest.raises(
        LoraportError, match=r"experts of a mixture, or their router, such as .*mlp"
    ):
        export_gguf(folder, open_model(base), tmp_path / "a.gguf")
    assert not (tmp_path / "a.gguf").exists()


def test_every_known_type_is_one_of_a_family_and_of_the_library():
    import gguf

    types = {kind for family in all_families().values() for kind in family.model_types}
    assert set(known()) <= types | {"gemma3_text"}
    assert {each["architecture"] for each in known().values()} <= set(
        gguf.MODEL_ARCH_NAMES.values()
    )


def test_the_command_writes_the_file_and_names_the_server(bases, tmp_path, capsys):
    folder = edit(lora(tmp_path / "a", bases["llama"]), base_model_name_or_path="")
    out = str(tmp_path / "a.gguf")
    assert main(["export", str(folder), "--gguf", out]) == 1
    assert "--base MODEL" in capsys.readouterr().err
    assert main(["export", str(folder), "--gguf", out, "--base", str(bases["llama"])]) == 0
    assert f"--lora {out}" in capsys.readouterr().out
