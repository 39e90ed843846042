# A pair's maps by each method, which carry any number of adapters.


rule maps:
    input:
        unpack(look.maps_inputs),
    output:
        layout.MAPS,
    log:
        layout.LOGS["maps"],
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("maps"),
        runtime=look.runtime("maps"),
        gpu=look.gpus("mapping"),
        gpu_mb=look.gpu_mb("maps"),
    params:
        sources=look.sources,
        method=look.method,
        settings=look.method_settings,
        summed=look.summed_in_turn,
        code=look.code_with_method("maps"),
    script:
        "../workflow/scripts/maps.py"


rule output_maps:  # for methods whose maps are one adapter's own: what all adapters share
    input:
        unpack(look.output_maps_inputs),
    output:
        layout.OUTPUT_MAPS,
    log:
        layout.LOGS["output_maps"],
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("output_maps"),
        runtime=look.runtime("output_maps"),
        gpu=look.gpus("mapping"),
        gpu_mb=look.gpu_mb("output_maps"),
    params:
        method=look.method,
        settings=look.output_settings,
        code=look.code_with_method("output_maps"),
    script:
        "../workflow/scripts/output_maps.py"
