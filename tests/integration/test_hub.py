"""Models, adapters, texts and data sets by hub id, from a stand-in on this machine: hub.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pandas
import pico
import pytest
from hub import serving
from workdir import PROJECT, Workdir

from loraport.spec import describe

NEEDED = ["config.json", "generation_config.json", "model.safetensors", "tokenizer.json",
          "tokenizer_config.json"]  # fmt: skip
WORDY = [f"{place} {text} " + "and on " * 30 for place, text in enumerate(pico.texts(40))]
CARD = """---
configs:
{}---
"""
SPECS = {name: f"artifacts/models/{name}/spec.json" for name in ("old", "new", "closed", "away")}


def data_set(folder: Path, **configs: list[dict]) -> Path:
    """A data set repository with several configurations, each of one parquet file."""
    card = ""
    for name, rows in configs.items():
        (folder / name).mkdir(parents=True)
        pandas.DataFrame(rows).to_parquet(folder / name / "train-00000-of-00001.parquet")
        files = f"  data_files:\n  - split: train\n    path: {name}/train-*\n"
        card += f"- config_name: {name}\n{files}"
    (folder / "README.md").write_text(CARD.format(card))
    return folder


def burden(model: Path) -> None:
    """What repositories hold besides a model's safetensors."""
    for name in ("pytorch_model.bin", "README.md", "consolidated.safetensors", "original/x.pth",
                 "original/params.json", "onnx/model.safetensors"):  # fmt: skip
        (model / name).parent.mkdir(exist_ok=True)
        (model / name).write_bytes(b"not wanted")


@pytest.fixture(scope="module")
def hub(tmp_path_factory):
    """The stand-in with a pair, its adapter, texts and data; all that the clients ask is known."""
    patch, root = pytest.MonkeyPatch(), tmp_path_factory.mktemp("hub")
    with serving() as hub:
        patch.setenv("HF_ENDPOINT", hub.url)
        patch.setenv("HF_HOME", str(root / "home"))
        patch.setenv("HF_HUB_OFFLINE", "0")
        patch.setenv("OMP_NUM_THREADS", "1")
        hub.root = root
        hub.work = Workdir(root)
        shown = [{"text": ""}, *({"text": text} for text in WORDY)]
        data_set(root / "texts", one=shown[:3], two=shown)
        sums = [{"question": f"{n} + 1?", "answer": f"One more.\n#### {n + 1}"} for n in range(6)]
        data_set(root / "sums", main=sums)
        choices = {"text": ["red", "blue"], "label": ["A", "B"]}
        data_set(root / "arc", easy=[{"question": "Which?", "choices": choices, "answerKey": "B"}])
        for name in ("old", "new"):
            burden(root / name)
        hub.commits = {
            "old": hub.publish("maker/old", root / "old", "main", "v1"),
            "adapter": hub.publish("maker/adapter", root / "adapter"),
            **{name: hub.publish(f"maker/{name}", root / name, kind="datasets")
               for name in ("texts", "sums", "arc")},
        }  # fmt: skip
        yield hub
    patch.undo()
    assert hub.unanswered() == []


def told(output: str) -> list[str]:
    """The paragraphs in which errors were told; a traceback anywhere is a failure."""
    assert "Traceback" not in output
    return [line for line in output.splitlines() if "What to do:" in line]


def call(*calls: list, **environment: str) -> list:
    """What functions of the package give in a new process: (module, function, arguments, …)."""
    path = f"{PROJECT / 'src'}:{PROJECT / 'resources/tasks'}"
    done = subprocess.run(
        [sys.executable, PROJECT / "tests/hub_calls.py"],
        input=json.dumps([[*each, {}][:4] for each in calls]),
        env={**os.environ, "PYTHONPATH": path, **environment},
        text=True,
        capture_output=True,
        check=True,
    )
    found = re.findall("^RESULT (.*)$", done.stdout, re.MULTILINE)
    return [json.loads(line) for line in found]


@pytest.fixture(scope="module")
def described(hub):
    """Specs of hub models: first where each fails in its own way, then where two are mended."""
    new = hub.publish("maker/soon_new", hub.root / "new")
    hub.publish("maker/closed", hub.root / "new")
    hub.repositories["models", "maker/closed"].gated = True
    later = hub.repositories.pop(("models", "maker/soon_new"))
    hub.breaks.add("model.safetensors")
    entries = {
        "old": {"source": "maker/old", "revision": "v1"},
        "new": {"source": "maker/soon_new", "revision": new},
        "closed": {"source": "maker/closed"},
        "away": {"source": "maker/old", "revision": "v2"},
    }
    hub.work.configure(models=entries)
    failed = hub.work.run("--keep-going", "--", *SPECS.values(), ok=False).stdout
    left = [name for name, path in SPECS.items() if (hub.root / path).exists()]
    hub.breaks.clear()
    hub.repositories["models", "maker/soon_new"] = later
    made = hub.work.run("--", SPECS["old"], SPECS["new"]).stdout
    return failed, left, made, new


