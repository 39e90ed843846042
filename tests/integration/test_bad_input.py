"""Bad input: one paragraph, an exit code that says so, and nothing written, loaded or run.

All cases go through what the rules call, in this process; some of each kind through the command
that users type.
"""

import json
import pickle
import re
import runpy
import time
from pathlib import Path

import bad_inputs
import numpy as np
import pytest
from bad_inputs import (
    MARK,
    Case,
    Marker,
    adapters,
    configs,
    edit_tensors,
    inside,
    models,
    planned,
    tables,
    texts,
)
from workdir import PROJECT, Workdir

from loraport.adapters.attach import attach
from loraport.errors import LoraportError
from loraport.models.loading import load_base
from loraport.models.spec import describe
from loraport.models.tokens import read_vocabulary
from loraport.planning import preflight
from loraport.training.data import read

ADAPTER = "artifacts/p/a/lora_transferred"
PLANNED = {
    f"{kind.__name__.rpartition('.')[2]}: {name}": case
    for kind in (configs, tables, adapters, models, texts)
    for name, case in kind.CASES.items()
}
SECONDS = 10.0  # what any refusal may take; the slowest reads 10⁵ rows


@pytest.fixture(scope="module")
def template(tmp_path_factory) -> Workdir:
    """A sound working directory in which nothing has run."""
    return Workdir(tmp_path_factory.mktemp("sound"))


@pytest.fixture
def root(template, tmp_path) -> Path:
    """A copy of it to spoil."""
    return template.copy(tmp_path / "work").root


def state(root: Path) -> dict[str, int]:
    """Everything beside the working directory and in it, with the times of its last changes."""
    return {str(path): path.stat().st_mtime_ns for path in root.parent.rglob("*")}


def refused(root: Path, case: Case, check) -> str:
    """What is told of a case: one paragraph, soon, and nothing is changed by it."""
    case.spoil(root)
    before, start = state(root), time.monotonic()
    with pytest.raises(LoraportError) as error:
        check(root)
    assert time.monotonic() - start < SECONDS
    assert state(root) == before
    return str(error.value)


def assert_told(told: str, case: Case) -> None:
    for phrase in case.phrases:
        assert phrase in told, told
    assert "What to do:" in told, told
    assert re.match(r"the configuration has \d+ error", told) or "\n" not in told, told
    assert len(told) < 20_000
    if not told.startswith("the configuration has"):
        assert "Got:" in told and "Expected:" in told, told


def test_the_sound_directory_is_not_refused(root):
    planned(root)
    assert len(PLANNED) > 100


@pytest.mark.parametrize("name", PLANNED)
def test_refused_while_the_workflow_is_planned(root, name):
    assert_told(refused(root, PLANNED[name], planned), PLANNED[name])


@pytest.mark.parametrize("name", adapters.HARMLESS)
def test_an_expression_that_would_explode_takes_no_time(root, name):
    adapters.HARMLESS[name].spoil(root)
    start = time.monotonic()
    planned(root)
    assert time.monotonic() - start < SECONDS


@pytest.mark.parametrize("name", models.SPEC_CASES)
def test_refused_by_the_first_rule(root, name):
    case = models.SPEC_CASES[name]
    assert_told(refused(root, case, lambda root: describe(root / "old", "old", "")), case)


@pytest.mark.parametrize("name", models.TOKENIZER_CASES)
def test_tokenizers_that_cannot_be_read(root, name):
    case = models.TOKENIZER_CASES[name]
    assert_told(refused(root, case, lambda root: read_vocabulary(root / "old")), case)


@pytest.mark.parametrize("name", texts.TASK_CASES)
def test_training_data_without_answers(root, name):
    def check(root):
        with inside(root):
            read("train.jsonl", "plain")

    assert_told(refused(root, texts.TASK_CASES[name], check), texts.TASK_CASES[name])


@pytest.mark.parametrize("name", texts.ITEM_CASES)
def test_tasks_whose_items_have_no_answers(root, name):
    tasks = runpy.run_path(str(PROJECT / "resources/tasks/utils.py"))
    case = texts.ITEM_CASES[name]

    def check(root):
        tasks["own_file"](file=str(root / "items.jsonl"))

    assert_told(refused(root, case, check), case)


def test_a_hundred_thousand_rows_are_read_in_seconds(root):
    rows = (f"a{n}\told\tadapter\t" for n in range(10**5))
    tables._lines(*rows)(root)
    start = time.process_time()
    with inside(root):
        content = bad_inputs.yaml.safe_load((root / "config.yaml").read_text())
        assert len(bad_inputs.load(content, bad_inputs.SCHEMAS).adapters) == 10**5
    assert time.process_time() - start < SECONDS


BY_COMMAND = (
    "configs: a method that there is not",
    "tables: 10\u2075 rows and one of them wrong",
    "adapters: a pickle named safetensors",
    "models: remote code is wanted",
    "texts: an enormous line among others",
)


