"""A pair's artifacts in one archive, and what is refused when it is unpacked."""

import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pico
import pytest
from inprocess import PairRun
from workdir import CONFIG, PROJECT

from loraport import cli
from loraport.artifacts import sha256
from loraport.commands._archive import MANIFEST, pack, unpack
from loraport.errors import LoraportError

PLACES = {
    "old_spec.json": "models/old/spec.json",
    "new_spec.json": "models/new/spec.json",
    "embedding.h5": "p/embedding.h5",
    "cka.h5": "p/cka.h5",
    "layers.json": "p/layers.json",
    "heads.h5": "p/heads.h5",
    "maps_code.h5": "p/maps/lorasuite.h5",
}


@pytest.fixture(scope="module")
def mapped(tmp_path_factory) -> Path:
    """A folder with the artifacts of a mapped pair, and an adapter beside them."""
    root = tmp_path_factory.mktemp("mapped")
    old, new = pico.make_pair(root / "models", "wider")
    pico.make_adapter(root / "adapter", old, seed=3)
    run = PairRun(root / "made", old, new, pico.make_texts(root / "texts.txt", 40))
    run.maps()
    run.transferred(root / "adapter")
    for made, place in PLACES.items():
        path = root / "artifacts" / place
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(run.folder / made, path)
    return root


@pytest.fixture
def archive(mapped, tmp_path) -> Path:
    path = tmp_path / "p.tar"
    pack(mapped / "artifacts", "p", path, models={}, everything=False)
    return path


def members(archive: Path) -> dict[str, bytes]:
    with tarfile.open(archive) as tar:
        return {each.name: tar.extractfile(each).read() for each in tar}


