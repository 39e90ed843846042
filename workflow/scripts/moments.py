"""Rule moments: second moments of what both models' modules read and write on the same tokens."""

from loraport.activations import load_texts
from loraport.artifacts import identities, write_h5
from loraport.device import pick_device
from loraport.job import job, progress
from loraport.layers import read_path
from loraport.linalg import chunks
from loraport.models import load_base
from loraport.moments import layer_moments, make_batches, site_bytes, write_layer
from loraport.spec import load_spec

with job(snakemake) as log:
    params, inputs = snakemake.params, dict(snakemake.input.items())
    reading, settings = params.reading, params.reading["calibration"]
    sides = [load_spec(inputs[f"{side}_spec"], params.sources[side]) for side in ("old", "new")]
    device = pick_device(settings["device"])
    texts = load_texts(params.sources["texts"], settings["examples"])
    path = read_path(inputs["layers"])
    loaded = [
        load_base(model.directory, device=device, trust_remote_code=remote)
        for model, remote in zip(sides, reading["remote_code"], strict=True)
    ]
    bases, tokenizers = zip(*loaded, strict=True)
    batches = make_batches(tokenizers, texts, settings["max_tokens"], settings["batch_size"])
    at_once = max(1, int(params.settings["moments_gib"] * 2**30 / site_bytes(*sides)))
    passes = [path[span] for span in chunks(len(path), at_once)]
    with write_h5(snakemake.output[0], "moments", identities(inputs)) as file:
        file.attributes(texts=reading["texts_version"], count=len(texts))
        with progress(len(texts) * len(passes), "texts read by both models") as bar:
            for pairs in passes:
                found = layer_moments(sides, bases, batches, pairs, device, bar.update)
                for (old_layer, layer), each in zip(pairs, found, strict=True):
                    write_layer(file, layer, old_layer, each)
    tokens = sum(batch.rows[0].shape[1] for batch in batches)
    log.info("%d paired tokens, %d layer pairs, %d pass(es)", tokens, len(path), len(passes))
