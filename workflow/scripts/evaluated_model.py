"""Rules evaluated_*: score a base model and adapters on it; the base is loaded once, if at all."""

from pathlib import Path

from loraport.artifacts import identities, identity
from loraport.evaluation.evaluate import Settings, Stage, score_stages
from loraport.models.spec import load_spec
from loraport.planning import layout
from loraport.runtime.job import job

with job(snakemake) as log:
    params = snakemake.params
    model = load_spec(snakemake.input.spec, params.base["source"])
    tasks = tuple(params.task["eval"])
    stages = [
        Stage(stage, Path(adapter) if adapter else None, Path(out), tasks, params.task["template"])
        for (stage, adapter), out in zip(params.adapters.items(), snakemake.output, strict=True)
    ]
    score_stages(
        model.directory,
        stages,
        params.tasks_dir,
        Settings(**params.settings, trust_remote_code=params.base["remote_code"]),
        cache=layout.SCORES_KEPT,
        model_identity=identity(snakemake.input.spec)[0],
        inputs=identities({"spec": snakemake.input.spec}),
    )
