"""Rule compared: all methods side by side on an app, as CSV, Markdown and HTML."""

from loraport.report.compare import comparison, write_comparison
from loraport.report.render import text
from loraport.runtime.job import job

with job(snakemake) as log:
    params, wildcards = snakemake.params, snakemake.wildcards
    table = comparison(wildcards.app, params.entries, params.reference, params.missing)
    title = f"{wildcards.app}, all methods: {params.title}"
    write_comparison(table, title, dict(snakemake.output.items()))
    log.debug("%s", text(table))
    told = [row for row in table if row.get("note")]
    log.info("%d rows, %d of them not served or failed", len(table), len(told))
