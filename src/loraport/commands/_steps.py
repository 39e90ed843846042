"""A line for each step of a workflow that a command runs: read from what Snakemake says."""

import re
import sys
from collections.abc import Mapping
from typing import TextIO

TOTAL = re.compile(r"^total\s+(\d+)")
RULE = re.compile(r"^(?:local)?rule (\w+):")
JOB = re.compile(r"^ +jobid: (\d+)")
WILDCARDS = re.compile(r"^ +wildcards: (.+)")
NOTE = re.compile(r"^\[note\] (.+)")
FINISHED = re.compile(r"^Finished jobid: (\d+)")
WORDS = {  # rule -> what it does, as who calls a command sees it
    "spec": "reads the model",
    "activations": "runs the model on the texts",
    "embedding": "maps the embedding",
    "cka": "compares all layers",
    "layers": "pairs layers",
    "heads": "pairs attention heads",
    "moments": "runs both models on the texts",
    "gradients": "runs both models backwards",
    "experts": "pairs experts",
    "output_maps": "fits what adapters share",
    "maps": "makes the maps",
    "fitted_maps": "fits the maps to the texts",
    "maps_in_turn": "the same, without moments",
    "adapter_maps": "makes the maps of one adapter",
    "transferred": "carries the adapter",
    "transferred_by_method": "carries the adapter",
    "model_merged": "writes the whole model",
    "model_merged_by_method": "writes the whole model",
}
WIDTH = 30  # of what a rule does
CLEAR = "\r\033[K"


class Steps:
    """Snakemake's lines as a line for each step that ended.

    Parameters
    ----------
    stream : where they go; on a terminal the step that runs is shown as well
    """

    def __init__(self, stream: TextIO = sys.stderr):
        self._stream, self._live = stream, stream.isatty()
        self._rule = ""
        self._jobs: dict[str, tuple[str, str, float]] = {}
        self._current = ""
        self._done = self._total = 0

    def tell(self, line: str, now: float) -> None:
        """Take one line that Snakemake said at a time, in seconds."""
        if match := TOTAL.match(line):
            self._total = int(match[1])
            self._write(f"{self._total} {'step' if self._total == 1 else 'steps'} to do")
        elif match := NOTE.match(line):
            self._write(_folded(match[1]))
        elif match := RULE.match(line):
            self._rule = match[1]
        elif match := JOB.match(line):
            self._current = match[1]
            self._jobs[self._current] = (self._rule, "", now)
            self._show(self._rule, "")
        elif (match := WILDCARDS.match(line)) and self._current in self._jobs:
            rule, _, began = self._jobs[self._current]
            self._jobs[self._current] = (rule, _names(match[1]), began)
            self._show(rule, _names(match[1]))
        elif (match := FINISHED.match(line)) and match[1] in self._jobs:
            self._finished(*self._jobs.pop(match[1]), now)

    def end(self) -> None:
        """Wipe what stands for a step that runs."""
        if self._live:
            self._stream.write(CLEAR)
            self._stream.flush()

    def _finished(self, rule: str, names: str, began: float, now: float) -> None:
        from snakemake_logger_plugin_loraport.steps import duration

        self._done += 1
        count = f"{self._done:>{len(str(self._total))}}/{self._total}"
        self._write(f"{count}  {does(rule):<{WIDTH}}  {names:<44}  {duration(now - began):>9}")

    def _show(self, rule: str, names: str) -> None:
        if self._live:
            self._stream.write(
                f"{CLEAR}{'…':>{2 * len(str(self._total)) + 1}}  {does(rule)} {names}"
            )
            self._stream.flush()

    def _write(self, text: str) -> None:
        self._stream.write(f"{CLEAR if self._live else ''}{text.rstrip()}\n")
        self._stream.flush()


def _folded(note: str) -> str:
    from ..report.terminal import WIDTH, in_lines

    return in_lines(note, WIDTH)


def does(rule: str) -> str:
    """What a rule does, in words."""
    return WORDS.get(rule, rule.replace("_", " "))


def _names(wildcards: str) -> str:
    """What a step is for, from `name=value, …`, cut to fit a line."""
    given: Mapping[str, str] = dict(re.findall(r"(\w+)=([^,]+)", wildcards))
    words = " ".join(value.strip() for value in given.values())
    return words if len(words) <= 44 else f"{words[:43]}…"
