"""Rules lora_finetuned and lora_small…: training on the small set, from a transferred adapter or,
where there is one to be `like`, from a fresh adapter of its shape."""

from loraport.artifacts import identities, read_json
from loraport.models.spec import load_spec
from loraport.planning import layout
from loraport.runtime.job import job
from loraport.training.card import Names
from loraport.training.data import read
from loraport.training.settings import Settings
from loraport.training.starts import fresh_like
from loraport.training.train import train_lora
from loraport.training.watched import Watched

with job(snakemake) as log:
    params, inputs = snakemake.params, dict(snakemake.input.items())
    model = load_spec(inputs["spec"], params.base["source"])
    commit = read_json(inputs["spec"], "spec")["revision"]
    result = train_lora(
        model.directory,
        read(**params.data),
        snakemake.output[0],
        start=fresh_like(inputs["like"]) if "like" in inputs else inputs["start"],
        settings=Settings(**params.settings, trust_remote_code=params.base["remote_code"]),
        resume_root=layout.TRAINING_KEPT,
        inputs=identities({"spec": inputs["spec"]}),
        base_name=params.base["name"],
        names=Names(snakemake.wildcards.app, params.base["name"], commit),
        watched=Watched.of_job(snakemake),
    )
    log.info("%(examples)d examples, %(steps)d steps, last loss %(last_loss).4f", result)
    log.info("cut: %(truncated)d, dropped: %(dropped)d, longest: %(longest)d tokens", result)
