"""Rule embedding: W_h of a pair, from the tokens that both vocabularies hold."""

from loraport.artifacts import identities, write_h5
from loraport.mapping.embedding import map_embedding
from loraport.mapping.omp import approximate_unshared
from loraport.models.spec import load_spec
from loraport.runtime.device import pick_device
from loraport.runtime.job import job

with job(snakemake) as log:
    specs = {"old_spec": snakemake.input.old_spec, "new_spec": snakemake.input.new_spec}
    sources = snakemake.params.sources
    old, new = (
        load_spec(specs[f"{side}_spec"], sources[side], streamed=True) for side in ("old", "new")
    )
    settings = dict(snakemake.params.settings)
    settings["device"] = pick_device(settings["device"])
    approximated = settings.pop("unshared") == "omp"
    result = map_embedding(old, new, **settings)
    with write_h5(snakemake.output[0], "embedding", identities(specs)) as file:
        file.dataset("W_h", result.hidden_map.cpu().numpy())
        file.dataset("token_ids_old", result.token_ids_old)
        file.dataset("token_ids_new", result.token_ids_new)
        if approximated:
            found = approximate_unshared(new, result.token_ids_new, settings["device"])
            for name in ("ids", "picks", "coefficients"):
                file.dataset(f"unshared_{name}", getattr(found, name))
            file.attributes(unshared_residual=found.residual)
            log.info("%d unshared tokens by shared ones, residual %.3f",
                     len(found.ids), found.residual)  # fmt: skip
        file.attributes(
            rule=result.rule,
            condition=result.condition,
            residual=result.residual,
            **result.counts,
        )
    log.info("W_h by %s; %s; residual %.3f, condition %.1f",
             result.rule, result.counts, result.residual, result.condition)  # fmt: skip
