# The report: tables and plots of an app, of a pair, and the page that says what was run.
# `snakemake --report artifacts/{pair}/report.html -- artifacts/{pair}/run.html` puts them together.


report: "../workflow/report/workflow.rst"


localrules:
    table,
    tables,
    plots_pair,
    plots_app,
    account,


rule table:
    input:
        scores=table_scores,
    output:
        csv=f"{PAIR}/tables/{{app}}.csv",
        md=f"{PAIR}/tables/{{app}}.md",
        html=report(
            f"{PAIR}/tables/{{app}}.html",
            caption="../workflow/report/table.rst",
            category="1 Tables",
            labels={"app": "{app}", "view": "table"},
        ),
    log:
        f"{PAIR}/logs/{{app}}/table.log",
    wildcard_constraints:
        app=rf"(?!all\.|.*\.(methods|merged)\.){NAME}",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        rows=table_rows,
        missing=table_missing,
        title=title,
        code=code("tables"),
    script:
        "../workflow/scripts/tables.py"


rule tables:
    input:
        tables=of_apps(f"{PAIR}/tables/{{app}}.csv"),
    output:
        csv=f"{PAIR}/tables/all.csv",
        md=f"{PAIR}/tables/all.md",
        html=report(
            f"{PAIR}/tables/all.html",
            caption="../workflow/report/table.rst",
            category="1 Tables",
            labels={"app": "all", "view": "table"},
        ),
    log:
        f"{PAIR}/logs/tables.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=title,
        code=code("tables_all"),
    script:
        "../workflow/scripts/tables_all.py"


rule plots_pair:
    input:
        cka=f"{PAIR}/cka.h5",
        layers=f"{PAIR}/layers.json",
        heads=f"{PAIR}/heads.h5",
    output:
        cka=report(
            f"{PAIR}/plots/cka.svg",
            caption="../workflow/report/cka.rst",
            category="2 Mapping",
            labels={"of": "layers", "view": "similarity and path"},
        ),
        heads=report(
            f"{PAIR}/plots/heads.svg",
            caption="../workflow/report/heads.rst",
            category="2 Mapping",
            labels={"of": "heads", "view": "similarity and assignment"},
        ),
    log:
        f"{PAIR}/logs/plots_pair.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        names=lambda wildcards: told(CONFIG.pair)(wildcards.pair),
        code=code("plots_pair"),
    script:
        "../workflow/scripts/plots_pair.py"


rule plots_app:
    input:
        table=f"{PAIR}/tables/{{app}}.csv",
    output:
        loss=report(
            f"{APP}/plots/loss.svg",
            caption="../workflow/report/loss.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "loss curves"},
        ),
        retention=report(
            f"{APP}/plots/retention.svg",
            caption="../workflow/report/retention.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "retention against cost"},
        ),
        cost=report(
            f"{APP}/plots/cost.svg",
            caption="../workflow/report/cost.rst",
            category="3 Plots",
            labels={"app": "{app}", "view": "time and memory"},
        ),
    log:
        f"{PAIR}/logs/{{app}}/plots.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        rows=table_rows,
        code=code("plots_app"),
    script:
        "../workflow/scripts/plots_app.py"


rule account:
    input:
        of_apps(f"{PAIR}/tables/{{app}}.html"),
        of_apps(*(f"{APP}/plots/{view}.svg" for view in ("loss", "retention", "cost"))),
        f"{PAIR}/tables/all.html",
        f"{PAIR}/plots/cka.svg",
        f"{PAIR}/advice.html",
        f"{PAIR}/plots/distance.svg",
        sweeps_made,
        comparisons,
        specs=lambda wildcards: list(specs_of(wildcards).values()),
    output:
        report(
            f"{PAIR}/run.html",
            caption="../workflow/report/run.rst",
            category="5 What was run",
            labels={"of": "models, settings, versions, machine"},
        ),
    log:
        f"{PAIR}/logs/account.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=title,
        specs=specs_of,
        sources=lambda wildcards: {
            name: CONFIG.model(name)["source"] for name in specs_of(wildcards)
        },
        adapters=rows_of_apps("adapter", "label"),
        scores=lambda wildcards: list(rows_of_apps("scores", "label")(wildcards).values()),
        settings=account_settings,
        logs=lambda wildcards: rows.shared_logs(CONFIG, wildcards.pair),
        code=code("account"),
    script:
        "../workflow/scripts/account.py"
