# Training: an adapter from all of a task's data, and on the small set the light fine-tuning (LFT)
# of a transferred adapter with the two baselines that start from nothing. The small set's answers
# are the task's, or (`finetune.answers: own`) those that the old model with its adapter writes.


rule lora_trained:
    input:
        spec=look.spec_of("own"),
        data=look.full_files,
    output:
        directory(layout.LORA_TRAINED),
    log:
        layout.LOGS["lora_trained"],
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("finetune"),
        runtime=look.runtime("finetune"),
        gpu=look.gpus("finetune"),
        gpu_mb=look.gpu_mb("finetune"),
    params:
        base=look.base_of("own"),
        data=look.task_data,
        lora=look.lora(),
        settings=look.training("full"),
        watched=look.watched(),
        code=look.code("lora_trained"),
    script:
        "../workflow/scripts/lora_trained.py"


rule own_answers:
    input:
        spec=look.spec_of("old"),
        data=look.task_file,
        adapter=look.old_adapter,
    output:
        data=layout.OWN_ANSWERS,
        about=layout.ABOUT_OWN_ANSWERS,
    log:
        layout.LOGS["own_answers"],
    wildcard_constraints:
        examples="[0-9]+",
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("finetune"),
        runtime=look.runtime("finetune"),
        gpu=look.gpus("finetune"),
        gpu_mb=look.gpu_mb("finetune"),
    params:
        base=look.base_of("old"),
        data=look.task_data,
        settings=look.answering(),
        code=look.code("own_answers"),
    script:
        "../workflow/scripts/own_answers.py"


rule lora_finetuned:
    input:
        unpack(look.finetuned_from),
        spec=look.spec_of("new"),
        data=look.small_files("lft"),
    output:
        directory(f"{layout.APP}/{layout.FINETUNED}"),
    log:
        layout.LOGS["lora_finetuned"],
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("finetune"),
        runtime=look.runtime("finetune"),
        gpu=look.gpus("finetune"),
        gpu_mb=look.gpu_mb("finetune"),
        batch=4,  # trainings of seconds that share a start of Python
    params:
        base=look.base_of("new"),
        data=look.small_data("lft"),
        settings=look.small_settings("lft"),
        watched=look.watched(),
        code=look.code("lora_finetuned"),
    script:
        "../workflow/scripts/lora_finetuned.py"


use rule lora_finetuned as lora_small with:
    input:
        spec=look.spec_of("new"),
        data=look.small_files("small"),
        like=f"{layout.APP}/{layout.TRANSFERRED}",
    output:
        directory(f"{layout.APP}/{layout.SMALL}"),
    log:
        layout.LOGS["lora_small"],
    params:
        base=look.base_of("new"),
        data=look.small_data("small"),
        settings=look.small_settings("small"),
        watched=look.watched(),
        code=look.code("lora_finetuned"),


use rule lora_small as lora_small_matched with:
    input:
        spec=look.spec_of("new"),
        data=look.small_files("lft"),
        like=f"{layout.APP}/{layout.TRANSFERRED}",
    output:
        directory(f"{layout.APP}/{layout.SMALL_MATCHED}"),
    log:
        layout.LOGS["lora_small_matched"],
    params:
        base=look.base_of("new"),
        data=look.small_data("lft"),
        settings=look.small_settings("lft"),
        watched=look.watched(),
        code=look.code("lora_finetuned"),


use rule lora_small as lora_small_by_seed with:
    output:
        directory(f"{layout.BY_SEED}/{layout.SMALL}"),
    log:
        layout.LOGS["lora_small_by_seed"],


use rule lora_small_matched as lora_small_matched_by_seed with:
    output:
        directory(f"{layout.BY_SEED}/{layout.SMALL_MATCHED}"),
    log:
        layout.LOGS["lora_small_matched_by_seed"],


use rule lora_finetuned as lora_finetuned_by_method with:
    input:
        spec=look.spec_of("new"),
        data=look.small_files("lft"),
        start=f"{layout.BY_METHOD}/{layout.TRANSFERRED}",
    output:
        directory(f"{layout.BY_METHOD}/seed{{seed}}/{layout.FINETUNED}"),
    log:
        layout.LOGS["lora_finetuned_by_method"],
