"""Rule activations: pooled features of the calibration texts at every layer of one model."""

from loraport.artifacts import identities
from loraport.calibration.activations import load_texts, pooled_features
from loraport.calibration.features import write_features
from loraport.models.spec import load_spec
from loraport.models.streaming import is_streamed
from loraport.runtime.device import pick_device
from loraport.runtime.job import job, progress

with job(snakemake) as log:
    params = snakemake.params
    settings = dict(params.calibration)
    texts = load_texts(params.sources["texts"], settings.pop("examples"))
    streamed = is_streamed(settings, params.remote_code)
    model = load_spec(snakemake.input.spec, params.sources["model"], streamed=streamed)
    settings["device"] = pick_device(settings["device"])
    passed = len(texts) * model.dims.layers
    with progress(passed, f"{snakemake.wildcards.model} reads, block by block") as bar:
        features, kept = pooled_features(
            model, texts, remote_code=params.remote_code, progress=bar.update, **settings
        )
    inputs = identities({"spec": snakemake.input.spec})
    about = {"pooling": settings["pooling"], "texts": params.texts_version}
    write_features(snakemake.output[0], inputs, features, kept, **about)
    log.info("%d texts, %d layers of width %d", int(kept.sum()), *features.shape[::2])
