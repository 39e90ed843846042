"""Rule advice: which method, whether to fine-tune and on how much, by what was measured before."""

from loraport.artifacts import identities, read_json, write_json
from loraport.models.spec import load_spec
from loraport.report.advice import advise, facts, in_short
from loraport.report.cases import read_cases
from loraport.runtime.job import job

with job(snakemake) as log:
    inputs, wildcards = snakemake.input, snakemake.wildcards
    names = ("old_spec", "new_spec", "distance", "magnitude")
    paths = {name: str(inputs[name]) for name in names}
    known = facts(
        read_json(paths["distance"], "distance"),
        read_json(paths["magnitude"], "magnitude"),
        *(load_spec(paths[name]).dims for name in names[:2]),
    )
    content = advise(wildcards.pair, wildcards.app, known, read_cases())
    write_json(snakemake.output[0], "advice", identities(paths), content)
    for line in in_short(content, snakemake.output[0]):
        log.info("%s", line)
