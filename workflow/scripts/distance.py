"""Rule distance: how far apart a pair's models are, and how well the pieces of the mapping fit."""

from loraport.artifacts import identities, write_json
from loraport.mapping.distance import mapping_quality, model_distance
from loraport.models.spec import load_spec
from loraport.runtime.job import job

with job(snakemake) as log:
    inputs, sources = dict(snakemake.input.items()), snakemake.params.sources
    old, new = (
        load_spec(inputs[f"{side}_spec"], sources[side], streamed=True) for side in ("old", "new")
    )
    content = {
        "distance": model_distance(old, new),
        **mapping_quality(inputs["layers"], inputs["embedding"], inputs["heads"]),
    }
    write_json(snakemake.output[0], "distance", identities(inputs), content)
    log.info(
        "distance %s over %d tensors; layers %.3f, heads %.3f (random %.3f)",
        content["distance"]["mean"],
        len(content["distance"]["tensors"]),
        content["path"]["mean"],
        content["heads"]["assigned"],
        content["heads"]["random"],
    )
