"""Rule verdict: may the upgraded adapter take the old one's place?"""

from pathlib import Path

from loraport.adapters.files import folder_of
from loraport.artifacts import identities
from loraport.evaluation.verdict import write_verdict
from loraport.models.spec import load_spec
from loraport.planning import layout
from loraport.runtime.job import job
from loraport.upgrade.rule import judging_of, records_of, verdict_by_agreement
from loraport.upgrade.scored import Scoring, verdict_by_scores

with job(snakemake) as log:
    params, given = snakemake.params, snakemake.input
    specs = {f"{side}_spec": given[f"{side}_spec"] for side in ("old", "new")}
    folders = [
        load_spec(specs[f"{side}_spec"], params.bases[side]["source"]).directory
        for side in ("old", "new")
    ]
    adapters = [folder_of(given.adapter), Path(given.upgraded)]
    about = {"app": snakemake.wildcards.app, "pair": snakemake.wildcards.pair}
    if params.task["eval"]:
        scoring = Scoring(params.task, params.tasks_dir, params.scoring, layout.SCORES_KEPT)
        verdict = verdict_by_scores(folders, adapters, scoring, judging_of(params.settings), specs)
    else:
        records = records_of(params.data, params.settings)
        verdict, wrote = verdict_by_agreement(
            folders, adapters, records, params.settings, params.bases
        )
        about |= wrote
    write_verdict(snakemake.output[0], verdict, inputs=identities(specs), about=about)
    log.info("%s. %s", verdict.verdict, verdict.why)
