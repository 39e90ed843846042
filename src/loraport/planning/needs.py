"""What each rule will need: memory and time from the models' dimensions, before anything runs."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil

from ..models.families import Dimensions

MIB = 1 << 20
BASE_MIB = 900  # Python with torch, transformers and h5py imported
DOUBLE_BYTES, SINGLE_BYTES = 8, 4
FIT_FLOPS = 2e10  # float64 a second that a small CPU job can count on
READ_TOKENS = 512 * 256  # that a model reads
FORWARD_FLOPS = 1e12  # a second while it reads
WRITTEN_TOKENS = 512 * 128  # of the answers that a model writes
WRITING_FLOPS = 1e11  # a second while it writes
PAIRED_TOKENS = 50_000  # of those that are read, the ones that enter second moments


def parameters(dims: Dimensions) -> int:
    """Weights of all linear modules and of both embeddings, a close upper bound."""
    block = sum(
        rows * columns
        for rows, columns in (dims.shape(r) for r in ("q", "k", "v", "o", "gate", "up", "down"))
    )
    return dims.layers * block + 2 * dims.vocabulary * dims.hidden


def _spec(*models: Dimensions) -> tuple[float, float]:
    largest = max(max(d.vocabulary, d.intermediate) * d.hidden for d in models)
    return 2 * SINGLE_BYTES * largest, sum(parameters(d) for d in models) * SINGLE_BYTES / 2e8


def _activations(*models: Dimensions) -> tuple[float, float]:
    weights = sum(parameters(d) for d in models)
    seconds = 600 + weights * SINGLE_BYTES / 2e8 + 2 * weights * READ_TOKENS / FORWARD_FLOPS
    return weights * SINGLE_BYTES * 1.3, seconds


def _embedding(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    square = old.hidden * (old.hidden + new.hidden) * DOUBLE_BYTES
    work = 2 * old.vocabulary * old.hidden * (old.hidden + new.hidden) + 30 * old.hidden**3
    rows = 4 * 8192 * (old.hidden + new.hidden) * DOUBLE_BYTES
    return 6 * square + new.vocabulary * new.hidden * SINGLE_BYTES + rows, work / FIT_FLOPS


def _features(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    return 4096 * sum(d.layers * d.hidden for d in (old, new)) * DOUBLE_BYTES, 120


def _heads(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    wide = old.heads * old.head_dim, new.heads * new.head_dim
    held = (
        4 * wide[0] * (old.hidden + new.hidden) + 4 * wide[1] * new.hidden + 5 * wide[0] * wide[1]
    )
    work = 8 * wide[0] * new.hidden * (old.hidden + wide[1]) * min(old.layers, new.layers)
    return (held + 2 * old.hidden * new.hidden) * DOUBLE_BYTES, work / FIT_FLOPS


def _maps(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    waist = old.intermediate * old.hidden + new.intermediate * new.hidden
    work = 4 * waist * (old.hidden + new.hidden) * 3 * min(old.layers, new.layers)
    return 6 * waist * DOUBLE_BYTES, work / FIT_FLOPS


def fit_bytes(old: Dimensions, new: Dimensions) -> float:
    """Memory while a layer's maps are fitted to second moments: both parts' sums at the widest
    site, the eigenvectors and what they are made with, and the layer's maps.
    """
    o, n = (max(d.intermediate, d.hidden, d.heads * d.head_dim) for d in (old, new))
    return 12 * (o * o + o * n + n * n) * DOUBLE_BYTES


def layers_at_once(mib: float, threads: int, old: Dimensions, new: Dimensions) -> int:
    """How many layers a job of so much memory fits side by side, a thread each."""
    return max(1, min(threads, int((mib - BASE_MIB) * MIB / fit_bytes(old, new))))


def workers(snakemake: Any, device: str, old: Dimensions, new: Dimensions) -> int:
    """How many layers' maps a rule's job makes side by side: one on a GPU, on a CPU one a thread,
    as far as the memory reaches that it asked for and that the machine has left.
    """
    if device != "cpu":
        return 1
    left = psutil.virtual_memory().available / MIB
    asked = getattr(getattr(snakemake, "resources", None), "mem_mb", left)
    return layers_at_once(min(asked, left), snakemake.threads, old, new)


def _fitted_maps(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    one = fit_bytes(old, new)
    size = max(one, min(8 * one, 16 << 30))
    cubes = sum(
        d.intermediate**3 + 7 * max(d.hidden, d.heads * d.head_dim) ** 3 for d in (old, new)
    )
    return size, 40 * cubes * min(old.layers, new.layers) / FIT_FLOPS * one / size


def _output_maps(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    size, seconds = _fitted_maps(old, new)  # of which they are one side
    return size, seconds / 2


def _transferred(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    waist = old.intermediate * old.hidden + new.intermediate * new.hidden
    return 3 * waist * DOUBLE_BYTES, 60


def _model_merged(new: Dimensions) -> tuple[float, float]:
    rows = (1 << 24) + new.hidden  # a block of rows, several times in float64
    return 6 * rows * DOUBLE_BYTES, parameters(new) * SINGLE_BYTES / 1e8


def _moments(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    sums = _site_sums(old, new) * min(old.layers, new.layers)
    models = sum(parameters(d) for d in (old, new)) * SINGLE_BYTES * 1.3
    caught = (
        4096 * SINGLE_BYTES * sum(d.layers * (8 * d.hidden + d.intermediate) for d in (old, new))
    )
    seconds = 600 + 2 * PAIRED_TOKENS * sums / DOUBLE_BYTES / 2 / FIT_FLOPS
    return models + min(sums, 8 << 30) + caught, seconds


def _gradients(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    """By a backward pass of four texts: what it keeps, and the scores four times."""
    wide = [(d.heads + 2 * d.kv_heads) * d.head_dim + 2 * d.intermediate for d in (old, new)]
    sums = 2 * DOUBLE_BYTES * wide[1] * sum(wide) * min(old.layers, new.layers)
    models = [parameters(d) for d in (old, new)]
    kept = [d.layers * (16 * d.hidden + 6 * d.intermediate) for d in (old, new)]
    kept = [each + 4 * d.vocabulary for each, d in zip(kept, (old, new), strict=True)]
    size = (1.3 * sum(models) + 1024 * max(kept)) * SINGLE_BYTES + min(sums, 8 << 30)
    passes = 3 * 2 * sum(models) * READ_TOKENS / FORWARD_FLOPS
    seconds = 600 + passes + 2 * PAIRED_TOKENS * sums / DOUBLE_BYTES / 2 / FIT_FLOPS
    return size, seconds


def _site_sums(old: Dimensions, new: Dimensions) -> float:
    """Bytes of one layer pair's moments, a close upper bound."""
    inner = old.intermediate + new.intermediate
    return 2 * DOUBLE_BYTES * (inner**2 + 4 * (old.hidden + new.hidden) ** 2)


