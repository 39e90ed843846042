"""`loraport transfer`: one command from two models and adapters to carried adapters."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pico
import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM
from workdir import PROJECT

from loraport.cli import main
from loraport.commands import _one_run, _snakemake
from loraport.errors import LoraportError
from loraport.planning.checks import load

SMALL = ["--set", "calibration.examples=40", "--set", "mapping.minibatch=8", "--cores", "1"]
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


def test_a_carried_adapter_has_a_card_that_names_no_folder(carried, pico_pair):
    root, _ = carried
    text = (root / "out" / "adapter" / "README.md").read_text()
    assert "# adapter: a carried LoRA adapter" in text
    assert "the adapter `adapter` of `old`, for `new`" in text
    assert "**No verdict.**" in text and "Method: `lorasuite`" in text
    assert str(root) not in text and str(pico_pair.new) not in text


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


def test_several_adapters_are_refused_in_one_list_before_anything_runs(
    carried, pico_pair, tmp_path, capsys
):
    root, _ = carried
    bad = [pico.make_adapter(tmp_path / name, pico_pair.new, seed=4, targets=["q_proj"])
           for name in ("one", "two")]  # fmt: skip
    assert command(pico_pair, root, *bad, out=root / "bad") == 1
    told = capsys.readouterr().err
    assert "2 adapters can't be carried, for 2 reasons:" in told
    assert told.count("is for another base model") == 2
    assert not (root / "bad").exists()


def surrounded(root):
    """A user's own project: a configuration, a profile and files by the names of modules."""
    root.mkdir()
    for name in ("secrets", "queue", "yaml"):
        (root / f"{name}.py").write_text("raise SystemExit('the wrong module')\n")
    (root / "config").mkdir()
    (root / "config/config.yaml").write_text("samples: [unbalanced\n")
    (root / "profiles/default").mkdir(parents=True)
    (root / "profiles/default/config.yaml").write_text("executor: nowhere\n")
    return root


@pytest.mark.usefixtures("own_processes")
def test_nothing_of_the_folder_or_the_environment_counts(carried, pico_pair, monkeypatch):
    work, _ = carried
    root = surrounded(work.parent / "project")
    shutil.copytree(work / "artifacts", root / "artifacts", symlinks=True)
    monkeypatch.chdir(root)
    monkeypatch.setenv("SNAKEMAKE_PROFILE", str(root / "profiles/default"))
    one = pico.make_adapter(root.parent / "one", pico_pair.old, seed=6, targets=["q_proj"])
    assert command(pico_pair, root, one, out=root / "out") == 0
    settings = json.loads((root / "out/transfer.json").read_text())["settings"]
    assert settings["scale"] == "paper" and settings["dtype"] == "float32"


def test_a_configuration_and_a_profile_count_where_they_are_asked_for(
    carried, pico_pair, tmp_path, capsys
):
    work, _ = carried
    (tmp_path / "own.yaml").write_text("transfer: {scale: norm, dtype: bfloat16}\n")
    one = pico.make_adapter(tmp_path / "one", pico_pair.old, seed=7, targets=["q_proj"])
    asked = ["--configfile", str(tmp_path / "own.yaml"), "--set", "transfer.dtype=float32"]
    assert command(pico_pair, work, one, out=tmp_path / "out", more=asked) == 0
    settings = json.loads((tmp_path / "out/transfer.json").read_text())["settings"]
    assert settings["scale"] == "norm" and settings["dtype"] == "float32"
    (tmp_path / "profile").mkdir()
    (tmp_path / "profile/config.yaml").write_text("executor: nowhere\n")
    other = ["--profile", str(tmp_path / "profile")]
    assert command(pico_pair, work, one, out=tmp_path / "other", more=other) == 1
    assert "nowhere" in capsys.readouterr().err


