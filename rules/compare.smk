# All methods side by side on an app: artifacts/{pair}/tables/{app}.methods.csv. A method that can't
# serve the pair stands there with its reason, known before anything runs.


localrules:
    compared,
    plots_methods,
    plots_methods_of_apps,


rule compared:
    input:
        scores=compared_scores,
    output:
        csv=f"{PAIR}/tables/{{app}}.methods.csv",
        md=f"{PAIR}/tables/{{app}}.methods.md",
        html=report(
            f"{PAIR}/tables/{{app}}.methods.html",
            caption="../workflow/report/methods.rst",
            category="1 Tables",
            labels={"app": "{app}", "view": "methods"},
        ),
    log:
        f"{PAIR}/logs/{{app}}/compared.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        entries=compared_entries,
        reference=compared_with,
        missing=compared_missing,
        title=title,
        code=code("compared"),
    script:
        "../workflow/scripts/compared.py"


rule plots_methods:
    input:
        table=f"{PAIR}/tables/{{app}}.methods.csv",
    output:
        bars=report(
            f"{APP}/plots/methods.svg",
            caption="../workflow/report/methods_bars.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "methods"},
        ),
        cost=report(
            f"{APP}/plots/methods_cost.svg",
            caption="../workflow/report/methods_cost.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "methods, retention against cost"},
        ),
    log:
        f"{PAIR}/logs/{{app}}/plots_methods.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=code("plots_methods"),
    script:
        "../workflow/scripts/plots_methods.py"


rule plots_methods_of_apps:
    input:
        of_apps(f"{PAIR}/tables/{{app}}.methods.csv"),
    output:
        report(
            f"{PAIR}/plots/methods.svg",
            caption="../workflow/report/methods_of_apps.rst",
            category="3 Plots",
            labels={"app": "all", "view": "methods"},
        ),
    log:
        f"{PAIR}/logs/plots_methods_of_apps.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        apps=reported_apps,
        code=code("plots_methods_of_apps"),
    script:
        "../workflow/scripts/plots_methods_of_apps.py"
