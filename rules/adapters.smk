# One adapter through the maps of a pair: seconds, and no base model.


rule transferred:
    input:
        unpack(look.transfer_inputs),
        unpack(look.vocabulary_inputs),
    output:
        directory(f"{layout.APP}/{layout.TRANSFERRED}"),
    log:
        layout.LOGS["transferred"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=look.mem_mb("transferred"),
        runtime=look.runtime("transferred"),
        batch=25,  # adapters that share a job (executors batched and slurm-batched)
    params:
        transfer=look.transfer_params,
        code=look.code("transferred"),
    script:
        "../workflow/scripts/transferred.py"


rule adapter_maps:  # for methods whose maps are one adapter's own: runs both models
    input:
        unpack(look.adapter_maps_inputs),
    output:
        layout.ADAPTER_MAPS,
    log:
        layout.LOGS["adapter_maps"],
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("adapter_maps"),
        runtime=look.runtime("adapter_maps"),
        gpu=look.gpus("calibration"),
    params:
        sources=look.sources,
        reading=look.reading,
        task=look.adapter_maps_task,
        known_as=look.known_as("old"),
        method=look.method,
        settings=look.method_settings,
        code=look.code_with_method("adapter_maps"),
    script:
        "../workflow/scripts/adapter_maps.py"


use rule transferred as transferred_by_method with:
    output:
        directory(f"{layout.BY_METHOD}/{layout.TRANSFERRED}"),
    log:
        layout.LOGS["transferred_by_method"],
