"""lm-evaluation-harness as loraport uses it: tasks, a model that wears adapters, one pass of it."""

import inspect
import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval import evaluator
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from ..adapters.attach import attach, detach
from ..errors import LoraportError
from ..models.loading import load_base
from ..provenance import code_hash
from ..runtime.memory import ran_out
from . import own_data, task_files

logging.getLogger("lm_eval").setLevel(logging.ERROR)  # its warnings are about its command line
AUTO_BATCH = 64
LIKELY_BATCH = 32  # likelihoods take logits over the vocabulary at every token, answers at one


def load(model_dir: str | Path, batch_size: int | str, **how: Any) -> HFLM:
    """A base model as the harness wants it; `how` as for `models.load_base`."""
    model, tokenizer = load_base(model_dir, **how)
    size = AUTO_BATCH if batch_size == "auto" else int(batch_size)
    return _Model(pretrained=model, tokenizer=tokenizer, batch_size=size)


class _Model(HFLM):
    """The harness's model, whose progress bars stay out of log files."""

    def generate_until(self, requests: Any, disable_tqdm: bool = False) -> list[str]:
        """Answers to the requests, in their order."""
        return super().generate_until(requests, disable_tqdm or not sys.stderr.isatty())

    def loglikelihood(self, requests: Any, disable_tqdm: bool = False) -> Any:
        """Log-likelihoods (nats) of the requests, and whether each is the greedy answer."""
        return super().loglikelihood(requests, disable_tqdm or not sys.stderr.isatty())


@contextmanager
def adapted(lm: HFLM, adapter: str | Path | None) -> Iterator[None]:
    """Let the harness's model wear an adapter (None: nothing) during the block."""
    bare = lm._model
    if adapter is not None:
        lm._model = attach(bare, adapter).eval()
    try:
        yield
    finally:
        if adapter is not None:
            lm._model = detach(lm._model)


def task_manager(
    tasks_dir: str | Path, template: str, data_dir: str, revisions: Mapping[str, str]
) -> TaskManager:
    """The tasks of a directory, and nothing of the harness's own thousands."""
    metadata: dict[str, Any] = {
        "template": template,
        "data_dir": data_dir,
        "revisions": dict(revisions),
    }
    return TaskManager(include_path=str(tasks_dir), include_defaults=False, metadata=metadata)


def load_task(manager: TaskManager, task: str | Mapping[str, str]) -> dict[str, Any]:
    """The tasks of a name (one, or all of a tag or group), of a file, or the task of own data."""
    if not isinstance(task, str):
        return dict(manager.load([own_data.harness_config(task)])["tasks"])
    if task not in manager.all_tasks and not Path(task).is_file():
        raise task_files.unknown(task, manager.all_tasks, manager.include_path)
    _let_import(Path(task).parent if Path(task).is_file() else Path(str(manager.include_path)))
    return dict(manager.load([task])["tasks"])


def _let_import(folder: Path) -> None:
    """Let helpers of task files import what lies beside them."""
    if str(folder.resolve()) not in sys.path:
        sys.path.append(str(folder.resolve()))


def code_of(task: Any) -> list[str]:
    """Hashes of the files of the functions that a task calls, and of what those import from beside
    them or from this package.
    """
    calls = filter(callable, vars(task.config).values())
    files = (inspect.getsourcefile(inspect.unwrap(call)) for call in calls)
    named = sorted({Path(file) for file in files if file})
    return [code_hash(*task_files.with_imports(file)) for file in named]


def run_task(lm: HFLM, task: Any, limit: int) -> Any:
    """One pass of the harness, with smaller batches whenever memory runs out."""
    try:
        return _fitted(
            lm,
            lambda: evaluator.evaluate(
                lm=lm,
                task_dict={"tasks": {task.config.task: task}},
                limit=limit or None,
                bootstrap_iters=0,
                log_samples=True,
            ),
        )
    except AssertionError as error:
        raise LoraportError(
            f"task {task.config.task!r} does not fit the model",
            got=error,
            expected="room for a prompt and its answer in the model's context",
            todo="lower `max_gen_toks` in the task's YAML",
        ) from error


def _fitted(lm: HFLM, work: Callable[[], Any]) -> Any:
    """What `work` gives, done again with half the batch whenever memory runs out."""
    while True:
        try:
            return work()
        except (RuntimeError, MemoryError) as error:
            if not ran_out(error) or lm.batch_size_per_gpu == 1:
                raise
            lm.batch_size_per_gpu = lm.batch_size_per_gpu // 2


def answer_nll(lm: HFLM, task: Any, samples: Sequence[Mapping[str, Any]]) -> list[float] | None:
    """Negative log-likelihood of each item's gold answer given its prompt, in nats.

    The gold answer is the document's `gold`, or the task's target where it is a text; None where a
    task has neither.
    """
    requests = []
    for number, sample in enumerate(samples):
        gold = sample["doc"].get("gold")
        if gold is None:
            if not isinstance(sample["target"], str):
                return None
            gold = task.config.target_delimiter + sample["target"]
        arguments = (sample["arguments"][0][0], gold)
        requests.append(Instance("loglikelihood", {}, arguments, number, (None, number, 1)))
    size = lm.batch_size_per_gpu
    lm.batch_size_per_gpu = min(size, LIKELY_BATCH)
    try:
        likelihoods = _fitted(lm, lambda: lm.loglikelihood(requests, disable_tqdm=True))
    finally:
        lm.batch_size_per_gpu = size
    return [-likely for likely, _ in likelihoods]


def truncated(lm: HFLM, task: Any, samples: Sequence[Any]) -> int:
    """Prompts that lose their beginning: longer than the context less what may be generated."""
    room = lm.max_length
    if task.OUTPUT_TYPE == "generate_until":
        room -= task.config.generation_kwargs.get("max_gen_toks", lm.max_gen_toks)
    return sum(len(lm.tok_encode(sample["arguments"][0][0])) > room for sample in samples)
