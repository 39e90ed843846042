"""Rule cka: similarity of every layer pair, by CKA or by another measure."""

from loraport.artifacts import identities, write_h5
from loraport.calibration.features import matched_features
from loraport.mapping.cka import cka, hsic_sums
from loraport.mapping.similarity import similarities
from loraport.runtime.job import job

with job(snakemake) as log:
    settings = snakemake.params.settings
    inputs = identities(dict(snakemake.input.items()))
    old, new, about = matched_features(
        snakemake.input.old_activations, snakemake.input.new_activations
    )
    with write_h5(snakemake.output[0], "cka", inputs) as file:
        if settings["similarity"] == "cka":
            cross, own_old, own_new, used = hsic_sums(old, new, settings["minibatch"])
            similarity = cka(cross, own_old, own_new)
            file.dataset("hsic_cross", cross.numpy())
            file.dataset("hsic_old", own_old.numpy())
            file.dataset("hsic_new", own_new.numpy())
            about |= {"estimator": "unbiased HSIC", "minibatches": used}
        else:
            similarity = similarities(old, new, settings["similarity"])
            about["estimator"] = f"{settings['similarity']} over the whole set"
        file.dataset("similarity", similarity.numpy())
        file.attributes(**{key: about[key] for key in about if key not in ("texts", "count")})
    log.info("%d x %d layers, best %.3f", *similarity.shape, float(similarity.max()))
