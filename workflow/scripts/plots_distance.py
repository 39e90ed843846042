"""Rule plots_distance: diagnostics against what was kept, and the size of each app's update."""

from loraport.artifacts import read_json
from loraport.report import plots, plots_compared
from loraport.report.cases import DISTANCES, pearson, points, read_cases
from loraport.runtime.job import job

with job(snakemake) as log:
    params, outputs, cases = snakemake.params, snakemake.output, read_cases()
    panels = {}
    for fact, label in DISTANCES.items():
        measured = points(cases, fact)
        r = pearson([distance for _, distance, _ in measured], [kept for _, _, kept in measured])
        panels[f"log10 of {label}" if fact == "distance" else label] = (measured, r)
    plots.save(plots_compared.distance(panels, params.pair), outputs.distance)
    sizes = {app: read_json(path, "magnitude") for app, path in params.magnitudes.items()}
    plots.save(plots_compared.magnitudes(sizes), outputs.magnitude)
    log.info("%d measured apps, %d adapters", len(cases), len(sizes))
