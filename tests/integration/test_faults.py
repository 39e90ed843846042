"""Faults of the machine: damaged and changed files, a full or read-only disk, memory, two runs."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np
import pico
import pytest
import torch
from bad_inputs import edit_json
from faults import Run
from inprocess import CALIBRATION, PairRun
from workdir import PROJECT, Workdir

from loraport.adapters.attach import attach
from loraport.adapters.files import read_adapter
from loraport.artifacts import sha256
from loraport.errors import LoraportError
from loraport.models.loading import load_base
from loraport.models.weights import TensorFile
from loraport.planning.preflight import check_writable
from loraport.runtime.faults import told_of_killed
from loraport.runtime.job import job, last_record

NANO = PROJECT / "resources/nano/adapters"


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Workdir:
    return Workdir(tmp_path_factory.mktemp("faults"))


@pytest.fixture(scope="module")
def finished(template, tmp_path_factory) -> PairRun:
    """A pair whose artifacts are all there."""
    root = template.root
    run = PairRun(
        tmp_path_factory.mktemp("made") / "artifacts", root / "old", root / "new",
        root / "texts.txt", minibatch=8,
    )  # fmt: skip
    run.transferred(root / "adapter")
    return run


@pytest.fixture
def run(finished, template, tmp_path) -> PairRun:
    """A copy of it, of its models and of its adapter."""
    work = template.copy(tmp_path / "work")
    shutil.copytree(finished.folder, tmp_path / "artifacts")
    models = work.root / "old", work.root / "new", work.root / "texts.txt"
    return PairRun(tmp_path / "artifacts", *models, minibatch=8)


def told(capsys, step) -> str:
    """What a rule says before it ends with status 1."""
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        step()
    assert ended.value.code == 1
    said = capsys.readouterr().err
    assert "Traceback" not in said and "unexpected" not in said, said
    assert "Got: " in said and "Expected: " in said and "What to do: " in said, said
    return said


def in_a_child(step) -> None:
    """Run a step in a process of its own: HDF5 can't close a file that it could not write, and the
    process that tried is lost at its end.
    """
    child = os.fork()
    if child == 0:
        code = 0
        try:
            step()
        except SystemExit as ended:
            code = ended.code
        sys.stderr.flush()
        os._exit(code)
    if code := os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]):
        raise SystemExit(code)


def flip(path: Path, place: int) -> None:
    """Change one bit, and nothing that a listing of the folder would show."""
    times = path.stat().st_atime_ns, path.stat().st_mtime_ns
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)
    os.utime(path, ns=times)


def flip_tensor(path: Path, name: str) -> None:
    file = TensorFile(path)
    flip(path, file.start + file.tensors[name][2] + 2)


def again(run: PairRun, step: str, *arguments):
    """A step whose output is gone."""
    path = getattr(run, step)(*arguments)
    path.unlink()
    return lambda: getattr(run, step)(*arguments)


FLIPS = {
    "embedding": ("embedding", "model.embed_tokens.weight"),
    "heads": ("heads", "model.layers.0.self_attn.q_proj.weight"),
}


@pytest.mark.parametrize("name", ["embedding", "heads"])
def test_a_flipped_bit_of_a_weight_is_refused_where_it_is_read(run, capsys, name):
    step, tensor = FLIPS[name]
    flip_tensor(run.models["old"] / "model.safetensors", tensor)
    said = told(capsys, again(run, step))
    assert f"tensor '{tensor}'" in said and "is not the one that spec.json describes" in said


@pytest.mark.parametrize(
    ("stream", "expected"),
    [
        ("auto", "tensor 'model.layers.2.mlp.down_proj.weight' of"),
        ("never", "model.safetensors is not the file that"),
    ],
)
def test_a_flipped_bit_of_any_weight_is_refused_where_the_model_is_loaded(
    run, capsys, monkeypatch, stream, expected
):
    monkeypatch.setitem(CALIBRATION, "stream", stream)
    flip_tensor(run.models["old"] / "model.safetensors", "model.layers.2.mlp.down_proj.weight")
    again(run, "embedding")()  # which does not read it
    said = told(capsys, again(run, "activations", "old"))
    assert expected in said and "spec.json" in said


@pytest.mark.parametrize("what", ["weights of other size", "tokenizer", "config", "gone"])
def test_a_model_that_changes_between_two_rules_is_noticed(run, capsys, what):
    folder = run.models["old"]
    if what == "weights of other size":
        shutil.copy(run.models["new"] / "model.safetensors", folder / "model.safetensors")
    elif what == "gone":
        (folder / "model.safetensors").unlink()
    else:
        edit_json(folder / f"{what}.json", extra=1)
    assert "is not the file that" in told(capsys, again(run, "embedding"))


DAMAGED = {  # what is damaged, where -> who reads it
    ("old_spec.json", '"hidden": '): "embedding",
    ("old_activations.h5", "layer_1"): "cka",
    ("cka.h5", "similarity"): "layers",
    ("embedding.h5", "W_h"): "heads",
    ("layers.json", '"total": '): "heads",
    ("heads.h5", "assignment"): "maps",
}


@pytest.mark.parametrize(("name", "part"), DAMAGED)
@pytest.mark.parametrize("how", ["cut short", "one bit"])
def test_a_damaged_artifact_is_refused_by_name_where_it_is_read(run, capsys, name, part, how):
    path = run.folder / name
    content = path.read_bytes()
    if how == "cut short":
        path.write_bytes(content[: len(content) // 2])
    elif name.endswith(".json"):
        flip(path, content.index(part.encode()) + len(part))
    else:
        flip(path, place_of(path, part))
    assert name in told(capsys, again(run, DAMAGED[name, part]))


def place_of(path: Path, part: str) -> int:
    """A place in the middle of the data of an HDF5 file's dataset."""
    found = []

    def note(name, each):
        if isinstance(each, h5py.Dataset) and name.rpartition("/")[2] == part:
            found.append(each.id.get_chunk_info(0))

    with h5py.File(path) as file:
        file.visititems(note)
    return found[0].byte_offset + found[0].size // 2


