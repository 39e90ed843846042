"""vLLM, where it is installed: a copy of the base model in a process of its own.

The process is started at the first answers that it may write and serves all adapters of the base,
by the paths of their folders; it goes with its GPU memory when it is closed, or when this process
ends. Prompts are tokenised here and written answers decoded here, as transformers' are. What it
cannot serve it leaves to transformers, and so all that follows where it does not start or fails.
"""

import json
import logging
import os
import subprocess
import sys
import threading
import weakref
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, Any

import numpy as np

from ...adapters.files import read_adapter
from ...adapters.names import PREFIX
from ...artifacts import ADAPTER_WEIGHTS
from ...errors import LoraportError
from ...export.vllm import RANKS, greatest_rank, problems
from ...models.weights import TensorFile
from ...runtime.gpus import VISIBLE, visible
from ...runtime.memory import let_go
from ...training.own_answers import Answer, decoded, ends_of
from . import Asked, Wanted

HELP = "a copy of the base model in vLLM, with its adapters by their folders"
log = logging.getLogger("loraport")

LEAST_LENGTH = 4096  # tokens of a prompt with its answer: demonstrations make some longer than most
CACHE_GIB = 12  # of keys and values: 256 sequences of 700 tokens of a 7B model; more helps little
BESIDE_GIB = 3  # activations of its batch, its CUDA context and its kernels
# of what is free on the GPU at its start: both models of an upgrade may have an engine, and the
# teaching, whose batch is halved where memory runs out, has the greater part of what is left
SHARE = 0.4
EAGER = True  # neither compiles nor records graphs at its start, which is the shorter for it
START_SECONDS = 900.0  # after which a start is given up
GIB = 1 << 30
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
        self.name, self.failed = "vllm", _unfit(model)
        self._folder, self._remote_code = Path(folder), remote_code
        self._rank = _rank(wanted)
        most = int(getattr(model.config, "max_position_embeddings", 0) or LEAST_LENGTH)
        self._length = min(max(longest, LEAST_LENGTH), most)
        self._adapters: dict[tuple[Any, ...], int] = {}  # adapter -> its number; 0: not served
        self._child: subprocess.Popen[str] | None = None
        self._said: IO[bytes] | None = None
        self._end: Any = None
        if self.failed:
            self._tell()

    def write(self, asked: Asked) -> list[Answer] | None:
        """Answers; None for what it does not write, or where it fails, which is told once."""
        if self.failed or asked.also or not asked.from_folders or not asked.texts:
            return None
        encoded = [asked.tokenizer(text)["input_ids"] for text in asked.texts]
        cut = [ids[-asked.max_tokens :] for ids in encoded]
        longest = max(map(len, cut)) + asked.new_tokens
        if longest > self._length or not all(cut):
            return None
        number = self._number(asked.adapter) if asked.adapter else 0
        if asked.adapter and not number:
            return None
        seeds: list[int | None] = [None] * len(cut)
        if asked.temperature > 0:  # one for each prompt, that does not hang on the others
            seeds = np.random.default_rng(asked.seed).integers(2**31, size=len(cut)).tolist()
        ends = ends_of(asked.model, asked.tokenizer)
        request = {
            "prompts": cut,
            "adapter": [f"adapter-{number}", number, str(asked.adapter)] if number else None,
            "temperature": asked.temperature,
            "new_tokens": asked.new_tokens,
            "ends": sorted(ends),
            "seeds": seeds,
        }
        try:
            self.start(asked.model)
            said = self._ask(request)
            return [
                Answer(
                    decoded(asked.tokenizer, prompt, tail), ended and len(ids) <= asked.max_tokens
                )
                for prompt, ids, tail, ended in zip(
                    cut, encoded, said["ids"], said["ended"], strict=True
                )
            ]
        except (LoraportError, OSError, RuntimeError, ValueError, KeyError) as error:
            self.failed = " ".join(str(error).split())
            self.close()
            self._tell()
            return None

    def start(self, model: Any) -> None:
        """Start the process, unless it runs."""
        if self._child is not None:
            return
        settings = {
            "model": str(self._folder),
            "skip_tokenizer_init": True,  # token ids go in and come out
            "dtype": str(model.dtype).removeprefix("torch."),
            "max_model_len": self._length,
            "enable_lora": True,
            "max_lora_rank": self._rank,
            "max_loras": 1,  # all answers that are asked for at a time are of one adapter
            "enforce_eager": EAGER,
            "generation_config": "vllm",  # whatever a chat model's own configuration says
            "trust_remote_code": self._remote_code,
            "disable_log_stats": True,
            "seed": 0,
        }
        environment = {**os.environ, **ENVIRONMENT, VISIBLE: ""}
        if model.device.type == "cuda":
            let_go()
            settings["gpu_memory_utilization"] = _utilisation(model)
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
        self._end = weakref.finalize(self, _ended, self._child)
        late = threading.Timer(START_SECONDS, self._child.kill)
        late.daemon = True
        late.start()
        try:
            self.name = f"vllm {self._ask(settings)['version']}"
        finally:
            late.cancel()
        log.info("%s writes answers of %s", self.name, self._folder)

    def close(self) -> None:
        """End the process, and let go of its memory; the next answers start it again."""
        if self._end is not None:
            self._end()
        if self._said is not None:
            self._said.close()
        self._child = self._said = self._end = None

    def _ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """What the process replies."""
        assert self._child is not None and self._child.stdin and self._child.stdout
        try:
            self._child.stdin.write(json.dumps(request) + "\n")
            self._child.stdin.flush()
            line = self._child.stdout.readline()
        except BrokenPipeError:
            line = ""
        reply: dict[str, Any] = json.loads(line) if line else {"error": "its process ended"}
        if "error" in reply:
            raise LoraportError(str(reply["error"])[:600], got=self._last_words())
        return reply

    def _last_words(self) -> str:
        """The last lines that the process wrote of errors."""
        if self._said is None:
            return ""
        self._said.seek(0, os.SEEK_END)
        self._said.seek(max(0, self._said.tell() - 2000))
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return " / ".join(line.strip() for line in lines[-3:])[-600:]

    def _tell(self) -> None:
        log.warning(
            "vLLM does not write answers of %s, transformers goes on: %s", self._folder, self.failed
        )

    def _number(self, folder: Path) -> int:
        """The number of an adapter, by its folder and when its weights were written; 0: vLLM can't
        serve it.
        """
        file = folder / ADAPTER_WEIGHTS
        if not file.is_file():
            return 0
        told = file.stat()
        key = (str(folder.resolve()), told.st_mtime_ns, told.st_size, told.st_ino)
        if key not in self._adapters:
            served = sum(1 for number in self._adapters.values() if number)
            self._adapters[key] = served + 1 if is_served(folder, self._rank) else 0
        return self._adapters[key]


