"""The process that holds vLLM: requests come as lines of JSON, answers go back as such.

The first line says how the engine is made. Each further one asks for answers to prompts, given as
token ids; what comes back are the ids that were written, with the one that ended them. It ends with
its input, and all that it holds of a GPU with it.
"""

import json
import os
import sys
from typing import Any


def main() -> None:
    """Serve until the input ends."""
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # vLLM prints there

    def reply(**content: Any) -> None:
        replies.write(json.dumps(content) + "\n")
        replies.flush()

    try:
        engine, version = made(json.loads(sys.stdin.readline()))
        reply(version=version)
        for line in sys.stdin:
            reply(tails=written(engine, json.loads(line)))
    except Exception as error:  # whatever it is, it is told by the one who asks
        reply(error=f"{type(error).__name__}: {error}")
        raise


def made(settings: dict[str, Any]) -> tuple[Any, str]:
    """The engine, and vLLM's version."""
    import vllm

    return vllm.LLM(**settings), str(vllm.__version__)


def written(engine: Any, asked: dict[str, Any]) -> list[list[int]]:
    """Tokens written to each prompt."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest

    sampling = [
        SamplingParams(
            temperature=asked["temperature"],
            max_tokens=asked["new_tokens"],
            stop_token_ids=asked["ends"],
            detokenize=False,
            seed=seed,
        )
        for seed in asked["seeds"]
    ]
    outputs = engine.generate(
        [TokensPrompt(prompt_token_ids=ids) for ids in asked["prompts"]],
        sampling,
        use_tqdm=False,
        lora_request=LoRARequest(*asked["adapter"]) if asked["adapter"] else None,
    )
    return [[int(each) for each in output.outputs[0].token_ids] for output in outputs]


if __name__ == "__main__":
    main()
