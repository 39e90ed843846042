"""Holds a rule's script just before it renames a temporary file into an output's place.

Python imports this module by its name where its folder is on PYTHONPATH; see faults.hooked.
"""

import json
import os
import sys
import time
from pathlib import Path

_replace = os.replace


def _held(source, target, **how):
    running = getattr(sys.modules.get("__main__"), "snakemake", None)
    if running is not None and _is_output(str(target), map(str, running.output)):
        _hold(running.rule, str(source), str(target))
    return _replace(source, target, **how)


def _is_output(target, outputs):
    return any(target == output or target.startswith(f"{output}/") for output in outputs)


def _hold(rule, source, target):
    folder = Path(os.environ["FAULT_FOLDER"])
    for number in range(int(os.environ["FAULT_TIMES"])):
        content = {
            "rule": rule,
            "number": number,
            "pid": os.getpid(),
            "source": str(Path(source).absolute()),
            "target": str(Path(target).absolute()),
            "bytes": Path(source).stat().st_size,
            "target_there": Path(target).exists(),
        }
        try:
            with (folder / f"{rule}.{number}.json").open("x") as marker:
                json.dump(content, marker)
        except FileExistsError:
            continue
        while not (folder / "go").exists():
            time.sleep(0.02)
        return


if "FAULT_FOLDER" in os.environ:
    os.replace = _held
