# Upgrades: an adapter is carried, taught without labels, and judged; a row an adapter in the fleet.


localrules:
    fleet,


rule lora_upgraded:
    input:
        unpack(look.transfer_inputs),
        unpack(look.other_inputs),
        data=look.task_file,
    output:
        directory(layout.LORA_UPGRADED),
    log:
        layout.LOGS["lora_upgraded"],
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.both_mem_mb("upgrade"),
        runtime=look.runtime("upgrade"),
        gpu=look.gpus("upgrade"),
        gpu_mb=look.both_gpu_mb("upgrade"),
        batch=4,  # adapters that share a start of Python
    params:
        bases=look.bases,
        data=look.task_data,
        transfer=look.transfer_params,
        settings=look.upgrading(),
        code=look.teaching_code("lora_upgraded"),
    script:
        "../workflow/scripts/lora_upgraded.py"


rule verdict:
    input:
        look.judged_on,
        unpack(look.pair_specs),
        adapter=look.old_adapter,
        upgraded=layout.LORA_UPGRADED,
        data=look.unlabelled_file,
    output:
        layout.VERDICT,
    log:
        layout.LOGS["verdict"],
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.both_mem_mb("upgrade"),
        runtime=look.runtime("upgrade"),
        gpu=look.gpus("upgrade"),
        gpu_mb=look.both_gpu_mb("upgrade"),
        batch=4,  # adapters that share a start of Python
    params:
        bases=look.bases,
        data=look.task_data,
        task=look.task,
        settings=look.upgrading(),
        scoring=look.scoring(),
        tasks_dir=look.tasks_dir(),
        tasks_version=look.judged_version,
        code=look.teaching_code("verdict"),
    script:
        "../workflow/scripts/verdict.py"


rule fleet:
    input:
        look.fleet_inputs,
    output:
        csv=layout.FLEET_CSV,
        json=layout.FLEET_JSON,
    log:
        layout.LOGS["fleet"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=10,
    params:
        adapters=look.fleet_sources,
        models=look.pair_models,
        code=look.code("fleet"),
    script:
        "../workflow/scripts/fleet.py"
