"""Rule account: what was run, as a page of the report."""

from loraport import account
from loraport.job import job
from loraport.render import write_text

with job(snakemake) as log:
    params = snakemake.params
    done = account.documents(params.scores, params.adapters.values())
    facts = {
        "Models": account.models(params.specs, params.sources),
        "Adapters": account.adapters(params.adapters),
        "Settings": account.settings(params.settings),
        "Versions": account.versions(done),
        "Machine": account.machines(done),
    }
    page = account.page(f"What was run: {params.title}", facts, account.once(params.logs))
    write_text(snakemake.output[0], page)
    log.info("%d scored or trained artifacts", len(done))
