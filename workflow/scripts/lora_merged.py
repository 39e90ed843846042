"""Rules lora_merged and merged_after: several adapters of one base model merged by TIES."""

from loraport.adapters.ties import merge_files
from loraport.artifacts import atomic, identities
from loraport.models.spec import load_spec
from loraport.runtime.job import job

with job(snakemake) as log:
    params, spec = snakemake.params, snakemake.input.spec
    with atomic(snakemake.output[0]) as out:
        out.mkdir()
        done = merge_files(
            params.adapters,
            load_spec(spec),
            out,
            settings=params.settings,
            inputs=identities({"spec": spec}),
            **params.base,
        )
    log.info("%d adapters, %d modules", len(done["adapters"]), len(done["modules"]))
