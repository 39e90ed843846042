"""One run of the workflow by a short name: `loraport.commands._one_run`."""

from .commands._one_run import Request, run
from .commands._snakemake import environment

__all__ = ["Request", "environment", "run"]
