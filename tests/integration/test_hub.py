"""Models, adapters, texts and data sets by hub id, from a stand-in on this machine: hub.py."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pandas
import pico
import pytest
from hub import serving
from workdir import PROJECT, Workdir

from loraport.models.spec import describe

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
        ["loraport.calibration.activations", "load_texts", [texts, 7]],
        ["loraport.training.data", "read", ["maker/sums"], {"name": "main", "revision": "main"}],
        ["loraport.training.data", "read", ["maker/sums"], {"revision": hub.commits["sums"]}],
        ["loraport.calibration.activations", "load_texts", [{**texts, "revision": "v9"}, 7]],
        ["loraport.calibration.activations", "load_texts", [{**texts, "column": "words"}, 7]],
        ["loraport.calibration.activations", "load_texts", [{**texts, "dataset": "maker/none"}, 7]],
        ["loraport.training.data", "read", ["maker/sums"], {"revision": "v9"}],
        ["loraport.training.data", "read", ["maker/none"]],
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


def test_an_adapter_is_fetched_at_its_revision(hub, tmp_path):
    (tmp_path / "adapter_config.json").write_text("{}")
    (tmp_path / "adapter_model.bin").write_bytes(b"a pickle")
    hub.publish("maker/pickled", tmp_path)
    commit = hub.commits["adapter"]
    found = call(
        ["loraport.models.spec", "adapter_directory", ["maker/adapter"]],
        ["loraport.models.spec", "adapter_directory", [f"maker/adapter@{commit}"]],
        ["loraport.models.spec", "adapter_directory", ["maker/adapter@v9"]],
        ["loraport.models.spec", "adapter_directory", ["maker/pickled"]],
    )
    assert found[0] == found[1]
    assert Path(found[0]).name == commit
    assert hub.files_of("maker/adapter") == ["adapter_config.json", "adapter_model.safetensors"]
    assert "Revision Not Found" in found[2]["told"]
    assert "adapter 'maker/adapter' could not be fetched" in found[2]["told"]
    assert "adapter 'maker/pickled' holds no safetensors" in found[3]["told"]
    assert hub.files_of("maker/pickled") == ["adapter_config.json"]
    away = {"HF_ENDPOINT": "http://127.0.0.1:9"}
    known, new = call(
        ["loraport.models.spec", "resolve", ["maker/adapter", "", ], {"patterns": ["adapter*"]}],
        ["loraport.models.spec", "resolve", ["maker/none"]],
        **away,
    )  # fmt: skip
    assert known[1] == commit  # what was fetched before stands in while the hub is away
    assert new["error"] == "LoraportError"
    assert "Connection refused" in new["told"]


ADAPTER, TRAINED = "artifacts/p/a/lora_transferred", "artifacts/models/old/t/lora_trained"


def settle(work: Workdir, adapter: str, data: str, **sections) -> Workdir:
    """Configure a carried adapter `a` and one, `t`, that is trained."""
    rows = ["app\tmodel\tsource\ttask", f"a\told\t{adapter}\t", "t\told\t\tsums", ""]
    (work.root / "adapters.tsv").write_text("\n".join(rows))
    task = {"train": data, "name": "main", "template": "question", "eval": ["nano_math"]}
    lora = {"rank": 2, "alpha": 2, "dropout": 0.0, "kind": "lora", "modules": ["q", "v"]}
    work.configure(
        tasks={"sums": task}, finetune={"max_steps": 2, "start": "chosen", "lora": lora}, **sections
    )
    return work


@pytest.fixture(scope="module")
def carried(hub, tmp_path_factory) -> Workdir:
    """Models, texts, an adapter and a task's data by hub id, carried and trained once."""
    hub.publish("maker/mover", hub.root / "new", "main", "stable")
    work = Workdir(tmp_path_factory.mktemp("there"))
    known = {"revision": hub.commits["old"], "known_as": [str(hub.root / "old")]}
    settle(
        work,
        "maker/adapter",
        "maker/sums",
        models={
            "old": {"source": "maker/old", **known},
            "new": {"source": "maker/mover", "revision": "stable"},
        },
        calibration={
            "texts": {"dataset": "maker/texts", "name": "two", "revision": hub.commits["texts"]},
            "examples": 40,
        },
    )
    work.run("--", ADAPTER, TRAINED)
    return work


def features(root: Path) -> list[np.ndarray]:
    """What both models made of the texts, and the map between their embeddings."""
    with h5py.File(root / "artifacts/models/new/activations.h5") as file:
        found = [file[f"layer_{layer}"][...] for layer in range(4)]
    with h5py.File(root / "artifacts/p/embedding.h5") as file:
        return [*found, file["W_h"][...]]


