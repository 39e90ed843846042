"""Model cards: README.md of a folder with an adapter that was made here.

What stands in it is the same on every machine: models by their ids on the hub with their commits
where those are known, else by the last part of their path.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from .base_names import hub_id, recorded_commit

CARD = "README.md"
LOAD = """## Load it

```python
from peft import PeftModel
from transformers import AutoModelForCausalLM

model = AutoModelForCausalLM.from_pretrained({arguments})
model = PeftModel.from_pretrained(model, "path/to/this/folder")
```
"""


@dataclass(frozen=True)
class BaseName:
    """What a card calls a base model.

    Attributes
    ----------
    name : its id on the hub, or the last part of its path
    is_id : whether the name is an id on the hub
    commit : of the hub; empty where it is not known
    """

    name: str
    is_id: bool = False
    commit: str = ""

    def told(self) -> str:
        """Name and commit, as Markdown."""
        return f"`{self.name}`" + (f" at commit `{self.commit}`" if self.commit else "")


def base_name(source: str, commit: str = "", known_as: Collection[str] = ()) -> BaseName:
    """What a card calls a base model, from where it lies and what else it is called."""
    known = hub_id(source, known_as)
    commit = commit or recorded_commit(source)
    return BaseName(known or Path(source).name or source, bool(known), commit if known else "")


def write_card(folder: Path, title: str, base: BaseName, body: Sequence[str]) -> None:
    """Write README.md beside an adapter: what it is, in the lines of `body`, and how to load it.

    Parameters
    ----------
    base : the model that the adapter is for
    """
    head = ["---", "library_name: peft"]
    if base.is_id:  # the hub refuses anything else
        head.append(f"base_model: {base.name}")
    head += ["tags: [lora, loraport]", "---", "", f"# {title}", ""]
    arguments = f'"{base.name}"' if base.is_id else f'"path/to/{base.name}"'
    if base.commit:
        arguments += f', revision="{base.commit}"'
    text = "\n".join([*head, *body, "", LOAD.format(arguments=arguments)])
    (folder / CARD).write_text(text, encoding="utf-8")
