# One model: what it is, and how its layers see the calibration texts.


rule spec:
    input:
        model_files,
    output:
        "artifacts/models/{model}/spec.json",
    log:
        "artifacts/models/{model}/logs/spec.log",
    wildcard_constraints:
        model=reachable_models(),
    cache: SHARED
    priority: 100
    conda:
        "../environment.yml"
    resources:
        mem_mb=spec_need(0),
        runtime=spec_need(1),
    params:
        hub_id=hub_id,
        revision=lambda wildcards: CONFIG.model(wildcards.model)["revision"],
        sources=model_sources,
        code=code("spec"),
    script:
        "../workflow/scripts/spec.py"


rule activations:
    input:
        spec=lambda wildcards: model_spec(wildcards.model),
    output:
        "artifacts/models/{model}/activations.h5",
    log:
        "artifacts/models/{model}/logs/activations.log",
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=memory("activations"),
        runtime=minutes("activations"),
        gpu=gpus("calibration"),
    params:
        sources=model_sources,
        texts_version=texts_version,
        remote_code=lambda wildcards: CONFIG.model(wildcards.model)["remote_code"],
        calibration={
            key: value
            for key, value in CONFIG.content["calibration"].items()
            if key not in ("texts", "gpus")
        },
        code=code("activations"),
    script:
        "../workflow/scripts/activations.py"
