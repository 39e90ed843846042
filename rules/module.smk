# All rules without a target of their own, for workflows that use loraport as a module (docs/module).


include: "common.smk"
include: "models.smk"
include: "pairs.smk"
include: "sums.smk"
include: "variants.smk"
include: "maps.smk"
include: "adapters.smk"
include: "merged.smk"
include: "finetune.smk"
include: "evaluate.smk"
include: "tables.smk"
include: "report.smk"
include: "compare.smk"
include: "merges.smk"
include: "advice.smk"
include: "sweeps.smk"
