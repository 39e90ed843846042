"""A workflow of light jobs that do next to nothing, in place of adapters that are carried."""

from pathlib import Path

SNAKEFILE = """\
rule all:
    default_target: True
    input: expand("made/{name}", name=config["names"].split())

rule light:
    output: directory("made/{name}")
    log: "logs/{name}.log"
    resources:
        mem_mb=lambda wildcards, attempt: 50 * attempt,
        runtime=2,
        batch=config.get("batch", 10),
    script: "light.py"
"""
SCRIPT = """\
import os, sys
from pathlib import Path
name = snakemake.wildcards.name
Path(snakemake.log[0]).write_text(f"{name} began\\n")
if Path("broken", name).exists():
    sys.exit(f"{name} is broken")
Path(snakemake.output[0]).mkdir()
Path(snakemake.output[0], "ids").write_text(f"{os.getpid()} {os.getppid()}")
"""


class Toy:
    """A working directory with the workflow; the jobs named in `broken` fail."""

    def __init__(self, root: Path, broken: str = ""):
        self.root = root
        root.mkdir(exist_ok=True)
        (root / "Snakefile").write_text(SNAKEFILE)
        (root / "light.py").write_text(SCRIPT)
        (root / "broken").mkdir()
        for name in broken.split():
            (root / "broken" / name).touch()

    def made(self) -> dict[str, tuple[int, int]]:
        """Name -> ids of the process that made it and of that one's parent."""
        found = {}
        for path in sorted((self.root / "made").glob("*/ids")):
            own, parent = path.read_text().split()
            found[path.parent.name] = int(own), int(parent)
        return found

    def began(self) -> set[str]:
        """Names of the jobs that began."""
        return {path.stem for path in (self.root / "logs").glob("*.log")}
