"""Rule cka: similarity of every layer pair."""

from loraport.artifacts import identities, write_h5
from loraport.cka import cka, hsic_sums
from loraport.features import matched_features
from loraport.job import job

with job(snakemake) as log:
    inputs = identities(dict(snakemake.input.items()))
    old, new, about = matched_features(
        snakemake.input.old_activations, snakemake.input.new_activations
    )
    cross, own_old, own_new, used = hsic_sums(old, new, snakemake.params.settings["minibatch"])
    similarity = cka(cross, own_old, own_new)
    with write_h5(snakemake.output[0], "cka", inputs) as file:
        file.dataset("similarity", similarity.numpy())
        file.dataset("hsic_cross", cross.numpy())
        file.dataset("hsic_old", own_old.numpy())
        file.dataset("hsic_new", own_new.numpy())
        file.attributes(estimator="unbiased HSIC", pooling=about["pooling"], minibatches=used)
    log.info("%d x %d layers, best %.3f", *similarity.shape, float(similarity.max()))
