"""Rule report_page: verdicts, scores, flips and costs of a pair's adapters, on one page."""

from pathlib import Path

from loraport.artifacts import read_json
from loraport.evaluation.evaluate import Settings
from loraport.report import fleet, fleet_page, run_page
from loraport.report.asked import asked
from loraport.report.render import groups, read_csv, write_text
from loraport.runtime.job import job

with job(snakemake) as log:
    params = snakemake.params
    settings = Settings(**params.settings)
    apps = []
    for app, rows in groups(read_csv(snakemake.input.table)).items():
        files = params.scores[app]
        scores = {stage: read_json(f, "eval") for stage, f in files.items() if Path(f).is_file()}
        stage = fleet.result_stage(rows)
        verdict, why = fleet.verdict(scores, stage)
        items = asked(params.tasks[app], params.tasks_dir, settings) if stage in scores else {}
        shown, flipped = fleet.flips(scores.get("old_lora"), scores.get(stage), items)
        rates = read_csv(params.rates[app]) if Path(params.rates[app]).is_file() else ()
        entry = fleet.App(app, rows, stage, verdict, why, shown, flipped, rates)
        judged = Path(params.verdicts[app])
        apps.append(
            fleet.with_verdict(entry, read_json(judged, "verdict")) if judged.is_file() else entry
        )
    facts = {
        "Models": run_page.models(params.specs, params.sources),
        "Settings": run_page.settings(params.sections),
    }
    figures = {
        "Layers: similarity and path": snakemake.input.cka,
        "Heads: similarity and assignment": snakemake.input.heads,
    }
    links = {
        "everything that was run": "run.html",
        "Snakemake's report (both by make report)": "workflow.html",
    }
    write_text(
        snakemake.output[0],
        fleet_page.page(params.title, apps, figures=figures, facts=facts, links=links),
    )
    log.info("%d adapters", len(apps))