def is_served(folder: Path, most: int) -> bool:
    """Whether vLLM serves an adapter as it is: plain LoRA of layers' modules, of one scale, by the
    names that the model has for them.
    """
    try:
        adapter = read_adapter(folder, zero=True)
    except LoraportError:
        return False
    beside = [path for path in adapter.modules if not any(p.isdigit() for p in path.split("."))]
    plain = {f"{PREFIX}{path}.lora_{part}.weight" for path in adapter.modules for part in "AB"}
    named = set(TensorFile(folder / ADAPTER_WEIGHTS).tensors) == plain
    return named and not (problems(adapter, most) or beside)


def _rank(wanted: Wanted) -> int:
    """The least rank that vLLM may be given which all wanted adapters have room in."""
    ranks = [16]
    for folder in wanted.adapters:
        try:
            ranks.append(greatest_rank(read_adapter(folder, zero=True)))
        except (LoraportError, OSError, ValueError):  # told where the adapter is worn
            continue
    return next((each for each in RANKS if each >= max(ranks)), RANKS[-1])


def _unfit(model: Any) -> str:
    """Why vLLM's copy would not be the model in memory; empty where it would."""
    kind = type(model).__name__
    if kind not in (getattr(model.config, "architectures", None) or ()):
        return f"the model in memory is a {kind}, and its folder holds another class"
    if not kind.endswith(("ForCausalLM", "LMHeadModel")):
        return f"of a {kind}, adapters' names are not those of its language model alone"
    if getattr(model.config, "quantization_config", None):
        return "its weights are quantised in its folder, and unpacked in memory"
    if len(set((getattr(model, "hf_device_map", None) or {}).values())) > 1:
        return "it lies on several devices"
    return ""


def _utilisation(model: Any) -> float:
    """Share of the GPU's whole memory that vLLM may take, as it wants it.

    Raises
    ------
    LoraportError
        If what it may take of the free memory does not hold the weights and a cache.
    """
    import torch

    free, total = torch.cuda.mem_get_info(model.device)
    weights = sum(each.numel() * each.element_size() for each in model.parameters())
    least = weights + (BESIDE_GIB + 1) * GIB
    most = min(SHARE * free, weights + (BESIDE_GIB + CACHE_GIB) * GIB)
    if most < least:
        raise LoraportError(
            "too little of the GPU's memory is free",
            got=f"{free / GIB:.1f} GiB free, of which {SHARE:.0%} may be taken",
            expected=f"{least / SHARE / GIB:.1f} GiB for a second copy of the model",
        )
    return round(most / total, 4)


def _ended(child: "subprocess.Popen[str]") -> None:
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
