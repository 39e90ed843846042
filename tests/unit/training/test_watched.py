"""Trainings logged to trackio, TensorBoard and W&B, by transformers' own callbacks. The packages
themselves are stood in for by small ones that write down how they are called.
"""

import importlib
import json
import os
import sys
from pathlib import Path

import pytest
from workdir import CONFIG, PROJECT

from loraport.errors import LoraportError
from loraport.planning.checks import load
from loraport.training import watched
from loraport.training.data import Example
from loraport.training.settings import Settings
from loraport.training.starts import Fresh
from loraport.training.train import train_lora
from loraport.training.watched import FOLDER, KNOWN, Watched

pytestmark = pytest.mark.usefixtures("one_thread")

NAME = "lora_finetuned p math"
SETTINGS = Settings(batch_size=4, epochs=2, learning_rate=1e-2, dtype="float32")
RECORD = """
import json, os
def record(**said):
    with open(os.environ["CALLS"], "a") as file:
        file.write(json.dumps(said) + "\\n")
class Config(dict):
    def update(self, values, allow_val_change): pass
"""
RUNS = f"""{RECORD}
__version__ = "1.0.0"
run, config = None, Config()
class Run:
    summary = {{}}
    def _label(self, code): pass
def init(project, name, **more):
    global run
    run = Run()
    record(project=project, name=name)
def log(values, step=None): record(logged=values)
def watch(*args, **more): pass
def finish(): record(ended=True)
class context_vars:
    class current_space_id:
        get = staticmethod(lambda: None)
"""
WRITER = f"""{RECORD}
class SummaryWriter:
    def __init__(self, log_dir): record(folder=log_dir)
    def add_text(self, *args): pass
    def add_scalar(self, key, value, step): record(logged={{key: value}})
    def flush(self): pass
    def close(self): record(ended=True)
"""
FILES = {
    "trackio": {"trackio/__init__.py": RUNS},
    "tensorboard": {"tensorboardX/__init__.py": WRITER},
    "wandb": {
        "wandb/__init__.py": RUNS,
        "wandb/sdk/__init__.py": "",
        "wandb/sdk/lib/__init__.py": "",
        "wandb/sdk/lib/config_util.py": "class ConfigError(Exception): pass",
    },
}


@pytest.fixture(autouse=True)
def surroundings(monkeypatch):
    """No place is installed or named by the environment, whatever is here."""
    real = watched.find_spec
    hidden = ("trackio", "tensorboard", "wandb")
    monkeypatch.setattr(watched, "find_spec", lambda name: None if name in hidden else real(name))
    for name in (FOLDER, "WANDB_PROJECT"):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)


@pytest.fixture
def installed(tmp_path, monkeypatch):
    """Function: put a place's package where Python finds it; gives the record of its calls."""

    def install(place: str) -> Path:
        for name, text in FILES[place].items():
            path = tmp_path / "packages" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        monkeypatch.syspath_prepend(tmp_path / "packages")
        monkeypatch.setenv("CALLS", str(tmp_path / "calls.jsonl"))
        monkeypatch.setattr(watched, "find_spec", importlib.util.find_spec)
        return tmp_path / "calls.jsonl"

    yield install
    for name in [each for each in sys.modules if each.split(".")[0] in (*KNOWN, "tensorboardX")]:
        del sys.modules[name]


@pytest.mark.parametrize("place", KNOWN)
def test_a_training_that_is_watched_gives_the_same_bytes(tmp_path, pico_pair, installed, place):
    if place != "tensorboard" and importlib.util.find_spec(place):
        pytest.skip(f"{place} itself is installed, and would be called")
    data = [Example(f"{a} + 1 =", f" {a + 1}") for a in range(8)]
    start = Fresh(rank=2, alpha=2, target_modules=("q_proj", "v_proj"))
    calls = installed(place)
    seen = Watched(place, NAME, tmp_path / "logs")
    for name, how in (("bare", Watched()), ("seen", seen)):
        train_lora(
            pico_pair.new, data, tmp_path / name, start=start, settings=SETTINGS, watched=how
        )
    told = [json.loads(line) for line in calls.read_text().splitlines()]
    begun = {"folder": str(tmp_path / "logs")} if place == "tensorboard" else None
    assert told[0] == (begun or {"project": "loraport", "name": NAME})
    losses = [json.loads(line) for line in _column(tmp_path / "bare/loss.csv", "loss")]
    key = "train/loss"
    logged = [each["logged"][key] for each in told if key in each.get("logged", {})]
    assert logged == losses and len(losses) == 4
    for file in ("adapter_model.safetensors", "adapter_config.json", "loss.csv"):
        assert (tmp_path / "bare" / file).read_bytes() == (tmp_path / "seen" / file).read_bytes()


def _column(path: Path, name: str) -> list[str]:
    head, *rows = [line.split(",") for line in path.read_text().splitlines()]
    return [row[head.index(name)] for row in rows]


@pytest.mark.parametrize("place", ["nowhere", "wandb"])
def test_a_log_that_can_not_be_written_is_refused(monkeypatch, place):
    from transformers import integrations

    monkeypatch.setattr(integrations, "get_available_reporting_integrations", list)
    with pytest.raises(LoraportError, match=f"can't be logged to '{place}'"):
        Watched(place).arguments()


def test_a_package_that_is_not_here_is_told_with_the_configuration(
    tmp_path, monkeypatch, installed
):
    monkeypatch.chdir(tmp_path)
    Path("adapters.tsv").write_text("app\tmodel\tsource\ttask\na\told\tadapter\t\n")
    schemas = PROJECT / "workflow" / "schemas"
    content = {**CONFIG, "finetune": {"report_to": "tensorboard"}}
    with pytest.raises(LoraportError, match=r"report_to: its package is not installed.*'?tensorb"):
        if importlib.util.find_spec("tensorboardX"):
            pytest.skip("tensorboardX is installed")
        load(content, schemas)
    installed("tensorboard")
    assert load(content, schemas).content["finetune"]["report_to"] == "tensorboard"
    assert FOLDER not in os.environ
