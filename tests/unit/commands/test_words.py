"""What a command says of the workflow: its own flags, a refusal alone, names that fit."""

import ast
import json
import os
import platform
from pathlib import Path

import psutil
import pytest

import loraport
from loraport import cli
from loraport.commands import _fleet_jobs, _fleet_run, _one_run, _snakemake
from loraport.commands._names import LONGEST_NAME, distinct_names
from loraport.commands._words import in_flags
from loraport.errors import LoraportError

PACKAGE = Path(loraport.__file__).parent
# rooms whose errors a transfer can end with; not what plans tables, sweeps and tasks
ROOMS = ("models", "adapters", "transfer", "calibration", "mapping", "methods", "runtime")
FILES = (
    "config.yaml",
    "adapters.tsv",
    "adapters table",
    "`source`",
    "`known_as`",
    "the right pair",
)


def told_in(path: Path) -> list[str]:
    """Texts that a module hands to LoraportError, parts of formatted ones joined."""
    texts = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.keyword) and node.arg in ("todo", "expected", "got"):
            parts = [
                each.value
                for each in ast.walk(node.value)
                if isinstance(each, ast.Constant) and isinstance(each.value, str)
            ]
            texts.append("".join(parts))
    return texts


def test_no_error_of_a_transfer_names_a_file_that_its_user_never_wrote():
    texts = [text for room in ROOMS for path in (PACKAGE / room).rglob("*.py")
             for text in told_in(path)]  # fmt: skip
    assert sum(any(file in text for file in FILES) for text in texts) >= 5
    for text in texts:
        assert not any(file in in_flags(text) for file in FILES), in_flags(text)


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ("set mapping.wh to auto", "--set mapping.wh=auto"),
        ("set mapping.wh: identity or", "--set mapping.wh=identity or"),
        ("lower calibration.batch_size", "lower --set calibration.batch_size=…"),
        ("correct calibration.texts", "correct --texts"),
        ("config.transfer.method: no such name", "--method: no such name"),
        ("config.transfer: unknown key(s)", "--set transfer: unknown key(s)"),
        ("transfer.allow_large: true, or --allow-large", "--allow-large"),
        ("read --set mapping.wh=auto", "read --set mapping.wh=auto"),
        ("/a/mapping.layers/b and transfer.json", "/a/mapping.layers/b and transfer.json"),
        ("correct `source` in config.yaml (relative to the working directory)",
         "correct the path or hub id"),
    ],
)  # fmt: skip
def test_keys_become_flags(said, told):
    assert in_flags(said) == told


BANNER = ["Host: here", "User: me", "Snakemake version: 9.27", "Python version: 3", "Command: x",
          "Config MD5: 1", "Snakefile: /a/Snakefile"]  # fmt: skip


def test_a_refusal_stands_alone_with_its_list():
    lines = [*BANNER, "[plan] the configuration has 2 error(s):", "- one", "- two", "", "Bye"]
    assert _snakemake.reason(lines) == "the configuration has 2 error(s): - one - two"
    assert _snakemake.reason([*BANNER, "[plan] no. Got: 1.", "later"]) == "no. Got: 1."
    assert _snakemake.reason([*BANNER, "MissingInputException in rule x:", "gone"]) == (
        "MissingInputException in rule x: gone"
    )
    assert "said nothing" in _snakemake.reason(BANNER)


LONG = (
    "qwen2.5-7b_lora_r64_a128_lr2e-4_bs16_ga4_ep3_dropout0.05_target-all-linear_cosine_2024-11-05"
)


def test_long_names_are_cut_so_that_they_fit_and_differ():
    one, two = (_one_run.plain_name(f"/models/{LONG}_{n}") for n in "ab")
    assert one != two and one.startswith("qwen2.5-7b_lora") and len(one) == LONGEST_NAME
    request = _one_run.Request(f"o/{LONG}", f"n/{LONG}", (Path(LONG), Path("y", LONG)), ())
    assert len(request.pair) <= 100 and len(set(request.models.values())) == 2
    assert len(set(request.apps)) == 2 and all(len(app) <= 100 for app in request.apps)
    assert distinct_names([Path("/a/short")]) == ["short"]
    cached = f"/c/models--Tiny--Base-1B/snapshots/{'0' * 40}"
    assert _one_run.plain_name(cached) == "Base-1B"


