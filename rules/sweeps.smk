# Sweeps of the sensitivity study: artifacts/{pair}/{app}/sweeps/{name}.csv, one command each. Every
# point is an artifact of its own, so that a value more costs what that value costs.
SWEEP = f"{APP}/sweeps/{{name}}"
POINT = f"{SWEEP}/{{value}}"
POINT_LOGS = f"{PAIR}/logs/{{app}}/sweeps/{{name}}/{{value}}"


wildcard_constraints:
    name="|".join(sweeps.NAMES),
    value=NAME,


rule sweep:
    input:
        lambda wildcards: [each["adapter"] for each in sweep_points(wildcards) if each["adapter"]],
        spec=spec_of("new"),
    output:
        table=f"{SWEEP}.csv",
        plot=report(
            f"{SWEEP}.svg",
            caption="../workflow/report/sweep.rst",
            category="4 Sweeps",
            labels={"app": "{app}", "sweep": "{name}"},
        ),
        scores=directory(f"{SWEEP}/scores"),
    log:
        f"{PAIR}/logs/{{app}}/sweeps/{{name}}.log",
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=size("evaluation", 0),
        runtime=size("evaluation", 1),
        gpu=gpus("evaluation"),
    params:
        base=base_of("new"),
        task=task,
        points=sweep_points,
        skipped=sweep_skipped,
        order=lambda wildcards: told(sweeps.values)(CONFIG, wildcards.name),
        settings=stages.scoring(CONFIG),
        tasks_dir=TASKS,
        tasks_version=stages.folder_version(TASKS),
        code=code("sweep"),
    script:
        "../workflow/scripts/sweep.py"


rule lora_source:
    input:
        spec=spec_of("old"),
        adapter=swept_adapter,
    output:
        directory(f"{POINT}/lora_source"),
    log:
        f"{POINT_LOGS}/lora_source.log",
    wildcard_constraints:
        name="rank|modules",
    conda:
        "../environment.yml"
    resources:
        mem_mb=memory("spec"),
        runtime=minutes("spec"),
    params:
        cut=point,
        known_as=lambda wildcards: CONFIG.known_as(old_name(wildcards)),
        base=lambda wildcards: CONFIG.model(old_name(wildcards))["source"],
        code=code("lora_source"),
    script:
        "../workflow/scripts/lora_source.py"


use rule transferred as sweep_transferred with:
    input:
        unpack(point_transfer),
    output:
        directory(f"{POINT}/lora_transferred"),
    log:
        f"{POINT_LOGS}/transferred.log",
    wildcard_constraints:
        name="rank|modules",


use rule lora_finetuned as sweep_finetuned with:
    input:
        spec=spec_of("new"),
        data=small("files", point_training),
        transferred=point_start,
    output:
        directory(f"{POINT}/lora_finetuned"),
    log:
        f"{POINT_LOGS}/lora_finetuned.log",
    params:
        base=base_of("new"),
        data=small("data", point_training),
        settings=small("settings", point_training),
        code=code("lora_finetuned"),


use rule lora_small as sweep_small_matched with:
    input:
        spec=spec_of("new"),
        data=small("files", point_training),
        like=point_start,
    output:
        directory(f"{POINT}/lora_small_matched"),
    log:
        f"{POINT_LOGS}/lora_small_matched.log",
    params:
        base=base_of("new"),
        data=small("data", point_training),
        settings=small("settings", point_training),
        code=code("lora_finetuned"),
