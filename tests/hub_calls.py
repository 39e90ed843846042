"""Calls of the package in a process of its own, where the hub's clients read HF_ENDPOINT anew.

Reads [[module, function, arguments, keywords], …] as JSON from its input; writes, one a line, what
each gave (a data set as its records), or {"error": kind, "told": text}.
"""

import importlib
import json
import sys


def plain(value: object) -> object:
    return list(value) if hasattr(value, "features") else str(value)


for module, function, arguments, keywords in json.load(sys.stdin):
    try:
        found = getattr(importlib.import_module(module), function)(*arguments, **keywords)
    except Exception as error:
        found = {"error": type(error).__name__, "told": str(error)}
    print("RESULT", json.dumps(found, default=plain), flush=True)
