"""Every method carries attention between a dense model and a mixture of experts."""

import families
import methodcase
import pico
import pytest

from loraport import methods
from loraport.adapters.files import read_adapter
from loraport.errors import LoraportError
from loraport.methods import check_pair
from loraport.models.spec import open_model

pytestmark = pytest.mark.usefixtures("one_thread")

PATH = [(0, 0), (1, 1)]
ATTENTION = {f"self_attn.{role}_proj" for role in "qkvo"}
# those that need heads run in tests/integration/test_families.py
WITHOUT_HEADS = [name for name in methods.names() if "heads" not in methods.needs(name)]


@pytest.mark.parametrize("method", WITHOUT_HEADS)
@pytest.mark.parametrize("names", [("llama", "mixtral"), ("mixtral", "llama")], ids="-".join)
def test_attention_is_carried(tmp_path, method, names):
    old = families.make_model(tmp_path / "old", names[0], seed=1)
    new = families.make_model(tmp_path / "new", names[1], seed=2, intermediate=48)
    adapter = pico.make_adapter(tmp_path / "lora", old, seed=3, targets=families.targets(names[0]))
    texts = pico.texts(24)
    weights, report = methodcase.carried(tmp_path, method, (old, new), adapter, PATH, texts)
    assert {module for _, module in weights} == ATTENTION
    assert all(each.norm() > 0 for each in weights.values())
    assert len(report["left_behind"]) == (6 if names[0] == "llama" else 0)
    assert read_adapter(tmp_path / "adapter").modules.keys() == {
        f"model.layers.{layer}.{module}" for layer in (0, 1) for module in ATTENTION
    }


def test_shapes_of_attention_alone_have_to_be_equal(tmp_path):
    """Feed-forward networks of other sizes do not stand against a copy; heads of others do."""
    dense = open_model(families.make_model(tmp_path / "dense", "llama", seed=1)).dims
    mixture = families.make_model(tmp_path / "mixture", "mixtral", seed=1, intermediate=48)
    wider = families.make_model(tmp_path / "wider", "mixtral", seed=1, head_dim=12)
    check_pair("simplecopy", dense, open_model(mixture).dims, methodcase.SETTINGS)
    with pytest.raises(LoraportError, match=r"q \(32, 32\) and \(48, 32\)"):
        check_pair("simplecopy", dense, open_model(wider).dims, methodcase.SETTINGS)
