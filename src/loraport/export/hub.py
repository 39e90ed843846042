"""An adapter on the hub: what would be sent, what stands against it, and sending it.

Sent are the adapter, its model card and those records that say nothing of this machine.
"""

import json
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..adapters.base_names import HUB_ID, hub_id, recorded_commit
from ..adapters.card import CARD, base_name, write_card
from ..adapters.files import read_adapter, read_config
from ..artifacts import ADAPTER_CONFIG, ADAPTER_FILES, SUMS
from ..errors import LoraportError, words

RECORDS = ("transfer.json", "upgrade.json", "verdict.json")
FRONT = re.compile(r"\A---\n(.*?)^---\n", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class Plan:
    """What is sent to the hub.

    Attributes
    ----------
    repository : owner/name
    base : id on the hub of the adapter's base model
    sizes : file -> bytes
    left : file that stays here -> why
    """

    repository: str
    base: str
    sizes: dict[str, int]
    left: dict[str, str]


def stage(folder: Path, repository: str, staged: Path, base: str = "") -> Plan:
    """Lay out in `staged` what is sent of an adapter: its base by its id, and a model card.

    Parameters
    ----------
    base : id of the base model; empty: as the adapter records it

    Raises
    ------
    LoraportError
        If the adapter can't be read, the repository's name is none, or no id of the base is known.
    """
    if not HUB_ID.fullmatch(repository):
        raise LoraportError(
            "a repository of the hub has another form",
            got=repository,
            expected="owner/name, of letters, digits, dots, dashes and underscores",
        )
    read_adapter(folder)
    config = read_config(folder)
    recorded = str(config.get("base_model_name_or_path") or "")
    known = base or hub_id(recorded)
    if not known:
        raise LoraportError(
            f"adapter {folder} does not record its base model by an id on the hub",
            got=recorded or "nothing",
            expected="owner/name: who loads the adapter elsewhere has no such folder",
            todo="name it: --base OWNER/NAME",
        )
    commit = str(config.get("revision") or recorded_commit(recorded)) if not base else ""
    config |= {"base_model_name_or_path": known, "revision": commit or None}
    text = json.dumps(config, indent=2, sort_keys=True) + "\n"
    (staged / ADAPTER_CONFIG).write_text(text, encoding="utf-8")
    _copy_card(folder, staged, repository, known, commit)
    left: dict[str, str] = {}
    for path in sorted(
        path for path in folder.iterdir() if path.name not in (ADAPTER_CONFIG, CARD)
    ):
        why = _stays(path)
        if why:
            left[path.name] = why
        else:
            shutil.copyfile(path, staged / path.name)
    sizes = {path.name: path.stat().st_size for path in sorted(staged.iterdir())}
    return Plan(repository, known, sizes, left)


def _stays(path: Path) -> str:
    """Why a file is not sent; empty for one that is."""
    if path.name in ADAPTER_FILES or path.name == SUMS:
        return ""
    if path.name not in RECORDS:
        return "no file of an adapter"
    try:
        paths = sorted(set(local_paths(json.loads(path.read_text(encoding="utf-8")))))
    except (OSError, ValueError):
        return "it can't be read"
    return f"it names folders of this machine, such as {paths[0]}" if paths else ""


def local_paths(content: Any) -> Iterator[str]:
    """Texts of a JSON content that are paths of this machine: absolute, or there."""
    if isinstance(content, dict):
        for value in content.values():
            yield from local_paths(value)
    elif isinstance(content, list):
        for value in content:
            yield from local_paths(value)
    elif isinstance(content, str) and len(content) < 4096 and "\n" not in content:
        path = Path(content)
        if path.is_absolute() or ("/" in content and path.exists()):
            yield content


def _copy_card(folder: Path, staged: Path, repository: str, base: str, commit: str) -> None:
    """The adapter's own card, which names its base by its id; a short one where it has none."""
    path = folder / CARD
    if not path.is_file():
        body = [f"A LoRA adapter for {base_name(base, commit).told()}."]
        write_card(staged, repository.partition("/")[2], base_name(base, commit), body)
        return
    text = path.read_text(encoding="utf-8")
    front = FRONT.match(text)
    lines = front[1].splitlines() if front else ["library_name: peft"]
    kept = [line for line in lines if not line.startswith("base_model:")]
    head = "\n".join(["---", *kept, f"base_model: {base}", "---", ""])
    (staged / CARD).write_text(head + (text[front.end() :] if front else text), encoding="utf-8")


def push(staged: Path, plan: Plan, *, private: bool = False) -> str:
    """Make the repository where it is not there yet, and send all files as one commit.

    Returns
    -------
    address of the commit
    """
    from huggingface_hub import HfApi

    try:
        api = HfApi()
        api.create_repo(plan.repository, private=private, exist_ok=True)
        done = api.upload_folder(
            repo_id=plan.repository,
            folder_path=staged,
            commit_message="LoRA adapter, by loraport",
        )
    except Exception as error:  # the library raises many kinds, those of its HTTP client among them
        raise LoraportError(
            f"adapter could not be sent to {plan.repository}",
            got=words(error),
            expected="a repository of the hub that you may write to",
            todo="log in with a token that may write (hf auth login), check the owner's name and "
            "the network, and run again",
        ) from error
    return str(done.commit_url)
