# One model pair: how the old model's embedding, layers and heads correspond to the new one's.


localrules:
    layers,


rule embedding:
    input:
        unpack(look.pair_specs),
    output:
        look.pair_artifact("embedding"),
    log:
        layout.LOGS["embedding"],
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("embedding"),
        runtime=look.runtime("embedding"),
        gpu=look.gpus("mapping"),
        gpu_mb=look.gpu_mb("embedding"),
    params:
        sources=look.sources,
        settings=look.mapping("wh", "tokens", "underdetermined", "unshared", "device"),
        code=look.code("embedding"),
    script:
        "../workflow/scripts/embedding.py"


rule cka:
    input:
        unpack(look.pair_specs),
        unpack(look.activations_of),
    output:
        look.pair_artifact("cka"),
    log:
        layout.LOGS["cka"],
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("cka"),
        runtime=look.runtime("cka"),
    params:
        settings=look.mapping("minibatch", "similarity"),
        code=look.code("cka"),
    script:
        "../workflow/scripts/cka.py"


rule layers:
    input:
        unpack(look.pair_specs),
        cka=look.pair_artifact("cka"),
    output:
        look.pair_artifact("layers"),
    log:
        layout.LOGS["layers"],
    cache: SHARED
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        settings=look.mapping("layers", "max_offset", "unmatched"),
        code=look.code("layers"),
    script:
        "../workflow/scripts/layers.py"


rule heads:
    input:
        unpack(look.pair_specs),
        embedding=look.pair_artifact("embedding"),
        layers=look.pair_artifact("layers"),
    output:
        look.pair_artifact("heads"),
    log:
        layout.LOGS["heads"],
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=look.mem_mb("heads"),
        runtime=look.runtime("heads"),
        gpu=look.gpus("mapping"),
        gpu_mb=look.gpu_mb("heads"),
    params:
        sources=look.sources,
        settings=look.mapping("heads", "device"),
        code=look.code("heads"),
    script:
        "../workflow/scripts/heads.py"


rule distance:
    input:
        unpack(look.pair_specs),
        embedding=look.pair_artifact("embedding"),
        layers=look.pair_artifact("layers"),
        heads=look.pair_artifact("heads"),
    output:
        layout.DISTANCE,
    log:
        layout.LOGS["distance"],
    conda:
        "../environment.yml"
    resources:
        mem_mb=look.mem_mb("spec"),
        runtime=look.runtime("spec"),
    params:
        sources=look.sources,
        code=look.code("distance"),
    script:
        "../workflow/scripts/distance.py"
