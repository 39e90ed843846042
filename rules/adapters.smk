# One adapter through the maps of a pair: seconds, and no base model unless its gain is chosen.


rule transferred:
    input:
        unpack(look.transfer_inputs),
        unpack(look.other_inputs),
        unpack(look.gain_file),
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
        gpu_mb=look.gpu_mb("adapter_maps"),
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


rule gain:  # what a carried update is multiplied by, chosen on answers: runs the new model
    input:
        unpack(look.transfer_inputs),
        unpack(look.other_inputs),
        spec=look.spec_of("new"),
        data=look.small_files("lft"),
    output:
        f"{layout.APP}/{layout.GAIN}",
    log:
        layout.LOGS["gain"],
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("gain"),
        runtime=look.runtime("gain"),
        gpu=look.gpus("finetune"),
        gpu_mb=look.gpu_mb("gain"),
        batch=8,
    params:
        transfer=look.transfer_params,
        base=look.base_of("new"),
        data=look.small_data("lft"),
        settings=look.gain_settings,
        answers=look.answers_of_small_set(),
        code=look.code("gain"),
    script:
        "../workflow/scripts/gain.py"


use rule gain as gain_by_method with:
    output:
        f"{layout.BY_METHOD}/{layout.GAIN}",
    log:
        layout.LOGS["gain_by_method"],