@pytest.mark.parametrize("name", BY_COMMAND)
def test_refused_by_the_users_command(template, tmp_path, name):
    work = template.copy(tmp_path / "work")
    PLANNED[name].spoil(work.root)
    before = state(work.root)
    done = work.run(ADAPTER, ok=False)
    paragraph = done.stdout.strip().split("\n\n")[-1].partition("Building DAG of jobs...\n")
    assert_told(paragraph[2] or paragraph[0].partition("arguments.\n")[2], PLANNED[name])
    assert "Traceback" not in done.stdout and ".smk" not in done.stdout
    made = {path for path in state(work.root) if path not in before}
    assert all(Path(path).is_relative_to(work.root / ".snakemake") for path in made), made


@pytest.mark.parametrize(("method", "own"), [("lorasuite", True), ("aligned_sequential", False)])
def test_maps_are_asked_for_where_a_method_has_them(method, own):
    preflight.check_place(method, own=not own)
    with pytest.raises(LoraportError, match=r"have another place\. Got: artifacts/.*What to do: "):
        preflight.check_place(method, own=own)


def test_only_verbose_shows_where_an_error_was_raised(template, tmp_path):
    work = template.copy(tmp_path / "work")
    done = work.run("--verbose", "artifacts/p/nobody/lora_transferred", ok=False)
    assert "Traceback" in done.stdout and "no adapter 'nobody'" in done.stdout


def test_no_path_reaches_a_shell_unquoted(template, tmp_path):
    work = template.copy(tmp_path / "work")
    hostile = f"o'l\"d; touch {MARK} $(touch {MARK}) `touch {MARK}` & *"
    (work.root / "old").rename(work.root / hostile)
    work.configure(models={"old": {"source": f"./{hostile}"}, "new": {"source": "new"}})
    work.run("artifacts/models/old/spec.json")
    assert not list(tmp_path.rglob(f"{MARK}*"))


def test_nan_in_a_base_weight_stops_at_the_first_rule(template, tmp_path):
    work = template.copy(tmp_path / "work")
    name = "model.layers.1.mlp.up_proj.weight"
    edit_tensors(work.root / "new/model.safetensors", lambda t: t[name].__setitem__((0, 0), np.inf))
    done = work.run(ADAPTER, ok=False)
    assert re.search(rf"^\[spec\] tensor '{name}' .* holds NaN or Inf\. Got: .*What to do: ",
                     done.stdout, re.M)  # fmt: skip
    assert "rule activations" not in done.stdout and "Traceback" not in done.stdout
    made = {path.name for path in work.root.glob("artifacts/**/*") if path.is_file()}
    assert made <= {"spec.json", "spec.log"}
    assert not (work.root / "artifacts/models/new/spec.json").exists()


def test_too_few_shared_tokens_and_the_way_on(template, tmp_path):
    work = template.copy(tmp_path / "work")
    path = work.root / "new/tokenizer.json"
    content = json.loads(path.read_text())
    vocab = content["model"]["vocab"]
    content["model"]["vocab"] = {
        token if number < 20 else f"\u0120x{number}": number for token, number in vocab.items()
    }
    content["model"]["merges"] = []
    path.write_text(json.dumps(content))
    target = "artifacts/p/embedding.h5"
    done = work.run(target, ok=False)
    assert "share fewer tokens than the old model's hidden size" in done.stdout
    assert "at least 32" in done.stdout
    assert not (work.root / target).exists()
    work.run("--config", "mapping={underdetermined: true}", "--", target)
    assert (work.root / target).exists()


def test_no_pickle_is_ever_loaded(root):
    mark = root / MARK
    pickle.loads(pickle.dumps(Marker(mark))).close()
    assert mark.exists()  # it does leave a mark
    mark.unlink()
    models.pickled(root)
    adapters.pickle_beside(root)
    with pytest.raises(LoraportError, match="cannot be loaded"):
        load_base(root / "old", device="cpu")
    model, _ = load_base(root / "new", device="cpu")
    with pytest.raises(LoraportError, match="holds no adapter"):
        attach(model, root / "adapter")
    adapters.pickle_named_safetensors(root)
    with pytest.raises(LoraportError):
        attach(model, root / "adapter")
    assert not mark.exists()


@pytest.mark.parametrize("family", ["llama", "evil"])
def test_remote_code_runs_only_where_the_models_entry_allows_it(root, family, monkeypatch):
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(root / "code"))
    models.remote_code(root, family)
    try:
        load_base(root / "old", device="cpu")
    except LoraportError:
        assert family == "evil"
    assert not (root / MARK).exists()
    if family == "evil":
        load_base(root / "old", device="cpu", trust_remote_code=True)
        assert (root / MARK).exists()  # it does leave a mark


def test_remote_code_of_a_tokenizer_is_never_asked_for(root):
    models.remote_tokenizer(root)
    with pytest.raises(LoraportError):
        read_vocabulary(root / "old")
    with pytest.raises(LoraportError):
        load_base(root / "old", device="cpu")
    assert not (root / MARK).exists()


def test_an_expression_that_would_explode_is_not_given_to_peft(root):
    adapters.HARMLESS["targets that would explode"].spoil(root)
    model, _ = load_base(root / "old", device="cpu")
    start = time.monotonic()
    adapted = attach(model, root / "adapter")
    assert time.monotonic() - start < SECONDS
    assert all("!" not in name for name in adapted.peft_config["default"].target_modules)
