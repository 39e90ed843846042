"""Rule magnitude: how large an adapter's update is, by kind of module and by layer."""

from loraport.adapters.audit import audit
from loraport.adapters.files import read_adapter
from loraport.artifacts import identities, read_json, write_json
from loraport.mapping.distance import update_magnitudes
from loraport.models.spec import load_spec
from loraport.runtime.job import job

with job(snakemake) as log:
    params, specs = snakemake.params, {"spec": snakemake.input.spec}
    model, adapter = load_spec(specs["spec"]), read_adapter(params.adapter)
    revision = read_json(specs["spec"], "spec")["revision"]
    located = audit(adapter, model.architecture, model.dims, params.known_as, revision)
    content = {"adapter": adapter.hashes(), **update_magnitudes(located)}
    write_json(snakemake.output[0], "magnitude", identities(specs), content)
    log.info("‖ΔW‖² %.4g over %d modules", content["total"], len(located))
