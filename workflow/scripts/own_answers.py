"""Rule own_answers: a small set's prompts with the answers of the old model and its adapter."""

from loraport.adapters.files import folder_of, read_adapter
from loraport.artifacts import identities, sha256, write_json
from loraport.models.spec import load_spec
from loraport.runtime.job import job
from loraport.training.data import read, subset
from loraport.training.own_answers import write_own_answers

with job(snakemake) as log:
    params, settings = snakemake.params, dict(snakemake.params.settings)
    folder = folder_of(snakemake.input.adapter)
    model = load_spec(snakemake.input.spec, params.base["source"])
    count, seed = int(snakemake.wildcards.examples), settings.pop("subset_seed")
    content = write_own_answers(
        snakemake.output.data,
        model.directory,
        folder,
        subset(read(**params.data), count, seed),
        trust_remote_code=params.base["remote_code"],
        **settings,
    )
    content |= {"sha256": sha256(snakemake.output.data), "adapter": read_adapter(folder).hashes()}
    inputs = identities({"old_spec": snakemake.input.spec})
    write_json(snakemake.output.about, "own answers", inputs, content)
    said = "%(prompts)d prompts: %(kept)d answered by the old model, %(empty)d empty, %(cut)d cut"
    log.info(said, content)
    if content["kept"] < content["prompts"]:
        log.warning("the small set has %(kept)d examples: the others are left out", content)
