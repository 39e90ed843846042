"""A pair's artifacts in one archive: one team maps, and all others carry adapters.

The archive is a plain tar: manifest.json first, then the files that it lists, each with its hash.
Names are those below the artifacts folder (`models/old/spec.json`, `pair/maps/lorasuite.h5`). The
same artifacts give the same bytes. Unpacking verifies everything before anything is put in place,
and takes no name that is not one of an artifact.
"""

import hashlib
import io
import json
import os
import re
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import IO, Any

from .. import __version__
from ..artifacts import ROOT, atomic, identities, identity, sha256
from ..errors import LoraportError
from ..planning import layout
from ..provenance import versions

FORMAT = 1
MANIFEST = "manifest.json"
MANIFEST_BYTES = 16 << 20
NAME = r"(?!\.)[A-Za-z0-9_.-]+"
MAPPING = ("embedding.h5", "cka.h5", "layers.json", "heads.h5")  # small, and enough for plots
LARGE = ("moments.h5", "gradients.h5", "distance.json")
ALLOWED = re.compile(
    rf"models/{NAME}/(spec\.json|activations\.h5)"
    rf"|(?!models/){NAME}/(variants/{NAME}/)?"
    rf"({'|'.join(map(re.escape, (*MAPPING, *LARGE)))})"
    rf"|(?!models/){NAME}/(output_)?maps/{NAME}\.h5"
)


def pack(
    artifacts: Path, pair: str, archive: Path, *, models: Mapping[str, str], everything: bool
) -> dict[str, Any]:
    """Write a pair's artifacts to an archive.

    Parameters
    ----------
    artifacts : the artifacts folder
    models : side (`old`, `new`) -> model, where two models of the folder are the same one by
        content; otherwise the artifacts themselves say which they were made from
    everything : the activations, second moments and output maps too, which adapters that are
        carried by `maps` never need

    Returns
    -------
    the manifest

    Raises
    ------
    LoraportError
        If the pair has no maps, or artifacts were made from other versions of one another.
    """
    maps = sorted((artifacts / pair / "maps").glob("*.h5"))
    if not maps:
        raise LoraportError(
            f"pair {pair!r} has nothing to pack",
            got=f"no {artifacts / pair / 'maps'}/*.h5",
            expected="at least one method's maps",
            todo=f"make them first: snakemake --cores 8 {artifacts}/{pair}/maps/lorasuite.h5",
        )
    specs = _specs(artifacts, maps[0], models)
    for file in maps:
        identities({**specs, "maps": file})
    files = [*specs.values(), *_mapping_files(artifacts, pair, everything), *maps]
    if everything:
        files += [path.with_name("activations.h5") for path in specs.values()]
        files += (artifacts / pair / "output_maps").glob("*.h5")
    named = {_name(artifacts, path): path for path in files if path.is_file()}
    listed: dict[str, dict[str, Any]] = {
        name: {"sha256": sha256(path), "bytes": path.stat().st_size}
        for name, path in sorted(named.items())
    }
    content = {
        "kind": "loraport pack",
        "format": FORMAT,
        "loraport": __version__,
        "versions": versions(),
        "pair": pair,
        "models": {side: _about(path) for side, path in specs.items()},
        "files": listed,
    }
    _write(archive, content, named)
    return content


def _write(archive: Path, manifest: Mapping[str, Any], files: Mapping[str, Path]) -> None:
    """Write an archive: its manifest, and then the files that this lists, by name."""
    with (
        atomic(archive) as temporary,
        tarfile.open(temporary, "w", format=tarfile.PAX_FORMAT) as tar,
    ):
        text = (json.dumps(manifest, indent=1) + "\n").encode()
        tar.addfile(_member(MANIFEST, len(text)), io.BytesIO(text))
        for name, about in manifest["files"].items():
            with files[name].open("rb") as stream:
                tar.addfile(_member(name, about["bytes"]), stream)


