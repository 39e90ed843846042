"""Rule plots_methods: what each method scores, and what it keeps for its cost."""

from loraport.report import plots, plots_compared
from loraport.report.compare import over_seeds
from loraport.report.render import read_csv
from loraport.runtime.job import job

with job(snakemake) as log:
    table, outputs = over_seeds(read_csv(snakemake.input.table)), snakemake.output
    plots.save(plots_compared.methods(table), outputs.bars)
    plots.save(plots_compared.method_costs(table), outputs.cost)
    log.info("%d rows", len(table))
