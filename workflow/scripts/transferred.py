"""Rule transferred: carry one adapter through the maps of a pair; loads no base model."""

from loraport.adapters.files import folder_of
from loraport.artifacts import atomic, identities
from loraport.runtime.job import job
from loraport.transfer.files import transfer_files

with job(snakemake) as log:
    inputs = {key: path for key, path in snakemake.input.items() if key != "adapter"}
    folder = folder_of(snakemake.input.adapter)
    with atomic(snakemake.output[0]) as out:
        out.mkdir()
        named, params = identities(inputs), snakemake.params.transfer
        report = transfer_files(folder, inputs, named, out, params, snakemake.threads)
    for warning in report["warnings"]:
        log.warning("%s", warning)
    served = sum(each["source"] is not None for each in report["modules"].values())
    log.info("%d of %d modules have a source", served, len(report["modules"]))