def _specs(artifacts: Path, maps: Path, models: Mapping[str, str]) -> dict[str, Path]:
    """`old_spec` and `new_spec`: the specs that the maps were made from."""
    _, made_from = identity(maps)
    entries = {}
    for side in ("old", "new"):
        digest = made_from[f"{side}_spec"]
        every = sorted((artifacts / "models").glob(f"{models.get(side, '*')}/spec.json"))
        same = [path for path in every if sha256(path) == digest]
        if len(same) != 1:
            raise LoraportError(
                f"the {side} model of {maps} can't be told",
                got=", ".join(path.parent.name for path in same) or "no spec.json that fits",
                expected=f"one model whose spec.json has sha256 {digest[:12]}…",
                todo=f"name it with --{side}, or run the workflow again",
            )
        entries[f"{side}_spec"] = same[0]
    return entries


def _mapping_files(artifacts: Path, pair: str, everything: bool) -> list[Path]:
    folders = [artifacts / pair, *sorted((artifacts / pair / "variants").glob("*"))]
    names = MAPPING + LARGE if everything else MAPPING
    return [folder / name for folder in folders for name in names]


def _name(artifacts: Path, path: Path) -> str:
    """The name of a file in the archive."""
    return str(PurePosixPath(*path.relative_to(artifacts).parts))


def _about(spec: Path) -> dict[str, Any]:
    content = json.loads(spec.read_text())
    keys = ("family", "hub_id", "revision", "files")
    return {"name": spec.parent.name, **{key: content[key] for key in keys}}


def _member(name: str, size: int) -> tarfile.TarInfo:
    """A tar member without owner or time, so that the same content gives the same archive."""
    member = tarfile.TarInfo(name)
    member.size = size
    return member


def unpack(archive: Path, artifacts: Path, *, replace: bool = False) -> dict[str, Any]:
    """Put the files of an archive in place, after verifying every one of them.

    Parameters
    ----------
    artifacts : the artifacts folder; made where it is missing
    replace : put them in the place of other artifacts of the same names

    Returns
    -------
    the manifest

    Raises
    ------
    LoraportError
        If a file is missing, not listed, of another hash, or where another one lies; or if a name
        is not one of an artifact. Nothing is put in place then.
    """
    artifacts.mkdir(parents=True, exist_ok=True)
    with (
        tempfile.TemporaryDirectory(dir=artifacts, prefix=".unpack-") as staged,
        _opened(archive) as tar,
    ):
        folder = Path(staged)
        manifest = _manifest(tar, archive)
        waiting = dict(manifest["files"])
        while member := tar.next():
            about = waiting.pop(member.name, None)
            if about is None or not member.isreg():
                raise _bad(
                    archive, f"member {member.name!r}", "the files of its manifest, once each"
                )
            _extract(tar, member, about, folder / member.name, archive)
        if waiting:
            raise _bad(archive, f"no {next(iter(waiting))}", "every file of its manifest")
        _check_fit(folder, manifest, archive)
        _check_free(artifacts, manifest["files"], replace)
        _put_in_place(folder, artifacts, manifest["files"])
    return manifest


@contextmanager
def _opened(archive: Path) -> Iterator[tarfile.TarFile]:
    try:
        with tarfile.open(archive, "r:") as tar:
            yield tar
    except (tarfile.TarError, EOFError) as error:
        raise _bad(archive, str(error) or type(error).__name__, "a whole archive") from error
    except OSError as error:
        if error.filename and Path(error.filename) != archive:
            raise
        raise _bad(archive, str(error), "an archive that can be read") from error


def _bad(archive: Path, got: str, expected: str) -> LoraportError:
    return LoraportError(
        f"{archive} is not as it was packed, or no archive of `loraport pack`",
        got=got,
        expected=expected,
        todo="fetch it again, and compare its sha256 with the sender's",
    )


