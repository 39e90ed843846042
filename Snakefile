# loraport: carry LoRA adapters from one version of a language model to the next.
#
#   models ─ spec ─ activations ┐
#                               ├─ pair: embedding → cka → layers → heads → maps ─┐
#   models ─ spec ─ activations ┘                                                 ├─ transferred
#                                                                        adapters ┘
from snakemake.utils import min_version

min_version("9.20")


configfile: "config/config.yaml"


include: "rules/common.smk"
include: "rules/models.smk"
include: "rules/pairs.smk"
include: "rules/sums.smk"
include: "rules/variants.smk"
include: "rules/maps.smk"
include: "rules/adapters.smk"
include: "rules/merged.smk"
include: "rules/start.smk"
include: "rules/finetune.smk"
include: "rules/evaluate.smk"
include: "rules/upgrade.smk"
include: "rules/tables.smk"
include: "rules/report.smk"
include: "rules/page.smk"
include: "rules/compare.smk"
include: "rules/merges.smk"
include: "rules/advice.smk"
include: "rules/sweeps.smk"


rule all:
    default_target: True
    input:
        look.everything(),


onstart:
    check_outputs()


onerror:
    for error in faults.told_of_killed(Path(ROOT), STARTED):
        logger.error(str(error))
