"""Rule experts: which experts of two mixtures do the same, by what routers choose on the texts."""

from loraport.artifacts import identities, write_h5
from loraport.calibration.activations import load_texts
from loraport.calibration.walk import open_walks
from loraport.mapping.experts import match_layers
from loraport.mapping.layers import read_path
from loraport.models.spec import load_spec
from loraport.models.streaming import is_streamed
from loraport.runtime.device import pick_device
from loraport.runtime.job import job, progress
from loraport.transfer.experts_file import write_experts

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
    pairs = read_path(inputs["layers"])
    with write_h5(output, "experts", identities(inputs)) as file:
        file.attributes(texts=reading["texts_version"], count=len(texts))
        with progress(len(texts) * len(pairs), "texts through the layers of both models") as bar:
            for layer, found in match_layers((old, new), walks, batches, pairs, device, bar.update):
                write_experts(file, layer, found)
                log.info(
                    "layer %d: %s", layer, ", ".join(f"{k} {v:.3f}" for k, v in found.about.items())
                )
