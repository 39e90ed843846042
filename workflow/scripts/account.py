"""Rule account: what was run, as a page of the report."""

from loraport.report import run_page
from loraport.report.render import write_text
from loraport.runtime.job import job

with job(snakemake) as log:
    params = snakemake.params
    done = run_page.documents(params.scores, params.adapters.values())
    facts = {
        "Models": run_page.models(params.specs, params.sources),
        "Adapters": run_page.adapters(params.adapters),
        "Settings": run_page.settings(params.settings),
        "Versions": run_page.versions(done),
        "Machine": run_page.machines(done),
    }
    costs = run_page.once(params.logs, some_failed=params.some_failed)
    page = run_page.page(f"What was run: {params.title}", facts, costs)
    write_text(snakemake.output[0], page)
    log.info("%d scored or trained artifacts", len(done))
