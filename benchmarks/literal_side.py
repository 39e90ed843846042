"""The published algorithm as it is written down in tests/literal.py, timed and compared.

Run as a child process by transfer.py: `literal_side.py STEP JSON`; prints one JSON line. Seconds
are those of the computation alone: weights are in memory, in float64, before the clock starts. On a
GPU the same code runs on CuPy arrays, which NumPy's functions accept, or on torch_arrays.
"""

import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))
import literal  # noqa: E402

from loraport.adapters.files import read_adapter  # noqa: E402
from loraport.artifacts import read_json  # noqa: E402
from loraport.models.spec import open_model  # noqa: E402

ROLES = literal.ROLES


def on_gpu() -> Any:
    """CuPy, or torch in its place where it is not installed."""
    try:
        import cupy
    except ImportError:
        import torch_arrays

        return torch_arrays
    return cupy


class Side:
    """The two models, the layer pair that is looked at, and where to compute."""

    def __init__(self, job: dict[str, Any]):
        self.job, self.root = job, Path(job["root"])
        self.models = {side: open_model(self.root / side) for side in ("old", "new")}
        rows = read_json(self.root / "layers.json", "layers")["path"]
        self.path = [(old, new) for old, new, _ in rows]
        self.pair = self.path[len(self.path) // 2]
        self.cupy = None
        if job["device"] == "cuda":
            self.cupy = on_gpu()

    def array(self, values: np.ndarray) -> Any:
        values = values.astype(np.float64)
        return values if self.cupy is None else self.cupy.asarray(values)

    def numpy(self, values: Any) -> np.ndarray:
        return values if self.cupy is None else self.cupy.asnumpy(values)

    def layer(self, side: str, number: int, roles: tuple[str, ...]) -> literal.Layer:
        """The weights of some roles of a layer; the others are empty."""
        model, held = self.models[side], dict.fromkeys(ROLES, np.empty(0))
        checkpoint = model.checkpoint()
        for role in roles:
            held[role] = self.array(model.weight(checkpoint, number, role))
        return literal.Layer(**held, heads=model.dims.heads, kv_heads=model.dims.kv_heads)

    def layers(self, roles: tuple[str, ...]) -> tuple[literal.Layer, literal.Layer]:
        """The layer pair that is looked at."""
        old, new = self.pair
        return self.layer("old", old, roles), self.layer("new", new, roles)

    def hidden_map(self) -> Any:
        return self.array(np.load(self.root / "literal_hidden_map.npy"))

    def timed(self, work: Callable[[], Any]) -> tuple[Any, dict[str, float]]:
        """Result of some work and how long it took, by the clock and in CPU time."""
        self.wait()
        start, start_cpu = time.perf_counter(), time.process_time()
        result = work()
        self.wait()
        cpu = time.process_time() - start_cpu
        return result, {"seconds": time.perf_counter() - start, "cpu": cpu}

    def wait(self) -> None:
        if self.cupy is not None:
            self.cupy.cuda.Device().synchronize()

    def gpu_mib(self) -> float:
        """What CuPy's pool holds: it grows to the peak and is never given back."""
        if self.cupy is None:
            return 0.0
        return self.cupy.get_default_memory_pool().total_bytes() / 2**20


def hidden_map(side: Side) -> dict[str, Any]:
    """`pinv(E_o) E_n` by SVD; the vocabularies are equal."""
    tables = [side.array(model.checkpoint().read("model.embed_tokens.weight"))
              for model in side.models.values()]  # fmt: skip
    W_h, took = side.timed(lambda: literal.hidden_map(*tables))
    np.save(side.root / "literal_hidden_map.npy", side.numpy(W_h))
    return took


def similarity(old: literal.Layer, new: literal.Layer, W_h: Any, a: int, b: int):
    """One head pair: its interaction matrices formed anew, as in literal.head_similarity."""
    x, y = literal.interaction(old, a, W_h), literal.interaction(new, b)
    return x @ y / (np.linalg.norm(x) * np.linalg.norm(y))


def heads(side: Side) -> dict[str, Any]:
    """Some head pairs of one layer pair; the times are the mean of a head pair."""
    old, new = side.layers(("q", "k", "v", "o"))
    W_h = side.hidden_map()
    rng = np.random.default_rng(0)
    every = old.heads * new.heads
    chosen = rng.choice(every, size=min(every, side.job["sample_pairs"]), replace=False)
    pairs = [(int(p) // new.heads, int(p) % new.heads) for p in chosen]
    similarity(old, new, W_h, *pairs[0])  # first touch of memory and libraries: not timed
    found = [side.timed(lambda p=p: float(similarity(old, new, W_h, *p))) for p in pairs]
    error = 0.0
    with h5py.File(side.root / "heads.h5") as file:
        ours = file[f"layer_{side.pair[1]}/similarity"][...]
    for (a, b), (value, _) in zip(pairs, found, strict=True):
        error = max(error, abs(value - ours[a, b]))
    took = {key: float(np.mean([each[key] for _, each in found])) for key in ("seconds", "cpu")}
    return {**took, "error": error}


def heads_once(side: Side) -> dict[str, Any]:
    """All head pairs of one layer pair, each head's matrices formed and carried once."""
    old, new = side.layers(("q", "k", "v", "o"))
    W_h = side.hidden_map()

    def work() -> np.ndarray:
        before = [literal.interaction(old, a, W_h) for a in range(old.heads)]
        after = [literal.interaction(new, b) for b in range(new.heads)]
        norms = [[float(np.linalg.norm(x)) for x in each] for each in (before, after)]
        return np.array([[float(x @ y) for y in after] for x in before]) / np.outer(*norms)

    S, took = side.timed(work)
    with h5py.File(side.root / "heads.h5") as file:
        group = file[f"layer_{side.pair[1]}"]
        error = float(np.abs(group["similarity"][...] - S).max())
        assigned = sorted((int(a), int(b)) for a, b in group["assignment"][...])
    return {**took, "error": error, "same": assigned == sorted(literal.assign(S))}


def updates(side: Side, layer: int, roles: list[str]) -> dict[str, literal.Update]:
    """(B, A, s) of one layer of the adapter."""
    modules = read_adapter(side.root / "adapter").modules
    family = side.models["old"].architecture
    found = {}
    for role in roles:
        each = modules[family.path(layer, family.module_of(role))]
        found[role] = (side.array(each.b), side.array(each.a), each.scale)
    return found


def adapter(side: Side) -> dict[str, Any]:
    """Dense transforms and full SVDs of one layer, compared with what the workflow wrote."""
    roles = side.job["roles"]
    old, new = side.layers(tuple(roles))
    W_h = side.hidden_map()
    with h5py.File(side.root / "heads.h5") as file:
        pairs = [(int(a), int(b)) for a, b in file[f"layer_{side.pair[1]}/assignment"][...]]
    given = updates(side, side.pair[0], roles)
    factors, took = side.timed(lambda: literal.transfer_layer(old, new, W_h, pairs, given, "code"))
    return {**took, "error": errors(side, factors)}


def errors(side: Side, factors: dict[str, tuple[Any, Any]]) -> float:
    """Largest relative difference of the updates `s B A` of one layer, in the Frobenius norm."""
    carried = read_adapter(side.root / "transferred").modules
    family, worst = side.models["new"].architecture, 0.0
    for role, (B, A) in factors.items():
        ours = carried[family.path(side.pair[1], family.module_of(role))]
        expected = side.numpy(B) @ side.numpy(A)
        got = ours.scale * (ours.b.astype(np.float64) @ ours.a.astype(np.float64))
        worst = max(worst, float(np.linalg.norm(got - expected) / np.linalg.norm(expected)))
    return worst


def held(side: Side) -> dict[str, Any]:
    """For the peak of memory alone: both models' adapted modules held, as literal.transfer takes
    them, then one head pair and one module of one layer.
    """
    roles = tuple(dict.fromkeys([*side.job["roles"], "q", "k", "v", "o"]))
    W_h = side.hidden_map()
    layers = {
        name: [side.layer(name, number, roles) for number in range(model.dims.layers)]
        for name, model in side.models.items()
    }
    old, new = layers["old"][side.pair[0]], layers["new"][side.pair[1]]
    similarity(old, new, W_h, 0, 0)
    pairs = [(head, head) for head in range(min(old.heads, new.heads))]
    literal.transfer_layer(old, new, W_h, pairs, updates(side, side.pair[0], ["q"]), "code")
    return {}


def compare_hidden_map(side: Side) -> dict[str, Any]:
    """How far the workflow's W_h lies from the literal one, relative."""
    expected = np.load(side.root / "literal_hidden_map.npy")
    with h5py.File(side.root / "embedding.h5") as file:
        got = file["W_h"][...]
    return {"error": float(np.linalg.norm(got - expected) / np.linalg.norm(expected))}


STEPS = {
    each.__name__: each
    for each in (hidden_map, heads, heads_once, adapter, held, compare_hidden_map)
}


def main(step: str, job: dict[str, Any]) -> None:
    """Run a step and print what it found."""
    side = Side(job)
    found = STEPS[step](side)
    dims = side.models["old"].dims, side.models["new"].dims
    count = {"layers": len(side.path), "head_pairs": dims[0].heads * dims[1].heads}
    print(json.dumps({**found, **count, "gpu_mib": side.gpu_mib()}))


if __name__ == "__main__":
    main(sys.argv[1], json.loads(sys.argv[2]))
