# The page of a pair: artifacts/{pair}/report.html, one file that needs nothing else.


localrules:
    report_page,


rule report_page:
    input:
        table=f"{layout.TABLE_OF_ALL}.csv",
        scores=look.page_scores,
        tasks=look.reported_task_files,
        cka=look.pair_plot("cka"),
        heads=look.pair_plot("heads"),
        specs=look.spec_files,
        verdicts=look.verdicts_made,
    output:
        layout.REPORT,
    log:
        layout.LOGS["report_page"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=3000,
        runtime=20,
    params:
        title=look.title,
        scores=look.scores_by_stage,
        tasks=look.reported_tasks,
        rates=look.rate_sweeps,
        verdicts=look.verdict_files,
        settings=look.scoring(),
        tasks_dir=look.tasks_dir(),
        specs=look.specs_of,
        sources=look.model_sources_of,
        sections=look.account_settings,
        code=look.code("report_page"),
    script:
        "../workflow/scripts/report_page.py"
