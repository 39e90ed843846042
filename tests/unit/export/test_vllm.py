"""Adapters for vLLM: what it would refuse or read wrongly, copies that it reads, the serve line."""

import families
import numpy as np
import pytest
import torch
from kindcase import adalora, config_of, edit, loaded, logits, make
from peft import LoraConfig
from safetensors.numpy import load_file

from loraport.adapters.files import read_adapter
from loraport.cli import main
from loraport.errors import LoraportError
from loraport.export import stand_in, vllm
from loraport.models.spec import open_model

ATTENTION = ["q_proj", "k_proj", "v_proj", "o_proj"]


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    return families.make_model(tmp_path_factory.mktemp("base") / "llama", "llama", seed=1)


@pytest.fixture(scope="module")
def tied(tmp_path_factory):
    root = tmp_path_factory.mktemp("tied")
    return families.make_model(root / "qwen2", "qwen2", seed=1, tie_word_embeddings=True)


def lora(directory, base, **settings):
    given = {"r": 4, "lora_alpha": 6, "target_modules": ATTENTION, **settings}
    return make(directory, base, LoraConfig(task_type="CAUSAL_LM", **given))


def told(folder, most=0):
    return {each.kind for each in vllm.problems(read_adapter(folder), most)}


def test_an_adapter_that_it_takes_gets_its_command_line(base, tmp_path, capsys):
    folders = [lora(tmp_path / name / "final", base, r=rank) for name, rank in
               (("customer", 4), ("legal", 12))]  # fmt: skip
    assert main(["export", *map(str, folders), "--vllm"]) == 0
    line = capsys.readouterr().out.splitlines()[0]
    assert line == (
        f"vllm serve {base} --enable-lora --max-lora-rank 16 --max-loras 2 "
        f"--lora-modules customer_final={folders[0]} legal_final={folders[1]}"
    )


def test_everything_that_it_does_not_take_is_told_at_once(base, tmp_path, capsys):
    folder = lora(tmp_path / "a", base, r=20, use_dora=True, modules_to_save=["lm_head"])
    assert told(folder, 16) == {"rank", "whole", "dora"}
    assert main(["export", str(folder), "--vllm", "--max-lora-rank", "16"]) == 1
    error = capsys.readouterr().err
    assert "rank 20 is above" in error and "lm_head" in error and "DoRA" in error
    assert "--stand-in" in error and "raise --max-lora-rank" in error


@pytest.mark.parametrize("targets", [["mlp.experts.down_proj"], ["mlp.gate.weight"]])
def test_experts_and_routers_are_refused_by_name(tmp_path, capsys, targets):
    base = families.make_model(tmp_path / "base", "qwen3_moe", seed=1)
    more = {"target_modules": ["q_proj"], "target_parameters": targets}
    folder = lora(tmp_path / "a", base, **more)
    assert told(folder) == {"experts"}
    for arguments in ([], ["--out", str(tmp_path / "out")]):
        assert main(["export", str(folder), "--vllm", *arguments]) == 1
        error = capsys.readouterr().err
        assert "experts of a mixture, or their router" in error and "--merged" in error
    assert not (tmp_path / "out").exists()


def test_scales_by_pattern_and_expressions_are_what_it_reads_wrongly(base, tmp_path):
    assert told(lora(tmp_path / "plain", base)) == set()
    assert told(lora(tmp_path / "rs", base, use_rslora=True)) == set()
    assert told(lora(tmp_path / "ranks", base, rank_pattern={"q_proj": 2})) == {"patterns"}
    assert told(lora(tmp_path / "alphas", base, alpha_pattern={"q_proj": 2})) == {"patterns"}
    assert told(lora(tmp_path / "bias", base, lora_bias=True)) == {"bias"}
    assert told(lora(tmp_path / "regex", base, target_modules=r".*\.(q|v)_proj")) == {"targets"}
    folder = make(tmp_path / "ada", base, adalora())
    assert "kind" in told(folder)


@pytest.mark.parametrize(
    "settings",
    [
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 11}},
        {"target_modules": r".*\.(q|v)_proj"},
        {"use_rslora": True, "rank_pattern": {"k_proj": 9}},
        {"target_modules": ["embed_tokens", "q_proj", "lm_head"], "rank_pattern": {"q_proj": 2}},
    ],
)
def test_a_plain_copy_computes_the_same_and_is_taken(base, tmp_path, settings):
    folder = lora(tmp_path / "a", base, **settings)
    out = tmp_path / "out"
    assert main(["export", str(folder), "--vllm", "--out", str(out)]) == 0
    assert told(out) == set()
    config = config_of(out)
    assert not config["rank_pattern"] and not config["alpha_pattern"]
    assert isinstance(config["target_modules"], list)
    assert torch.allclose(logits(base, out), logits(base, folder), atol=1e-4)


def test_adalora_becomes_plain_lora_that_computes_the_same(base, tmp_path):
    folder, out = make(tmp_path / "a", base, adalora()), tmp_path / "out"
    assert main(["export", str(folder), "--vllm", "--out", str(out)]) == 0
    assert config_of(out)["peft_type"] == "LORA"
    assert torch.allclose(logits(base, out), logits(base, folder), atol=1e-4)


