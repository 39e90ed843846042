"""Rule output_maps: the maps of what modules write, which the maps of all adapters share."""

from loraport.artifacts import identities, write_h5
from loraport.mapping.pair import open_pair, write_outputs
from loraport.methods import make_outputs
from loraport.models.spec import load_spec
from loraport.numerics.parallel import in_order
from loraport.planning.needs import workers
from loraport.runtime.device import pick_device
from loraport.runtime.job import counted, job

with job(snakemake) as log:
    params, inputs = snakemake.params, dict(snakemake.input.items())
    old, new = (load_spec(inputs[f"{side}_spec"]) for side in ("old", "new"))
    device = pick_device(params.settings["device"])
    pair = open_pair(old, new, inputs, dict(params.settings), device)
    layers = [layer for _, layer in pair.path]
    at_once = workers(snakemake, device, old.dims, new.dims)
    made = in_order(make_outputs(params.method, pair), layers, at_once)
    with write_h5(snakemake.output[0], "output maps", identities(inputs)) as file:
        file.attributes(method=params.method)
        for layer, fits in zip(layers, counted(made, len(layers), "layers"), strict=True):
            write_outputs(file, layer, fits)
    log.info("output maps of %d layers by %s", len(layers), params.method)
