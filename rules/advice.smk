# What to expect of a transfer before it is run: how large the adapter's update is, how far apart the
# models are, and what was measured on pairs like this one.


localrules:
    advice,
    advice_page,
    plots_distance,


rule magnitude:
    input:
        own_adapter,
        spec=spec_of("own"),
    output:
        "artifacts/models/{model}/{app}/magnitude.json",
    log:
        "artifacts/models/{model}/logs/{app}/magnitude.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=memory("spec"),
        runtime=minutes("spec"),
    params:
        adapter=own_adapter_folder,
        known_as=lambda wildcards: CONFIG.known_as(wildcards.model),
        code=code("magnitude"),
    script:
        "../workflow/scripts/magnitude.py"


rule advice:
    input:
        unpack(lambda wildcards: pair_specs(wildcards.pair)),
        distance=f"{PAIR}/distance.json",
        magnitude=old_magnitude,
        measured=measured_cases(),
    output:
        f"{APP}/advice.json",
    log:
        f"{PAIR}/logs/{{app}}/advice.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("advice"),
    script:
        "../workflow/scripts/advice.py"


rule advice_page:
    input:
        of_apps(f"{APP}/advice.json"),
    output:
        report(
            f"{PAIR}/advice.html",
            caption="../workflow/report/advice.rst",
            category="1 Tables",
            labels={"app": "all", "view": "advice"},
        ),
    log:
        f"{PAIR}/logs/advice_page.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=title,
        code=code("advice_page"),
    script:
        "../workflow/scripts/advice_page.py"


rule plots_distance:
    input:
        magnitudes=lambda wildcards: list(magnitudes_of(wildcards).values()),
        measured=measured_cases(),
    output:
        distance=report(
            f"{PAIR}/plots/distance.svg",
            caption="../workflow/report/distance.rst",
            category="2 Mapping",
            labels={"of": "models", "view": "distance against what is kept"},
        ),
        magnitude=report(
            f"{PAIR}/plots/magnitude.svg",
            caption="../workflow/report/magnitude.rst",
            category="2 Mapping",
            labels={"of": "adapters", "view": "update magnitude"},
        ),
    log:
        f"{PAIR}/logs/plots_distance.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        magnitudes=magnitudes_of,
        pair=lambda wildcards: wildcards.pair,
        code=code("plots_distance"),
    script:
        "../workflow/scripts/plots_distance.py"
