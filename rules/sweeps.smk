# Sweeps of the sensitivity study: artifacts/{pair}/{app}/sweeps/{name}.csv, one command each. Every
# point is an artifact of its own, so that a value more costs what that value costs.


rule sweep:
    input:
        look.sweep_adapters,
        look.scored_on,
        spec=look.spec_of("new"),
    output:
        table=f"{layout.SWEEP}.csv",
        plot=report(
            f"{layout.SWEEP}.svg",
            caption="../workflow/report/sweep.rst",
            category="5 Sweeps",
            labels={"app": "{app}", "sweep": "{name}"},
        ),
        scores=directory(f"{layout.SWEEP}/scores"),
    log:
        layout.LOGS["sweep"],
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("evaluation"),
        runtime=look.runtime("evaluation"),
        gpu=look.gpus("evaluation"),
        gpu_mb=look.gpu_mb("evaluation"),
    params:
        base=look.base_of("new"),
        task=look.task,
        points=look.sweep_points,
        skipped=look.sweep_skipped,
        order=look.sweep_values,
        settings=look.scoring(),
        tasks_dir=look.tasks_dir(),
        tasks_version=look.tasks_version,
        code=look.code("sweep"),
    script:
        "../workflow/scripts/sweep.py"


rule lora_source:
    input:
        spec=look.spec_of("old"),
        adapter=look.swept_adapter,
    output:
        directory(f"{layout.POINT}/{layout.SOURCE}"),
    log:
        layout.LOGS["lora_source"],
    wildcard_constraints:
        name="rank|modules",
    conda:
        "../environment.yml"
    resources:
        mem_mb=look.mem_mb("spec"),
        runtime=look.runtime("spec"),
    params:
        cut=look.point,
        known_as=look.known_as("old"),
        base=look.source_of("old"),
        code=look.code("lora_source"),
    script:
        "../workflow/scripts/lora_source.py"


use rule transferred as sweep_transferred with:
    input:
        unpack(look.point_transfer),
    output:
        directory(f"{layout.POINT}/{layout.TRANSFERRED}"),
    log:
        layout.LOGS["sweep_transferred"],
    wildcard_constraints:
        name="rank|modules",


use rule lora_finetuned as sweep_finetuned with:
    input:
        spec=look.spec_of("new"),
        data=look.point_files(),
        start=look.point_start,
    output:
        directory(f"{layout.POINT}/{layout.FINETUNED}"),
    log:
        layout.LOGS["sweep_finetuned"],
    params:
        base=look.base_of("new"),
        data=look.point_data(),
        settings=look.point_settings(),
        watched=look.watched(),
        code=look.code("lora_finetuned"),


use rule lora_small as sweep_small_matched with:
    input:
        spec=look.spec_of("new"),
        data=look.point_files(),
        like=look.point_start,
    output:
        directory(f"{layout.POINT}/{layout.SMALL_MATCHED}"),
    log:
        layout.LOGS["sweep_small_matched"],
    params:
        base=look.base_of("new"),
        data=look.point_data(),
        settings=look.point_settings(),
        watched=look.watched(),
        code=look.code("lora_finetuned"),
