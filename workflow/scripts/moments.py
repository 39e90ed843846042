"""Rule moments: second moments of what both models' modules read and write on the same tokens."""

from loraport.artifacts import identities, write_h5
from loraport.calibration.activations import load_texts
from loraport.calibration.batches import make_batches
from loraport.calibration.moments import layer_moments, split_path
from loraport.calibration.moments_file import write_layer
from loraport.calibration.resume import Kept, digest
from loraport.mapping.layers import read_path
from loraport.models.loading import load_base
from loraport.models.spec import load_spec
from loraport.planning import layout
from loraport.runtime.device import pick_device
from loraport.runtime.job import job, progress

with job(snakemake) as log:
    params, inputs, output = snakemake.params, dict(snakemake.input.items()), snakemake.output[0]
    reading, settings = params.reading, params.reading["calibration"]
    old, new = (load_spec(inputs[f"{side}_spec"], params.sources[side]) for side in ("old", "new"))
    sides = (old, new)
    device, roles = pick_device(settings["device"]), params.settings["modules"]
    texts = load_texts(params.sources["texts"], settings["examples"])
    loaded = [
        load_base(model.directory, device=device, trust_remote_code=remote)
        for model, remote in zip(sides, reading["remote_code"], strict=True)
    ]
    bases, tokenizers = zip(*loaded, strict=True)
    batches = make_batches(tokenizers, texts, settings["max_tokens"], settings["batch_size"])
    passes = split_path(read_path(inputs["layers"]), sides, params.settings["moments_gib"], roles)
    made_from, how = identities(inputs), (reading, params.settings, params.get("code"), device)
    kept = Kept(layout.MOMENTS_KEPT, output, {**made_from, "how": digest(batches, *how)})
    with write_h5(output, "moments", made_from) as file:
        file.attributes(texts=reading["texts_version"], count=len(texts))
        with progress(len(texts) * len(passes), "texts read by both models") as bar:
            for pairs in passes:
                sums = layer_moments(sides, bases, batches, pairs, device, bar.update, roles, kept)
                for (old_layer, layer), each in zip(pairs, sums, strict=True):
                    write_layer(file, layer, old_layer, each)
                if pairs is not passes[-1]:
                    kept.save(pairs, sums, len(batches))
                del sums, each  # the next ones take as much
    kept.remove()
    tokens, layers = sum(batch.rows[0].shape[1] for batch in batches), sum(map(len, passes))
    log.info("%d paired tokens, %d layer pairs, %d pass(es)", tokens, layers, len(passes))
