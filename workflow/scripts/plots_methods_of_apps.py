"""Rule plots_methods_of_apps: what each method scores, app by app."""

from loraport import plots, plots_compared
from loraport.compare import over_seeds
from loraport.job import job
from loraport.render import read_csv

with job(snakemake) as log:
    apps = zip(snakemake.params.apps, snakemake.input, strict=True)
    tables = {app: over_seeds(read_csv(path)) for app, path in apps}
    plots.save(plots_compared.methods_of_apps(tables), snakemake.output[0])
    log.info("%d apps", len(tables))
