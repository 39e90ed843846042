"""Rule plots_app: an app's loss curves, retention against cost, time and memory."""

from pathlib import Path

from loraport.report import plots
from loraport.report.render import read_csv
from loraport.runtime.job import job

with job(snakemake) as log:
    table, outputs = read_csv(snakemake.input.table), snakemake.output
    trained = [(row["label"], Path(row["adapter"])) for row in snakemake.params.rows]
    trained = [(label, folder) for label, folder in trained if (folder / "loss.csv").is_file()]
    plots.save(plots.losses(plots.read_curves(trained)), outputs.loss)
    plots.save(plots.retention(table), outputs.retention)
    plots.save(plots.costs(table), outputs.cost)
    log.info("%d loss curves, %d rows", len(trained), len(table))
