"""LoRASuite's maps of gate, up and down hold the base weights as they are where nothing is lost."""

import numpy as np
import pytest
import torch

from loraport.methods import lorasuite
from loraport.methods.lorasuite import HiddenMap, _intermediate
from loraport.numerics.linalg import gram_inverse, pinv


def drawn(*shape: int) -> torch.Tensor:
    """Random numbers that bfloat16 holds, as float64."""
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randn(*shape, generator=generator).bfloat16().double()


OLD, NEW = (
    {"up": drawn(40, 16), "down": drawn(16, 40)},
    {"up": drawn(56, 24), "down": drawn(24, 56)},
)


@pytest.mark.parametrize("role", OLD)
@pytest.mark.parametrize("wi", ["code", "paper"])
def test_the_parts_multiply_to_the_map_by_pseudo_inverses(role, wi):
    hidden = torch.randn(16, 24, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    carried = HiddenMap(hidden, wi)
    term = _intermediate(role, OLD[role], NEW[role], carried)
    factors = term.right if role == "down" else term.left
    assert [tuple(each.matrix.shape) for each in factors if each.matrix is NEW[role]]
    assert any(each.matrix is OLD[role] and each.transposed for each in factors)
    product = factors[0]._matrix()
    for each in factors[1:]:
        product = product @ each._matrix()
    if role == "down":
        whole = pinv(OLD[role]) @ hidden @ NEW[role]
    else:
        whole = NEW[role] @ carried.back @ pinv(OLD[role])
    assert torch.allclose(product, whole, rtol=1e-9, atol=1e-9)


def test_weights_that_lie_wide_or_lose_by_it_have_two_factors(monkeypatch):
    carried = HiddenMap(None, "code")
    assert len(_intermediate("up", OLD["up"], NEW["up"][:, :16], carried).left) == 3
    wide = OLD["up"] + 1e-5
    assert len(_intermediate("up", wide, NEW["up"][:, :16], carried).left) == 2
    short = drawn(12, 16)  # of no full rank
    assert len(_intermediate("up", short, NEW["up"][:, :16], carried).left) == 2
    monkeypatch.setattr(lorasuite, "MAX_ROUNDING", 1e-9)
    assert len(_intermediate("up", OLD["up"], NEW["up"][:, :16], carried).left) == 2


def test_the_loss_by_float32_is_what_the_bound_is_held_against():
    between = lorasuite._between(OLD["up"], None)
    whole = between @ OLD["up"].T
    lost = (between.float().double() - between) @ OLD["up"].T
    assert float(lost.norm() / whole.norm()) < lorasuite.MAX_ROUNDING
    # of condition 1e4, which (UᵀU)⁻¹ has squared: then it is two factors
    ill = (OLD["up"] * torch.from_numpy(np.logspace(0, -4, 16))).bfloat16().double()
    inverse, _ = gram_inverse(ill)
    lost = (inverse.float().double() - inverse) @ ill.T
    kept = lorasuite._between(ill, None)
    assert (kept is not None) == bool(lost.norm() <= lorasuite.MAX_ROUNDING * pinv(ill).norm())
