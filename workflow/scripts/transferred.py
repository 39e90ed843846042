"""Rule transferred: carry one adapter through the maps of a pair; loads no base model."""

from pathlib import Path

from loraport.artifacts import atomic, identities
from loraport.job import job
from loraport.transfer import transfer_files

with job(snakemake) as log:
    inputs = {key: path for key, path in snakemake.input.items() if key != "adapter"}
    adapter = snakemake.input.adapter
    folder = Path(adapter if isinstance(adapter, str) else adapter[0])
    folder = folder if folder.is_dir() else folder.parent
    with atomic(snakemake.output[0]) as out:
        out.mkdir()
        report = transfer_files(folder, inputs, identities(inputs), out, snakemake.params.transfer)
    for warning in report["warnings"]:
        log.warning("%s", warning)
    served = sum(each["source"] is not None for each in report["modules"].values())
    log.info("%d of %d modules have a source", served, len(report["modules"]))
