"""Rule spec: what a model is, and that its weights are whole."""

from loraport.artifacts import write_json
from loraport.models.spec import describe, is_local, resolve
from loraport.runtime.job import job

with job(snakemake) as log:
    params = snakemake.params
    source = params.sources["model"]
    directory, revision = resolve(source, params.revision)
    if not is_local(source) and revision != params.revision:
        asked = f"revision {params.revision} may move" if params.revision else "no revision given"
        log.warning("%s: %s; took the newest, %s", source, asked, revision)
    content = describe(directory, source, revision)
    write_json(snakemake.output[0], "spec", {}, content)
    if aside := content.get("left_aside"):
        log.warning("%s holds files that are not the model, and not read: %s", source, aside)
    if others := content["other_tensors"]:
        told = "%d tensors that no family file accounts for, such as %s: they are left as they are"
        log.warning(told, len(others), others[0])
    log.info("%s: %s, %s", snakemake.wildcards.model, content["family"], content["dimensions"])
