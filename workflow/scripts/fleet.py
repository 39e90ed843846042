"""Rule fleet: a row for each upgraded adapter of a pair."""

from pathlib import Path

from loraport.report.terminal import table
from loraport.runtime.job import job
from loraport.upgrade import fleet

with job(snakemake) as log:
    params = snakemake.params
    rows = [fleet.row_of_files(**each) for each in params.adapters]
    about = dict(zip(("old", "new"), params.models, strict=True))
    fleet.write_fleet(Path(snakemake.output.csv).parent, rows, about, {})
    for line in table(fleet.TOLD, map(fleet.cells, rows)).splitlines():
        log.info("%s", line)