def test_a_damaged_adapter_of_ours_is_refused(run, template):
    carried = run.transferred(template.root / "adapter")
    path = carried / "adapter_model.safetensors"
    flip(path, path.stat().st_size - 5)
    message = "adapter_model.safetensors is not the file that transfer.json beside it describes"
    with pytest.raises(LoraportError, match=message):
        read_adapter(carried)
    model, _ = load_base(run.models["new"], device="cpu")
    with pytest.raises(LoraportError, match=message):
        attach(model, carried)


GIVEN = {"weights": "adapter_model.safetensors", "config": "adapter_config.json"}


def flip_unseen(path: Path) -> None:
    """Change a bit of a given adapter's file so that nothing but a checksum can show it."""
    content = path.read_bytes()
    alpha = content.find(b'"lora_alpha": ') + 14
    flip(path, alpha if path.suffix == ".json" else len(content) - 5)


@pytest.mark.parametrize("what", GIVEN)
def test_a_flipped_bit_of_a_given_adapter_is_refused_by_the_next_rule(
    run, template, tmp_path, capsys, monkeypatch, what
):
    adapter = run.models["old"].parent / "adapter"
    edit_json(adapter / "adapter_config.json", base_model_name_or_path=str(run.models["old"]))
    path = adapter / GIVEN[what]
    sound = read_adapter(adapter)
    run.transferred(adapter, scale="paper")
    flip_unseen(path)
    with monkeypatch.context() as elsewhere:  # where no rule has read it, it is an adapter like any
        elsewhere.chdir(template.root)
        other = read_adapter(adapter)
        path_of = next(reversed(sound.modules))
        assert np.isfinite(other.modules[path_of].norm())
    message = f"{path} has changed since a rule first read it, though its date has not"
    assert message in told(capsys, lambda: run.transferred(adapter, scale="norm"))
    monkeypatch.chdir(tmp_path)  # while the next run is planned
    with pytest.raises(LoraportError, match=re.escape(message)):
        read_adapter(adapter)
    path.touch()  # as it is said: it was meant
    assert (run.transferred(adapter, scale="norm") / "transfer.json").exists()


