"""Rule adapter_maps: the maps of one adapter, for a method that fits them to what it does."""

from loraport.artifacts import identities
from loraport.mapping.adapter_texts import open_adapted
from loraport.mapping.pair import open_pair
from loraport.methods import make_maps, maps_to_make
from loraport.models.spec import load_spec
from loraport.runtime.device import pick_device
from loraport.runtime.job import counted, job
from loraport.transfer.maps import write_maps

with job(snakemake) as log:
    params, settings = snakemake.params, snakemake.params.settings
    inputs = {k: path for k, path in snakemake.input.items() if k not in ("adapter", "data")}
    old, new = (load_spec(inputs[f"{side}_spec"], params.sources[side]) for side in ("old", "new"))
    device = pick_device(params.reading["calibration"]["device"])
    adapted = open_adapted(snakemake.input.adapter, old, params)
    pair = open_pair(old, new, inputs, dict(settings), device, adapted)
    made = counted(make_maps(params.method, pair), maps_to_make(pair), "module maps")
    write_maps(snakemake.output[0], params.method, identities(inputs), made)
    log.info("maps of one adapter by %s, fitted on %s", params.method, settings["calibrate_on"])
