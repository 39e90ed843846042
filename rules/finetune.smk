# Training: an adapter from all of a task's data, and on the small set the light fine-tuning (LFT)
# of a transferred adapter with the two baselines that start from nothing. The small set's answers
# are the task's, or (`finetune.answers: own`) those that the old model with its adapter writes.


rule lora_trained:
    input:
        spec=spec_of("own"),
        data=task_file,
    output:
        directory("artifacts/models/{model}/{app}/lora_trained"),
    log:
        "artifacts/models/{model}/logs/{app}/lora_trained.log",
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=size("finetune", 0),
        runtime=size("finetune", 1),
        gpu=gpus("finetune"),
    params:
        base=base_of("own"),
        data=task_data,
        lora=CONFIG.content["finetune"]["lora"],
        settings=training("full"),
        code=code("lora_trained"),
    script:
        "../workflow/scripts/lora_trained.py"


rule own_answers:
    input:
        spec=spec_of("old"),
        data=task_file,
        adapter=old_adapter,
    output:
        data=f"{APP}/own_answers/{{examples}}.jsonl",
        about=f"{APP}/own_answers/{{examples}}.json",
    log:
        f"{PAIR}/logs/{{app}}/own_answers/{{examples}}.log",
    wildcard_constraints:
        examples="[0-9]+",
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=size("finetune", 0),
        runtime=size("finetune", 1),
        gpu=gpus("finetune"),
    params:
        base=base_of("old"),
        data=task_data,
        settings=stages.answering(CONFIG),
        code=code("own_answers"),
    script:
        "../workflow/scripts/own_answers.py"


rule lora_small:
    input:
        spec=spec_of("new"),
        data=small("files", training("small")),
        like=f"{APP}/lora_transferred",
    output:
        directory(f"{APP}/lora_small"),
    log:
        f"{PAIR}/logs/{{app}}/lora_small.log",
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=size("finetune", 0),
        runtime=size("finetune", 1),
        gpu=gpus("finetune"),
    params:
        base=base_of("new"),
        data=small("data", training("small")),
        settings=small("settings", training("small")),
        code=code("lora_finetuned"),
    script:
        "../workflow/scripts/lora_finetuned.py"


use rule lora_small as lora_small_matched with:
    input:
        spec=spec_of("new"),
        data=small("files", training("lft")),
        like=f"{APP}/lora_transferred",
    output:
        directory(f"{APP}/lora_small_matched"),
    log:
        f"{PAIR}/logs/{{app}}/lora_small_matched.log",
    params:
        base=base_of("new"),
        data=small("data", training("lft")),
        settings=small("settings", training("lft")),
        code=code("lora_finetuned"),


use rule lora_small as lora_small_by_seed with:
    output:
        directory(f"{APP}/seed{{seed}}/lora_small"),
    log:
        f"{PAIR}/logs/{{app}}/seed{{seed}}/lora_small.log",
    wildcard_constraints:
        seed="[0-9]+",


use rule lora_small_matched as lora_small_matched_by_seed with:
    output:
        directory(f"{APP}/seed{{seed}}/lora_small_matched"),
    log:
        f"{PAIR}/logs/{{app}}/seed{{seed}}/lora_small_matched.log",
    wildcard_constraints:
        seed="[0-9]+",


rule lora_finetuned:
    input:
        spec=spec_of("new"),
        data=small("files", training("lft")),
        transferred=f"{APP}/lora_transferred",
    output:
        directory(f"{APP}/lora_finetuned"),
    log:
        f"{PAIR}/logs/{{app}}/lora_finetuned.log",
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=size("finetune", 0),
        runtime=size("finetune", 1),
        gpu=gpus("finetune"),
    params:
        base=base_of("new"),
        data=small("data", training("lft")),
        settings=small("settings", training("lft")),
        code=code("lora_finetuned"),
    script:
        "../workflow/scripts/lora_finetuned.py"


use rule lora_finetuned as lora_finetuned_by_method with:
    input:
        spec=spec_of("new"),
        data=small("files", training("lft")),
        transferred=f"{APP}/{{method}}/lora_transferred",
    output:
        directory(f"{APP}/{{method}}/seed{{seed}}/lora_finetuned"),
    log:
        f"{PAIR}/logs/{{app}}/{{method}}/seed{{seed}}/lora_finetuned.log",
    wildcard_constraints:
        seed="[0-9]+",
