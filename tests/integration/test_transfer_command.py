"""`loraport transfer`: one command from two models and adapters to carried adapters."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pico
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM
from workdir import PROJECT

from loraport.cli import main
from loraport.commands import _one_run
from loraport.errors import LoraportError
from loraport.planning.checks import load

SMALL = ["--set", "calibration.examples=40", "--set", "mapping.minibatch=8", "--cores", "2"]
TOKENS = torch.tensor([[1, 5, 9, 13, 17, 21]])


def command(pair, work, *adapters, out, more=()):
    paths = [pair.old, pair.new, *adapters, out]
    options = ["--texts", pair.texts, "--work", work, *SMALL, *more]
    return main(["transfer", *map(str, [*paths, *options])])


@pytest.fixture(scope="module")
def carried(pico_pair, tmp_path_factory):
    """Two adapters carried at once, with the merged models; what was printed."""
    root = tmp_path_factory.mktemp("oneoff")
    second = pico.make_adapter(root / "second", pico_pair.old, seed=4, targets=["q_proj"])
    more = ["--merged", "base"]
    status = command(pico_pair, root, pico_pair.adapter, second, out=root / "out", more=more)
    return root, status


def test_several_adapters_are_carried_by_one_command(carried, pico_pair):
    root, status = carried
    assert status == 0
    assert sorted(path.name for path in (root / "out").iterdir()) == ["adapter", "second"]
    model = AutoModelForCausalLM.from_pretrained(pico_pair.new)
    with torch.no_grad():
        bare = model(TOKENS).logits
        adapted = PeftModel.from_pretrained(model, root / "out" / "adapter")(TOKENS).logits
    assert (adapted - bare).abs().max() > 1e-3
    whole = root / "artifacts/old_to_new/adapter/lorasuite/model_merged"
    merged = AutoModelForCausalLM.from_pretrained(whole)
    with torch.no_grad():
        assert (merged(TOKENS).logits - adapted).abs().max() < 1e-4
    assert not list((root / "out").rglob(".snakemake_timestamp"))


def test_one_more_adapter_goes_where_it_is_told_and_makes_no_maps(carried, pico_pair, capsys):
    root, _ = carried
    maps = root / "artifacts/old_to_new/maps/lorasuite.h5"
    before = maps.stat().st_mtime_ns
    third = pico.make_adapter(root / "third", pico_pair.old, seed=5, targets=["v_proj"])
    assert command(pico_pair, root, third, out=root / "alone") == 0
    assert maps.stat().st_mtime_ns == before
    assert (root / "alone" / "adapter_model.safetensors").is_file()
    told = capsys.readouterr().out
    assert "1 of 1" in told and str(root / "alone") in told
    assert command(pico_pair, root, third, out=root / "alone") == 1
    assert "is there already" in capsys.readouterr().err


def test_what_goes_wrong_is_one_paragraph_in_the_workflows_words(carried, pico_pair, capsys):
    root, _ = carried
    wrong = ["--set", "transfer.scael=norm"]
    assert command(pico_pair, root, pico_pair.adapter, out=root / "x", more=wrong) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert "unknown key(s)" in told and "did you mean 'scale'" in told and "workflow.log" in told
    assert not (root / "x").exists()


def test_a_setting_makes_a_merged_model_of_every_adapter(carried):
    """The configuration of the first run, which asks for merged models, without a target."""
    root, _ = carried
    config = root / "artifacts/old_to_new/logs/config.yaml"
    content = yaml.safe_load(config.read_text())
    transfer = {"method": "lorasuite", "merged_model": "base"}
    own = {**content, "run": ["old_to_new"], "transfer": transfer}
    (root / "own.yaml").write_text(yaml.safe_dump(own))
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", str(PROJECT / "Snakefile")]
    command += ["--directory", str(root), "--configfile", str(root / "own.yaml"), "--cores", "1"]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"^model_merged +[12]$", done.stdout + done.stderr, re.M)


REQUEST = _one_run.Request(
    "models/a b", "owner/Model-2", (Path("x/tables"), Path("y/one"), Path("z/one")), ()
)


def test_names_are_such_that_the_workflow_takes_them():
    assert REQUEST.models == {"old": "a_b", "new": "Model-2"}
    assert REQUEST.apps == ["tables_2", "y_one", "z_one"]
    same = _one_run.Request("v1/model", "v2/model", (), ())
    assert same.models == {"old": "model", "new": "model_new"}
    assert _one_run.plain_name("../…") != ""


def test_the_configuration_is_one_that_the_workflow_takes(tmp_path):
    table = tmp_path / "adapters.tsv"
    table.write_text("app\tmodel\tsource\ttask\none\ta_b\tx\t\n")
    settings = ("mapping.wh=identity", "calibration.examples=9", "variants.n.method=lorasuite")
    request = _one_run.Request("a b", "o/n", (), (), known_as=("o/a",), settings=settings)
    content = _one_run.configuration(request, PROJECT, table)
    loaded = load(content, PROJECT / "workflow" / "schemas")
    assert loaded.content["mapping"]["wh"] == "identity"
    assert loaded.content["calibration"]["examples"] == 9
    assert loaded.content["calibration"]["texts"]["dataset"]
    assert loaded.method("n") == "lorasuite"
    assert "o/a" in loaded.known_as("a_b")


@pytest.mark.parametrize("setting", ["foo", "a=1", "a.=1", ".b=1"])
def test_a_setting_that_cannot_be_read_is_told(setting, tmp_path):
    request = _one_run.Request("a", "o/n", (), (), settings=(setting,))
    with pytest.raises(LoraportError, match=r"section\.key=value"):
        _one_run.configuration(request, PROJECT, tmp_path)


def test_models_and_adapters_that_are_not_there_are_told_at_once(pico_pair, tmp_path, capsys):
    nowhere = str(tmp_path / "nowhere")
    new, adapter, out = str(pico_pair.new), str(pico_pair.adapter), str(tmp_path / "out")
    assert main(["transfer", nowhere, new, adapter, out]) == 1
    assert "is not there" in capsys.readouterr().err
    assert main(["transfer", str(pico_pair.old), new, nowhere, out]) == 1
    assert f"adapter {nowhere} is not there" in capsys.readouterr().err


def test_reasons_are_those_of_the_rule_that_failed():
    lines = [
        "Building DAG of jobs...",
        "[spec] a is fine. Got: nothing of note.",
        "[embedding] W_h is odd. Got: 1. What to do: mend it.",
        "CalledProcessError in file rules/pairs.smk, line 25:",
        "Error in rule embedding:",
    ]
    assert _one_run.reason(lines) == "W_h is odd. Got: 1. What to do: mend it."
    assert _one_run.reason([*lines[:1], "WorkflowError:", "no such pair"]) == (
        "WorkflowError: no such pair"
    )


def test_a_wheel_brings_all_that_the_workflow_is_made_of(monkeypatch, tmp_path):
    """Built into an empty folder as setuptools does it, and found there as an installed package."""
    from setuptools import Distribution

    from loraport._packaging import BuildPy

    monkeypatch.chdir(PROJECT)
    build = BuildPy(Distribution({"packages": [], "package_dir": {"": "src"}}))
    build.ensure_finalized()
    build.build_lib = str(tmp_path)
    build.run()
    root = tmp_path / "loraport" / "_workflow"
    monkeypatch.setattr(_one_run, "ROOTS", (tmp_path / "nowhere", root))
    assert _one_run.workflow_root() == root
    included = re.findall(r'include: "(.+)"', (root / "Snakefile").read_text())
    assert len(included) > 5
    assert all((root / each).is_file() for each in included)
    text = "".join((root / each).read_text() for each in included)
    for script in re.findall(r'"\.\./(workflow/.+?|environment\.yml)"', text):
        assert (root / script).is_file(), script
    assert {path.name for path in (root / "workflow" / "schemas").iterdir()} == {
        path.name for path in (PROJECT / "workflow" / "schemas").iterdir()
    }
    assert not list(root.rglob("__pycache__"))


def test_a_package_without_its_workflow_says_so(monkeypatch, tmp_path):
    monkeypatch.setattr(_one_run, "ROOTS", (tmp_path,))
    with pytest.raises(LoraportError, match="install it from a checkout"):
        _one_run.workflow_root()
    (tmp_path / "workflow" / "scripts").mkdir(parents=True)
    shutil.copy(PROJECT / "Snakefile", tmp_path)
    assert _one_run.workflow_root() == tmp_path
