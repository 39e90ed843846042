"""Results shared between workflows through Snakemake's cache: found by what they are, not where."""

import json
import os
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from workdir import CONFIG, PROJECT, Workdir

from loraport.planning.places import Places
from loraport.runtime.job import last_record

TARGET = "artifacts/p/a/lora_transferred"
TARGETS = (TARGET, "artifacts/p/moments.h5")
SHARED = {"spec", "activations", "embedding", "cka", "layers", "heads", "maps"}


class Shared:
    """Working directories with the same models, and one cache."""

    def __init__(self, root: Path):
        self.root = root
        self.cache = root / "cache"
        self.cache.mkdir()
        os.environ["SNAKEMAKE_OUTPUT_CACHE"] = str(self.cache)
        self.first = Workdir(root / "first")
        self.untouched = self.first.copy(root / "untouched")
        self.first.run("--cache", "--", *TARGETS)

    def another(self, name: str) -> Workdir:
        """A working directory in which nothing was computed, with its models somewhere else."""
        work = self.untouched.copy(self.root / name)
        for model in ("old", "new"):
            shutil.move(work.root / model, self.root / f"{name}_{model}")
        shutil.move(work.root / "texts.txt", self.root / f"{name}_texts.txt")
        work.configure(
            models={side: {"source": str(self.root / f"{name}_{side}")} for side in ("old", "new")},
            calibration={**CONFIG["calibration"], "texts": str(self.root / f"{name}_texts.txt")},
        )
        return work


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    before = os.environ.get("SNAKEMAKE_OUTPUT_CACHE")
    yield Shared(tmp_path_factory.mktemp("shared"))
    if before is None:
        del os.environ["SNAKEMAKE_OUTPUT_CACHE"]
    else:
        os.environ["SNAKEMAKE_OUTPUT_CACHE"] = before


def computed(work: Workdir) -> set[str]:
    """Rules whose script ran: it tells its log; of what comes from the cache the log is empty."""
    records = map(last_record, (work.root / "artifacts").glob("**/logs/**/*.log"))
    return {record["rule"] for record in records if record}


def files(work: Workdir) -> dict[str, bytes]:
    """All artifacts but logs, and what runs keep for themselves."""
    paths = (path for path in (work.root / "artifacts").rglob("*") if path.is_file())
    paths = (path for path in paths if ".resume" not in path.parts)
    return {
        str(path.relative_to(work.root)): path.read_bytes()
        for path in paths
        if path.suffix in (".h5", ".json", ".safetensors")
    }


def test_places_are_read_by_key_pickled_whole_and_unseen_by_json():
    places = Places(old="/a", texts={"dataset": "b"})
    assert json.dumps({"x": places}, sort_keys=True) == '{"x": {}}'
    again = pickle.loads(pickle.dumps(places))
    assert (again["old"], again["texts"]) == ("/a", {"dataset": "b"})


@pytest.mark.slow
def test_second_checkout_with_its_models_elsewhere_computes_none_of_it(shared):
    assert computed(shared.first) == SHARED | {"moments", "transferred"}
    second = shared.another("second")
    second.run("--cache", "--", *TARGETS)
    assert computed(second) == {"transferred"}
    ours, theirs = files(shared.first), files(second)
    for each in (ours, theirs):  # holds where the new base lies, as PEFT wants it
        each.pop(f"{TARGET}/adapter_config.json")
    assert ours == theirs
    assert len(ours) >= 11
    assert second.planned(*TARGETS) == {}


@pytest.mark.slow
def test_a_changed_setting_is_computed_and_the_rest_shared(shared):
    work = shared.another("setting")
    work.run("--cache", "--config", "mapping={heads: identity}", "--", *TARGETS)
    assert computed(work) == {"heads", "maps", "transferred"}


@pytest.mark.slow
def test_changed_code_is_computed_and_the_rest_shared(shared):
    work = shared.another("code")
    project = shared.root / "edited"
    shutil.copytree(PROJECT / "src", project / "src")
    edited = project / "src" / "loraport" / "mapping" / "heads.py"
    edited.write_text(edited.read_text() + "\nEDITED = True\n")
    work.run("--cache", "--", *TARGETS, project=project)
    assert computed(work) == {"heads", "maps", "transferred"}


@pytest.mark.slow
def test_a_changed_model_shares_nothing_that_it_had_part_in(shared):
    import pico
    from workdir import SIZES

    work = shared.another("model")
    pico.make_model(shared.root / "model_new", seed=9, vocab_words=240, **SIZES["new"])
    work.run("--cache", "--", "artifacts/p/cka.h5")
    logs = work.root / "artifacts"
    assert not last_record(logs / "models/old/logs/spec.log")
    assert not last_record(logs / "models/old/logs/activations.log")
    assert last_record(logs / "models/new/logs/spec.log")
    assert last_record(logs / "models/new/logs/activations.log")
    assert last_record(logs / "p/logs/cka.log")


@pytest.mark.slow
def test_two_racing_runs_both_end_well(shared, tmp_path):
    cache = tmp_path / "cache"
    cache.mkdir()
    works = [shared.another(f"racing{number}") for number in range(2)]
    command = [sys.executable, "-m", "snakemake", "-s", str(PROJECT / "Snakefile")]
    command += ["--configfile", "config.yaml", "--cores", "1", "--cache", "--", TARGET]
    env = {**os.environ, "SNAKEMAKE_OUTPUT_CACHE": str(cache), "OMP_NUM_THREADS": "1"}
    env["PYTHONPATH"] = str(PROJECT / "src")
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    runs = [subprocess.Popen(command, cwd=work.root, env=env, **quiet) for work in works]
    assert [run.wait(timeout=900) for run in runs] == [0, 0]
    ran = [computed(work) for work in works]
    assert ran[0] | ran[1] == SHARED | {"transferred"}
    assert ran[0] & ran[1] > {"transferred"}  # both computed something that the cache has once
    first, second = map(files, works)
    for each in (first, second):
        each.pop(f"{TARGET}/adapter_config.json")
    assert first == second
    assert not [path for path in cache.iterdir() if path.is_dir()]  # nothing half-stored
    for work in works:
        assert work.planned(TARGET) == {}
