"""Names under which adapters record one base model: hub ids, caches, copies, quantised releases."""

import re
from collections.abc import Collection
from pathlib import Path, PurePosixPath

CACHED = re.compile(r"(?:^|/)models--(?:(?P<owner>[^/]+?)--)?(?P<name>[^/]+?)(?:/snapshots/|$)")
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
COMMIT = re.compile(r"/snapshots/([0-9a-f]{40})/*$")
# ends of the names of quantised releases, whose adapters fit the model that was quantised
QUANTISED = re.compile(
    r"-(?:(?:unsloth-)?bnb-[48]bit|gptq(?:-int[48])?|awq(?:-int4)?|[48]bit|int[48])$"
)


def spellings(name: str) -> set[str]:
    """A recorded name and what else it says: the hub id behind a cache's folder, its last part.

    Examples
    --------
    >>> sorted(spellings("/c/models--Tiny--Base-1B/snapshots/0123/"))
    ['/c/models--tiny--base-1b/snapshots/0123', '0123', 'base-1b', 'tiny/base-1b']
    """
    whole = name.replace("\\", "/").rstrip("/")
    names = {whole, PurePosixPath(whole).name}
    if cached := CACHED.search(whole):
        owner, last = cached["owner"], cached["name"]
        names |= {last, f"{owner}/{last}" if owner else last}
    return {each.casefold() for each in names if each}


def recorded_commit(name: str) -> str:
    """The commit that a cache's folder is named by; empty for any other name."""
    match = COMMIT.search(name.replace("\\", "/"))
    return match[1] if match else ""


def how_known(recorded: str, known_as: Collection[str]) -> str | None:
    """Whether a recorded base is one of the known names.

    Returns
    -------
    None where it is not; empty where the name itself is known, or its last part; else what it is
    taken for, in words
    """
    known = {spelling for name in known_as for spelling in spellings(name)}
    mine = spellings(recorded)
    if mine & known:
        return ""
    plain = {_plain(name) for name in mine}
    if not plain & {_plain(name) for name in known}:
        return None
    if any(QUANTISED.search(name) for name in mine):
        return "a quantised form of the base, whose adapters the unquantised one takes"
    return "another release of the base by the same name"


def _plain(name: str) -> str:
    """The last part of a name without what releases of one model add to it."""
    last = QUANTISED.sub("", PurePosixPath(name).name)
    return last.removeprefix("meta-").removesuffix("-hf")


def hub_id(source: str, known_as: Collection[str] = ()) -> str:
    """A base model's id on the hub, where its source or another name of it says one; else empty.

    Parameters
    ----------
    source : a hub id, or a folder; one of the hub's cache is called by the id
    known_as : further names; an id counts where it is the only one, and not the end of the folder's
        own path, which may look like an id

    Examples
    --------
    >>> hub_id("/c/models--Tiny--Base-1B/snapshots/0123/")
    'Tiny/Base-1B'
    >>> hub_id("/data/base", ["base", "Tiny/Base-1B"])
    'Tiny/Base-1B'
    """
    if cached := CACHED.search(source.replace("\\", "/").rstrip("/")):
        return f"{cached['owner']}/{cached['name']}" if cached["owner"] else ""
    if HUB_ID.fullmatch(source) and not Path(source).is_dir():
        return source
    end = Path(source).as_posix()
    named = {
        name
        for name in known_as
        if HUB_ID.fullmatch(name) and not Path(name).is_dir() and not f"/{end}".endswith(f"/{name}")
    }
    return named.pop() if len(named) == 1 else ""
