"""kill -9 of a job, and of Snakemake with it, while a rule puts its output in its place."""

import json
from pathlib import Path

import expert_twins
import h5py
import pico
import pytest
from faults import Run, filled, hooked, kill, markers, rules_of
from forks import opened
from inprocess import PairRun
from workdir import CONFIG, Workdir

from loraport.artifacts import check_weights, read_json
from loraport.models.weights import TensorFile
from loraport.upgrade.base import Base, Limits

VALUES = {
    "model": ("old",),
    "pair": ("p",),
    "app": ("a", "ab"),
    "method": ("norm",),
    "seed": ("0",),
    "name": ("rank",),
    "value": ("2",),
    "examples": ("8",),
}
QUICK = {"teacher": "old", "rates": [0.01], "epochs": 2, "at_least": 0, "new_tokens": 24}
QUICK |= {"prompts": 80, "verify": 10, "temperature": 0.01, "device": "cpu"}
OF_RULE = {
    "adapter_maps": {"method": ("own",)},
    "output_maps": {"method": ("aligned_sequential",)},
    "experts": {"pair": ("mixtures",)},
}


def killed_again_and_again(
    work: Workdir, folder: Path, targets: list[str], *options: str, door: Path | None = None
) -> int:
    """Run to the end though each rule is killed twice at its first job; returns the rounds it took.

    The first time the job alone is killed, the second time Snakemake and all jobs. After each round
    no output that was being written is there, and no job that was done before was started again.
    """
    done: set[str] = set()
    words = ("--keep-going", *options, "--", *targets)
    for number in range(200):
        with Run(work, folder, *words, times=2, door=door) as run:
            while held := run.wait():
                alone = [each for each in held if each["number"] == 0]
                for each in alone:
                    kill(each["pid"])
                if not alone:
                    run.kill_all()
                for each in alone or held:
                    assert each["bytes"] > 0 and not each["target_there"], each
                    assert Path(each["source"]).exists(), each
                    assert not any(Path(missing).exists() for missing in each["missing"]), each
        if run.process.returncode == 1:
            assert "was killed before it could say why" in run.text(), run.text()
        assert not done & set(run.started().values()), run.text()
        done |= run.finished()
        if run.process.returncode == 0:
            return number
        assert "Traceback" not in run.text(), run.text()
        for lock in (work.root / ".snakemake/locks").glob("*"):
            lock.unlink()
    raise AssertionError(run.text())


def assert_killed_twice(folder: Path, rules: set[str]) -> None:
    met = [(each["rule"], each["number"]) for each in markers(folder)]
    assert {(rule, number) for rule in rules for number in (0, 1)} == set(met)


def leftovers(work: Workdir) -> list[Path]:
    return list((work.root / "artifacts").rglob("*.tmp"))


def assert_whole(work: Workdir) -> None:
    """Every artifact can be read to its end, every checksum that it carries verified."""
    found = [path for path in (work.root / "artifacts").rglob("*") if path.is_file()]
    for path in found:
        if path.suffix == ".h5":
            with h5py.File(path) as file:
                file.visititems(
                    lambda _, each: each[...] if isinstance(each, h5py.Dataset) else None
                )
        elif path.suffix == ".safetensors":
            check_weights(path.parent)
            assert TensorFile(path).tensors
        elif path.suffix == ".json":
            kind = json.loads(path.read_text()).get("kind")
            assert kind is None or read_json(path, kind)
        elif path.suffix == ".svg":
            assert path.read_text().rstrip().endswith("</svg>"), path
        elif path.suffix not in (".log", ".gitignore", ""):
            assert path.stat().st_size, path
    assert {path.suffix for path in found} >= {".h5", ".safetensors", ".json", ".svg", ".csv"}


def test_killed_at_any_moment_the_same_command_goes_on(tmp_path):
    work = Workdir(tmp_path / "work")
    target = "artifacts/p/embedding.h5"
    killed_again_and_again(work, tmp_path / "marks", [target], "--cores", "2")
    assert_killed_twice(tmp_path / "marks", {"spec", "embedding"})
    assert not leftovers(work)
    paths = (work.root / name for name in ("old", "new", "texts.txt"))
    undisturbed = PairRun(tmp_path / "undisturbed", *paths).embedding()
    assert (work.root / target).read_bytes() == undisturbed.read_bytes()


def everything(root: Path) -> Workdir:
    """A pico pair with two apps, a task of each kind, a merge, and what its targets need set short;
    and a pair of mixtures of experts.

    The first app's test has the old adapter's own answers for gold, so that it can be measured.
    """
    work = Workdir(root)
    pico.make_adapter(root / "second", root / "old", seed=7)
    write(
        root / "words.jsonl", [{"prompt": f"word {n} is", "completion": " w"} for n in range(100)]
    )
    asked = [f"a test of {n} is" for n in range(12)]
    old = Base.load(root / "old", Limits(new_tokens=16), device="cpu")
    with old.wearing(root / "adapter"):
        answers = [each.text for each in old.write(asked)]
    pairs = [pair for pair in zip(asked, answers, strict=True) if pair[1].strip()]
    write(root / "test.jsonl", [{"prompt": p, "completion": a} for p, a in pairs])
    (root / "mixtures").mkdir()
    mixed, shuffled = expert_twins.make_pair(root / "mixtures", "mixtral")
    models = {"mixed": {"source": str(mixed)}, "shuffled": {"source": str(shuffled)}}
    rows = ["app\tmodel\tsource\ttask", "a\told\tadapter\ttested", "b\told\tsecond\twords"]
    (root / "adapters.tsv").write_text("\n".join(rows) + "\n")
    words = {"train": "words.jsonl", "template": "plain"}
    work.configure(
        models={**CONFIG["models"], **models},
        pairs={**CONFIG["pairs"], "mixtures": {"old": "mixed", "new": "shuffled"}},
        calibration={"texts": "texts.txt", "examples": 40, "device": "cpu"},
        mapping={"minibatch": 8, "device": "cpu"},
        tasks={"words": words, "tested": {**words, "test": "test.jsonl", "score": "contains"}},
        finetune={
            "examples": 8,
            "start": "chosen",
            "max_steps": 2,
            "full": {"max_steps": 2},
            "device": "cpu",
        },
        evaluation={"limit": 8, "resamples": 100, "empty": "score", "device": "cpu"},
        upgrade=QUICK,
        variants={**CONFIG["variants"], "own": {"method": "aligned_sequential"}},
        merges={"ab": {"apps": ["a", "b"]}},
        compare={"methods": ["norm"], "finetuned": False},
        report={"apps": ["a"]},
        sweeps={"rank": [2]},
        run=["p"],
    )
    return work


def write(path: Path, records: list[dict]) -> None:
    path.write_text("\n".join(map(json.dumps, records)) + "\n")


@pytest.mark.slow
def test_every_rule_survives_being_killed_with_and_without_snakemake(tmp_path):
    work = everything(tmp_path / "work")
    found = {rule: outputs for rule, outputs in rules_of(work).items() if outputs}
    targets = sorted(
        {filled(each[0], {**VALUES, **OF_RULE.get(rule, {})}) for rule, each in found.items()}
    )
    alone = [f"{rule}=1" for rule in found]
    options = ["--cores", "16", "--scheduler", "greedy", "--set-threads", *alone]
    folder = tmp_path / "marks"
    with opened(tmp_path / "door", {**hooked(), "FAULT_FOLDER": str(folder)}) as door:
        rounds = killed_again_and_again(work, folder, targets, *options, door=door)
    assert_killed_twice(folder, set(found))
    assert rounds > 2
    assert not leftovers(work)
    assert_whole(work)