def test_an_adapter_is_what_the_checksums_beside_it_say(template, tmp_path):
    adapter = shutil.copytree(template.root / "adapter", tmp_path / "adapter")
    sums = "".join(f"{sha256(adapter / name)}  {name}\n" for name in GIVEN.values())
    (adapter / "SHA256SUMS").write_text(sums)
    read_adapter(adapter)
    for name in GIVEN.values():
        flip_unseen(adapter / name)
        with pytest.raises(LoraportError, match=f"{name} is not the file that SHA256SUMS beside"):
            read_adapter(adapter)
        flip_unseen(adapter / name)
    read_adapter(adapter)
    # made from the folder above, and of other files alone
    (adapter / "SHA256SUMS").write_text(f"{'0' * 64} *math/{GIVEN['weights']}\n")
    with pytest.raises(LoraportError, match="is not the file that SHA256SUMS beside"):
        read_adapter(adapter)
    (adapter / "SHA256SUMS").write_text(f"{'0' * 64}  README.md\n")
    with pytest.raises(LoraportError, match="says nothing of the adapter beside it"):
        read_adapter(adapter)


def test_the_adapters_that_come_along_have_checksums():
    folders = sorted(path.parent for path in NANO.glob("*/*/adapter_model.safetensors"))
    assert len(folders) >= 9
    for folder in folders:
        named = dict(
            reversed(line.split()) for line in (folder / "SHA256SUMS").read_text().splitlines()
        )
        assert named == {name: sha256(folder / name) for name in GIVEN.values()}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("no right to mount a small file system")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def on(disk: Path, run: PairRun) -> PairRun:
    """The same models and texts, with artifacts on another disk."""
    other = PairRun(disk, run.models["old"], run.models["new"], run.texts, minibatch=8)
    for side in ("old", "new"):
        other.spec(side)
    return other


def test_a_full_disk_leaves_nothing_half_written_and_the_run_goes_on(small_disk, run, capfd):
    full = on(small_disk, run)
    room = shutil.disk_usage(small_disk).free
    (small_disk / "other").write_bytes(bytes(room - 16_384))
    said = told(capfd, lambda: in_a_child(full.embedding))
    assert "cannot write: the disk is full" in said and " MiB are free in " in said
    left = {path.name for path in small_disk.iterdir() if "embedding" in path.name}
    assert left <= {"embedding.h5.log"}
    (small_disk / "other").unlink()
    assert full.embedding().read_bytes() == run.embedding().read_bytes()


def test_a_read_only_disk_is_told(small_disk, run, capsys):
    other = on(small_disk, run)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    assert "may not write or read a file" in told(capsys, other.embedding)
    assert other.spec("old").exists()


def test_outputs_that_may_not_be_written_are_told_before_the_first_job(
    template, tmp_path, small_disk
):
    work = template.copy(tmp_path / "work")
    (work.root / "artifacts").symlink_to(small_disk)
    target = "artifacts/models/old/spec.json"
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = work.run(target, ok=False).stdout
    assert f"{target} cannot be written. Got: no right to write in " in said
    assert "What to do: " in said and "Traceback" not in said and "rule spec" not in said
    assert not list(work.root.rglob("*.lock"))


def test_a_link_to_nowhere_is_told_before_the_first_job(tmp_path):
    (tmp_path / "artifacts").symlink_to(tmp_path / "purged")
    with pytest.raises(LoraportError, match=r"y\.json cannot be written"):
        check_writable([tmp_path / "artifacts/x/y.json"])
    (tmp_path / "purged").mkdir()
    check_writable([tmp_path / "artifacts/x/y.json"])


def test_a_working_directory_that_is_read_only_is_told(template, small_disk):
    shutil.copy(template.root / "config.yaml", small_disk)
    work = Workdir.at(small_disk)
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    said = work.run("artifacts/models/old/spec.json", ok=False).stdout
    assert ".snakemake/locks cannot be written. Got: no right to write in " in said
    assert "What to do: " in said and "Traceback" not in said


def test_artifacts_that_are_read_only_are_enough_for_one_more_adapter(run, template, tmp_path):
    made = [path for path in run.folder.iterdir() if path.is_file() and path.suffix != ".log"]
    for path in made:
        path.chmod(0o444)
    before = {path: path.stat().st_mtime_ns for path in made}
    second = shutil.copytree(template.root / "adapter", tmp_path / "second")
    edit_json(second / "adapter_config.json", base_model_name_or_path=str(run.models["old"]))
    assert (run.transferred(second) / "adapter_model.safetensors").exists()
    assert {path: path.stat().st_mtime_ns for path in made} == before


