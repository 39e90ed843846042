"""Moments as an artifact of the pair: stored, read again, and made by the rule's script."""

from pathlib import Path

import methodcase
import pico
import pytest
import torch
from inprocess import CALIBRATION, PairRun

from loraport.artifacts import write_h5
from loraport.moments import PARTS, READS, SITES, STREAM, WRITES, read_moments, write_layer

NAMES = ("cross", "gram_old", "gram_new", "sum_old", "sum_new")


def same(first: dict, second: dict, **tolerance) -> bool:
    """Whether two layers' moments agree, and hold the same sites and sums."""
    for site in SITES:
        for a, b in zip(first[site], second[site], strict=True):
            numbers = (a.count, a.square_old, a.square_new), (b.count, b.square_old, b.square_new)
            if numbers[0] != pytest.approx(numbers[1]):
                return False
            for name in NAMES:
                x, y = getattr(a, name), getattr(b, name)
                if (x is None) != (y is None) or not (
                    x is None or torch.allclose(x, y, **tolerance)
                ):
                    return False
    return first.keys() == second.keys()


def test_what_is_stored_is_what_is_read(pico_pair, tmp_path):
    found = methodcase.collect_moments(pico_pair.old, pico_pair.new, [(0, 2)], pico.texts(8))[0]
    with write_h5(tmp_path / "moments.h5", "moments", {}) as writer:
        write_layer(writer, 2, 0, found)
    assert same(read_moments(tmp_path / "moments.h5", 2), found, rtol=0, atol=0)


def test_only_the_sums_that_a_map_needs_are_held(pico_pair):
    found = methodcase.collect_moments(pico_pair.old, pico_pair.new, [(0, 0)], pico.texts(8))[0]
    for site, parts in found.items():
        assert len(parts) == len(PARTS)
        streams = set(STREAM.values())
        read, written = {*READS.values(), *streams}, {*WRITES.values(), *streams}
        assert (parts[0].gram_new is not None) == (site in read), site
        assert (parts[0].gram_old is not None) == (site in written), site


@pytest.mark.parametrize("gib", [8, 1e-9], ids=["one_pass", "a_pass_a_layer"])
def test_the_rule_gives_the_same_in_one_pass_and_in_many(pico_pair, tmp_path, gib):
    run = PairRun(tmp_path, pico_pair.old, pico_pair.new, pico_pair.texts)
    keys = ("examples", "max_tokens", "batch_size", "device")
    reading = {
        "texts_version": "1",
        "remote_code": [False, False],
        "calibration": {key: CALIBRATION[key] for key in keys},
    }
    specs = {f"{side}_spec": run.spec(side) for side in ("old", "new")}
    sources = {"texts": str(pico_pair.texts), **run._sources()}
    file = run._script(
        "moments", "moments.h5", {**specs, "layers": run.layers()},
        sources=sources, reading=reading, settings={"moments_gib": gib},
    )  # fmt: skip
    texts = Path(pico_pair.texts).read_text().splitlines()
    expected = methodcase.collect_moments(pico_pair.old, pico_pair.new, run.path(), texts)
    for (_, layer), found in zip(run.path(), expected, strict=True):
        assert same(read_moments(file, layer), found, rtol=1e-4, atol=1e-2)
