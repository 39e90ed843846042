"""Rule lora_trained: an adapter of one model, trained from nothing on all of a task's data."""

from loraport.artifacts import identities, read_json
from loraport.models.spec import load_spec
from loraport.planning import layout
from loraport.runtime.job import job
from loraport.training.card import Names
from loraport.training.data import read
from loraport.training.settings import Settings
from loraport.training.starts import Fresh, target_modules
from loraport.training.train import train_lora
from loraport.training.watched import Watched

with job(snakemake) as log:
    params = snakemake.params
    model = load_spec(snakemake.input.spec, params.base["source"])
    lora = dict(params.lora)
    targets = target_modules(model.architecture, lora.pop("modules"))
    commit = read_json(snakemake.input.spec, "spec")["revision"]
    result = train_lora(
        model.directory,
        read(**params.data),
        snakemake.output[0],
        start=Fresh(target_modules=targets, **lora),
        settings=Settings(**params.settings, trust_remote_code=params.base["remote_code"]),
        resume_root=layout.TRAINING_KEPT,
        inputs=identities({"spec": snakemake.input.spec}),
        base_name=params.base["name"],
        names=Names(snakemake.wildcards.app, params.base["name"], commit),
        watched=Watched.of_job(snakemake),
    )
    log.info("%(examples)d examples, %(steps)d steps, last loss %(last_loss).4f", result)
    log.info("cut: %(truncated)d, dropped: %(dropped)d, longest: %(longest)d tokens", result)
