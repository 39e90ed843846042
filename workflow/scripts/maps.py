"""Rule maps: everything that an adapter needs to pass from the old model to the new one."""

from loraport.artifacts import identities
from loraport.mapping.in_turn import in_turn
from loraport.mapping.pair import open_pair
from loraport.methods import make_maps, maps_ahead, maps_to_make
from loraport.models.spec import load_spec
from loraport.planning.needs import workers
from loraport.runtime.device import pick_device
from loraport.runtime.job import counted, job
from loraport.transfer.maps import write_maps

with job(snakemake) as log:
    params = snakemake.params
    inputs = dict(snakemake.input.items())
    old, new = (
        load_spec(inputs[f"{side}_spec"], params.sources[side], streamed=True)
        for side in ("old", "new")
    )
    device = pick_device(params.settings["device"])
    summed = params.get("summed")  # how moments are that do not lie on disk
    modules = params.settings["modules"]
    at_once = workers(snakemake, device, old.dims, new.dims, bool(summed), modules)
    pair = open_pair(old, new, inputs, dict(params.settings), device, workers=at_once)
    if summed:
        pair = in_turn(pair, params.sources["texts"], summed)
    made = counted(make_maps(params.method, pair), maps_to_make(pair), "module maps")
    ahead = maps_ahead(params.method, pair)
    write_maps(snakemake.output[0], params.method, identities(inputs), made, ahead)
    log.info("maps by %s for %s", params.method, ", ".join(modules))
