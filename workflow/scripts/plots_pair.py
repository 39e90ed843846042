"""Rule plots_pair: layer similarities with the chosen path, and head similarities."""

from loraport.artifacts import read_json
from loraport.mapping.assignments import read_assignment
from loraport.mapping.similarity_file import read_similarity
from loraport.report import plots
from loraport.runtime.job import job

with job(snakemake) as log:
    inputs, outputs = snakemake.input, snakemake.output
    path = read_json(inputs.layers, "layers")["path"]
    similarity = read_similarity(inputs.cka)
    plots.save(plots.cka(similarity, path, snakemake.params.names), outputs.cka)
    matched = {(old, new): read_assignment(inputs.heads, new) for old, new, _ in path}
    layers = [(*pair, *heads) for pair, heads in matched.items() if heads is not None]
    plots.save(plots.heads(layers), outputs.heads)
