# The report: plots of an app and of a pair, and the page that says what was run.
# `snakemake --report artifacts/{pair}/workflow.html -- artifacts/{pair}/run.html` puts them together.


report: "../workflow/report/workflow.rst"


localrules:
    plots_pair,
    plots_app,
    account,


rule plots_pair:
    input:
        cka=look.pair_artifact("cka"),
        layers=look.pair_artifact("layers"),
        heads=look.pair_artifact("heads"),
    output:
        cka=report(
            look.pair_plot("cka"),
            caption="../workflow/report/cka.rst",
            category="2 Mapping",
            labels={"of": "layers", "view": "similarity and path"},
        ),
        heads=report(
            look.pair_plot("heads"),
            caption="../workflow/report/heads.rst",
            category="2 Mapping",
            labels={"of": "heads", "view": "similarity and assignment"},
        ),
    log:
        layout.LOGS["plots_pair"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        names=look.pair_models,
        code=look.code("plots_pair"),
    script:
        "../workflow/scripts/plots_pair.py"


rule plots_app:
    input:
        table=f"{layout.TABLE}.csv",
    output:
        loss=report(
            look.app_plot("loss"),
            caption="../workflow/report/loss.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "loss curves"},
        ),
        retention=report(
            look.app_plot("retention"),
            caption="../workflow/report/retention.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "retention against cost"},
        ),
        cost=report(
            look.app_plot("cost"),
            caption="../workflow/report/cost.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "time and memory"},
        ),
    log:
        layout.LOGS["plots_app"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        rows=look.table_rows,
        code=look.code("plots_app"),
    script:
        "../workflow/scripts/plots_app.py"


rule account:
    input:
        look.of_apps(f"{layout.TABLE}.html"),
        look.app_plots(),
        f"{layout.TABLE_OF_ALL}.html",
        look.pair_plot("cka"),
        layout.ADVICE_PAGE,
        look.pair_plot("distance"),
        look.sweeps_made,
        look.comparisons,
        specs=look.spec_files,
    output:
        report(
            layout.RUN_PAGE,
            caption="../workflow/report/run.rst",
            category="4 What was run",
            labels={"of": "models, settings, versions, machine"},
        ),
    log:
        layout.LOGS["account"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=look.title,
        specs=look.specs_of,
        sources=look.model_sources_of,
        adapters=look.reported_adapters,
        scores=look.reported_scores,
        settings=look.account_settings,
        logs=look.account_logs,
        some_failed=look.show_failures,
        code=look.code("account"),
    script:
        "../workflow/scripts/account.py"
