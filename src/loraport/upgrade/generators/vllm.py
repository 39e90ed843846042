"""vLLM, where it is installed: a copy of the base model in a process of its own.

The process is started at the first answers that it may write and serves all adapters of the base,
by the paths of their folders; it goes with its GPU memory when it is closed, or when this process
ends. Prompts are tokenised here and written answers decoded here, as transformers' are. What it
cannot serve it leaves to transformers, and so all that follows where it does not start, fails,
does not reply in time, or does not write what the model in memory writes.
"""

import json
import logging
import os
import subprocess
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from ...artifacts import ADAPTER_WEIGHTS
from ...errors import LoraportError
from ...runtime.gpus import VISIBLE, visible
from ...runtime.memory import let_go
from ...training.own_answers import Answer, answer_of, ends_of, write_tokens
from . import Asked, Wanted
from ._vllm_fit import is_served, rank_for, unfit, utilisation

log = logging.getLogger("loraport")

LEAST_LENGTH = 4096  # tokens of a prompt with its answer: demonstrations make some longer than most
# before it is relied on with an adapter, or without, the first tokens of its greedy answers to so
# many prompts are compared with transformers'. Half must be the same: rounding turns a token where
# two are about as likely, in a few of such beginnings; an adapter that is wrong or left out turns
# most, unless it changes no beginning
CHECKED, BEGINNING = 8, 8
BARE, NOT_SERVED = 0, -1  # in the place of an adapter's number
START_SECONDS = 900.0  # after which a start is given up
# a request is given up after so long, and as long more as it would take at these rates, in tokens a
# second; how fast vLLM is was not measured, so both are far below what one GPU is expected to do
REQUEST_SECONDS, WRITTEN_A_SECOND, READ_A_SECOND = 900.0, 100, 1000
ENVIRONMENT = {
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # one process, that leaves none behind
    "VLLM_USE_FLASHINFER_SAMPLER": "0",  # which does not draw from seeds
    "VLLM_NO_USAGE_STATS": "1",
    "VLLM_LOGGING_LEVEL": "WARNING",
}


def installed() -> bool:
    """Whether vLLM can be imported, by its spec: it is not imported here."""
    try:
        return find_spec("vllm") is not None
    except (ImportError, ValueError):
        return False


