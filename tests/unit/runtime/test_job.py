"""The frame around a rule's script, and the hash of the code that it runs."""

import json
import logging
import os
import warnings
from types import SimpleNamespace

import pytest
from tqdm import tqdm

from loraport.errors import LoraportError
from loraport.provenance import PACKAGE, code_hash
from loraport.runtime import gpus
from loraport.runtime import job as job_module
from loraport.runtime.job import counted, job, last_record, progress


def fake(path):
    """What Snakemake gives a script, as far as the frame reads it."""
    return SimpleNamespace(log=[str(path)], rule="test", wildcards={"pair": "p"}, threads=1)


def test_log_ends_in_time_and_memory(tmp_path):
    path = tmp_path / "a.log"
    with job(fake(path)) as log:
        log.info("hello")
    record = last_record(path)
    assert record["status"] == "done"
    assert record["wildcards"] == {"pair": "p"}
    assert 0 < record["start_seconds"] <= record["seconds"] < 1000
    assert record["peak_mib"] > 10
    lines = path.read_text().splitlines()
    assert json.loads(lines[0])["status"] == "began"
    assert lines[1] == "hello"


class PretendedCuda:
    """torch.cuda of a process that has used two GPUs."""

    is_initialized = staticmethod(lambda: True)
    device_count = staticmethod(lambda: 2)
    max_memory_allocated = staticmethod(lambda gpu=0: (3 + gpu) << 30)
    max_memory_reserved = staticmethod(lambda gpu=0: (7 - gpu) << 30)
    memory_reserved = staticmethod(lambda: 5 << 30)
    mem_get_info = staticmethod(lambda: (1 << 30, 80 << 30))


def test_the_log_tells_the_peak_on_the_fullest_gpu(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda", PretendedCuda)
    with job(fake(tmp_path / "a.log")):
        pass
    record = last_record(tmp_path / "a.log")
    assert record["gpu_peak_mib"] == 4096.0 and record["gpu_reserved_mib"] == 7168.0
    monkeypatch.setattr(PretendedCuda, "is_initialized", staticmethod(lambda: False))
    with job(fake(tmp_path / "a.log")):
        pass
    assert not {"gpu_peak_mib", "gpu_reserved_mib"} & last_record(tmp_path / "a.log").keys()


def test_a_job_holds_a_gpus_memory_in_one_piece(tmp_path, monkeypatch):
    for name in gpus.ALLOCATOR:
        monkeypatch.delenv(name, raising=False)
    with job(fake(tmp_path / "a.log")):
        assert os.environ["PYTORCH_ALLOC_CONF"] == "expandable_segments:True"
    assert "PYTORCH_ALLOC_CONF" not in os.environ


def test_a_job_out_of_gpu_memory_tells_the_gpus_figures(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("torch.cuda", PretendedCuda)
    given = fake(tmp_path / "a.log")
    given.rule = "evaluated_model"
    said = "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79 GiB."
    with pytest.raises(SystemExit), job(given):
        raise RuntimeError(said)
    told = capsys.readouterr().err
    assert "rule evaluated_model ran out of GPU memory. Got: CUDA out of memory. Tried to" in told
    assert "of the GPU's 81920 MiB 1024 are free, this job holds 5120" in told
    assert "others 75776" in told
    assert "lower evaluation.batch_size; let fewer jobs share a GPU (a lower LORAPORT_JOBS" in told
    assert "mem_mb" not in told


def test_a_users_error_is_one_paragraph_without_traceback(tmp_path, capsys):
    path = tmp_path / "a.log"
    with pytest.raises(SystemExit) as status, job(fake(path)):
        raise LoraportError("bad thing", got=1, expected=2, todo="mend it")
    assert status.value.code == 1
    told = "bad thing. Got: 1. Expected: 2. What to do: mend it."
    assert f"[test] {told}" in capsys.readouterr().err
    assert "Traceback" not in path.read_text()
    assert last_record(path)["status"] == "failed"


def test_of_any_other_error_the_log_keeps_the_traceback(tmp_path, capsys):
    path = tmp_path / "a.log"
    with pytest.raises(SystemExit), job(fake(path)):
        raise ZeroDivisionError("oops")
    assert "Traceback" not in capsys.readouterr().err
    assert "Traceback" in path.read_text()


def test_last_record_of_no_log_is_empty(tmp_path):
    assert last_record(tmp_path / "none.log") == {}


def test_code_hash_follows_imports_and_nothing_else(tmp_path):
    script = tmp_path / "heads.py"
    script.write_text("from loraport.mapping.layers import best_path\n")
    first = code_hash(script)
    assert first == code_hash(script)
    assert first != code_hash(PACKAGE / "mapping/layers.py")
    assert first != code_hash(script, "mapping.cka")
    assert json.dumps(first).strip('"').isalnum()


def test_code_hash_tells_a_script_from_the_module_of_its_name(tmp_path):
    script = tmp_path / "layers.py"
    script.write_text("")
    assert code_hash(script) != code_hash(script, "mapping.layers")


def test_a_brief_run_keeps_notes_and_warnings_in_the_log(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LORAPORT_TERMINAL", "brief")
    path = tmp_path / "a.log"
    with job(fake(path)) as log:
        log.info("a note")
        log.warning("a warning of ours")
        warnings.warn("old torch", FutureWarning, stacklevel=1)
    said = capsys.readouterr().err
    assert "a warning of ours" in said and "a note" not in said and "old torch" not in said
    assert "a note" in path.read_text() and "old torch" in path.read_text()
    logging.captureWarnings(False)


def test_off_a_terminal_a_bar_is_lines(capsys, monkeypatch):
    monkeypatch.setenv("TQDM_DISABLE", "1")  # of libraries' bars, in a brief run
    with progress(3, "letters") as bar:
        bar.delay = 0
        bar.mininterval = 0
        bar.update(2)
    said = capsys.readouterr().err
    assert "2/3" in said and said.endswith("\n") and "\r" not in said


def test_items_are_counted_and_pass_unchanged(monkeypatch):
    """A bar's `update` returns True whenever it draws itself."""
    drawn = tqdm(total=3, mininterval=0, miniters=1)
    monkeypatch.setattr("loraport.runtime.job.progress", lambda total, what: drawn)
    assert list(counted(iter("abc"), 3, "letters")) == ["a", "b", "c"]
    assert drawn.n == 3


def test_bars_within_bars_are_lines_in_a_file(capsys, monkeypatch):
    kept = job_module.tqdm
    monkeypatch.setattr(
        job_module, "tqdm", lambda **how: kept(**{**how, "mininterval": 0, "delay": 0})
    )
    with progress(2, "trials") as whole:
        for _ in range(2):
            with progress(2, "steps") as part:
                part.update(2)
            whole.update(1)
    told = capsys.readouterr().err
    assert "\r" not in told and "\033" not in told
    assert "trials" in told and "steps: 100%" in told
    assert all(line.strip() for line in told.splitlines())
