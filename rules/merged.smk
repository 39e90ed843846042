# The new model with an adapter merged into its weights, for servers that take no adapters. This is
# the one rule behind a transfer that reads a base: its weights, a block of one tensor at a time.


rule model_merged:
    input:
        spec=look.spec_of("new"),
        adapter=f"{layout.APP}/{layout.TRANSFERRED}",
    output:
        directory(f"{layout.APP}/{layout.MODEL_MERGED}"),
    log:
        layout.LOGS["model_merged"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=look.mem_mb("model_merged"),
        runtime=look.runtime("model_merged"),
    params:
        source=look.source_of("new"),
        dtype=look.merged_dtype(),
        code=look.code("model_merged"),
    script:
        "../workflow/scripts/model_merged.py"


use rule model_merged as model_merged_by_method with:
    input:
        spec=look.spec_of("new"),
        adapter=f"{layout.BY_METHOD}/{layout.TRANSFERRED}",
    output:
        directory(f"{layout.BY_METHOD}/{layout.MODEL_MERGED}"),
    log:
        layout.LOGS["model_merged_by_method"],
