"""Rule tables: the tables of all of a pair's apps in one."""

from loraport.report.render import read_csv
from loraport.report.tables import write_table
from loraport.runtime.job import job

with job(snakemake) as log:
    table = [row for path in snakemake.input.tables for row in read_csv(path)]
    write_table(table, snakemake.params.title, dict(snakemake.output.items()))
    log.info("%d rows of %d apps", len(table), len(snakemake.input.tables))