def test_what_the_hub_refuses_is_told_in_a_paragraph_each(described):
    failed, left, _, new = described
    errors = {re.search(r"model '(\S+)'.*at revision (\S+)\.", line): line for line in told(failed)}
    errors = {match.groups(): line for match, line in errors.items()}
    assert set(errors) == {
        ("maker/old", "v1"),
        ("maker/old", "v2"),
        ("maker/soon_new", new),
        ("maker/closed", "newest"),
    }
    assert "closed connection" in errors["maker/old", "v1"]
    assert "Repository Not Found" in errors["maker/soon_new", new]
    assert "gated" in errors["maker/closed", "newest"]
    assert "Revision Not Found" in errors["maker/old", "v2"]
    assert left == []


def test_the_next_run_goes_on_and_records_the_commit(hub, described):
    _, _, made, new = described
    for name, source, commit in (
        ("old", "maker/old", hub.commits["old"]),
        ("new", "maker/soon_new", new),
    ):
        spec = json.loads((hub.root / SPECS[name]).read_text())
        assert spec["revision"] == commit
        local = hub.root.joinpath("plain", name)
        local.mkdir(parents=True)
        for file in NEEDED:
            (local / file).write_bytes((hub.root / name / file).read_bytes())
        expected = json.loads(json.dumps(describe(local, source, commit)))
        assert {key: spec[key] for key in expected} == expected
    assert f"revision v1 may move; took the newest, {hub.commits['old']}" in made
    assert "maker/soon_new: " not in made  # a commit can't move


def test_only_what_is_needed_is_fetched(hub, described):
    assert sorted(set(hub.files_of("maker/old"))) == NEEDED
    assert hub.files_of("maker/soon_new") == NEEDED  # each once
    assert hub.files_of("maker/old").count("model.safetensors") > 2  # broken off, and tried again


def test_a_data_set_is_read_as_its_card_lays_it_out(hub):
    texts = {"dataset": "maker/texts", "name": "two", "revision": hub.commits["texts"]}
    about = {"hub": "maker/arc", "name": "easy", "set": "x", "split": "train"}
    pinned = {"revisions": {"maker/arc": hub.commits["arc"]}}
    found = call(
        ["loraport.activations", "load_texts", [texts, 7]],
        ["loraport.data", "read", ["maker/sums"], {"name": "main", "revision": "main"}],
        ["loraport.data", "read", ["maker/sums"], {"revision": hub.commits["sums"]}],
        ["loraport.activations", "load_texts", [{**texts, "revision": "v9"}, 7]],
        ["loraport.activations", "load_texts", [{**texts, "column": "words"}, 7]],
        ["loraport.activations", "load_texts", [{**texts, "dataset": "maker/none"}, 7]],
        ["loraport.data", "read", ["maker/sums"], {"revision": "v9"}],
        ["loraport.data", "read", ["maker/none"]],
        ["utils", "letters", [], {**about, **pinned}],
    )
    assert found[0] == WORDY[:7]
    read = [
        [f"Question: {n} + 1?\nAnswer:", f" One more.\nThe answer is {n + 1}."] for n in range(6)
    ]
    assert found[1] == found[2] == read
    (item,) = found[8]["test"]
    assert (item["answer"], item["prompt"].count("\n")) == ("B", 3)
    for each, said in zip(
        found[3:8], ["Revision 'v9'", "words", "'maker/none'", "Revision 'v9'", "'maker/none'"],
        strict=True,
    ):  # fmt: skip
        assert each["error"] == "LoraportError"
        assert len(each["told"].splitlines()) == 1
        got = each["told"].partition("Got: ")[2].partition("Expected: ")[0]
        assert said in got


def test_an_adapter_is_fetched_at_its_revision(hub):
    commit = hub.commits["adapter"]
    found = call(
        ["loraport.spec", "adapter_directory", ["maker/adapter"]],
        ["loraport.spec", "adapter_directory", [f"maker/adapter@{commit}"]],
        ["loraport.spec", "adapter_directory", ["maker/adapter@v9"]],
        ["loraport.spec", "resolve", ["maker/none"]],
    )
    assert found[0] == found[1]
    assert Path(found[0]).name == commit
    assert hub.files_of("maker/adapter") == ["adapter_config.json", "adapter_model.safetensors"]
    assert "Revision Not Found" in found[2]["told"]
    assert "adapter 'maker/adapter' could not be fetched" in found[2]["told"]
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    known, new = call(
        ["loraport.spec", "resolve", ["maker/adapter", "", ], {"patterns": ["adapter*"]}],
        ["loraport.spec", "resolve", ["maker/none"]],
        **away,
    )  # fmt: skip
    assert known[1] == commit  # what was fetched before stands in while the hub is away
    assert new["error"] == "LoraportError"
    assert "Connection refused" in new["told"]
