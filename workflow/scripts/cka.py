"""Rule cka: similarity of every layer pair, by CKA or by another measure."""

from loraport.artifacts import identities
from loraport.calibration.features import matched_features
from loraport.mapping.similarity_file import write_similarity
from loraport.runtime.job import job

with job(snakemake) as log:
    settings = snakemake.params.settings
    old, new, about = matched_features(
        snakemake.input.old_activations, snakemake.input.new_activations
    )
    similarity = write_similarity(
        snakemake.output[0],
        identities(dict(snakemake.input.items())),
        old,
        new,
        measure=settings["similarity"],
        minibatch=settings["minibatch"],
        about={key: about[key] for key in about if key not in ("texts", "count")},
    )
    log.info("%d x %d layers, best %.3f", *similarity.shape, float(similarity.max()))