def rewrite(archive: Path, contents: dict[str, bytes]) -> None:
    """An archive with other contents, its manifest as given."""
    with tarfile.open(archive, "w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def edited(archive: Path, edit) -> None:
    """Rewrite an archive after `edit` changed its manifest and members in place."""
    contents = members(archive)
    manifest = json.loads(contents[MANIFEST])
    edit(manifest, contents)
    contents[MANIFEST] = json.dumps(manifest).encode()
    rewrite(archive, contents)


def refused(archive: Path, folder: Path, *words: str) -> None:
    """Unpacking is refused, by all of `words`, and leaves nothing behind."""
    with pytest.raises(LoraportError) as told:
        unpack(archive, folder / "artifacts")
    for word in words:
        assert word in str(told.value)
    assert not [path for path in folder.rglob("*") if path.is_file() and path != archive]


def test_what_was_packed_is_unpacked_and_listed(mapped, archive, tmp_path):
    unpack(archive, tmp_path / "artifacts")
    for place in PLACES.values():
        ours, theirs = mapped / "artifacts" / place, tmp_path / "artifacts" / place
        assert ours.read_bytes() == theirs.read_bytes()
    manifest = json.loads(members(archive)[MANIFEST])
    assert set(manifest["files"]) == set(PLACES.values())
    weights = manifest["models"]["new_spec"]["files"]["model.safetensors"]["sha256"]
    assert weights == sha256(mapped / "models/new/model.safetensors")
    assert manifest["models"]["old_spec"]["name"] == "old"
    assert str(mapped) not in json.dumps(manifest)
    unpack(archive, tmp_path / "artifacts")  # again: the same files are no conflict


def test_the_same_artifacts_give_the_same_archive(mapped, archive, tmp_path):
    again = tmp_path / "again.tar"
    pack(mapped / "artifacts", "p", again, models={}, everything=False)
    assert archive.read_bytes() == again.read_bytes()


def test_everything_holds_what_adapters_maps_of_their_own_are_made_from(mapped, tmp_path):
    artifacts = tmp_path / "made"
    shutil.copytree(mapped / "artifacts", artifacts)
    added = ["p/moments.h5", "p/output_maps/own.h5"]
    (artifacts / "p/output_maps").mkdir()
    for name in added:  # any artifact of these specs
        shutil.copy(artifacts / "p/maps/lorasuite.h5", artifacts / name)
    for everything in (False, True):
        pack(artifacts, "p", tmp_path / "p.tar", models={}, everything=everything)
        assert [name in members(tmp_path / "p.tar") for name in added] == [everything] * 2
    unpack(tmp_path / "p.tar", tmp_path / "artifacts")
    assert all((tmp_path / "artifacts" / name).is_file() for name in added)


def test_a_changed_byte_is_refused_by_the_name_of_its_file(archive, tmp_path):
    place = archive.read_bytes().index(b"p/maps/lorasuite.h5", 20000)
    content = bytearray(archive.read_bytes())
    content[place + 3000] ^= 1
    archive.write_bytes(content)
    refused(archive, tmp_path, "p/maps/lorasuite.h5 with sha256")


def test_a_truncated_archive_is_refused(archive, tmp_path):
    content = archive.read_bytes()
    archive.write_bytes(content[: len(content) // 2])
    refused(archive, tmp_path, "p.tar")


def test_no_tar_and_no_file_are_refused(tmp_path):
    path = tmp_path / "p.tar"
    path.write_bytes(b"no archive" * 200)
    refused(path, tmp_path, "p.tar")
    path.unlink()
    refused(path, tmp_path, "p.tar")


@pytest.mark.parametrize(
    "name",
    [
        "../outside.h5",
        "/tmp/outside.h5",
        "p/../../outside.h5",
        "p/maps/../../../outside.h5",
        "models/../spec.json",
        "p/maps/a b.h5",
        "p/heads.h5\n",
        "p/.hidden/heads.h5",
        "p/notes.txt",
        "models/x/model.safetensors",
    ],
)
def test_a_name_that_is_none_of_an_artifact_is_refused(archive, tmp_path, name):
    def edit(manifest, contents):
        contents[name] = contents.pop("p/cka.h5")
        manifest["files"][name] = manifest["files"].pop("p/cka.h5")

    edited(archive, edit)
    refused(archive, tmp_path, repr(name))


def test_a_link_is_refused(archive, tmp_path):
    contents = members(archive)
    with tarfile.open(archive, "w") as tar:
        for name, content in contents.items():
            member = tarfile.TarInfo(name)
            if name == "p/cka.h5":
                member.type, member.linkname = tarfile.SYMTYPE, "/etc/passwd"
                tar.addfile(member)
            else:
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    refused(archive, tmp_path, "p/cka.h5")


def test_missing_unlisted_and_repeated_files_are_refused(archive, tmp_path):
    contents = members(archive)
    rewrite(archive, {name: each for name, each in contents.items() if name != "p/heads.h5"})
    refused(archive, tmp_path, "p/heads.h5")
    rewrite(archive, {**contents, "p/moments.h5": b"more"})
    refused(archive, tmp_path, "p/moments.h5")
    with tarfile.open(archive, "w") as tar:
        for name, content in [*contents.items(), ("p/cka.h5", contents["p/cka.h5"])]:
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    refused(archive, tmp_path, "p/cka.h5")


def test_maps_of_another_spec_are_refused(archive, tmp_path):
    import hashlib

    def edit(manifest, contents):
        spec = contents["models/new/spec.json"].replace(b'"tied"', b' "tied"')
        contents["models/new/spec.json"] = spec
        about = {"sha256": hashlib.sha256(spec).hexdigest(), "bytes": len(spec)}
        manifest["files"]["models/new/spec.json"] = about

    edited(archive, edit)
    refused(archive, tmp_path, "lorasuite.h5 was made from another", "spec.json")


def test_other_artifacts_are_kept_unless_told(mapped, archive, tmp_path):
    mine = tmp_path / "artifacts/p/cka.h5"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(b"mine")
    with pytest.raises(LoraportError, match=r"another .*cka\.h5 is there already"):
        unpack(archive, tmp_path / "artifacts")
    assert mine.read_bytes() == b"mine"
    assert not (tmp_path / "artifacts/p/heads.h5").exists()
    unpack(archive, tmp_path / "artifacts", replace=True)
    assert mine.read_bytes() == (mapped / "artifacts/p/cka.h5").read_bytes()


def test_nothing_is_written_through_a_link_out_of_the_folder(archive, tmp_path):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "artifacts").mkdir()
    (tmp_path / "artifacts/p").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(LoraportError, match="outside"):
        unpack(archive, tmp_path / "artifacts", replace=True)
    assert not list((tmp_path / "elsewhere").iterdir())


def test_a_pair_without_maps_or_with_other_specs_is_not_packed(mapped, tmp_path, capsys):
    folder = tmp_path / "artifacts"
    shutil.copytree(mapped / "artifacts", folder)
    out = tmp_path / "q.tar"
    assert cli.main(["pack", "q", "--artifacts", str(folder), "--out", str(out)]) == 1
    assert "'q' has nothing to pack" in capsys.readouterr().err
    shutil.copytree(folder / "models/new", folder / "models/twin")
    assert cli.main(["pack", "p", "--artifacts", str(folder), "--out", str(out)]) == 1
    assert "new, twin" in capsys.readouterr().err
    arguments = ["--artifacts", str(folder), "--out", str(out), "--new", "twin"]
    assert cli.main(["pack", "p", *arguments]) == 0
    assert "models/twin/spec.json" in members(out)
    for name in ("new", "twin"):
        (folder / "models" / name / "spec.json").write_text("{}")
    assert cli.main(["pack", "p", *arguments]) == 1
    assert "no spec.json that fits" in capsys.readouterr().err


def test_an_adapter_is_carried_with_neither_base_model_there(mapped, archive, tmp_path):
    import yaml

    work = tmp_path / "work"
    work.mkdir()
    shutil.copytree(mapped / "adapter", work / "adapter")
    rows = ["app\tmodel\tsource\ttask", "a\told\tadapter\t", ""]
    (work / "adapters.tsv").write_text("\n".join(rows))
    known = ["models/old", str(mapped / "models/old")]
    models = {"old": {"source": "gone/old/model", "known_as": known}, "new": {"source": "./gone"}}
    config = {**CONFIG, "models": models, "calibration": {"texts": "nowhere.txt"}}
    config["transfer"] = {"factors": "balanced"}  # as `mapped` has it
    (work / "config.yaml").write_text(yaml.safe_dump(config))
    assert cli.main(["unpack", str(archive), "--artifacts", str(work / "artifacts")]) == 0
    before = {path: path.stat().st_mtime_ns for path in (work / "artifacts").rglob("*.*")}
    command = [sys.executable, "-m", "snakemake", "-s", str(PROJECT / "Snakefile"), "--cores", "1"]
    command += ["--configfile", "config.yaml", "--", "artifacts/p/a/lora_transferred"]
    done = subprocess.run(command, cwd=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    logs = list((work / "artifacts").rglob("*.log"))
    assert {path.name for path in logs if path.read_text()} == {"transferred.log"}
    elsewhere = {path.name for path in logs if not path.read_text()}
    assert {"spec.log", "embedding.log", "lorasuite.log"} <= elsewhere
    assert before == {path: path.stat().st_mtime_ns for path in before}
    carried = work / "artifacts/p/a/lora_transferred/adapter_model.safetensors"
    expected = next((mapped / "made").glob("*transferred/adapter_model.safetensors"))
    assert carried.read_bytes() == expected.read_bytes()
