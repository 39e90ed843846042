"""Adapters sent to the hub: what would be sent, what stays, and the sending, to a stand-in."""

import json
import os
import re
import subprocess
import sys

import families
import pytest
from hub import serving
from kindcase import edit, make
from peft import LoraConfig
from workdir import PROJECT

from loraport.cli import main

CARD = """---
library_name: peft
base_model: /data/models/base
tags: [lora]
---

# Tickets
"""


@pytest.fixture(scope="module")
def adapter(tmp_path_factory):
    """An adapter with a card, records of which one names a folder, and what training left."""
    root = tmp_path_factory.mktemp("export")
    base = families.make_model(root / "base", "llama", seed=1)
    folder = make(
        root / "tickets", base, LoraConfig(task_type="CAUSAL_LM", r=4, target_modules=["q_proj"])
    )
    (folder / "README.md").write_text(CARD)
    (folder / "transfer.json").write_text(json.dumps({"of": {"old": "v1"}, "method": "aligned"}))
    (folder / "upgrade.json").write_text(json.dumps({"runs": [{"adapter": "/home/me/tickets"}]}))
    (folder / "optimizer.pt").write_bytes(b"left over")
    return folder


def call(*words, **environment):
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), **environment}
    command = [sys.executable, "-m", "loraport.cli", "export", *map(str, words)]
    return subprocess.run(command, env=environment, capture_output=True, text=True)


def test_a_dry_run_says_what_would_be_sent_and_asks_the_hub_for_nothing(adapter, capsys):
    with serving() as hub:
        assert main(["export", str(adapter), "--hub", "me/tickets", "--base", "own/base"]) == 0
    assert hub.asked == []
    told = capsys.readouterr().out
    assert re.search(r"adapter_model.safetensors +[\d,]+ bytes", told)
    assert "transfer.json" in told and "Nothing was sent" in told
    assert re.search(r"upgrade.json +stays here: .*/home/me/tickets", told)
    assert re.search(r"optimizer.pt +stays here", told)


def test_a_base_without_an_id_is_refused(adapter, capsys):
    assert main(["export", str(adapter), "--hub", "me/tickets"]) == 1
    assert "--base OWNER/NAME" in capsys.readouterr().err
    assert main(["export", str(adapter), "--hub", "tickets", "--base", "own/base"]) == 1
    assert "owner/name" in capsys.readouterr().err


def test_what_is_sent_loads_elsewhere_and_names_no_folder(adapter, tmp_path):
    with serving() as hub:
        hub.writes = tmp_path / "writes"
        reached = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_TOKEN": "hf_any"}
        reached["HF_HUB_DISABLE_XET"] = "1"  # which the stand-in lacks
        words = (adapter, "--hub", "me/tickets", "--base", "own/base", "--push")
        done = call(*words, HF_HOME=str(tmp_path / "home"), **reached)
        assert done.returncode == 0, done.stderr
        assert hub.unanswered() == []
        commit, folder = hub.find("models", "me/tickets", "main")
        assert commit in done.stdout
        assert sorted(path.name for path in folder.iterdir()) == [
            "README.md", "adapter_config.json", "adapter_model.safetensors", "transfer.json",
        ]  # fmt: skip
        assert "base_model: own/base\n" in (folder / "README.md").read_text()
        assert "/data/models" not in (folder / "README.md").read_text()
        config = json.loads((folder / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == "own/base"
        sent = (folder / "adapter_model.safetensors").read_bytes()
        assert sent == (adapter / "adapter_model.safetensors").read_bytes()
    assert json.loads((adapter / "adapter_config.json").read_text())[
        "base_model_name_or_path"
    ].startswith("/")  # the adapter itself is left as it is


def test_a_hub_that_refuses_is_told_in_one_paragraph(adapter, tmp_path):
    with serving() as hub:
        reached = {"HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path)}
        words = (adapter, "--hub", "me/tickets", "--base", "own/base", "--push")
        done = call(*words, **reached)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert "could not be sent to me/tickets" in line and "hf auth login" in line


def test_an_adapter_of_the_hub_keeps_its_bases_commit(adapter, tmp_path, capsys):
    from loraport.export import hub

    edit(adapter, base_model_name_or_path="own/base", revision="0123abc")
    (tmp_path / "staged").mkdir()
    plan = hub.stage(adapter, "me/tickets", tmp_path / "staged")
    assert plan.base == "own/base"
    config = json.loads((tmp_path / "staged/adapter_config.json").read_text())
    assert config["revision"] == "0123abc"
