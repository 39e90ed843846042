"""A model, and an adapter to start from."""

import pytest
from traincase import make_adapter, with_empty_layer


@pytest.fixture(scope="module")
def model(pico_pair):
    """The new model of the pico pair."""
    return pico_pair.new


@pytest.fixture(scope="module")
def start(tmp_path_factory, model):
    """A trained-looking adapter whose last layer is new: both factors zero."""
    directory = tmp_path_factory.mktemp("start") / "adapter"
    return with_empty_layer(make_adapter(directory, model, "lora"))
