"""Rule layers: which old layer serves which new one."""

from loraport.artifacts import identities
from loraport.mapping.layers import shared_counts, write_path
from loraport.mapping.similarity_file import read_similarity
from loraport.models.spec import load_spec
from loraport.runtime.job import job

with job(snakemake) as log:
    settings = {
        key: snakemake.params.settings[key] for key in ("layers", "max_offset", "unmatched")
    }
    inputs = dict(snakemake.input.items())
    shared = shared_counts(*(load_spec(inputs[f"{side}_spec"]) for side in ("old", "new")))
    made_from = identities({"cka": inputs["cka"]} if shared is None else inputs)
    similarity = read_similarity(inputs["cka"])
    path = write_path(snakemake.output[0], made_from, similarity, **settings, shared=shared)
    log.info("%s", " ".join(f"{old}→{new}" for old, new in path))
