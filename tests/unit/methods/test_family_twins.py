"""Families against themselves in another basis: `aligned` keeps the whole effect of an adapter.

Every family is rotated, which finds all that `permuted` finds but norms whose entries differ. Those
are read alike in all families but for what NORMS names one of each kind of; the others are slow.
"""

import families
import family_twins
import methodcase
import pico
import pytest
from family_twins import CASES, path

pytestmark = pytest.mark.usefixtures("one_thread")


# plain, with a shift, centred and shifted, centred, of a mixture, of layers of two kinds
NORMS = ("ministral3", "qwen3_5_text", "nemotron", "cohere2", "qwen3_moe", "gemma4_multimodal")
FAST = [case for case in CASES if case[1] != "permuted" or case[0] in NORMS]
SLOW = [pytest.param(*case, marks=pytest.mark.slow) for case in CASES if case not in FAST]


@pytest.mark.parametrize(("name", "edit"), [*FAST, *SLOW], ids=str)
def test_a_model_rewritten_gets_the_whole_adapter(tmp_path, name, edit):
    old, new = family_twins.make_pair(tmp_path, name, edit)
    lora = pico.make_adapter(tmp_path / "lora", old, seed=3, targets=families.targets(name))
    moments = methodcase.collect_moments(old, new, path(name), pico.texts(60))
    for method in ("aligned", "aligned_sequential"):
        pair = methodcase.make_method_pair(old, new, path(name), moments)
        if method == "aligned_sequential":
            pair = methodcase.adapted(pair, lora, pico.texts(60))
        (out := tmp_path / method).mkdir()
        methodcase.transferred(out, method, pair, lora)
        assert methodcase.lost(old, new, lora, out / "adapter") < 1e-4, method
