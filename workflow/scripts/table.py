"""Rule table: an app's scores, costs and comparisons, as CSV, Markdown and HTML."""

from loraport.report.render import text
from loraport.report.tables import make_table, write_table
from loraport.runtime.job import job

with job(snakemake) as log:
    params, wildcards = snakemake.params, snakemake.wildcards
    table = make_table(wildcards.app, params.rows, params.missing)
    write_table(table, f"{wildcards.app}: {params.title}", dict(snakemake.output.items()))
    log.debug("%s", text(table))
    failed = [row["row"] for row in table if str(row.get("note") or "").startswith("failed")]
    log.info("%d rows, %d of them without a score", len(table), len(failed))
