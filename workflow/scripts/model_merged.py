"""Rule model_merged: the new model with a carried adapter merged into its weights."""

from pathlib import Path

from loraport.artifacts import atomic, identities
from loraport.models.spec import load_spec
from loraport.runtime.job import job, progress
from loraport.transfer.merged_model import merge

with job(snakemake) as log:
    params, specs = snakemake.params, {"spec": snakemake.input.spec}
    model = load_spec(specs["spec"], params.source)
    size = sum(file.size for file in model.checkpoint().files)
    with atomic(snakemake.output[0]) as out, progress(size, "bytes") as bar:
        out.mkdir()
        done = merge(
            Path(snakemake.input.adapter),
            model,
            out,
            params.dtype,
            identities(specs),
            progress=bar.update,
        )
    log.info("%d tensors changed, %.1f GB", done["changed"], done["bytes"] / 1e9)
    if done["untied"]:
        log.warning("its output head no longer shares the embedding, which the adapter changes")
