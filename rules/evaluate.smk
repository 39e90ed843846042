# Scores, one job a base model and app: the base is loaded once for all of the job's adapters, and
# what was scored before under the same weights, tasks and settings is taken from artifacts/.resume.


rule evaluated_model:
    input:
        look.files_of(look.model_adapters),
        look.scored_on,
        spec=look.spec_of("own"),
    output:
        look.model_scores(),
    log:
        layout.LOGS["evaluated_model"],
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("evaluation"),
        runtime=look.runtime("evaluation"),
        gpu=look.gpus("evaluation"),
        gpu_mb=look.gpu_mb("evaluation"),
    params:
        base=look.base_of("own"),
        task=look.task,
        adapters=look.model_adapters,
        settings=look.scoring(),
        tasks_dir=look.tasks_dir(),
        tasks_version=look.tasks_version,
        code=look.code("evaluated_model"),
    script:
        "../workflow/scripts/evaluated_model.py"


if look.has_stages("old"):

    use rule evaluated_model as evaluated_old with:
        input:
            look.files_of(look.pair_adapters("old")),
            look.scored_on,
            spec=look.spec_of("old"),
        output:
            look.score_files("old"),
        log:
            layout.LOGS["evaluated_old"],
        params:
            base=look.base_of("old"),
            task=look.task,
            adapters=look.pair_adapters("old"),
            settings=look.scoring(),
            tasks_dir=look.tasks_dir(),
            tasks_version=look.tasks_version,
            code=look.code("evaluated_model"),


if look.has_stages("new"):

    use rule evaluated_model as evaluated_new with:
        input:
            look.files_of(look.pair_adapters("new")),
            look.scored_on,
            spec=look.spec_of("new"),
        output:
            look.score_files("new"),
        log:
            look.scores_log("new"),
        wildcard_constraints:
            stage=look.stage_pattern("new"),
        params:
            base=look.base_of("new"),
            task=look.task,
            adapters=look.pair_adapters("new"),
            settings=look.scoring(),
            tasks_dir=look.tasks_dir(),
            tasks_version=look.tasks_version,
            code=look.code("evaluated_model"),


use rule evaluated_model as evaluated_method with:
    input:
        look.files_of(look.method_adapters),
        look.scored_on,
        spec=look.spec_of("new"),
    output:
        look.method_score_files(),
    log:
        layout.LOGS["evaluated_method"],
    params:
        base=look.base_of("new"),
        task=look.task,
        adapters=look.method_adapters,
        settings=look.scoring(),
        tasks_dir=look.tasks_dir(),
        tasks_version=look.tasks_version,
        code=look.code("evaluated_model"),


use rule evaluated_model as evaluated_baselines with:
    input:
        look.files_of(look.baseline_adapters),
        look.scored_on,
        spec=look.spec_of("new"),
    output:
        look.baseline_score_files(),
    log:
        layout.LOGS["evaluated_baselines"],
    params:
        base=look.base_of("new"),
        task=look.task,
        adapters=look.baseline_adapters,
        settings=look.scoring(),
        tasks_dir=look.tasks_dir(),
        tasks_version=look.tasks_version,
        code=look.code("evaluated_model"),
