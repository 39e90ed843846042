# Merges of several apps' adapters, by TIES: before transfer, artifacts/{pair}/{merge}/lora_transferred,
# and after it, artifacts/{pair}/{merge}/after/lora_transferred. A merge's name is used like an app's.
MERGES = "|".join(map(re.escape, CONFIG.content["merges"])) or "(?!)"


rule lora_merged:
    input:
        merged_adapters,
        spec=spec_of("own"),
    output:
        directory("artifacts/models/{model}/{app}/lora_merged"),
    log:
        "artifacts/models/{model}/logs/{app}/lora_merged.log",
    wildcard_constraints:
        app=MERGES,
    conda:
        "../environment.yml"
    resources:
        mem_mb=memory("spec"),
        runtime=minutes("spec"),
    params:
        adapters=merged_folders,
        settings=merge_settings,
        base=merge_base,
        code=code("lora_merged"),
    script:
        "../workflow/scripts/lora_merged.py"


use rule lora_merged as merged_after with:
    input:
        merged_adapters,
        spec=spec_of("new"),
    output:
        directory(f"{APP}/after/lora_transferred"),
    log:
        f"{PAIR}/logs/{{app}}/after/lora_merged.log",


use rule lora_merged as merged_after_by_method with:
    input:
        merged_adapters,
        spec=spec_of("new"),
    output:
        directory(f"{APP}/{{method}}/after/lora_transferred"),
    log:
        f"{PAIR}/logs/{{app}}/{{method}}/after/lora_merged.log",


use rule evaluated_model as evaluated_merge with:
    input:
        adapter_inputs(merge_stages),
        spec=spec_of("new"),
    output:
        [f"{APP}/merged/eval/{stage}.json" for stage in rows.MERGED],
    log:
        f"{PAIR}/logs/{{app}}/evaluated_merge.log",
    wildcard_constraints:
        app=MERGES,
    params:
        base=base_of("new"),
        task=task,
        adapters=merge_stages,
        settings=stages.scoring(CONFIG),
        tasks_dir=TASKS,
        tasks_version=stages.folder_version(TASKS),
        code=code("evaluated"),


use rule table as table_of_merge with:
    input:
        scores=merge_scores,
    output:
        csv=f"{PAIR}/tables/{{app}}.merged.csv",
        md=f"{PAIR}/tables/{{app}}.merged.md",
        html=report(
            f"{PAIR}/tables/{{app}}.merged.html",
            caption="../workflow/report/merged.rst",
            category="1 Tables",
            labels={"app": "{app}", "view": "merged"},
        ),
    log:
        f"{PAIR}/logs/{{app}}/table_of_merge.log",
    wildcard_constraints:
        app=MERGES,
    params:
        rows=merge_rows,
        missing={},
        title=title,
        code=code("tables"),
