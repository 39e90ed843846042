"""What gpu_bars.py measures: a function for each bar, run in a process of its own.

Each gets a `Bench` and adds what it finds to it step by step, so that a bar that is cut off or
fails has told what it found until then.
"""

import json
import os
import shutil
import subprocess
import sys
import time
from argparse import Namespace
from pathlib import Path
from typing import Any

import further
import transfer
import yaml
from fullsize import EXAMPLES, PAIRS, RANK, WORDS, dimensions, make_model, sizes
from pipeline import ROLES, SPECS, Pipeline

from loraport.errors import LoraportError
from loraport.planning import needs, plan, specs
from loraport.runtime.job import last_record

HERE = Path(__file__).resolve().parent
PROJECT = HERE.parent
PAIR = "artifacts/pair"


class Bench:
    """Where a bar works and what it has found.

    Attributes
    ----------
    work : folder, kept between the bars: later ones use what earlier ones made
    shrink : all widths are divided by it; a trial's is above 1
    """

    def __init__(self, work: Path, name: str, tiny: bool):
        self.work, self.name, self.tiny = work, name, tiny
        self.shrink, self.device = (16, "cpu") if tiny else (1, "cuda")
        self.cores = len(os.sched_getaffinity(0))

    def note(self, **found: Any) -> None:
        """Add to what the bar tells."""
        with (self.work / f"{self.name}.jsonl").open("a") as file:
            file.write(json.dumps(found) + "\n")

    def sizes(self, pair: str, side: str, layers: int | None = None) -> dict[str, int]:
        """Sizes of one model of a pair, with all its tokens."""
        if self.tiny:
            layers = 3 + (side == "new")
        given = sizes(pair, side, self.shrink, layers)
        return given | {"vocab": PAIRS[pair][side][0] // self.shrink}

    def pipeline(self, root: str, threads: int = 0) -> Pipeline:
        """In a folder of `work`; its records are told as they come."""
        folder = self.work / root
        folder.mkdir(exist_ok=True)
        return Pipeline(folder, self.device, threads or self.cores, ROLES)

    def models(self, pair: str, root: str, layers: int | None = None) -> Pipeline:
        """Both models, texts and an adapter of each kind, if they are not there."""
        run, start = self.pipeline(root), time.perf_counter()
        if (run.root / "made").exists():
            return run
        for side in ("old", "new"):
            shutil.rmtree(run.root / side, ignore_errors=True)
            make_model(run, pair, side, self.sizes(pair, side, layers))
        vocab = min(self.sizes(pair, side)["vocab"] for side in ("old", "new"))
        texts = {"path": str(run.root / "texts.txt"), "words": 16 if self.tiny else WORDS,
                 "examples": 16 if self.tiny else EXAMPLES, "vocab": vocab, "seed": 5}  # fmt: skip
        run.child("fixtures.py", "texts", texts)
        for name, roles in (("adapter", ROLES[:4]), ("adapter_all", ROLES)):
            shutil.rmtree(run.root / name, ignore_errors=True)
            made = {"directory": str(run.root / name), "sizes": self.sizes(pair, "old", layers),
                    "seed": 20, "rank": RANK // self.shrink or 2, "roles": roles}  # fmt: skip
            run.child("fixtures.py", "adapter", made)
        (run.root / "made").touch()
        self.note(step="models made", seconds=round(time.perf_counter() - start, 1),
                  mib=mib(run.root))  # fmt: skip
        return run


def mib(path: Path) -> int:
    """Size of a file or of all files of a folder."""
    files = path.rglob("*") if path.is_dir() else [path]
    return round(sum(each.stat().st_size for each in files if each.is_file()) / 2**20)


def workflow(bench: Bench, root: Path, *targets: str, **sections: Any) -> None:
    """Make artifacts of the pair in `root` by snakemake; tell each rule's needs and its plan."""
    for name in ("config", "resources"):
        if not (root / name).exists():
            (root / name).symlink_to(PROJECT / name)
    header = "app\tmodel\tsource\ttask"
    rows = [f"{app}\told\t{app}\tt" for app in ("adapter", "adapter_all")]
    (root / "adapters.tsv").write_text("\n".join([header, *rows]) + "\n")
    prompts = (root / "texts.txt").read_text().splitlines()
    records = [{"prompt": line[: len(line) // 2], "completion": line[len(line) // 2 :]}
               for line in prompts]  # fmt: skip
    (root / "train.jsonl").write_text("\n".join(map(json.dumps, records)) + "\n")
    model = {"texts": "texts.txt", "known_as": ["old"]}
    content = {
        "models": {side: {**model, "source": side} for side in ("old", "new")},
        "pairs": {"pair": {"old": "old", "new": "new"}},
        "tasks": {"t": {"train": "train.jsonl", "template": "plain", "eval": ["nano_math"]}},
        "adapters": "adapters.tsv", "run": ["pair"], "merges": {}, **sections,
        "calibration": {"examples": len(prompts), **sections.get("calibration", {})},
    }  # fmt: skip
    if bench.tiny:
        content["mapping"] = {"minibatch": 8, **content.get("mapping", {})}
    (root / "run.yaml").write_text(yaml.safe_dump(content))
    command = [sys.executable, "-m", "snakemake", "-s", str(PROJECT / "Snakefile")]
    command += ["--cores", str(bench.cores), "--configfile", "run.yaml", "--nolock", "--"]
    command += targets
    before = time.time()
    start = time.perf_counter()
    done = subprocess.run(command, cwd=root, env=plain_environment())
    wall = time.perf_counter() - start
    for log in sorted(root.glob("artifacts/**/*.log"), key=lambda path: path.stat().st_mtime):
        if log.stat().st_mtime > before and (record := last_record(log)):
            bench.note(step=record["rule"], **record | planned(root, record["rule"], log.stem))
    sized = {target: mib(root / target) for target in targets if (root / target).exists()}
    bench.note(step="workflow", targets=targets, wall_seconds=round(wall, 1), mib=sized,
               artifacts_mib=mib(root / "artifacts"), status=done.returncode)  # fmt: skip
    if done.returncode:
        sys.exit(f"snakemake ended with {done.returncode}")


def plain_environment() -> dict[str, str]:
    """This process's, with this checkout's package and no limit of threads."""
    held = {key: value for key, value in os.environ.items() if not key.endswith("_NUM_THREADS")}
    return held | {"PYTHONPATH": f"{PROJECT / 'src'}{os.pathsep}{held.get('PYTHONPATH', '')}"}


def planned(root: Path, rule: str, method: str) -> dict[str, Any]:
    """What the plan asks for a rule of the pair, with a GPU and on a CPU alone."""
    dims = []
    for side in ("old", "new"):
        path = root / "artifacts/models" / side / "spec.json"
        if not path.exists():
            return {}
        dims.append(specs.read_sizes(path))
    if rule == "maps" and method != "lorasuite":
        rule = "maps_in_turn"
    several = [[d] for d in dims] if rule in plan.SIDES_OF else [dims]
    try:
        every = [needs.need(rule, *each) for each in several]
    except (KeyError, TypeError, LoraportError):
        return {}
    return {"plan": [each._asdict() for each in every]}


def aligned_pair(bench: Bench) -> None:
    """Qwen1.5-1.8B → Qwen2.5-3B: `aligned` for all linear modules from models to maps."""
    run = bench.models("qwen", "qwen")
    workflow(bench, run.root, f"{PAIR}/maps/aligned.h5", mapping={"keep_moments": False})
    (run.root / f"{PAIR}/maps/aligned.h5").unlink()  # room for the other bars


def lorasuite_pair(bench: Bench) -> None:
    """The same pair's LoRASuite maps, and one adapter by them, on one core and on four."""
    run = bench.models("qwen", "qwen")
    workflow(bench, run.root, f"{PAIR}/maps/lorasuite.h5")
    inputs = {f"{side}_spec": f"artifacts/models/{side}/spec.json" for side in ("old", "new")}
    inputs["maps"] = f"{PAIR}/maps/lorasuite.h5"
    for name, path in (*inputs.items(), ("maps", inputs["maps"])):
        link = run.root / (SPECS.get(name) or f"{name}.h5")
        link.unlink(missing_ok=True)
        link.symlink_to(path)
    for threads in (1, 4):
        one = bench.pipeline("qwen", threads)
        for adapter in ("adapter", "adapter_all"):
            for repeat in range(2):
                one.transferred(adapter, repeat, threads=threads)
                bench.note(**one.records[-1] | {"step": f"{adapter} on {threads} core(s)"})


def many_adapters(bench: Bench) -> None:
    """Adapters one after another on one core through the LoRASuite maps of the same pair."""
    run = bench.pipeline("qwen", 1)
    link = run.root / "adapter"
    shutil.move(link, run.root / "adapter_attention")
    try:
        link.symlink_to("adapter_all")
        records = further.carry(run, Namespace(adapters=3 if bench.tiny else 12, dtype="float32"))
    finally:
        link.unlink(missing_ok=True)
        shutil.move(run.root / "adapter_attention", link)
    for number, record in enumerate(records):
        bench.note(step="adapter_all in one process", number=number, **record)


def large_pair(bench: Bench) -> None:
    """Four layer pairs of Llama-2-13B → Llama-3.1-70B at full width: activations and maps."""
    if shutil.disk_usage(bench.work).free < 36 << 30:  # models take 14 GB, maps 18
        shutil.rmtree(bench.work / "qwen", ignore_errors=True)
    run = bench.models("llama", "llama", 4)
    (run.root / "maps.h5").unlink(missing_ok=True)
    texts = str(run.root / "texts.txt")
    calibration = {"examples": 16 if bench.tiny else EXAMPLES, "max_tokens": 256, "batch_size": 16}
    for side in ("old", "new"):
        run.spec(side)
        run.activations(side, texts, calibration["examples"])
        bench.note(**run.records[-1])
    features = {f"{side}_activations": f"{side}_activations.h5" for side in ("old", "new")}
    settings = {"minibatch": 8 if bench.tiny else 64, "similarity": "cka"}
    run.rule("cka", "cka.h5", {**SPECS, **features}, {"settings": settings})
    settings = {"layers": "first", "max_offset": None, "unmatched": "empty"}  # type: ignore
    run.rule("layers", "layers.json", {**SPECS, "cka": "cka.h5"}, {"settings": settings})
    dims = [dimensions(sizes("llama", side, 1, None)) for side in ("old", "new")]
    for rule in ("activations", "maps_in_turn"):
        several = [[each] for each in dims] if rule == "activations" else [dims]
        bench.note(step=f"plan of {rule}", plan=[needs.need(rule, *d)._asdict() for d in several])
    job = {"root": str(run.root), "device": bench.device, "texts": texts,
           "calibration": calibration, "told": str(bench.work / f"{bench.name}.jsonl")}  # fmt: skip
    found = run.child("fitted.py", "maps", job)
    bench.note(step="maps of four layer pairs", mib=mib(run.root / "maps.h5"), **found)
    (run.root / "maps.h5").unlink()


def sequential(bench: Bench) -> None:
    """`aligned_sequential` of one adapter at the shapes of 0.5B → 1.5B."""
    run = bench.models("small", "small")
    target = f"{PAIR}/adapter_all/maps/aligned_sequential.h5"
    workflow(bench, run.root, target, mapping={"prompts": 8 if bench.tiny else 100})
    shutil.rmtree(run.root / "artifacts")


def literal(bench: Bench, targets: str) -> None:
    """LoRASuite's mapping against the literal algorithm at hidden 2048, on the same GPU."""
    out = bench.work / f"literal_{targets}"
    small = ["--hidden", "64", "--heads", "4", "--layers", "2", "--vocab", "1000"]
    command = [sys.executable, str(HERE / "transfer.py"), "--device", bench.device, "--targets",
               targets, "--threads", str(bench.cores), "--repeats", "2", "--out", str(out),
               *(small if bench.tiny else ["--hidden", "2048"])]  # fmt: skip
    subprocess.run(command, check=True)
    found = json.loads(next(out.glob("*.json")).read_text())
    keys = ("totals", "ratios", "ratios_with_start", "memory", "gpu_memory", "same_assignment",
            "machine", "versions", "loads")  # fmt: skip
    bench.note(step=targets, **{key: found[key] for key in keys})
    for side, steps in found["steps"].items():
        for step, each in steps.items():
            bench.note(step=f"{side} {step}", **each)


def profile(bench: Bench) -> None:
    """Where the time of the mapping at hidden 2048 goes, all linear modules: profile.txt."""
    path = bench.work / "profile.txt"
    path.unlink(missing_ok=True)
    small = ["--hidden", "64", "--heads", "4", "--layers", "2", "--vocab", "1000"]
    given = ["--targets", "all", "--device", bench.device, "--threads", str(bench.cores)]
    root = bench.work / "profiled"
    shutil.rmtree(root, ignore_errors=True)
    root.mkdir()
    run = transfer.Bench(transfer.arguments(given + (small if bench.tiny else
                                            ["--hidden", "2048"])), root)  # fmt: skip
    run.prepare()
    run.environment["LORAPORT_PROFILE"] = str(path)
    run.mapping()
    for record in run.records:
        bench.note(**record)
    shutil.rmtree(root)


BARS = {  # name -> function, and the minutes that it may take; the most wanted first
    "aligned_pair": (aligned_pair, 6.5),
    "large_pair": (large_pair, 7.0),  # two layer pairs, at least
    "lorasuite_pair": (lorasuite_pair, 3.0),
    "literal_attention": (lambda bench: literal(bench, "attention"), 2.0),
    "profile": (profile, 1.5),
    "sequential": (sequential, 3.5),
    "many_adapters": (many_adapters, 1.5),
    "literal_all": (lambda bench: literal(bench, "all"), 3.0),
}
