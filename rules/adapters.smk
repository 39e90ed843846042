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
    params:
        transfer=transfer_params,
        code=code("transferred"),
    script:
        "../workflow/scripts/transferred.py"


use rule transferred as transferred_by_method with:
    output:
        directory(f"{APP}/{{method}}/lora_transferred"),
    log:
        f"{PAIR}/logs/{{app}}/{{method}}/transferred.log",
