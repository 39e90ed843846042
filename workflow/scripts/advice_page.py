"""Rule advice_page: the advice for all of a pair's apps, as a page of the report."""

from loraport.artifacts import read_json
from loraport.report.advice_page import page
from loraport.report.render import write_text
from loraport.runtime.job import job

with job(snakemake) as log:
    advised = [read_json(path, "advice") for path in snakemake.input]
    write_text(snakemake.output[0], page(f"Advice: {snakemake.params.title}", advised))
    log.info("%d apps", len(advised))
