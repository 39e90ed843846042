"""Rule layers: which old layer serves which new one."""

from loraport.artifacts import identities, read_h5, write_json
from loraport.mapping.layers import layer_path
from loraport.runtime.job import job

with job(snakemake) as log:
    settings = snakemake.params.settings
    with read_h5(snakemake.input.cka, "cka") as file:
        similarity = file["similarity"][...]
    path = layer_path(similarity, *(settings[k] for k in ("layers", "max_offset", "unmatched")))
    rows = [[old, new, float(similarity[old, new])] for old, new in path]
    content = {
        "path": rows,
        "max_offset": settings["max_offset"],
        "unmatched": settings["unmatched"],
        "total": sum(row[2] for row in rows),
        "rule": settings["layers"],
        "layers": list(similarity.shape),
    }
    write_json(snakemake.output[0], "layers", identities({"cka": snakemake.input.cka}), content)
    log.info("%s", " ".join(f"{old}→{new}" for old, new, _ in rows))
