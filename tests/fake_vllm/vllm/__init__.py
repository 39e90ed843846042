"""A stand-in for vLLM: canned or recorded answers; calls are noted in a file.

FAKE_VLLM_LOG : file of what it was asked, a line of JSON each. FAKE_VLLM : `canned` (the prompt's
first tokens, ended where the prompt has an even number of tokens), `no_start` or `no_answer` (an
error), `hangs` (canned, after half a minute), or a file of recorded ones: prompt's tokens and
adapter -> tokens.
"""

import json
import os
import time
from pathlib import Path
from types import SimpleNamespace

__version__ = "9.9"


class SamplingParams:
    """What one prompt is answered with."""

    def __init__(self, **given):
        self.given = given
        vars(self).update(given)


def _note(**told):
    with Path(os.environ["FAKE_VLLM_LOG"]).open("a", encoding="utf-8") as file:
        file.write(json.dumps(told | {"pid": os.getpid()}) + "\n")


class LLM:
    """A base model."""

    def __init__(self, **settings):
        self.settings, self.how = settings, os.environ["FAKE_VLLM"]
        _note(made=settings, gpus=os.environ.get("CUDA_VISIBLE_DEVICES"))
        print("vLLM prints what it likes")
        if self.how == "no_start":
            raise RuntimeError("no kernel image is available")

    def generate(self, prompts, sampling, use_tqdm, lora_request):
        """Answers to all prompts at once."""
        worn = lora_request and [lora_request.name, lora_request.number, lora_request.path]
        _note(asked=len(prompts), sampling=sampling[0].given, adapter=worn,
              seeds=[getattr(each, "seed", None) for each in sampling])  # fmt: skip
        if self.how == "no_answer":
            raise ValueError("base_model.model.odd is unsupported LoRA weight")
        if self.how == "hangs":
            time.sleep(30)
        write = self._canned if self.how in ("canned", "hangs") else self._recorded
        return [
            SimpleNamespace(outputs=[write(each["prompt_token_ids"], how, lora_request)])
            for each, how in zip(prompts, sampling, strict=True)
        ]

    def _canned(self, ids, how, lora_request):
        ended = len(ids) % 2 == 0
        tail = ids[1 : how.max_tokens] + [how.stop_token_ids[0]] * ended
        return SimpleNamespace(token_ids=tail)

    def _recorded(self, ids, how, lora_request):
        recorded = json.loads(Path(self.how).read_text(encoding="utf-8"))
        tail = recorded[f"{ids} {lora_request and lora_request.path}"]
        return SimpleNamespace(token_ids=tail[: how.max_tokens])
