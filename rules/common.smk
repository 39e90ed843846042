# The configuration with its look-ups, and what needs Snakemake itself; there are no rules here.
# ruff: noqa: F401, F821  (other files use imports; Snakemake gives workflow, config and local)
import shutil
import sys
import time
import traceback
from pathlib import Path

from snakemake.logging import logger
from snakemake.sourcecache import LocalSourceFile

from loraport.artifacts import ROOT, atomic
from loraport.planning import checks, layout, preflight
from loraport.planning.lookups import Lookups, Told, told
from loraport.runtime import faults

HERE = workflow.current_basedir  # of this workflow, also where another one uses it as a module
ON_DISK = isinstance(HERE, LocalSourceFile)  # and not in a repository that the files come out of
STARTED = time.time()
# whether rules share their results through $SNAKEMAKE_OUTPUT_CACHE: with --cache, and else not
SHARED = "omit-software" if workflow.workflow_settings.cache is not None else False


def tell(error):
    """End with an error of the user's in one paragraph; --verbose shows where it was raised."""
    logger.debug(traceback.format_exc())
    logger.error(f"[plan] {error}")
    sys.exit(1)


def source(path):
    """A file of this workflow, or a copy of it out of a repository; a folder has to be here."""
    place = HERE.join(f"../{path}")
    if ON_DISK:
        return Path(place.get_path_or_uri(False))
    if not Path(path).suffix:
        return Path(path)
    with atomic(Path(".snakemake/loraport", path)) as temporary:
        shutil.copyfile(workflow.sourcecache.get_path(place), temporary)
    return Path(".snakemake/loraport", path)


def load():
    """The look-ups of this workflow's configuration; `local` keeps a file on this disk."""
    preflight.check_writable([".snakemake/locks"])
    schemas = [source(f"workflow/schemas/{n}.schema.json") for n in ("config", "adapters")]
    return Lookups(checks.load(config, schemas[0].parent, workflow), given=local, source=source)


def check_outputs():
    """Before the first job: refuse outputs that can't be written, tell what adapters will lose."""
    jobs = list(workflow.dag.needrun_jobs())
    told(preflight.check_writable, tell)(file for job in jobs for file in [*job.output, *job.log])
    for note in look.notes(jobs):
        logger.warning(f"[note] {note}")


look = Told(told(load, tell)(), tell)
look.tell_after_dry_run(workflow)
