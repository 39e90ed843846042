# Where the light fine-tuning of an app begins.


rule lora_start:  # nothing, the carried update or a taught one, as ends best on answers left out
    input:
        unpack(look.transfer_inputs),
        unpack(look.other_inputs),
        spec=look.spec_of("new"),
        data=look.small_files("lft"),
        transferred=f"{layout.APP}/{layout.TRANSFERRED}",
    output:
        directory(f"{layout.APP}/{layout.START}"),
    log:
        layout.LOGS["lora_start"],
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.start_mem_mb(),
        runtime=look.start_runtime(),
        gpu=look.start_gpus,
        gpu_mb=look.start_gpu_mb(),
    params:
        transfer=look.transfer_params,
        base=look.base_of("new"),
        data=look.small_data("lft"),
        settings=look.small_settings("lft"),
        taught=look.taught_start,
        code=look.start_code("lora_start"),
    script:
        "../workflow/scripts/lora_start.py"
