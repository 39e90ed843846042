"""Rule activations: pooled features of the calibration texts at every layer of one model."""

from loraport.artifacts import identities
from loraport.calibration.activations import load_texts, pooled_features
from loraport.calibration.features import write_features
from loraport.calibration.resume import KeptFeatures, digest
from loraport.models.spec import load_spec
from loraport.models.streaming import is_streamed
from loraport.planning import layout
from loraport.runtime.device import pick_device
from loraport.runtime.job import job, progress

with job(snakemake) as log:
    params = snakemake.params
    settings = dict(params.calibration)
    texts = load_texts(params.sources["texts"], settings.pop("examples"))
    streamed = is_streamed(settings, params.remote_code)
    model = load_spec(snakemake.input.spec, params.sources["model"], streamed=streamed)
    settings["device"] = pick_device(settings["device"])
    inputs, output = identities({"spec": snakemake.input.spec}), snakemake.output[0]
    how = digest([], texts, settings, params.remote_code, params.get("code"))
    so_far = KeptFeatures(layout.ACTIVATIONS_KEPT, output, {**inputs, "how": how})
    passed = len(texts) * model.dims.layers
    with progress(passed, f"{snakemake.wildcards.model} reads, block by block") as bar:
        more = {"remote_code": params.remote_code, "progress": bar.update, "so_far": so_far}
        features, kept = pooled_features(model, texts, **settings, **more)
    about = {"pooling": settings["pooling"], "texts": params.texts_version}
    write_features(output, inputs, features, kept, **about)
    so_far.remove()
    log.info("%d texts, %d layers of width %d", int(kept.sum()), *features.shape[::2])
