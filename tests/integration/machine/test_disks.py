"""A disk that is full or read-only is told, and leaves nothing half-written."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from bad_inputs import edit_json
from faults.damage import told
from inprocess import PairRun
from workdir import Workdir

from loraport.errors import LoraportError
from loraport.planning.preflight import check_writable


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
