# All methods side by side on an app: artifacts/{pair}/tables/{app}.methods.csv. A method that can't
# serve the pair stands there with its reason, known before anything runs.


localrules:
    compared,
    plots_methods,
    plots_methods_of_apps,


rule compared:
    input:
        scores=look.compared_scores,
    output:
        csv=f"{layout.COMPARISON}.csv",
        md=f"{layout.COMPARISON}.md",
        html=report(
            f"{layout.COMPARISON}.html",
            caption="../workflow/report/methods.rst",
            category="1 Tables",
            labels={"app": "{app}", "view": "methods"},
        ),
    log:
        layout.LOGS["compared"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        entries=look.compared_entries,
        reference=look.compared_with,
        missing=look.compared_missing,
        title=look.title,
        code=look.code("compared"),
    script:
        "../workflow/scripts/compared.py"


rule plots_methods:
    input:
        table=f"{layout.COMPARISON}.csv",
    output:
        bars=report(
            look.app_plot("methods"),
            caption="../workflow/report/methods_bars.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "methods"},
        ),
        cost=report(
            look.app_plot("methods_cost"),
            caption="../workflow/report/methods_cost.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "methods, retention against cost"},
        ),
    log:
        layout.LOGS["plots_methods"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        code=look.code("plots_methods"),
    script:
        "../workflow/scripts/plots_methods.py"


rule plots_methods_of_apps:
    input:
        look.of_apps(f"{layout.COMPARISON}.csv"),
    output:
        report(
            look.pair_plot("methods"),
            caption="../workflow/report/methods_of_apps.rst",
            category="3 Plots",
            labels={"app": "all", "view": "methods"},
        ),
    log:
        layout.LOGS["plots_methods_of_apps"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        apps=look.reported_apps,
        code=look.code("plots_methods_of_apps"),
    script:
        "../workflow/scripts/plots_methods_of_apps.py"
