"""The same training gives the same bytes, also where it was killed."""

import json
import signal
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from traincase import FAST, same_files, sums, weights

from loraport.training import checkpoints, data, trainer
from loraport.training.starts import Fresh
from loraport.training.train import train_lora

pytestmark = pytest.mark.usefixtures("one_thread")


def test_the_same_run_gives_the_same_bytes_and_another_seed_others(tmp_path, model):
    fresh = Fresh(rank=4, alpha=8, dropout=0.1)
    for name in ("a", "b"):
        train_lora(model, sums(30), tmp_path / name, start=fresh, settings=FAST)
    same_files(tmp_path / "a", tmp_path / "b")
    train_lora(model, sums(30), tmp_path / "c", start=fresh, settings=replace(FAST, seed=1))
    assert weights(tmp_path / "a").keys() == weights(tmp_path / "c").keys()
    assert not torch.equal(*(next(iter(weights(tmp_path / n).values())) for n in "ac"))


KILLED = """
import json, os, signal, sys
import torch
torch.set_num_threads(1)
from loraport.training import trainer
from loraport.training.data import Example
from loraport.training.settings import Settings
from loraport.training.train import train_lora
model, start, out, resume, settings, data = json.loads(sys.argv[1])
watch = trainer._Watch.on_log
def on_log(self, args, state, control, **kwargs):
    if state.global_step == 5:
        os.kill(os.getpid(), signal.SIGKILL)
    watch(self, args, state, control, **kwargs)
trainer._Watch.on_log = on_log
data = [Example(*pair) for pair in data]
train_lora(model, data, out, start=start, settings=Settings(**settings), resume_root=resume)
"""


@pytest.mark.parametrize("rule", ["zero", pytest.param("init", marks=pytest.mark.slow)])
def test_a_killed_run_ends_as_an_uninterrupted_one(tmp_path, model, start, rule):
    settings = replace(FAST, save_steps=2, new_layers=rule)
    out, resume = tmp_path / "killed", tmp_path / "resume"
    call = [str(model), str(start), str(out), str(resume), asdict(settings), sums(20)]
    killed = subprocess.run([sys.executable, "-c", KILLED, json.dumps(call)], capture_output=True)
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert not out.exists()
    (folder,) = resume.iterdir()
    assert checkpoints.newest(folder) == str(folder / "checkpoint-4")
    (folder / "checkpoint-99").mkdir()  # killed while it was written
    steps = []
    watch = trainer._Watch.on_log

    def on_log(self, args, state, control, **kwargs):
        steps.append(state.global_step)
        watch(self, args, state, control, **kwargs)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trainer._Watch, "on_log", on_log)
        train_lora(model, sums(20), out, start=start, settings=settings, resume_root=resume)
    assert min(steps) == 5
    train_lora(model, sums(20), tmp_path / "whole", start=start, settings=settings)
    same_files(out, tmp_path / "whole")
    assert not list(resume.iterdir())


def test_checkpoints_of_another_run_are_not_used(tmp_path, start):
    keys = {
        checkpoints.key_of(data.subset(sums(30), 10, seed), start, replace(FAST, **change), inputs)
        for seed in (0, 1)
        for change in ({}, {"seed": 1}, {"learning_rate": 1e-3})
        for inputs in ({}, {"spec": "another base"})
    }
    assert len(keys) == 2 * 3 * 2
    folders = {checkpoints.make_folder(tmp_path, key, "out") for key in keys}
    assert len(folders) == len(keys)
