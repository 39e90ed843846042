"""Rule embedding: W_h of a pair, from the tokens that both vocabularies hold."""

from loraport.artifacts import identities
from loraport.mapping.embedding import map_embedding
from loraport.mapping.omp import approximate_unshared
from loraport.models.spec import load_spec
from loraport.runtime.device import pick_device
from loraport.runtime.job import job
from loraport.transfer.embedding_file import Tokens, write_embedding

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
    about = {"rule": result.rule, "condition": result.condition, "residual": result.residual}
    about |= result.counts
    tokens = [result.hidden_map.cpu().numpy(), result.token_ids_old, result.token_ids_new]
    if approximated:
        sums = approximate_unshared(new, result.token_ids_new, settings["device"])
        tokens += [sums.ids, sums.picks, sums.coefficients]
        about["unshared_residual"] = sums.residual
        log.info("%d unshared tokens by shared ones, residual %.3f", len(sums.ids), sums.residual)
    write_embedding(snakemake.output[0], identities(specs), Tokens(*tokens), about)
    log.info("W_h by %(rule)s, residual %(residual).3f, condition %(condition).1f", about)
