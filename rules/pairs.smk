# One model pair: how the old model maps onto the new one. A variant that changes mapping settings
# has twins of the rules that they concern, below artifacts/{pair}/variants/; the rest is the pair's.


localrules:
    layers,
    variant_layers,


rule embedding:
    input:
        unpack(lambda wildcards: pair_specs(wildcards.pair)),
    output:
        f"{PAIR}/embedding.h5",
    log:
        f"{PAIR}/logs/embedding.log",
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=memory("embedding"),
        runtime=minutes("embedding"),
        gpu=gpus("mapping"),
    params:
        sources=sources,
        settings=mapping("wh", "tokens", "underdetermined", "device"),
        code=code("embedding"),
    script:
        "../workflow/scripts/embedding.py"


rule cka:
    input:
        unpack(lambda wildcards: pair_specs(wildcards.pair)),
        unpack(activations_of),
    output:
        f"{PAIR}/cka.h5",
    log:
        f"{PAIR}/logs/cka.log",
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=memory("cka"),
        runtime=minutes("cka"),
    params:
        settings=mapping("minibatch", "similarity"),
        code=code("cka"),
    script:
        "../workflow/scripts/cka.py"


rule layers:
    input:
        cka=f"{PAIR}/cka.h5",
    output:
        f"{PAIR}/layers.json",
    log:
        f"{PAIR}/logs/layers.log",
    cache: SHARED
    conda:
        "../environment.yml"
    resources:
        mem_mb=1000,
        runtime=5,
    params:
        settings=mapping("layers", "max_offset", "unmatched"),
        code=code("layers"),
    script:
        "../workflow/scripts/layers.py"


rule heads:
    input:
        unpack(lambda wildcards: pair_specs(wildcards.pair)),
        embedding=f"{PAIR}/embedding.h5",
        layers=f"{PAIR}/layers.json",
    output:
        f"{PAIR}/heads.h5",
    log:
        f"{PAIR}/logs/heads.log",
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=memory("heads"),
        runtime=minutes("heads"),
        gpu=gpus("mapping"),
    params:
        sources=sources,
        settings=mapping("heads", "device"),
        code=code("heads"),
    script:
        "../workflow/scripts/heads.py"


rule moments:
    input:
        unpack(lambda wildcards: pair_specs(wildcards.pair)),
        layers=f"{PAIR}/layers.json",
    output:
        f"{PAIR}/moments.h5",
    log:
        f"{PAIR}/logs/moments.log",
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=memory("moments"),
        runtime=minutes("moments"),
        gpu=gpus("calibration"),
    params:
        sources=sources,
        reading=reading,
        settings=moments_settings,
        code=code("moments"),
    script:
        "../workflow/scripts/moments.py"


rule distance:
    input:
        unpack(lambda wildcards: pair_specs(wildcards.pair)),
        embedding=f"{PAIR}/embedding.h5",
        layers=f"{PAIR}/layers.json",
        heads=f"{PAIR}/heads.h5",
    output:
        f"{PAIR}/distance.json",
    log:
        f"{PAIR}/logs/distance.log",
    conda:
        "../environment.yml"
    resources:
        mem_mb=memory("spec"),
        runtime=minutes("spec"),
    params:
        sources=sources,
        code=code("distance"),
    script:
        "../workflow/scripts/distance.py"


rule maps:
    input:
        unpack(maps_inputs),
    output:
        f"{PAIR}/maps/{{method}}.h5",
    log:
        f"{PAIR}/logs/maps/{{method}}.log",
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=maps_need(0),
        runtime=maps_need(1),
        gpu=gpus("mapping"),
    params:
        sources=sources,
        method=lambda wildcards: told(CONFIG.method)(wildcards.method),
        settings=method_settings,
        code=lambda wildcards: code("maps", f"methods.{CONFIG.method(wildcards.method)}"),
    script:
        "../workflow/scripts/maps.py"


rule output_maps:  # for methods whose maps are one adapter's own: what all adapters share
    input:
        unpack(output_maps_inputs),
    output:
        f"{PAIR}/output_maps/{{method}}.h5",
    log:
        f"{PAIR}/logs/output_maps/{{method}}.log",
    cache: SHARED
    conda:
        "../environment.yml"
    threads: 8
    resources:
        mem_mb=memory("output_maps"),
        runtime=minutes("output_maps"),
        gpu=gpus("mapping"),
    params:
        method=lambda wildcards: told(CONFIG.method)(wildcards.method),
        settings=output_settings,
        code=lambda wildcards: code("output_maps", f"methods.{CONFIG.method(wildcards.method)}"),
    script:
        "../workflow/scripts/output_maps.py"


use rule embedding as variant_embedding with:
    output:
        f"{VARIANT}/embedding.h5",
    log:
        f"{VARIANT}/logs/embedding.log",


use rule cka as variant_cka with:
    output:
        f"{VARIANT}/cka.h5",
    log:
        f"{VARIANT}/logs/cka.log",


use rule layers as variant_layers with:
    input:
        cka=made_in_home("cka"),
    output:
        f"{VARIANT}/layers.json",
    log:
        f"{VARIANT}/logs/layers.log",


use rule heads as variant_heads with:
    input:
        unpack(lambda wildcards: pair_specs(wildcards.pair)),
        embedding=made_in_home("embedding"),
        layers=made_in_home("layers"),
    output:
        f"{VARIANT}/heads.h5",
    log:
        f"{VARIANT}/logs/heads.log",


use rule moments as variant_moments with:
    input:
        unpack(lambda wildcards: pair_specs(wildcards.pair)),
        layers=made_in_home("layers"),
    output:
        f"{VARIANT}/moments.h5",
    log:
        f"{VARIANT}/logs/moments.log",
