# Sums over the texts of what both models of a pair do, for the methods that fit their maps to it.


rule moments:
    input:
        unpack(look.pair_specs),
        layers=look.pair_artifact("layers"),
    output:
        look.pair_artifact("moments"),
    log:
        layout.LOGS["moments"],
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("moments"),
        runtime=look.runtime("moments"),
        gpu=look.gpus("calibration"),
        gpu_mb=look.gpu_mb("moments"),
    params:
        sources=look.sources,
        reading=look.reading,
        settings=look.moments_settings,
        code=look.code("moments"),
    script:
        "../workflow/scripts/moments.py"


rule gradients:  # for methods that fit their output maps to gradients: a backward pass of both models
    input:
        unpack(look.pair_specs),
        layers=look.pair_artifact("layers"),
    output:
        look.pair_artifact("gradients"),
    log:
        layout.LOGS["gradients"],
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("gradients"),
        runtime=look.runtime("gradients"),
        gpu=look.gpus("calibration"),
        gpu_mb=look.gpu_mb("gradients"),
    params:
        sources=look.sources,
        reading=look.reading,
        settings=look.gradients_settings,
        code=look.code("gradients"),
    script:
        "../workflow/scripts/gradients.py"


rule experts:  # for adapters of experts: which experts of both models do the same
    input:
        unpack(look.pair_specs),
        layers=look.pair_artifact("layers"),
    output:
        layout.EXPERTS,
    log:
        layout.LOGS["experts"],
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("experts"),
        runtime=look.runtime("experts"),
        gpu=look.gpus("calibration"),
        gpu_mb=look.gpu_mb("experts"),
    params:
        sources=look.sources,
        reading=look.reading,
        code=look.code("experts"),
    script:
        "../workflow/scripts/experts.py"
