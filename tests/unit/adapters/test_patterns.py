"""Regular expressions in adapters' configs: matched as peft does, or refused."""

import pico
import pytest

from loraport.adapters.patterns import is_safe, matches
from loraport.errors import LoraportError


@pytest.mark.parametrize(
    "pattern",
    ["(a+)+$", "(a|aa)*b", r"(.*)\1", "(?=a)", "a*b*c*d*", "x" * 400, "[a-z", r"(a|a){9}", r"\p"],
)
def test_expressions_that_can_explode_are_not_evaluated(pattern):
    assert not is_safe(pattern)
    with pytest.raises(LoraportError, match="not evaluated"):
        matches(pattern, "a" * 40, ending=True)


@pytest.mark.parametrize(
    "pattern",
    ["q_proj", r"layers\.\d+\.mlp\..*", "^model.layers.1.self_attn.q_proj", ".*(q|v)_proj",
     "[qv]_proj", r"layers\.(0|1)\.self_attn\.(?:q|k)_proj"],
)  # fmt: skip
def test_expressions_mean_what_they_mean_to_peft(pattern):
    from peft.utils.other import get_pattern_key

    for path in (
        f"model.layers.{i}.{module}" for i in (0, 1, 11) for module in pico.PATHS.values()
    ):
        assert matches(pattern, path, ending=True) == (get_pattern_key([pattern], path) == pattern)
