# Variants that change mapping settings have twins of the rules that these concern, with results
# below artifacts/{pair}/variants/; the rest is the pair's.


localrules:
    variant_layers,


use rule embedding as variant_embedding with:
    output:
        look.variant_artifact("embedding"),
    log:
        layout.LOGS["variant_embedding"],


use rule cka as variant_cka with:
    output:
        look.variant_artifact("cka"),
    log:
        layout.LOGS["variant_cka"],


use rule layers as variant_layers with:
    input:
        unpack(look.pair_specs),
        cka=look.made_in_home("cka"),
    output:
        look.variant_artifact("layers"),
    log:
        layout.LOGS["variant_layers"],


use rule heads as variant_heads with:
    input:
        unpack(look.pair_specs),
        embedding=look.made_in_home("embedding"),
        layers=look.made_in_home("layers"),
    output:
        look.variant_artifact("heads"),
    log:
        layout.LOGS["variant_heads"],


use rule moments as variant_moments with:
    input:
        unpack(look.pair_specs),
        layers=look.made_in_home("layers"),
    output:
        look.variant_artifact("moments"),
    log:
        layout.LOGS["variant_moments"],


use rule gradients as variant_gradients with:
    input:
        unpack(look.pair_specs),
        layers=look.made_in_home("layers"),
    output:
        look.variant_artifact("gradients"),
    log:
        layout.LOGS["variant_gradients"],
