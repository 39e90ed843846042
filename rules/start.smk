# Where the light fine-tuning of an app begins.


rule lora_start:  # nothing or the carried update, whichever ends better on answers left out
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
        mem_mb=look.mem_mb("finetune"),
        runtime=look.runtime("finetune"),
        gpu=look.gpus("finetune"),
        gpu_mb=look.gpu_mb("finetune"),
    params:
        transfer=look.transfer_params,
        base=look.base_of("new"),
        data=look.small_data("lft"),
        settings=look.small_settings("lft"),
        code=look.code("lora_start"),
    script:
        "../workflow/scripts/lora_start.py"
