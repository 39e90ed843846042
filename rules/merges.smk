# Merges of several apps' adapters, by TIES: before transfer, artifacts/{pair}/{merge}/lora_transferred,
# and after it, artifacts/{pair}/{merge}/after/lora_transferred. A merge's name is used like an app's.


rule lora_merged:
    input:
        look.merged_adapters,
        spec=look.spec_of("own"),
    output:
        directory(layout.LORA_MERGED),
    log:
        layout.LOGS["lora_merged"],
    wildcard_constraints:
        app=look.merges(),
    conda:
        "../environment.yml"
    resources:
        mem_mb=look.mem_mb("spec"),
        runtime=look.runtime("spec"),
    params:
        adapters=look.merged_folders,
        settings=look.merge_settings,
        base=look.merge_base,
        code=look.code("lora_merged"),
    script:
        "../workflow/scripts/lora_merged.py"


use rule lora_merged as merged_after with:
    input:
        look.merged_adapters,
        spec=look.spec_of("new"),
    output:
        directory(f"{layout.APP}/{layout.AFTER}/{layout.TRANSFERRED}"),
    log:
        layout.LOGS["merged_after"],


use rule lora_merged as merged_after_by_method with:
    input:
        look.merged_adapters,
        spec=look.spec_of("new"),
    output:
        directory(f"{layout.BY_METHOD}/{layout.AFTER}/{layout.TRANSFERRED}"),
    log:
        layout.LOGS["merged_after_by_method"],


use rule evaluated_model as evaluated_merge with:
    input:
        look.files_of(look.merge_stages),
        look.scored_on,
        spec=look.spec_of("new"),
    output:
        look.merge_score_files(),
    log:
        layout.LOGS["evaluated_merge"],
    wildcard_constraints:
        app=look.merges(),
    params:
        base=look.base_of("new"),
        task=look.task,
        adapters=look.merge_stages,
        settings=look.scoring(),
        tasks_dir=look.tasks_dir(),
        tasks_version=look.tasks_version,
        code=look.code("evaluated_model"),


use rule table as table_of_merge with:
    input:
        scores=look.merge_scores,
    output:
        csv=f"{layout.TABLE_OF_MERGE}.csv",
        md=f"{layout.TABLE_OF_MERGE}.md",
        html=report(
            f"{layout.TABLE_OF_MERGE}.html",
            caption="../workflow/report/merged.rst",
            category="1 Tables",
            labels={"app": "{app}", "view": "merged"},
        ),
    log:
        layout.LOGS["table_of_merge"],
    wildcard_constraints:
        app=look.merges(),
    params:
        rows=look.merge_rows,
        missing={},
        title=look.title,
        code=look.code("table"),
