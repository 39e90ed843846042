# Tables: of an app's stages and methods, and of all of a pair's apps in one.


localrules:
    table,
    tables,


rule table:
    input:
        scores=look.table_scores,
    output:
        csv=f"{layout.TABLE}.csv",
        md=f"{layout.TABLE}.md",
        html=report(
            f"{layout.TABLE}.html",
            caption="../workflow/report/table.rst",
            category="1 Tables",
            labels={"app": "{app}", "view": "table"},
        ),
    log:
        layout.LOGS["table"],
    wildcard_constraints:
        app=look.app_of_table(),
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        rows=look.table_rows,
        missing=look.table_missing,
        title=look.title,
        code=look.code("table"),
    script:
        "../workflow/scripts/table.py"


rule tables:
    input:
        tables=look.of_apps(f"{layout.TABLE}.csv"),
    output:
        csv=f"{layout.TABLE_OF_ALL}.csv",
        md=f"{layout.TABLE_OF_ALL}.md",
        html=report(
            f"{layout.TABLE_OF_ALL}.html",
            caption="../workflow/report/table.rst",
            category="1 Tables",
            labels={"app": "all", "view": "table"},
        ),
    log:
        layout.LOGS["tables"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        title=look.title,
        code=look.code("tables"),
    script:
        "../workflow/scripts/tables.py"
