"""Rule moments: second moments of what both models' modules read and write on the same tokens."""

from loraport.artifacts import identities, write_h5
from loraport.calibration.activations import load_texts
from loraport.calibration.moments_file import write_layer
from loraport.calibration.resume import KeptMoments, digest
from loraport.calibration.sums import layer_moments
from loraport.calibration.walk import open_walks
from loraport.mapping.layers import read_path
from loraport.models.spec import load_spec
from loraport.models.streaming import is_streamed
from loraport.planning import layout
from loraport.runtime.device import pick_device
from loraport.runtime.job import job, progress

with job(snakemake) as log:
    params, inputs, output = snakemake.params, dict(snakemake.input.items()), snakemake.output[0]
    reading, settings = params.reading, params.reading["calibration"]
    remote, device = reading["remote_code"], pick_device(settings["device"])
    old, new = (
        load_spec(inputs[f"{side}_spec"], params.sources[side], streamed=is_streamed(settings, own))
        for side, own in zip(("old", "new"), remote, strict=True)
    )
    texts = load_texts(params.sources["texts"], settings["examples"])
    walks, batches = open_walks((old, new), texts, settings, remote)
    pairs, made_from = read_path(inputs["layers"]), identities(inputs)
    how = digest(batches, reading, params.settings, params.get("code"), device)
    with write_h5(output, "moments", made_from) as file:
        file.attributes(texts=reading["texts_version"], count=len(texts))
        kept = KeptMoments(layout.MOMENTS_KEPT, output, {**made_from, "how": how}, pairs, file)
        with progress(len(texts) * len(pairs), "texts through the layers of both models") as bar:
            more = {"progress": bar.update, "roles": params.settings["modules"], "kept": kept}
            more["reuse"] = True  # a layer pair's are written before the next ones are asked for
            found = layer_moments((old, new), walks, batches, pairs, device, **more)
            for old_layer, layer in pairs:  # no name for the sums: the next ones take as much
                write_layer(file, layer, old_layer, next(found))
    kept.remove()
    tokens = sum(batch.rows[0].shape[1] for batch in batches)
    log.info("%d paired tokens, %d layer pairs", tokens, len(pairs))
