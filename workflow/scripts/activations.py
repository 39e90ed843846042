"""Rule activations: pooled features of the calibration texts at every layer of one model."""

from loraport.artifacts import identities, write_h5
from loraport.calibration.activations import load_texts, pooled_features
from loraport.models.spec import load_spec
from loraport.runtime.device import pick_device
from loraport.runtime.job import job, progress

with job(snakemake) as log:
    params = snakemake.params
    settings = dict(params.calibration)
    texts = load_texts(params.sources["texts"], settings.pop("examples"))
    model = load_spec(snakemake.input.spec, params.sources["model"])
    settings["device"] = pick_device(settings["device"])
    with progress(len(texts), f"{snakemake.wildcards.model} reads") as bar:
        features, kept = pooled_features(
            model, texts, remote_code=params.remote_code, progress=bar.update, **settings
        )
    inputs = identities({"spec": snakemake.input.spec})
    with write_h5(snakemake.output[0], "activations", inputs) as file:
        for layer, values in enumerate(features):
            file.dataset(f"layer_{layer}", values)
        file.dataset("kept", kept)
        file.attributes(pooling=settings["pooling"], texts=params.texts_version, count=len(texts))
    log.info("%d texts, %d layers of width %d", int(kept.sum()), *features.shape[::2])
