"""The whole DAG on pico models, by the command that users type."""

import json
import shutil
from pathlib import Path

import h5py
import numpy as np
import pico
import pytest
from workdir import PROJECT, Workdir

ADAPTER = "artifacts/p/a/lora_transferred"


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Workdir:
    """A working directory in which the workflow has run once."""
    work = Workdir(tmp_path_factory.mktemp("work"))
    work.run(ADAPTER, anew=True)
    return work


@pytest.fixture
def work(finished, tmp_path) -> Workdir:
    """A copy of it to change."""
    return finished.copy(tmp_path / "work")


def files_of(root: Path) -> dict[str, bytes]:
    """Contents of the artifacts that must not depend on when they were made."""
    paths = [*root.glob("artifacts/p/**/*.h5"), *root.glob("artifacts/p/**/*.json")]
    paths += root.glob("artifacts/p/**/*.safetensors")
    return {str(path.relative_to(root)): path.read_bytes() for path in paths}


def test_artifacts_hold_what_the_contract_says(finished):
    artifacts = finished.root / "artifacts"
    spec = json.loads((artifacts / "models/new/spec.json").read_text())
    assert spec["attention"] == "MHA"
    assert spec["dimensions"]["hidden"] == 48
    assert str(finished.root) not in json.dumps(spec)
    with h5py.File(artifacts / "models/old/activations.h5") as file:
        assert file["layer_2"].shape == (40, 32)
        assert file["layer_2"].dtype == np.float32
    with h5py.File(artifacts / "p/embedding.h5") as file:
        assert file["W_h"].shape == (32, 48)
        assert len(file["token_ids_old"]) == len(file["token_ids_new"])
        assert len(file["token_ids_old"]) == file.attrs["tokens_shared"]
        assert file.attrs["rule"] == "embedding"
        assert {"condition", "residual", "tokens_old", "tokens_new"} <= set(file.attrs)
    with h5py.File(artifacts / "p/cka.h5") as file:
        assert file["similarity"].shape == (3, 4)
        assert file.attrs["minibatches"] == 5
    layers = json.loads((artifacts / "p/layers.json").read_text())
    assert [row[0] for row in layers["path"]] == [0, 1, 2]
    assert layers["total"] == pytest.approx(sum(row[2] for row in layers["path"]))
    with h5py.File(artifacts / "p/heads.h5") as file:
        new = layers["path"][0][1]
        assert file[f"layer_{new}/similarity"].shape == (4, 6)
        assert file[f"layer_{new}/assignment"].shape == (4, 2)


def test_rules_record_time_and_memory(finished):
    for log in (finished.root / "artifacts").glob("**/logs/**/*.log"):
        record = json.loads(log.read_text().rstrip().rpartition("\n")[2])
        assert record["status"] == "done"
        assert record["seconds"] > 0
        assert record["peak_mib"] > 10


def test_provenance_says_what_was_carried(finished):
    report = json.loads((finished.root / ADAPTER / "transfer.json").read_text())
    assert set(report["inputs"]) == {"old_spec", "new_spec", "maps"}
    assert len(report["modules"]) == 4 * 7
    served = [entry for entry in report["modules"].values() if entry["source"] is not None]
    assert len(served) == 3 * 7
    assert all(entry["relative_norm_after"] > 0 for entry in served)
    assert report["left_behind"] == []


def test_result_loads_with_no_missing_and_no_extra_key(finished, monkeypatch):
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(finished.root / "new")
    tokens = torch.arange(5, 25)[None]
    bare = model(tokens).logits
    carried = PeftModel.from_pretrained(model, finished.root / ADAPTER)
    result = carried.load_adapter(finished.root / ADAPTER, "again")
    assert not [key for key in result.missing_keys if "lora" in key]
    assert not result.unexpected_keys
    assert (carried(tokens).logits - bare).abs().max() > 1e-3


def test_second_run_does_nothing(finished):
    assert finished.planned(ADAPTER) == {}


def test_calibration_setting_redoes_what_depends_on_it(finished):
    planned = finished.planned(ADAPTER, "--config", "calibration={examples: 36}")
    rules = {"activations", "cka", "layers", "heads", "maps", "transferred"}
    assert set(planned) == rules
    assert planned["activations"] == 2


def test_transfer_setting_redoes_one_rule(finished):
    planned = finished.planned("--config", "transfer={scale: norm}", "--", ADAPTER)
    assert planned == {"transferred": 1}


@pytest.mark.parametrize(
    ("module", "rules"),
    [
        ("mapping/heads.py", {"heads", "maps", "transferred"}),
        ("methods/lorasuite.py", {"maps", "transferred"}),
        ("transfer/carry.py", {"transferred"}),
        ("transfer/carry_module.py", {"transferred"}),
        ("runtime/job.py", set()),
    ],
)
def test_edited_module_redoes_the_rules_that_use_it(finished, tmp_path, module, rules):
    shutil.copytree(PROJECT / "src", tmp_path / "src")
    edited = tmp_path / "src" / "loraport" / module
    edited.write_text(edited.read_text() + "\nEDITED = True\n")
    assert set(finished.planned(ADAPTER, project=tmp_path)) == rules


