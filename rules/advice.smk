# What to expect of a transfer before it is run: how large the adapter's update is, how far apart the
# models are, and what was measured on pairs like this one.
from loraport.report.cases import MEASURED

CASES = [str(path) for path in sorted(MEASURED.glob("*.json"))]  # they come with the package


localrules:
    advice,
    advice_page,
    plots_distance,


rule magnitude:
    input:
        look.own_adapter,
        spec=look.spec_of("own"),
    output:
        layout.MAGNITUDE,
    log:
        layout.LOGS["magnitude"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=look.mem_mb("spec"),
        runtime=look.runtime("spec"),
    params:
        adapter=look.own_adapter_folder,
        known_as=look.known_as("own"),
        code=look.code("magnitude"),
    script:
        "../workflow/scripts/magnitude.py"


rule advice:
    input:
        unpack(look.pair_specs),
        distance=layout.DISTANCE,
        magnitude=look.old_magnitude,
        measured=CASES,
    output:
        layout.ADVICE,
    log:
        layout.LOGS["advice"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=look.code("advice"),
    script:
        "../workflow/scripts/advice.py"


rule advice_page:
    input:
        look.of_apps(layout.ADVICE),
    output:
        report(
            layout.ADVICE_PAGE,
            caption="../workflow/report/advice.rst",
            category="1 Tables",
            labels={"app": "all", "view": "advice"},
        ),
    log:
        layout.LOGS["advice_page"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=look.title,
        code=look.code("advice_page"),
    script:
        "../workflow/scripts/advice_page.py"


rule plots_distance:
    input:
        magnitudes=look.magnitude_files,
        measured=CASES,
    output:
        distance=report(
            look.pair_plot("distance"),
            caption="../workflow/report/distance.rst",
            category="2 Mapping",
            labels={"of": "models", "view": "distance against what is kept"},
        ),
        magnitude=report(
            look.pair_plot("magnitude"),
            caption="../workflow/report/magnitude.rst",
            category="2 Mapping",
            labels={"of": "adapters", "view": "update magnitude"},
        ),
    log:
        layout.LOGS["plots_distance"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        magnitudes=look.magnitudes_of,
        pair=lambda wildcards: wildcards.pair,
        code=look.code("plots_distance"),
    script:
        "../workflow/scripts/plots_distance.py"