def test_what_no_copy_mends_is_refused_before_anything_is_written(base, tmp_path, capsys):
    folder, out = lora(tmp_path / "a", base, use_dora=True), tmp_path / "out"
    assert main(["export", str(folder), "--vllm", "--out", str(out)]) == 1
    assert "loraport transfer --merged" in capsys.readouterr().err
    assert not out.exists()


def test_a_whole_head_becomes_lora_of_full_rank_that_computes_the_same(base, tmp_path, capsys):
    folder = lora(tmp_path / "a", base, modules_to_save=["lm_head", "embed_tokens"])
    out, hidden = tmp_path / "out", open_model(base).dims.hidden
    rank = ["--stand-in", str(hidden)]
    assert main(["export", str(folder), "--vllm", *rank, "--out", str(out)]) == 0
    printed = capsys.readouterr().out
    assert printed.count("keeps 100.00 % of their change") == 2
    assert config_of(out)["modules_to_save"] is None
    assert told(out) == set()
    assert torch.allclose(logits(base, out), logits(base, folder), atol=1e-3)


def test_a_stand_in_is_the_best_of_its_rank_and_says_what_it_keeps(base, tmp_path):
    folder = lora(tmp_path / "a", base, modules_to_save=["lm_head"])
    (made,) = stand_in.stand_ins(folder, open_model(base), 5)
    whole = read_adapter(folder).saved["lm_head.weight"].astype(np.float64)
    change = whole - open_model(base).checkpoint().read("lm_head.weight")
    u, s, vh = np.linalg.svd(change, full_matrices=False)
    best = (u[:, :5] * s[:5]) @ vh[:5]
    assert np.allclose(made.weights.b.astype(np.float64) @ made.weights.a, best, atol=1e-5)
    assert made.energy == pytest.approx((s[:5] ** 2).sum() / (s**2).sum())
    assert made.weights.scale == 1


@pytest.mark.parametrize("which", ["base", "tied"])
def test_trained_tokens_become_lora_of_as_many_ranks_without_loss(which, base, tied, tmp_path):
    own = {"base": base, "tied": tied}[which]
    tokens = {"trainable_token_indices": {"embed_tokens": [5, 9, 21]}}
    folder = tokens_of(tmp_path / "a", own, tokens)
    made = stand_in.of_tokens(stand_in.split_tokens(folder, tmp_path), open_model(own), 8)
    assert [each.path for each in made] == ["model.embed_tokens", "lm_head"][
        : 1 + (which == "tied")
    ]
    assert made[0].weights.rank == 3 and made[0].energy == pytest.approx(1)
    out = tmp_path / "out"
    assert main(["export", str(folder), "--vllm", "--stand-in", "8", "--out", str(out)]) == 0
    assert torch.allclose(logits(own, out), logits_of_peft(own, folder), atol=1e-4)
    assert "trainable_token_indices" not in config_of(out)


def tokens_of(directory, base, tokens):
    """An adapter with trained rows of tokens, made by peft; the rows are far from the base's."""
    import copy

    from peft import get_peft_model

    config = LoraConfig(
        task_type="CAUSAL_LM", r=4, lora_alpha=6, target_modules=["q_proj"], **tokens
    )
    adapted = get_peft_model(copy.deepcopy(loaded(base)), config)
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, values in adapted.named_parameters():
            if "lora_" in name or "trainable_tokens" in name:
                values.copy_(0.3 * torch.randn(values.shape, generator=generator))
    adapted.save_pretrained(directory)
    return directory


def logits_of_peft(base, folder):
    import copy

    from kindcase import TOKENS
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(copy.deepcopy(loaded(base)), folder)
    with torch.no_grad():
        return adapted.eval()(TOKENS).logits.double()


def test_other_whole_modules_have_no_stand_in(base, tmp_path, capsys):
    folder = lora(tmp_path / "a", base, modules_to_save=["norm"])
    words = ["--vllm", "--stand-in", "4", "--out", str(tmp_path / "out")]
    assert main(["export", str(folder), *words]) == 1
    told = capsys.readouterr().err
    assert "norm.weight (32,)" in told and "in modules_to_save, or merge it" in told
    assert main(["export", str(folder), "--vllm", "--stand-in", "4"]) == 1
    assert "--out does not say where" in capsys.readouterr().err


def test_adapters_of_two_bases_have_no_server_in_common(base, tmp_path):
    one = vllm.Served("a", tmp_path, "own/one", 4)
    other = vllm.Served("b", tmp_path, "own/other", 4)
    with pytest.raises(LoraportError, match=r"own/one, own/other"):
        vllm.serve_line([one, other])


def test_several_adapters_are_for_vllm_alone(base, tmp_path, capsys):
    folder = edit(lora(tmp_path / "a", base), revision=None)
    assert main(["export", str(folder), str(folder), "--hub", "me/it"]) == 1
    assert "for vLLM alone" in capsys.readouterr().err
    assert load_file(folder / "adapter_model.safetensors")
