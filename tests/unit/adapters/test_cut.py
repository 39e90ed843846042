"""What is cut from an adapter keeps its scale."""

import math

import numpy as np
import pytest

from loraport.adapters.cut import truncate
from loraport.adapters.lora_weights import LoraWeights


@pytest.mark.parametrize("rslora", [False, True])
def test_truncation_keeps_the_scale(rslora):
    rng = np.random.default_rng(0)
    b, a = rng.normal(size=(6, 4)), rng.normal(size=(4, 5))
    weights = LoraWeights(b, a, 8.0, rslora)
    low = truncate(weights, 2)
    assert low.scale == pytest.approx(weights.scale)
    assert low.alpha == pytest.approx(8 / math.sqrt(2) if rslora else 4)
    assert truncate(weights, 4) is weights
