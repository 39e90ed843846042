"""Rule heads: which old attention head serves which new one, in every layer pair of the path."""

from loraport.artifacts import identities, write_h5
from loraport.mapping.heads import head_pairs, match_layer, read_heads, write_matched_heads
from loraport.mapping.layers import read_path
from loraport.mapping.pair import on_device
from loraport.models.spec import load_spec
from loraport.runtime.device import pick_device
from loraport.runtime.job import job, progress

with job(snakemake) as log:
    settings, sources = snakemake.params.settings, snakemake.params.sources
    device = pick_device(settings["device"])
    inputs = dict(snakemake.input.items())
    old, new = (
        load_spec(inputs[f"{side}_spec"], sources[side], streamed=True) for side in ("old", "new")
    )
    hidden_map = on_device(inputs["embedding"], device)
    path = head_pairs((old, new), read_path(inputs["layers"]))
    weights = old.checkpoint(), new.checkpoint()
    with write_h5(snakemake.output[0], "heads", identities(inputs)) as file:
        with progress(len(path), "layer pairs") as bar:
            for old_layer, layer, gated in path:
                sides = (
                    read_heads(old, weights[0], old_layer, device),
                    read_heads(new, weights[1], layer, device),
                )
                similarity, matched = match_layer(*sides, hidden_map, settings["heads"], gated)
                write_matched_heads(file, layer, similarity, matched)
                bar.update()
        file.attributes(rule=settings["heads"])
    log.info("%d layer pairs, %d → %d heads", len(path), old.dims.heads, new.dims.heads)
