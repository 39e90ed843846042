"""Rule lora_start: nothing, what is carried or taught, by trainings that leave answers out."""

from importlib import import_module
from pathlib import Path
from tempfile import TemporaryDirectory

from loraport.adapters.files import folder_of
from loraport.artifacts import atomic, identities, read_json
from loraport.evaluation.folds import FOLDS
from loraport.evaluation.start import NOTHING, Begin, Teach, choose_start
from loraport.models.spec import load_spec
from loraport.runtime.job import job, progress
from loraport.training.data import read
from loraport.training.settings import Settings
from loraport.training.starts import fresh_like
from loraport.transfer.files import transfer_whole

OTHERS = ("adapter", "spec", "data", "transferred")

with job(snakemake) as log:
    params = snakemake.params
    artifacts = {k: v for k, v in snakemake.input.items() if k not in OTHERS}
    inputs, transferred = identities(artifacts), Path(snakemake.input.transferred)
    model = load_spec(snakemake.input.spec, params.base["source"])
    gain = read_json(transferred / "transfer.json", "transfer")["gain"]["gain"]
    adapter = folder_of(snakemake.input.adapter)
    teach: Teach | None = None
    if params.taught:  # by its name: its code counts where a start is taught, and nowhere else
        settings, old = params.taught["settings"], params.taught["old"]
        old_spec = snakemake.input.old_spec
        carried = (adapter, artifacts, inputs, params.transfer)
        module = import_module("loraport.upgrade.taught_start")
        teach = module.Teaching(
            settings,
            lambda: load_spec(old_spec, old["source"]).directory,
            old,
            *carried,
            params.base["name"],
        )
    starts: dict[str, Begin] = {NOTHING: fresh_like(transferred)}
    if gain:
        starts[f"carried, times {gain:g}"] = transferred
    with TemporaryDirectory(dir=Path(snakemake.output[0]).parent) as folder:
        if gain != 1:  # the gain was chosen for the answers before any training
            whole = Path(folder) / "whole"
            transfer_whole(adapter, artifacts, inputs, whole, params.transfer)
            starts["carried"] = whole
        count = FOLDS * len(starts) + (teach is not None)
        with atomic(snakemake.output[0]) as out, progress(count, "trials") as bar:
            out.mkdir()
            chosen = choose_start(
                model.directory,
                read(**params.data),
                starts,
                Settings(**params.settings, trust_remote_code=params.base["remote_code"]),
                out,
                inputs,
                params.base["name"],
                done=lambda: bar.update(1),
                teach=teach,
            )
    log.info("start: %s; nats an answer %s", chosen.start, chosen.nats)
