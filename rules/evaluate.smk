# Scores, one job a base model and app: the base is loaded once for all of the job's adapters, and
# what was scored before under the same weights, tasks and settings is taken from artifacts/.resume.


rule evaluated_model:
    input:
        adapter_inputs(model_adapters),
        spec=spec_of("own"),
    output:
        expand("artifacts/models/{{model}}/{{app}}/eval/{stage}.json", stage=stages.MODEL_STAGES),
    log:
        "artifacts/models/{model}/logs/{app}/evaluated.log",
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=size("evaluation", 0),
        runtime=size("evaluation", 1),
        gpu=gpus("evaluation"),
    params:
        base=base_of("own"),
        task=task,
        adapters=model_adapters,
        settings=stages.scoring(CONFIG),
        tasks_dir=TASKS,
        tasks_version=stages.folder_version(TASKS),
        code=code("evaluated"),
    script:
        "../workflow/scripts/evaluated.py"


if stages.wanted(CONFIG, "old"):

    use rule evaluated_model as evaluated_old with:
        input:
            adapter_inputs(pair_adapters("old")),
            spec=spec_of("old"),
        output:
            score_files("old"),
        log:
            f"{PAIR}/logs/{{app}}/evaluated_old.log",
        params:
            base=base_of("old"),
            task=task,
            adapters=pair_adapters("old"),
            settings=stages.scoring(CONFIG),
            tasks_dir=TASKS,
            tasks_version=stages.folder_version(TASKS),
            code=code("evaluated"),


if stages.wanted(CONFIG, "new"):

    use rule evaluated_model as evaluated_new with:
        input:
            adapter_inputs(pair_adapters("new")),
            spec=spec_of("new"),
        output:
            score_files("new"),
        log:
            f"{PAIR}/logs/{{app}}/evaluated_new{'.{stage}' if SHOW_FAILURES else ''}.log",
        wildcard_constraints:
            stage="|".join(stages.wanted(CONFIG, "new")),
        params:
            base=base_of("new"),
            task=task,
            adapters=pair_adapters("new"),
            settings=stages.scoring(CONFIG),
            tasks_dir=TASKS,
            tasks_version=stages.folder_version(TASKS),
            code=code("evaluated"),


use rule evaluated_model as evaluated_method with:
    input:
        adapter_inputs(method_adapters),
        spec=spec_of("new"),
    output:
        [f"{APP}/{{method}}/eval/{stage}.json" for stage in stages.method_stages(CONFIG)],
    log:
        f"{PAIR}/logs/{{app}}/{{method}}/evaluated.log",
    params:
        base=base_of("new"),
        task=task,
        adapters=method_adapters,
        settings=stages.scoring(CONFIG),
        tasks_dir=TASKS,
        tasks_version=stages.folder_version(TASKS),
        code=code("evaluated"),


use rule evaluated_model as evaluated_baselines with:
    input:
        adapter_inputs(baseline_adapters),
        spec=spec_of("new"),
    output:
        [f"{APP}/baselines/eval/{stage}.json" for stage in stages.baseline_stages(CONFIG)],
    log:
        f"{PAIR}/logs/{{app}}/evaluated_baselines.log",
    params:
        base=base_of("new"),
        task=task,
        adapters=baseline_adapters,
        settings=stages.scoring(CONFIG),
        tasks_dir=TASKS,
        tasks_version=stages.folder_version(TASKS),
        code=code("evaluated"),