def _read_widths(dims: Dimensions) -> tuple[int, int, int, int]:
    """Of what attention, o, gate with up, and down read."""
    return dims.hidden, dims.heads * dims.head_dim, dims.hidden, dims.intermediate


def walk_widths(old: Dimensions, new: Dimensions) -> tuple[int, int]:
    """Numbers that a walk of four models keeps of each token: streams, and what passed a block."""
    old_sites = sum(_read_widths(old)) + 4 * old.hidden  # and the streams there, and their change
    new_sites = new.intermediate + 4 * new.hidden
    return 2 * (old.hidden + new.hidden), old_sites + new_sites


def _adapter_maps(old: Dimensions, new: Dimensions) -> tuple[float, float]:
    """By two copies of each base. Blocks of the old one and of the bare new one run once; of the
    one with updates up to each reader and once more, which adds up to three times.
    """
    read = list(zip(_read_widths(old), _read_widths(new), strict=True))
    bases = [parameters(d) for d in (old, new)]
    size = (
        2 * sum(bases) * SINGLE_BYTES * 1.3
        + READ_TOKENS * sum(walk_widths(old, new)) * SINGLE_BYTES
    )
    size += 12 * max(o * n + n * n for o, n in read) * DOUBLE_BYTES  # a site's sums and their fit
    runs = (
        2 * READ_TOKENS * (2 * bases[0] + 4 * bases[1]) / FORWARD_FLOPS
        + 2 * WRITTEN_TOKENS * bases[0] / WRITING_FLOPS
    )
    sums = sum(o * n + n * n for o, n in read)
    sums += sum((new.hidden + n) * n for _, n in read[1::2])  # of what the stream lacks
    fits = 20 * sum(o**3 + n**3 for o, n in read)
    seconds = (2 * PAIRED_TOKENS * sums + fits) * min(old.layers, new.layers) / FIT_FLOPS
    return size, 600 + sum(bases) * SINGLE_BYTES / 2e8 + runs + seconds


RULES: dict[str, Callable[..., tuple[float, float]]] = {
    "spec": _spec,
    "activations": _activations,
    "embedding": _embedding,
    "cka": _features,
    "layers": lambda *models: (0.0, 10.0),
    "heads": _heads,
    "moments": _moments,
    "gradients": _gradients,
    "maps": _maps,
    "fitted_maps": _fitted_maps,
    "output_maps": _output_maps,
    "adapter_maps": _adapter_maps,
    "transferred": _transferred,
    "model_merged": _model_merged,
}
SIDES_OF = {"spec": ("old", "new"), "activations": ("old", "new"), "model_merged": ("new",)}


def need(rule: str, *models: Dimensions) -> tuple[int, int]:
    """Memory in MiB and wall time in minutes that a rule may use, generous by a factor of two.

    Parameters
    ----------
    models : the one model of a per-model rule, or the old and the new one of a pair's
    """
    size, seconds = RULES[rule](*models)
    return BASE_MIB + int(2 * size / MIB), 5 + int(2 * seconds / 60)


def table(old: Dimensions, new: Dimensions) -> list[tuple[str, int, int]]:
    """Each rule with its memory in MiB and wall time in minutes; rules of one model for each."""
    rows = []
    models = {"old": old, "new": new}
    for rule in RULES:
        sides = SIDES_OF.get(rule)
        if sides is None:
            rows.append((rule, *need(rule, old, new)))
        else:
            rows += [(f"{rule} {side}", *need(rule, models[side])) for side in sides]
    return rows


def read(inputs: Any) -> list[Dimensions]:
    """Dimensions from the specs among a rule's named inputs, the old model's first.

    Raises FileNotFoundError while a spec is still to be made: Snakemake then asks again.
    """
    names = [name for name in ("spec", "old_spec", "new_spec") if hasattr(inputs, name)]
    contents = [json.loads(Path(getattr(inputs, name)).read_text()) for name in names]
    return [Dimensions(**content["dimensions"]) for content in contents]
