"""`loraport.inspect` and `loraport.transfer`, as they are called from Python."""

import subprocess
import sys
from importlib import import_module

import pytest

import loraport
from loraport.errors import LoraportError


@pytest.fixture(scope="module")
def cached(tmp_path_factory, pico_pair):
    """A cache folder with the maps of a pair, and the adapter that was carried when it was made."""
    folder = tmp_path_factory.mktemp("api")
    options = {"texts": pico_pair.texts, "cache": folder / "cache", "cores": 1}
    options["settings"] = {"calibration": {"examples": 40}, "mapping": {"minibatch": 8}}
    places = (pico_pair.old, pico_pair.new, pico_pair.adapter)
    made = loraport.transfer(*places, folder / "first", **options)
    return folder, places, options, made


def test_inspect_tells_what_an_adapter_is(pico_pair):
    told = loraport.inspect(pico_pair.adapter, base=pico_pair.old)
    assert told.kind == "lora" and told.base == str(pico_pair.old)
    down = next(each for each in told.modules if each.name == "down_proj")
    assert (down.count, down.ranks, down.shape) == (3, (4,), (32, 56))
    assert 0 < down.norms[0] <= down.norms[1]
    with pytest.raises(LoraportError, match="another base model"):
        loraport.inspect(pico_pair.adapter, base=pico_pair.new)


def test_inspect_tells_whether_and_how_it_can_be_carried(pico_pair, tmp_path):
    fits = loraport.inspect(pico_pair.adapter, base=pico_pair.old, to=pico_pair.new)
    assert (fits.carried, fits.refused) == ("by maps", ())
    same = loraport.inspect(pico_pair.adapter, to=pico_pair.old)
    assert same.carried == "copied or by maps" and not same.left
    assert loraport.inspect(pico_pair.adapter).carried == ""
    (why,) = (
        bad := loraport.inspect(pico_pair.adapter, base=pico_pair.new, to=pico_pair.old)
    ).refused
    assert bad.carried == "no" and "another base model" in why
    with pytest.raises(LoraportError, match="can't be looked at"):
        loraport.inspect(pico_pair.adapter, to=tmp_path / "nothing")


def test_with_maps_at_hand_neither_snakemake_nor_weights_are_read(cached, monkeypatch):
    folder, places, options, made = cached
    assert made.report["method"] == "lorasuite"

    def refused(*arguments):
        raise AssertionError("Snakemake was started")

    monkeypatch.setattr("loraport.api._one_run.run", refused)
    again = loraport.transfer(*places, folder / "again", **options)
    for file in ("adapter_model.safetensors", "adapter_config.json", "transfer.json"):
        assert (again.directory / file).read_bytes() == (made.directory / file).read_bytes()


@pytest.mark.parametrize("change", ["settings", "texts", "model"])
def test_maps_that_were_made_otherwise_are_not_at_hand(cached, monkeypatch, change, tmp_path):
    _, places, options, _ = cached
    options = dict(options)
    if change == "settings":
        options["settings"] = {**options["settings"], "mapping": {"minibatch": 10}}
    elif change == "texts":
        options["texts"] = tmp_path / "other.txt"
        options["texts"].write_text(places[0].parent.joinpath("texts.txt").read_text() + "more\n")
    else:
        monkeypatch.setattr("loraport.api.load_spec", refuse)
    monkeypatch.setattr("loraport.api._one_run.run", started)
    with pytest.raises(RuntimeError, match="started"):
        loraport.transfer(*places, tmp_path / "out", **options)


def refuse(*arguments, **options):
    raise LoraportError("not the file that spec.json describes")


def started(request):
    raise RuntimeError("started")


def test_what_is_there_is_not_written_over(cached):
    _, places, options, made = cached
    with pytest.raises(LoraportError, match="is there already"):
        loraport.transfer(*places, made.directory, **options)


def test_the_room_and_the_function_share_a_name():
    assert callable(loraport.transfer)
    assert import_module("loraport.transfer.maps").__name__ == "loraport.transfer.maps"
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = loraport.nothing


def test_importing_the_package_imports_nothing_heavy():
    code = "import sys, loraport; loraport.transfer; print('numpy' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
