"""Rule plots_pair: layer similarities with the chosen path, and head similarities."""

from loraport.artifacts import read_h5, read_json
from loraport.report import plots
from loraport.runtime.job import job

with job(snakemake) as log:
    inputs, outputs = snakemake.input, snakemake.output
    path = read_json(inputs.layers, "layers")["path"]
    with read_h5(inputs.cka, "cka") as file:
        plots.save(plots.cka(file["similarity"][...], path, snakemake.params.names), outputs.cka)
    with read_h5(inputs.heads, "heads") as file:
        layers = [
            (old, new, file[f"layer_{new}/similarity"][...], file[f"layer_{new}/assignment"][...])
            for old, new, _ in path
        ]
    plots.save(plots.heads(layers), outputs.heads)