def fake(folder: Path, rule: str) -> SimpleNamespace:
    """What Snakemake gives a script, as far as the frame reads it."""
    return SimpleNamespace(
        log=[str(folder / "logs" / f"{rule}.log")],
        rule=rule,
        wildcards={"model": "m"},
        threads=1,
        resources=type("Resources", (dict,), {"mem_mb": 1234})(),
    )


LIMITED = """
import re, resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from inprocess import PairRun
root = Path(sys.argv[2])
run = PairRun(root / "artifacts", root / "large", root / "new", root / "texts.txt")
run.resources = {"mem_mb": 1234}
run.spec("old")
run.activations("new")  # all that a rule imports is there now
size = int(re.search(r"VmSize:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) * 1024
resource.setrlimit(resource.RLIMIT_AS, (size + (60 << 20),) * 2)
run.activations("old")
"""


def test_a_rule_that_the_system_denies_memory_says_so(template, tmp_path):
    """A model of matrices of 75 MiB each, and 60 MiB left: a small model would use up all, and then
    a thread that starts has none for itself, on which the C library ends the process.
    """
    if not Path("/proc/self/status").is_file():
        pytest.skip("no /proc to read a process's size from")
    shutil.copytree(template.root / "new", tmp_path / "new")
    pico.make_model(
        tmp_path / "large", seed=1, hidden=64, intermediate=307200, layers=1, heads=4, kv_heads=2
    )
    pico.make_texts(tmp_path / "texts.txt", 200)
    command = [sys.executable, "-c", LIMITED, str(PROJECT / "tests"), str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    said = done.stderr.rpartition("[activations] ")[2]
    assert said.startswith("rule activations ran out of memory. Got: "), done.stderr
    assert "Expected: at most 1234 MiB, by the plan. What to do: lower calibration.batch" in said
    assert "Traceback" not in done.stderr
    left = {path.name for path in (tmp_path / "artifacts").iterdir() if "old_act" in path.name}
    assert left == {"old_activations.h5.log"}


TOO_MUCH = {
    "numpy": lambda: np.empty(2**50),
    "torch": lambda: torch.empty(2**50),
    "python": lambda: bytearray(2**62),
}


@pytest.mark.parametrize("what", TOO_MUCH)
@pytest.mark.parametrize(
    ("rule", "setting"),
    [
        ("activations", "calibration.batch_size"),
        ("adapter_maps", "calibration.examples"),
        ("lora_trained", "finetune.micro_batch"),
    ],
)
def test_out_of_memory_tells_rule_estimate_and_setting(tmp_path, capsys, what, rule, setting):
    def step():
        with job(fake(tmp_path, rule)):
            TOO_MUCH[what]()

    said = told(capsys, step)
    assert f"rule {rule} ran out of memory" in said
    assert "at most 1234 MiB, by the plan" in said
    assert setting in said
    assert "Traceback" in (tmp_path / "logs" / f"{rule}.log").read_text()


def test_a_job_that_was_killed_is_told_of_once_and_others_are_not(tmp_path):
    for rule in ("moments", "cka"):
        with job(fake(tmp_path, rule)) as log:
            log.info("hello")
    killed = tmp_path / "logs" / "moments.log"
    killed.write_text("".join(killed.read_text().splitlines(keepends=True)[:2]))
    assert last_record(killed) == {}
    assert not told_of_killed(tmp_path, time.time() + 60)
    (error,) = told_of_killed(tmp_path, 0)
    assert "moments m was killed" in str(error)
    assert "at most 1234 MiB" in str(error) and "calibration.batch_size" in str(error)
    assert last_record(killed)["status"] == "failed"
    assert str(error) in killed.read_text()
    assert not told_of_killed(tmp_path, 0)


def test_two_runs_at_once_are_told_or_do_no_harm(template, tmp_path):
    work = template.copy(tmp_path / "work")
    target, folder = "artifacts/models/old/spec.json", tmp_path / "marks"
    with Run(work, folder, "--cores", "1", "--", target) as first:
        assert first.wait()
        refused = work.run(target, ok=False).stdout
        assert "Directory cannot be locked" in refused and "--unlock" in refused
        assert "Traceback" not in refused
        work.run("--nolock", target)
        whole = (work.root / target).read_bytes()
        (folder / "go").touch()
        first.process.wait(timeout=60)
    assert first.process.returncode == 0, first.text()
    assert (work.root / target).read_bytes() == whole
    assert json.loads(whole)["kind"] == "spec"
    assert not list(work.root.rglob("*.tmp"))