def test_a_refusal_is_one_paragraph_with_the_commands_flags(carried, pico_pair, tmp_path, capsys):
    work, _ = carried
    path = shutil.copytree(pico_pair.adapter, tmp_path / "odd") / "adapter_config.json"
    config = {**json.loads(path.read_text()), "base_model_name_or_path": "someone/else"}
    path.write_text(json.dumps(config))
    assert command(pico_pair, work, path.parent, out=tmp_path / "out") == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert told.startswith("loraport: adapter ") and "by --known-as" in told
    for word in ("Host:", "User:", "config.yaml in", "known_as", "Snakefile"):
        assert word not in told
    named = ["--known-as", "someone/else"]
    assert command(pico_pair, work, path.parent, out=tmp_path / "out", more=named) == 0


@pytest.fixture
def begun(carried, tmp_path):
    """A folder to work in where the pair's last artifacts are missing."""
    folder = tmp_path / "work"
    shutil.copytree(carried[0], folder, symlinks=True, ignore=shutil.ignore_patterns("out"))
    for name in ("maps", "adapter", "second"):
        shutil.rmtree(folder / "artifacts/old_to_new" / name)
    return folder


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_says_so_in_one_line_and_goes_on(pico_pair, begun, tmp_path, number):
    paths = [pico_pair.old, pico_pair.new, pico_pair.adapter, tmp_path / "out"]
    words = ["--texts", pico_pair.texts, "--work", begun, *SMALL]
    line = [sys.executable, "-m", "loraport.cli", "transfer", *map(str, [*paths, *words])]
    run = subprocess.Popen(
        line, text=True, stderr=subprocess.PIPE, start_new_session=True,
        preexec_fn=heeding_interrupts, env=anew(),
    )  # fmt: skip
    locks = begun / ".snakemake/locks"
    wait_for(lambda: locks.is_dir() and any(locks.iterdir()))
    if number == signal.SIGINT:  # of the terminal, which all processes hear
        os.killpg(run.pid, number)
    else:
        run.send_signal(number)
    _, told = run.communicate(timeout=120)
    assert run.returncode == 130
    assert told.strip().splitlines()[-1].lstrip("\r").startswith("loraport: interrupted")
    assert "Traceback" not in told
    assert not (begun / ".snakemake/loraport.json").exists()
    assert main(line[3:]) == 0


def test_after_a_kill_the_same_command_goes_on(pico_pair, begun, tmp_path, capsys):
    paths = [pico_pair.old, pico_pair.new, pico_pair.adapter, tmp_path / "out"]
    words = ["--texts", pico_pair.texts, "--work", begun, *SMALL]
    line = [sys.executable, "-m", "loraport.cli", "transfer", *map(str, [*paths, *words])]
    run = subprocess.Popen(line, stderr=subprocess.DEVNULL, start_new_session=True, env=anew())
    locks = begun / ".snakemake/locks"
    wait_for(lambda: locks.is_dir() and any(locks.iterdir()))
    assert main(line[3:]) == 1
    told = capsys.readouterr().err.strip().splitlines()[-1]
    assert f"held by process {run.pid}" in told and "rm -r" in told
    os.killpg(run.pid, signal.SIGKILL)
    run.wait()
    assert any(locks.iterdir())
    assert main(line[3:]) == 0


def anew() -> dict[str, str]:
    """The environment in which the command starts its processes as it does for a user, who can
    interrupt them all: see forks.
    """
    return {name: value for name, value in os.environ.items() if name != "LORAPORT_TEST_DOOR"}


def heeding_interrupts() -> None:
    """As on a terminal: what a shell starts in the background ignores interrupts, and so do its
    children, tests and their commands among them.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def wait_for(condition, seconds: float = 60.0) -> None:
    """Wait until something holds."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.05)


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
    assert _snakemake.reason(lines) == "W_h is odd. Got: 1. What to do: mend it."
    assert _snakemake.reason([*lines[:1], "WorkflowError:", "no such pair"]) == (
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
    assert 'include: "../rules/module.smk"' in (root / "workflow/given_config.smk").read_text()
    of_module = re.findall(r'include: "(.+)"', (root / "rules/module.smk").read_text())
    assert [f"rules/{each}" for each in of_module] == included
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
