"""Rule gradients: sums over both models' output gradients on the same tokens."""

from loraport.artifacts import identities, write_h5
from loraport.calibration.activations import load_texts
from loraport.calibration.batches import make_batches
from loraport.calibration.gradients import (
    INNER,
    TEXTS_AT_ONCE,
    layer_gradients,
    split_pairs,
    write_gradients,
)
from loraport.mapping.layers import read_path
from loraport.models.loading import load_base
from loraport.models.spec import load_spec
from loraport.runtime.device import pick_device
from loraport.runtime.job import job, progress

with job(snakemake) as log:
    params, inputs, output = snakemake.params, dict(snakemake.input.items()), snakemake.output[0]
    reading, settings = params.reading, params.reading["calibration"]
    old, new = (load_spec(inputs[f"{side}_spec"], params.sources[side]) for side in ("old", "new"))
    sides = (old, new)
    device = pick_device(settings["device"])
    roles = [role for role in INNER if role in params.settings["modules"]]
    texts = load_texts(params.sources["texts"], settings["examples"])
    loaded = [
        load_base(model.directory, device=device, trust_remote_code=remote)
        for model, remote in zip(sides, reading["remote_code"], strict=True)
    ]
    bases, tokenizers = zip(*loaded, strict=True)
    size = min(settings["batch_size"], TEXTS_AT_ONCE)
    batches = make_batches(tokenizers, texts, settings["max_tokens"], size)
    passes = split_pairs(read_path(inputs["layers"]), sides, params.settings["moments_gib"], roles)
    with write_h5(output, "gradients", identities(inputs)) as file:
        file.attributes(texts=reading["texts_version"], count=len(texts))
        with progress(len(texts) * len(passes), "texts passed backward") as bar:
            for pairs in passes:
                sums = layer_gradients(sides, bases, batches, pairs, device, bar.update, roles)
                for (old_layer, layer), each in zip(pairs, sums, strict=True):
                    write_gradients(file, layer, old_layer, each)
                del sums, each  # the next ones take as much
    tokens, layers = sum(batch.rows[0].shape[1] for batch in batches), sum(map(len, passes))
    log.info("%d paired tokens, %d layer pairs, %d pass(es)", tokens, layers, len(passes))
