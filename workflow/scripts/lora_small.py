"""Rules lora_small and …_matched: a fresh adapter like the transferred one, on the small set."""

from loraport.artifacts import identities
from loraport.data import read
from loraport.job import job
from loraport.spec import load_spec
from loraport.starts import fresh_like
from loraport.train import Settings, train_lora

with job(snakemake) as log:
    params = snakemake.params
    model = load_spec(snakemake.input.spec, params.base["source"])
    result = train_lora(
        model.directory,
        read(**params.data),
        snakemake.output[0],
        start=fresh_like(snakemake.input.like),
        settings=Settings(**params.settings, trust_remote_code=params.base["remote_code"]),
        resume_root="artifacts/.resume/training",
        inputs=identities({"spec": snakemake.input.spec}),
        base_name=params.base["source"],
    )
    log.info("%(examples)d examples, %(steps)d steps, last loss %(last_loss).4f", result)
    log.info("cut: %(truncated)d, dropped: %(dropped)d, longest: %(longest)d tokens", result)