class Engine:
    """vLLM with a base model.

    Attributes
    ----------
    name : `vllm` with its version, once it runs
    failed : why it writes no more; empty as long as it does
    """

    def __init__(
        self, folder: Path, model: Any, wanted: Wanted, longest: int, remote_code: bool = False
    ):
        self.name, self.failed = "vllm", ""
        self._folder, self._remote_code = Path(folder), remote_code
        self._rank = rank_for(wanted)
        most = int(getattr(model.config, "max_position_embeddings", 0) or LEAST_LENGTH)
        self._length = min(max(longest, LEAST_LENGTH), most)
        self._numbers: dict[tuple[str, int, int], int] = {}  # of adapters
        self._checked: set[int] = set()  # adapters that it is known to write with, and BARE
        self._child: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None
        if why := unfit(model):
            self._give_up(why)

    def write(self, asked: Asked) -> list[Answer] | None:
        """Answers; None for what it does not write, or where it fails, which is told once."""
        if self.failed or not asked.texts:
            return None
        prompts = [asked.tokenizer(text)["input_ids"] for text in asked.texts]
        cut = [ids[-asked.max_tokens :] for ids in prompts]
        number = self._number(asked.adapter)
        longest = max(map(len, cut)) + max(asked.new_tokens, BEGINNING)
        if number == NOT_SERVED or longest > self._length or not all(cut):
            return None
        try:
            if self._child is None:
                self._start(asked.model)
            if number not in self._checked:
                self._check(asked, cut, number)
            tails = self._tails(asked, cut, number, asked.new_tokens, asked.temperature)
        except (LoraportError, OSError, RuntimeError, ValueError) as error:
            self._give_up(" ".join(str(error).split()))
            return None
        ends = ends_of(asked.model, asked.tokenizer)
        return [
            answer_of(asked.tokenizer, ids, asked.max_tokens, tail, ends)
            for ids, tail in zip(prompts, tails, strict=True)
        ]

    def close(self) -> None:
        """End the process, and let go of its memory."""
        if self._child is not None:
            _end(self._child)
        if self._said is not None:
            self._said.close()
        self._child = self._said = None

    def _start(self, model: Any) -> None:
        settings = {
            "model": str(self._folder),
            "skip_tokenizer_init": True,  # token ids go in and come out
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_model_len": self._length,
            "enable_lora": True,
            "max_lora_rank": self._rank,
            "max_loras": 1,  # all answers that are asked for at a time are of one adapter
            "enforce_eager": True,  # no compiling, no graphs: the shorter start
            "generation_config": "vllm",  # whatever a chat model's own configuration says
            "trust_remote_code": self._remote_code,
            "disable_log_stats": True,
            "seed": 0,
        }
        environment = {**os.environ, **ENVIRONMENT, VISIBLE: ""}
        if model.device.type == "cuda":
            let_go()
            settings["gpu_memory_utilization"] = utilisation(model)
            names, number = visible(), model.device.index or 0
            environment[VISIBLE] = names[number] if number < len(names) else str(number)
        self._said = TemporaryFile()  # noqa: SIM115  (as long as the process)
        self._child = subprocess.Popen(
            [sys.executable, "-m", f"{__package__}._vllm_engine"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._said,
            text=True,
            encoding="utf-8",
            env=environment,
        )
        self.name = f"vllm {self._ask(settings, START_SECONDS)['version']}"
        log.info("%s writes answers of %s", self.name, self._folder)

    def _check(self, asked: Asked, prompts: list[list[int]], number: int) -> None:
        """Compare how greedy answers begin with what the model in memory writes.

        Raises
        ------
        LoraportError
            If fewer than half of them begin alike.
        """
        few = [list(ids) for ids in dict.fromkeys(map(tuple, prompts))][:CHECKED]
        tails = self._tails(asked, few, number, BEGINNING)
        expected = write_tokens(asked.model, asked.tokenizer, few, 1, BEGINNING)
        alike = sum(one == other for one, other in zip(tails, expected, strict=True))
        if 2 * alike < len(few):
            worn = f"with adapter {asked.adapter}" if asked.adapter else "without an adapter"
            raise LoraportError(
                f"{self.name} {worn} does not write what the model in memory writes",
                got=f"{alike} of {len(few)} greedy answers with the same {BEGINNING} first tokens",
                expected="half of them at least",
            )
        self._checked.add(number)

    def _tails(
        self,
        asked: Asked,
        prompts: list[list[int]],
        number: int,
        new_tokens: int,
        temperature: float = 0.0,
    ) -> list[list[int]]:
        """Tokens that are written behind those of prompts."""
        seeds: list[int | None] = [None] * len(prompts)
        if temperature > 0:  # one for each prompt, that does not hang on the others
            seeds = np.random.default_rng(asked.seed).integers(2**31, size=len(prompts)).tolist()
        request = {
            "prompts": prompts,
            "adapter": [f"adapter-{number}", number, str(asked.adapter)] if number else None,
            "temperature": temperature,
            "new_tokens": new_tokens,
            "ends": sorted(ends_of(asked.model, asked.tokenizer)),
            "seeds": seeds,
        }
        tails: list[list[int]] = self._ask(request, seconds_for(prompts, new_tokens))["tails"]
        return tails

    def _ask(self, request: dict[str, Any], seconds: float) -> dict[str, Any]:
        """What the process replies; it is killed where it does not within so many seconds."""
        child, late = self._child, threading.Event()
        assert child is not None and child.stdin and child.stdout

        def kill() -> None:
            late.set()
            child.kill()

        timer = threading.Timer(seconds, kill)
        timer.daemon = True
        timer.start()
        try:
            child.stdin.write(json.dumps(request) + "\n")
            child.stdin.flush()
            line = child.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            timer.cancel()
        ended = f"no reply in {seconds:.0f} s" if late.is_set() else "its process ended"
        reply: dict[str, Any] = json.loads(line) if line else {"error": ended}
        if "error" in reply:
            raise LoraportError(str(reply["error"])[:600], got=self._last_words())
        return reply

    def _last_words(self) -> str:
        """The last lines that the process wrote of errors."""
        assert self._said is not None
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 2000))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-3:])[-600:]

    def _give_up(self, why: str) -> None:
        """Write no more, and say why."""
        self.failed = why
        self.close()
        log.warning(
            "vLLM does not write answers of %s, transformers goes on: %s", self._folder, why
        )

    def _number(self, folder: Path | None) -> int:
        """The number of an adapter, by its folder and the file of its weights."""
        if folder is None:
            return BARE
        file = folder / ADAPTER_WEIGHTS
        if not file.is_file():
            return NOT_SERVED
        key = str(folder.resolve()), file.stat().st_mtime_ns, file.stat().st_ino
        if key not in self._numbers:
            served = is_served(folder, self._rank)
            self._numbers[key] = len(self._numbers) + 1 if served else NOT_SERVED
        return self._numbers[key]


def seconds_for(prompts: Sequence[Sequence[int]], new_tokens: int) -> float:
    """How long a request may take: prompts are read, and as many answers of `new_tokens` written.

    Examples
    --------
    >>> seconds_for([[1, 2, 3]] * 2000, 40)
    1706.0
    """
    read = sum(map(len, prompts))
    written = len(prompts) * new_tokens
    return REQUEST_SECONDS + written / WRITTEN_A_SECOND + read / READ_A_SECOND


def _end(child: "subprocess.Popen[str]") -> None:
    """Let a process end with its input, or end it."""
    for pipe in (child.stdin, child.stdout):
        try:
            if pipe:
                pipe.close()
        except OSError:
            pass
    try:
        child.wait(20)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
