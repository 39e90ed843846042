"""Rule plots_methods_of_apps: what each method scores, app by app."""

from loraport.report import plots, plots_compared
from loraport.report.compare import over_seeds
from loraport.report.render import read_csv
from loraport.runtime.job import job

with job(snakemake) as log:
    apps = zip(snakemake.params.apps, snakemake.input, strict=True)
    tables = {app: over_seeds(read_csv(path)) for app, path in apps}
    plots.save(plots_compared.methods_of_apps(tables), snakemake.output[0])
    log.info("%d apps", len(tables))
