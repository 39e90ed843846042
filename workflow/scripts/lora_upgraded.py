"""Rule lora_upgraded: an adapter is carried, and taught from the best start by a teacher."""

from pathlib import Path
from tempfile import TemporaryDirectory

from loraport.adapters.files import folder_of, read_adapter
from loraport.artifacts import identities, read_json
from loraport.models.spec import load_spec
from loraport.runtime.job import job
from loraport.upgrade.rule import carried_candidates, records_of, write_upgraded

with job(snakemake) as log:
    params, given = snakemake.params, dict(snakemake.input.items())
    artifacts = {k: v for k, v in given.items() if k not in ("adapter", "data")}
    inputs, adapter = identities(artifacts), folder_of(given["adapter"])
    folders = [
        load_spec(given[f"{side}_spec"], params.bases[side]["source"]).directory
        for side in ("old", "new")
    ]
    commits = {
        side: read_json(given[f"{side}_spec"], "spec")["revision"] for side in ("old", "new")
    }
    with TemporaryDirectory(dir=Path(snakemake.output[0]).parent) as folder:
        carried = carried_candidates(adapter, artifacts, inputs, Path(folder), params.transfer)
        report = write_upgraded(
            snakemake.output[0],
            folders,
            adapter,
            carried,
            records_of(params.data, params.settings),
            params.settings,
            bases=params.bases,
            commits=commits,
            inputs={**inputs, **read_adapter(adapter).hashes()},
        )
    log.info("teacher %(teacher)s: %(why)s", report["choice"])
    log.info("start %(start)s at gain %(gain)s", report["start"])
    log.info("best epoch: %s", report["taught"]["best"])
