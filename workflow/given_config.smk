# The workflow under a configuration that is given whole (--configfile): config/config.yaml of the
# working directory, which may be another project's, is not read. `loraport transfer` runs it.
from snakemake.utils import min_version

min_version("9.20")


include: "../rules/module.smk"


onstart:
    check_outputs()


onerror:
    for error in faults.told_of_killed(Path(ROOT), STARTED):
        logger.error(str(error))
