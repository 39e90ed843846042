"""Rule lora_source: the source adapter cut to a lower rank, or to fewer modules, for a sweep."""

from loraport.adapters.cut import cut_adapter
from loraport.adapters.files import folder_of
from loraport.artifacts import atomic, identities
from loraport.models.spec import load_spec
from loraport.runtime.job import job

with job(snakemake) as log:
    params, folder = snakemake.params, folder_of(snakemake.input.adapter)
    specs = {"spec": snakemake.input.spec}
    with atomic(snakemake.output[0]) as out:
        out.mkdir()
        done = cut_adapter(
            folder,
            load_spec(specs["spec"]),
            out,
            params.known_as,
            params.cut,
            params.base,
            identities(specs),
        )
    log.info("%s: %.1f %% of the update's energy kept", done["cut"], 100 * done["energy_kept"])
