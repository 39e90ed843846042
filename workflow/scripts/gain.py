"""Rule gain: how much of a carried update helps, by the likelihood of answers to a small set."""

from pathlib import Path
from tempfile import TemporaryDirectory

from loraport.adapters.files import folder_of
from loraport.artifacts import identities
from loraport.evaluation.gain import choose_for, write_gain
from loraport.models.spec import load_spec
from loraport.runtime.job import job
from loraport.transfer.files import transfer_whole

with job(snakemake) as log:
    params = snakemake.params
    artifacts = {k: v for k, v in snakemake.input.items() if k not in ("adapter", "spec", "data")}
    inputs = identities(artifacts)
    with TemporaryDirectory(dir=Path(snakemake.output[0]).parent) as folder:
        carried = Path(folder) / "whole"
        adapter = folder_of(snakemake.input.adapter)
        transfer_whole(adapter, artifacts, inputs, carried, params.transfer)
        model = load_spec(snakemake.input.spec, params.base["source"])
        chosen = choose_for(model, carried, params.data, params.settings, params.base)
    write_gain(snakemake.output[0], inputs, chosen, params.answers)
    log.info("gain %s: %.3f nats an answer better than none", chosen.gain, chosen.improvement)