def test_new_adapter_costs_one_rule_and_no_base_model(work):
    shutil.copytree(work.root / "adapter", work.root / "second")
    work.table(("a", "old", "adapter"), ("b", "old", "second"))
    shutil.rmtree(work.root / "old")
    shutil.rmtree(work.root / "new")
    target = "artifacts/p/b/lora_transferred"
    assert work.planned(target) == {"transferred": 1}
    work.run(target)
    first, second = (
        (work.root / path / "adapter_model.safetensors").read_bytes() for path in (ADAPTER, target)
    )
    assert first == second


def test_a_dry_run_tells_of_trained_tokens_that_the_new_tokenizer_lacks(work):
    words = [
        json.loads((work.root / name / "tokenizer.json").read_text())["model"]["vocab"]
        for name in ("old", "new")
    ]
    lost = next(word for word in words[0] if word not in words[1])
    ids = [words[0][lost], next(number for word, number in words[0].items() if word in words[1])]
    pico.make_adapter(work.root / "tokens", work.root / "old", seed=4, trainable_token_indices=ids)
    work.table(("a", "old", "adapter"), ("t", "old", "tokens"))
    target = "artifacts/p/t/lora_transferred"
    told = "t: left behind: model.embed_tokens: 1 of 2 trained tokens, which the new tokenizer "
    assert f"{told}lacks: {lost}\n" in work.run("-n", target).stdout
    assert told in work.run(target).stdout
    assert told not in work.run("-n", target).stdout


def test_transfer_imports_no_torch(finished):
    import subprocess
    import sys

    code = (
        "import loraport.transfer.files, loraport.runtime.job, sys; "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_same_inputs_give_the_same_bytes(work):
    """In other processes, whose sets have another order."""
    before = files_of(work.root)
    work.run("--forceall", ADAPTER)
    after = files_of(work.root)
    assert before == after
    assert len(before) >= 8


def test_changed_weights_redo_everything_of_that_model(work):
    import pico
    from workdir import SIZES

    pico.make_model(work.root / "new", seed=9, vocab_words=240, **SIZES["new"])
    planned = work.planned(ADAPTER)
    assert planned["spec"] == 1
    assert {"heads", "maps", "transferred"} <= set(planned)


def test_variants_have_their_own_layers_and_heads(work):
    norm, last = (f"artifacts/p/a/{name}/lora_transferred" for name in ("norm", "last"))
    assert set(work.planned(norm)) == {"maps", "transferred_by_method"}
    work.run(norm, last)
    own = json.loads((work.root / "artifacts/p/variants/last/layers.json").read_text())
    assert [row[:2] for row in own["path"]] == [[0, 1], [1, 2], [2, 3]]
    report = json.loads((work.root / norm / "transfer.json").read_text())
    for entry in report["modules"].values():
        if entry["source"] is not None:
            before, after = entry["relative_norm_before"], entry["relative_norm_after"]
            assert after == pytest.approx(before, rel=1e-5)


def test_gradients_are_made_for_the_methods_that_need_them_alone(work):
    """A variant with another layer path has its own."""
    variants = {"last": {"method": "aligned_gradients", "mapping": {"layers": "last"}}}
    work.configure(variants=variants)
    names = ("theseus", "aligned_gradients", "last")
    rotated, fitted, last = (f"artifacts/p/a/{name}/lora_transferred" for name in names)
    assert "gradients" not in work.planned(rotated)
    assert work.planned(last)["variant_gradients"] == 1
    work.run(fitted)
    report = json.loads((work.root / fitted / "transfer.json").read_text())
    assert any(each.get("relative_norm_after") for each in report["modules"].values())
    assert (work.root / "artifacts/p/gradients.h5").exists()


def test_output_maps_are_remade_for_their_own_settings_and_code_alone(work, tmp_path):
    """Where they are there, an adapter's own maps take no moments."""
    variants = {
        "own": {"method": "aligned_sequential", "mapping": {"calibrate_on": "generic"}},
        "flat": {
            "method": "aligned_sequential",
            "mapping": {"calibrate_on": "generic", "prior": "zero"},
        },
    }
    work.configure(variants=variants)
    own, flat = (f"artifacts/p/a/maps/{name}.h5" for name in variants)
    work.run("artifacts/p/output_maps/aligned_sequential.h5")
    moments = work.root / "artifacts/p/moments.h5"
    hidden = moments.rename(tmp_path / "moments.h5")
    assert work.planned(own) == {"adapter_maps": 1}
    hidden.rename(moments)
    assert work.planned(own, flat) == {"output_maps": 1, "adapter_maps": 2}
    again = {"output_maps": 1, "adapter_maps": 1}
    assert work.planned("--config", "mapping={prior: zero}", "--", own) == again
    shutil.copytree(PROJECT / "src", tmp_path / "src")
    edited = tmp_path / "src/loraport/methods/aligned_sequential.py"
    edited.write_text(edited.read_text().replace("STREAM_RIDGE = 1e-2", "STREAM_RIDGE = 2e-2"))
    assert work.planned(own, project=tmp_path) == again


def test_artifact_of_another_run_is_refused_by_name(work):
    before = (work.root / ADAPTER / "transfer.json").read_bytes()
    other = h5py.File(work.root / "artifacts/p/heads.h5", "r+")
    header = json.loads(other.attrs["header"])
    header["inputs"]["layers"] = "0" * 64
    other.attrs["header"] = json.dumps(header)
    other.close()
    done = work.run("--forcerun", "maps", "--", ADAPTER, ok=False)
    assert "artifacts/p/heads.h5 was made from another artifacts/p/layers.json" in done.stdout
    assert (work.root / ADAPTER / "transfer.json").read_bytes() == before
