"""Base models of several families."""

import families
import pytest

BASES = ("llama", "qwen2", "phi3", "gemma3_multimodal")


@pytest.fixture(scope="module")
def bases(tmp_path_factory):
    """Family -> a random model of it."""
    root = tmp_path_factory.mktemp("bases")
    return {name: families.make_model(root / name, name, seed=1) for name in BASES}