@pytest.mark.slow
def test_what_is_carried_equals_that_from_folders(hub, carried, tmp_path):
    local = settle(Workdir(tmp_path), "adapter", str(hub.root / "sums"))
    (tmp_path / "texts.txt").write_text("\n".join(WORDY) + "\n")
    local.run("--", ADAPTER, TRAINED)
    for folder in (ADAPTER, TRAINED):
        name = f"{folder}/adapter_model.safetensors"
        assert (carried.root / name).read_bytes() == (tmp_path / name).read_bytes()
    for ours, theirs in zip(features(carried.root), features(tmp_path), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    config = json.loads((carried.root / ADAPTER / "adapter_config.json").read_text())
    resolved = hub.repositories["models", "maker/mover"].refs["stable"]
    assert (config["base_model_name_or_path"], config["revision"]) == ("maker/mover", resolved)
    assert sorted(set(hub.files_of("maker/mover"))) == NEEDED


@pytest.mark.slow
def test_a_run_stays_with_the_commit_that_spec_json_records(hub, carried, tmp_path, monkeypatch):
    work = carried.copy(tmp_path / "work")
    name = f"{ADAPTER}/adapter_model.safetensors"
    first = (work.root / name).read_bytes()
    before = hub.repositories["models", "maker/mover"].refs["stable"]
    moved = pico.edit_model(
        tmp_path / "moved",
        hub.root / "new",
        lambda tensors: {key: 2 * values for key, values in tensors.items()},
    )
    now = hub.publish("maker/mover", moved, "main", "stable")
    assert now != before
    assert work.planned("--", ADAPTER, TRAINED) == {}
    monkeypatch.setenv("HF_HOME", str(tmp_path / "empty"))  # nothing is at hand any more
    (work.root / "artifacts/p/maps/lorasuite.h5").unlink()
    work.run("--forcerun", "maps", "--", ADAPTER)
    assert (work.root / name).read_bytes() == first
    snapshots = tmp_path / "empty/hub/models--maker--mover/snapshots"
    assert [path.name for path in snapshots.iterdir()] == [before]
    spec = work.root / SPECS["new"]
    spec.unlink()  # who deletes it takes the newest
    work.run("--", SPECS["new"])
    assert json.loads(spec.read_text())["revision"] == now
    assert {"maps", "transferred"} <= set(work.planned("--", ADAPTER))


@pytest.mark.slow
def test_an_adapter_that_moved_is_carried_again_and_one_that_is_gone_is_told(
    hub, carried, tmp_path, monkeypatch
):
    work = carried.copy(tmp_path / "work")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert work.planned("--", ADAPTER) == {}  # what is in the cache stands in
    monkeypatch.setenv("HF_ENDPOINT", hub.url)
    hub.publish("maker/adapter", pico.make_adapter(tmp_path / "b", hub.root / "old", seed=4))
    assert work.planned("--", ADAPTER) == {"transferred": 1}
    for source in ("maker/adapter@v9", "maker/none", "adapters/none"):
        work.table(("a", "old", source))
        (error,) = told(work.run("-n", "--", ADAPTER, ok=False).stdout)
        assert f"adapter {source.partition('@')[0]!r} could not be fetched" in error


def test_what_configs_tell_of_a_hub_pair_is_told_while_planning(hub, tmp_path):
    config = tmp_path / "wider"
    config.mkdir()
    fields = json.loads((hub.root / "old/config.json").read_text())
    fields |= {"hidden_size": 2 * fields["hidden_size"]}
    (config / "config.json").write_text(json.dumps(fields))
    hub.publish("maker/wider", config)
    adapter = str(hub.root / "adapter")
    recorded = json.loads((hub.root / "adapter/adapter_config.json").read_text())
    names = [recorded["base_model_name_or_path"]]
    asked = ["loraport.planning.preflight", "check_adapter"]
    fits, wider = call(
        [*asked, [adapter, "maker/old", names]], [*asked, [adapter, "maker/wider", names]]
    )
    assert fits is None
    assert "is for another base model" in wider["told"]
    assert hub.files_of("maker/wider") == ["config.json"]


@pytest.mark.slow
def test_a_data_set_that_breaks_off_is_told_and_read_by_the_next_run(hub, tmp_path):
    rows = [{"question": "1 + 1?", "answer": "Two.\n#### 2"}]
    hub.publish("maker/broken", data_set(tmp_path / "broken", main=rows), kind="datasets")
    hub.breaks.add("main/train-00000-of-00001.parquet")
    asked = ["loraport.training.data", "read", ["maker/broken"]]
    (cut,) = call(asked)
    (away,) = call(asked, HF_ENDPOINT="http://127.0.0.1:9", HF_HOME=str(tmp_path / "empty"))
    hub.breaks.clear()
    (found,) = call(asked)
    for each in (cut, away):
        assert each["error"] == "LoraportError"
        assert len(each["told"].splitlines()) == 1
    assert "'maker/broken' on the Hub" in away["told"]
    assert found == [["Question: 1 + 1?\nAnswer:", " Two.\nThe answer is 2."]]