@pytest.mark.parametrize(
    ("adapters", "cores", "profile", "threads"),
    [(1, 4, "", 4), (1, 64, "", 8), (2, 4, "", None), (1, 4, "slurm", None)],
)
def test_a_single_adapter_is_carried_by_many_threads(
    tmp_path, monkeypatch, adapters, cores, profile, threads
):
    commands = []
    monkeypatch.setattr(_one_run, "execute", lambda command, *_: commands.append(command))
    monkeypatch.setattr(_one_run.Request, "results", lambda self: [])
    sources = tuple(tmp_path / f"lora{number}" for number in range(adapters))
    for each in sources:
        each.mkdir()
    request = {"work": tmp_path / "work", "cores": cores, "profile": profile}
    _one_run.run(_one_run.Request("o/a", "n/b", sources, (), **request))
    wanted = [] if threads is None else ["--set-threads", f"transferred_by_method={threads}"]
    told = ("set-threads", "transferred")
    assert [word for word in commands[0] if any(each in word for each in told)] == wanted


def test_the_command_line_asks_for_no_profile_unless_told():
    def line(profile):
        return _snakemake.command_line(Path("S"), Path("w"), [Path("c")], 2, profile)

    assert line("")[line("").index("--profile") + 1] == "none"
    assert line("slurm")[line("slurm").index("--profile") + 1] == "slurm"
    assert line("slurm")[line("slurm").index("--workflow-profile") + 1] == "none"
    given = {"SNAKEMAKE_PROFILE": "slurm", "PYTHONPATH": "/mine", "HOME": "/h"}
    made = _snakemake.environment(given)
    assert (
        "SNAKEMAKE_PROFILE" not in made and made["PYTHONSAFEPATH"] == "1" and made["HOME"] == "/h"
    )
    assert made["PYTHONPATH"].split(os.pathsep)[-1] == "/mine"


def lock(work: Path, record: object) -> Path:
    locks = work / ".snakemake/locks"
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("artifacts/x\n")
    if record is not None:
        (work / ".snakemake/loraport.json").write_text(json.dumps(record))
    return locks


ME = {"pid": os.getpid(), "began": psutil.Process().create_time()}
GONE = [{**ME, "began": ME["began"] - 100}, {"pid": 2**22 + 1, "began": 1.0}]


def test_a_lock_is_lifted_when_its_processes_are_gone(tmp_path):
    _snakemake.lift_stale_lock(tmp_path)
    locks = lock(tmp_path, {"host": platform.node(), "processes": GONE})
    _snakemake.lift_stale_lock(tmp_path)
    assert not locks.exists()


@pytest.mark.parametrize(
    "record",
    [
        {"host": platform.node(), "processes": [*GONE, ME]},
        {"host": "elsewhere", "processes": GONE},
        {"host": platform.node()},
        None,
    ],
)
def test_a_lock_that_may_be_held_stays_and_names_what_removes_it(tmp_path, record):
    locks = lock(tmp_path, record)
    with pytest.raises(LoraportError, match=rf"another run is at work.*rm -r '{locks}'"):
        _snakemake.lift_stale_lock(tmp_path)
    assert locks.exists()


@pytest.mark.parametrize("held", [True, False])
def test_a_folder_in_use_ends_an_upgrade_and_an_adapter_that_is_not_carried_does_not(
    monkeypatch, capsys, held
):
    def fails(request):
        raise _snakemake.InUse("in use") if held else LoraportError("no maps")

    monkeypatch.setattr(_fleet_run._one_run, "run", fails)
    line = ["upgrade", "old", "new", "a", "b", "out", "--prompts", "p"]
    arguments = cli.parser().parse_args(line)
    jobs = [_fleet_jobs.Job(name, Path(name), Path("out"), [], [], []) for name in "ab"]
    if held:
        with pytest.raises(_snakemake.InUse):
            _fleet_run._carry(jobs, arguments, Path("f"))
        return
    assert _fleet_run._carry(jobs, arguments, Path("f")) == {"a": {}, "b": {}}
    assert capsys.readouterr().err.count("is not carried by aligned: no maps") == 2
