"""An adapter's modules by the names that its model's family gives them."""

from collections.abc import Callable
from typing import Any

from ..errors import LoraportError
from ..models.families import Architecture
from .files import Adapter
from .names import is_beside
from .trained_tokens import END


def use_own_names(adapter: Adapter, family: Architecture) -> None:
    """Name an adapter's modules as its model's family does, and drop updates of zero beside it.

    Both are changes of the adapter in place; the second is told in its warnings.

    Raises
    ------
    LoraportError
        If two modules of the file are the same one of the model.
    """
    left = [
        path
        for path, weights in adapter.modules.items()
        if is_beside(path, family) and weights.norm() == 0
    ]
    for path in left:
        del adapter.modules[path]
    if left:
        adapter.warnings.append(
            f"{len(left)} updates of zero beside the language model, such as {left[0]}, are left "
            "out: they change nothing"
        )
    _rename(adapter.modules, adapter, family.own_path)
    _rename(adapter.saved, adapter, lambda name: _own_tensor(name, family))
    _rename(adapter.tokens, adapter, family.own_path)
    _rename(adapter.tables, adapter, family.own_path)
    adapter.copies[:] = [family.own_path(path) for path in adapter.copies]


def _own_tensor(name: str, family: Architecture) -> str:
    if name.endswith(END):
        return family.own_path(name.removesuffix(END)) + END
    module, _, end = name.rpartition(".")
    return f"{family.own_path(module)}.{end}"


def _rename(held: dict[str, Any], adapter: Adapter, own: Callable[[str], str]) -> None:
    renamed: dict[str, Any] = {}
    for path, values in held.items():
        name = own(path)
        if name in renamed:
            raise LoraportError(
                f"adapter {adapter.directory} adapts a module twice",
                got=f"{name}, once as {path}",
                expected="one update for each module",
                todo="save the adapter again, from the model that it was trained on",
            )
        renamed[name] = values
    held.clear()
    held.update(renamed)
