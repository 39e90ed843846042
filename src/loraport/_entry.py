"""Rooms that are called like functions: `loraport.transfer(…)` beside `loraport.transfer.maps`."""

import sys
from importlib import import_module
from types import ModuleType
from typing import Any

FUNCTIONS = {"transfer": "loraport.api", "upgrade": "loraport.api_verdicts"}  # room -> where


class CallableRoom(ModuleType):
    """A room that, when it is called, calls the function of its name."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        """What the function gives."""
        name = self.__name__.rpartition(".")[2]
        return getattr(import_module(FUNCTIONS[name]), name)(*arguments, **options)


def let_be_called(room: str) -> None:
    """Make a room, by the name of its module, one that can be called."""
    sys.modules[room].__class__ = CallableRoom
