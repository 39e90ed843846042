"""Rule fleet: a row for each upgraded adapter of a pair."""

from pathlib import Path

from loraport.runtime.job import job
from loraport.upgrade.fleet import row_of_files, table, write_fleet

with job(snakemake) as log:
    params = snakemake.params
    rows = [row_of_files(**each) for each in params.adapters]
    about = dict(zip(("old", "new"), params.models, strict=True))
    write_fleet(Path(snakemake.output.csv).parent, rows, about, {})
    for line in table(rows).splitlines():
        log.info("%s", line)
