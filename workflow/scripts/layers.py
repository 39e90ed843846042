"""Rule layers: which old layer serves which new one."""

from loraport.artifacts import identities
from loraport.mapping.layers import write_path
from loraport.mapping.similarity_file import read_similarity
from loraport.runtime.job import job

with job(snakemake) as log:
    settings = {
        key: snakemake.params.settings[key] for key in ("layers", "max_offset", "unmatched")
    }
    similarity = read_similarity(snakemake.input.cka)
    inputs = identities({"cka": snakemake.input.cka})
    path = write_path(snakemake.output[0], inputs, similarity, **settings)
    log.info("%s", " ".join(f"{old}→{new}" for old, new in path))
