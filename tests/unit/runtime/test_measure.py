"""What a run took: time, and the memory of this process and of GPUs that nothing has used yet."""

import subprocess
import sys

import numpy as np
import pytest
import torch

from loraport.runtime.measure import measured
from loraport.runtime.memory import peak_mib


def test_gpus_are_set_up_before_their_statistics_are_asked_for(monkeypatch: pytest.MonkeyPatch):
    calls: list[str] = []

    def reset(gpu: int) -> None:
        if "init" not in calls:
            raise RuntimeError("Invalid device argument")  # as torch 2.11 answers
        calls.append(f"reset {gpu}")

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "init", lambda: calls.append("init"))
    monkeypatch.setattr(torch.cuda, "reset_peak_memory_stats", reset)
    monkeypatch.setattr(torch.cuda, "max_memory_allocated", lambda gpu: 2**20 * (gpu + 1))
    monkeypatch.setattr(torch.cuda, "max_memory_reserved", lambda gpu: 2**20 * (9 - gpu))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda gpu: "a GPU")
    with measured() as run:
        pass
    assert calls == ["init", "reset 0", "reset 1"]
    assert run["gpu_peak_mib"] == 2.0
    assert run["gpu_reserved_mib"] == 9.0


def test_the_peak_is_the_process_s_own_and_not_its_parent_s():
    held = np.ones(60 * 2**20)  # 480 MiB, touched
    code = "from loraport.runtime.memory import peak_mib; print(peak_mib())"
    child = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert peak_mib() > held.nbytes / 2**20
    assert float(child.stdout) < 400
