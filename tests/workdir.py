"""A working directory with a pico pair, and the workflow run in it as a user would."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pico
import yaml

PROJECT = Path(__file__).parents[1]
SIZES = {
    "old": {"hidden": 32, "intermediate": 56, "layers": 3, "heads": 4, "kv_heads": 2},
    "new": {"hidden": 48, "intermediate": 80, "layers": 4, "heads": 6, "kv_heads": 6},
}
CONFIG = {
    "models": {"old": {"source": "old"}, "new": {"source": "new"}},
    "pairs": {"p": {"old": "old", "new": "new"}},
    "run": ["p"],
    "adapters": "adapters.tsv",
    "calibration": {"texts": "texts.txt", "examples": 40},
    "mapping": {"minibatch": 8},
    "variants": {
        "norm": {"method": "lorasuite", "transfer": {"scale": "norm"}},
        "last": {"method": "lorasuite", "mapping": {"layers": "last"}},
    },
}


class Workdir:
    """A folder with models `old` and `new`, adapters, texts and a configuration.

    shared : the mapping comes from Snakemake's cache of this run of the tests where another test
        has made it: for tests of what follows after it
    """

    shared = False

    def __init__(self, root: Path, shared: bool = False):
        self.root, self.shared = root, shared
        for seed, (name, sizes) in enumerate(SIZES.items(), 1):
            pico.make_model(root / name, seed=seed, vocab_words=200 + 20 * seed, **sizes)
        pico.make_adapter(root / "adapter", root / "old", seed=3)
        pico.make_texts(root / "texts.txt", 40)
        self.table(("a", "old", "adapter"))
        self.configure()

    def configure(self, **sections) -> None:
        """Write config.yaml; `sections` replace those of CONFIG."""
        (self.root / "config.yaml").write_text(yaml.safe_dump({**CONFIG, **sections}))

    def table(self, *rows: tuple[str, str, str]) -> None:
        """Write the adapters table from (app, model, source)."""
        lines = ["app\tmodel\tsource\ttask", *("\t".join([*row, ""]) for row in rows)]
        (self.root / "adapters.tsv").write_text("\n".join(lines) + "\n")

    def run(
        self, *arguments: str, project: Path = PROJECT, ok: bool = True, anew: bool = False
    ) -> subprocess.CompletedProcess:
        """Call snakemake; output and errors come back together as `stdout`.

        anew : it and its jobs begin as they do for a user, and not as forks; see forks
        """
        command = [sys.executable, "-m", "snakemake", "-s", str(PROJECT / "Snakefile")]
        command += ["--configfile", "config.yaml", *(["--cache"] if self.shared else [])]
        command += ["--cores", "1", *arguments]  # job by job: see one_thread
        found = {"PYTHONPATH": f"{project / 'src'}:{os.environ.get('PYTHONPATH', '')}"}
        kept = {k: v for k, v in os.environ.items() if not (anew and k == "LORAPORT_TEST_DOOR")}
        if self.shared:
            found["SNAKEMAKE_OUTPUT_CACHE"] = os.environ["LORAPORT_TEST_CACHE"]
        done = subprocess.run(
            command,
            cwd=self.root,
            env={**kept, **found},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )
        assert (done.returncode == 0) == ok, done.stdout
        return done

    def planned(self, *arguments: str, project: Path = PROJECT) -> dict[str, int]:
        """Rules that a run would execute, and how often each."""
        text = self.run("-n", *arguments, project=project).stdout
        table = text.partition("Job stats:")[2].partition("\n\n")[0]
        found = {name: int(count) for name, count in re.findall(r"^(\w+) +(\d+)$", table, re.M)}
        found.pop("total", None)
        found.pop("all", None)
        return found

    def copy(self, root: Path) -> "Workdir":
        """Another working directory with the same files and history."""
        shutil.copytree(self.root, root, symlinks=True)
        return Workdir.at(root, self.shared)

    @classmethod
    def at(cls, root: Path, shared: bool = False) -> "Workdir":
        """A folder as it is."""
        work = object.__new__(cls)
        work.root, work.shared = root, shared
        return work
