"""Maps fitted to moments while these are summed are those of moments that were stored."""

from pathlib import Path

import numpy as np
import pytest
import torch
from inprocess import READING, PairRun, numbers

from loraport.calibration.moments_file import read_moments
from loraport.calibration.sums import InTurn
from loraport.mapping.in_turn import in_turn
from loraport.mapping.pair import open_pair
from loraport.methods import make_maps, settings
from loraport.models.families import ROLES
from loraport.models.spec import open_model

pytestmark = pytest.mark.usefixtures("one_thread")
MAPPING = {"modules": list(ROLES), "device": "cpu", "ridge": "auto", "prior": "procrustes",
           "writes": "stream"}  # fmt: skip


class Rules:
    """Rules moments and maps on a pico pair."""

    def __init__(self, folder: Path, pair):
        self.run = PairRun(folder, pair.old, pair.new, pair.texts)
        self.given = {**self.run._specs(), "layers": self.run.layers()}
        self.sources = {"texts": str(pair.texts), **self.run._sources()}

    def moments(self) -> Path:
        return self.run._script(
            "moments", "moments.h5", self.given, sources=self.sources, reading=READING,
            settings={"modules": list(ROLES)},
        )  # fmt: skip

    def maps(self, name: str, method: str, inputs: dict, **params) -> Path:
        asked = {key: MAPPING[key] for key in settings(method)}
        return self.run._script(
            "maps", name, {**self.given, **inputs}, sources=self.sources, method=method,
            settings=asked, **params,
        )  # fmt: skip


@pytest.mark.parametrize("method", ["aligned", "theseus"])
def test_the_rule_makes_the_same_maps_without_moments_on_disk(
    pico_pair, tmp_path, monkeypatch, method
):
    monkeypatch.chdir(tmp_path)
    rules = Rules(tmp_path, pico_pair)
    stored = numbers(rules.maps("stored.h5", method, {"moments": rules.moments()}))
    summed = {"reading": READING, "modules": list(ROLES)}
    direct = numbers(rules.maps("direct.h5", method, {}, summed=summed))
    assert stored.keys() == direct.keys() and len(stored) > 50
    for name, values in stored.items():
        assert np.array_equal(values, direct[name]), name


def test_layers_are_fitted_side_by_side_while_the_next_ones_are_summed(pico_pair, tmp_path):
    models = open_model(pico_pair.old), open_model(pico_pair.new)
    rules = Rules(tmp_path, pico_pair)
    made = {}
    for workers in (1, 3):
        opened = open_pair(*models, rules.given, dict(MAPPING), "cpu", workers=workers)
        pair = in_turn(opened, str(pico_pair.texts), {"reading": READING, "modules": ROLES})
        made[workers] = list(make_maps("aligned", pair))
    for one, other in zip(made[1], made[3], strict=True):
        assert one.notes == other.notes
        for a, b in zip(one.terms, other.terms, strict=True):
            assert all(torch.equal(x.matrix, y.matrix) for x, y in zip(a.left, b.left, strict=True))
            assert all(
                torch.equal(x.matrix, y.matrix) for x, y in zip(a.right, b.right, strict=True)
            )


def test_sums_in_turn_are_those_that_are_read_to_the_last_bit(pico_pair, tmp_path):
    models = open_model(pico_pair.old), open_model(pico_pair.new)
    rules = Rules(tmp_path, pico_pair)
    file = rules.moments()
    opened = open_pair(*models, rules.given, dict(MAPPING), "cpu")
    pair = in_turn(opened, str(pico_pair.texts), {"reading": READING, "modules": ROLES})
    for (_, layer), found in pair.summed():
        for site, parts in read_moments(file, layer).items():
            for a, b in zip(parts, found[site], strict=True):
                for name in ("cross", "gram_old", "gram_new"):
                    x, y = getattr(a, name), getattr(b, name)
                    assert (x is None and y is None) or torch.equal(x, y)


def test_models_run_with_all_threads_though_those_who_fit_have_one():
    seen = []

    def found():
        seen.append(torch.get_num_threads())
        yield {}

    torch.set_num_threads(2)
    asked = InTurn(found())
    torch.set_num_threads(1)
    asked(0)
    assert seen == [2] and torch.get_num_threads() == 1
