# One model: what it is, and how its layers see the calibration texts.


wildcard_constraints:
    **look.constraints(),


rule spec:
    input:
        look.model_files,
    output:
        layout.SPEC,
    log:
        layout.LOGS["spec"],
    wildcard_constraints:
        model=look.reachable_models(),
    cache: SHARED
    priority: 100
    conda:
        "../environment.yml"
    resources:
        mem_mb=look.mem_mb("spec"),
        runtime=look.runtime("spec"),
    params:
        hub_id=look.hub_id,
        revision=look.revision,
        sources=look.model_sources,
        code=look.code("spec"),
    script:
        "../workflow/scripts/spec.py"


rule activations:
    input:
        spec=look.spec_of("own"),
    output:
        layout.ACTIVATIONS,
    log:
        layout.LOGS["activations"],
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("activations"),
        runtime=look.runtime("activations"),
        gpu=look.gpus("calibration"),
        gpu_mb=look.gpu_mb("activations"),
    params:
        sources=look.model_sources,
        texts_version=look.texts_version,
        remote_code=look.remote_code,
        calibration=look.calibration(),
        code=look.code("activations"),
    script:
        "../workflow/scripts/activations.py"
