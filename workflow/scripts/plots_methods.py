"""Rule plots_methods: what each method scores, and what it keeps for its cost."""

from loraport import plots, plots_compared
from loraport.compare import over_seeds
from loraport.job import job
from loraport.render import read_csv

with job(snakemake) as log:
    table, outputs = over_seeds(read_csv(snakemake.input.table)), snakemake.output
    plots.save(plots_compared.methods(table), outputs.bars)
    plots.save(plots_compared.method_costs(table), outputs.cost)
    log.info("%d rows", len(table))
