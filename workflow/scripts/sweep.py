"""Rule sweep: score a sweep's points with one load of the base, then its table and plot."""

from pathlib import Path

from loraport.artifacts import atomic, identities, identity
from loraport.evaluation.evaluate import Settings, Stage, score_stages
from loraport.models.spec import load_spec
from loraport.planning import layout
from loraport.report import plots, render
from loraport.report.sweeps import COLUMNS, sweep_table
from loraport.runtime.job import job

with job(snakemake) as log, atomic(snakemake.output.scores) as scores:
    params, outputs, spec = snakemake.params, snakemake.output, snakemake.input.spec
    scores.mkdir()
    points = [
        {**each, "scores": scores / f"{each['value'] or 'at'}.{each['stage']}.json"}
        for each in params.points
    ]
    score_stages(
        load_spec(spec, params.base["source"]).directory,
        [
            Stage(
                each["stage"],
                Path(each["adapter"]) if each["adapter"] else None,
                each["scores"],
                tuple(params.task["eval"]),
                params.task["template"],
            )
            for each in points
        ],
        params.tasks_dir,
        Settings(**params.settings, trust_remote_code=params.base["remote_code"]),
        cache=layout.SCORES_KEPT,
        model_identity=identity(spec)[0],
        inputs=identities({"spec": spec}),
    )
    table = sweep_table(snakemake.wildcards.name, points, params.skipped)
    render.write_csv(outputs.table, table, COLUMNS)
    plots.save(plots.sweep(table, snakemake.wildcards.name, params.order), outputs.plot)
