# The new model with an adapter merged into its weights, for servers that take no adapters. This is
# the one rule behind a transfer that reads a base: its weights, a block of one tensor at a time.


rule model_merged:
    input:
        spec=lambda wildcards: pair_specs(wildcards.pair)["new_spec"],
        adapter=f"{APP}/lora_transferred",
    output:
        directory(f"{APP}/model_merged"),
    log:
        f"{PAIR}/logs/{{app}}/model_merged.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=memory("model_merged"),
        runtime=minutes("model_merged"),
    params:
        source=lambda wildcards: sources(wildcards)["new"],
        dtype=merged_dtype,
        code=code("model_merged"),
    script:
        "../workflow/scripts/model_merged.py"


use rule model_merged as model_merged_by_method with:
    input:
        spec=lambda wildcards: pair_specs(wildcards.pair)["new_spec"],
        adapter=f"{APP}/{{method}}/lora_transferred",
    output:
        directory(f"{APP}/{{method}}/model_merged"),
    log:
        f"{PAIR}/logs/{{app}}/{{method}}/model_merged.log",