def _manifest(tar: tarfile.TarFile, archive: Path) -> dict[str, Any]:
    """The manifest, which comes first; every name in it is one of an artifact."""
    member = tar.next()
    if member is None or member.name != MANIFEST or not member.isreg():
        raise _bad(archive, f"{member.name if member else 'nothing'!r} first", MANIFEST)
    if member.size > MANIFEST_BYTES:
        raise _bad(archive, f"a manifest of {member.size} bytes", f"at most {MANIFEST_BYTES}")
    file = tar.extractfile(member)
    try:
        content = json.loads(file.read() if file else b"")
        files, stated = content["files"], content["format"]
        for about in files.values():
            if not (isinstance(about["sha256"], str) and isinstance(about["bytes"], int)):
                raise TypeError("sha256 or bytes of another type")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _bad(archive, f"a manifest that can't be read: {error}", "a whole one") from error
    if stated != FORMAT:
        raise _bad(archive, f"format {stated}", f"format {FORMAT}")
    for name in files:
        if not ALLOWED.fullmatch(name):
            raise _bad(archive, f"the name {name!r}", "names of artifacts")
    return content


def _extract(
    tar: tarfile.TarFile, member: tarfile.TarInfo, about: Mapping, path: Path, archive: Path
) -> None:
    """Write one member to a file of the staging folder, hashed on the way."""
    source: IO[bytes] | None = tar.extractfile(member)
    if source is None or member.size != about["bytes"]:
        raise _bad(archive, f"{member.name} of {member.size} bytes", f"{about['bytes']} bytes")
    path.parent.mkdir(parents=True, exist_ok=True)
    digest = hashlib.sha256()
    with path.open("xb") as file:
        while block := source.read(1 << 20):
            digest.update(block)
            file.write(block)
    if digest.hexdigest() != about["sha256"]:
        raise _bad(
            archive,
            f"{member.name} with sha256 {digest.hexdigest()[:12]}…",
            f"{about['sha256'][:12]}… as its manifest says",
        )


def _check_fit(folder: Path, manifest: Mapping[str, Any], archive: Path) -> None:
    """Refuse maps that were made from other specs than those beside them."""
    try:
        names = {side: manifest["models"][side]["name"] for side in ("old_spec", "new_spec")}
    except (KeyError, TypeError) as error:
        raise _bad(archive, f"no {error} among its models", "the old and the new model") from error
    for name in names.values():
        if f"models/{name}/spec.json" not in manifest["files"]:
            raise _bad(archive, f"no spec.json of model {name!r}", "those of both models")
    specs = {side: folder / "models" / name / "spec.json" for side, name in names.items()}
    for maps in sorted(folder.glob("*/*maps/*.h5")):
        identities({**specs, "maps": maps})


def _check_free(artifacts: Path, files: Mapping[str, Mapping], replace: bool) -> None:
    """Refuse to write over artifacts that are not the same, and through links out of the folder."""
    home = artifacts.resolve()
    for name, about in files.items():
        path = artifacts / name
        if not path.parent.resolve().is_relative_to(home):
            raise LoraportError(
                f"{path} would be written outside {artifacts}",
                got=f"a link to {path.parent.resolve()}",
                expected="a folder",
                todo="remove the link, or unpack with another --artifacts",
            )
        if path.exists() and not replace and sha256(path) != about["sha256"]:
            raise LoraportError(
                f"another {path} is there already",
                got=f"sha256 {sha256(path)[:12]}…",
                expected=f"none, or the archive's {about['sha256'][:12]}…",
                todo="unpack into another working directory, or with --replace",
            )


def _put_in_place(folder: Path, artifacts: Path, files: Mapping[str, Mapping]) -> None:
    """Rename the files; all get one time, so that none looks older than what it was made from."""
    now = max((folder / name).stat().st_mtime for name in files)
    for name in files:
        path = artifacts / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.utime(folder / name, (now, now))
        (folder / name).replace(path)
        log = artifacts / Path(layout.log_of(f"{ROOT}/{name}")).relative_to(ROOT)
        if not log.exists():  # an empty one says that the file was made elsewhere
            log.parent.mkdir(parents=True, exist_ok=True)
            log.touch()
