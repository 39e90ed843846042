"""The process that holds vLLM: requests come as lines of JSON, answers go back as such.

The first line says how the engine is made. Each further one asks for answers to prompts, given as
token ids; what comes back are the ids that were written, and whether the model ended them itself.
It ends with its input, and all that it holds of a GPU with it.
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
        lines = iter(sys.stdin)
        engine = None
        for line in lines:
            asked = json.loads(line)
            if engine is None:
                engine, version = made(asked)
                reply(version=version)
            else:
                ids, ended = written(engine, asked)
                reply(ids=ids, ended=ended)
    except Exception as error:  # whatever it is, it is told by the one who asks
        reply(error=f"{type(error).__name__}: {error}")
        raise


def made(settings: dict[str, Any]) -> tuple[Any, str]:
    """The engine, and vLLM's version."""
    import vllm

    return vllm.LLM(**settings), str(vllm.__version__)


def written(engine: Any, asked: dict[str, Any]) -> tuple[list[list[int]], list[bool]]:
    """Tokens written to each prompt, and whether the model ended there."""
    from vllm import SamplingParams
    from vllm.inputs import TokensPrompt
    from vllm.lora.request import LoRARequest

    sampling = [
        SamplingParams(
            temperature=asked["temperature"],
            max_tokens=asked["new_tokens"],
            stop_token_ids=asked["ends"],
            detokenize=False,
            **({} if seed is None else {"seed": seed}),
        )
        for seed in asked["seeds"]
    ]
    outputs = engine.generate(
        [TokensPrompt(prompt_token_ids=ids) for ids in asked["prompts"]],
        sampling,
        use_tqdm=False,
        lora_request=LoRARequest(*asked["adapter"]) if asked["adapter"] else None,
    )
    firsts = [output.outputs[0] for output in outputs]
    ids = [[int(each) for each in first.token_ids] for first in firsts]
    return ids, [first.finish_reason == "stop" for first in firsts]


if __name__ == "__main__":
    main()
