# One adapter through the maps of a pair: seconds, and no base model.


rule transferred:
    input:
        unpack(transfer_inputs),
        unpack(vocabulary_inputs),
    output:
        directory(f"{APP}/lora_transferred"),
    log:
        f"{PAIR}/logs/{{app}}/transferred.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=memory("transferred"),
        runtime=minutes("transferred"),
        batch=25,  # adapters that share a job (executors batched and slurm-batched)
    params:
        transfer=transfer_params,
        code=code("transferred"),
    script:
        "../workflow/scripts/transferred.py"


rule adapter_maps:  # for methods whose maps are one adapter's own: runs both models
    input:
        unpack(adapter_maps_inputs),
    output:
        f"{APP}/maps/{{method}}.h5",
    log:
        f"{PAIR}/logs/{{app}}/maps/{{method}}.log",
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=memory("adapter_maps"),
        runtime=minutes("adapter_maps"),
        gpu=gpus("calibration"),
    params:
        sources=sources,
        reading=reading,
        task=adapter_maps_task,
        known_as=lambda wildcards: CONFIG.known_as(CONFIG.pair(wildcards.pair)[0]),
        method=lambda wildcards: told(CONFIG.method)(wildcards.method),
        settings=method_settings,
        code=lambda wildcards: code("adapter_maps", f"methods.{CONFIG.method(wildcards.method)}"),
    script:
        "../workflow/scripts/adapter_maps.py"


use rule transferred as transferred_by_method with:
    output:
        directory(f"{APP}/{{method}}/lora_transferred"),
    log:
        f"{PAIR}/logs/{{app}}/{{method}}/transferred.log",
