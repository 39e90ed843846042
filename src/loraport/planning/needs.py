"""What each rule may use of a machine: memory and time from the models' dimensions, before anything
runs; and how many layers a job works on at once in what it was given.
"""

import sys
from collections.abc import Collection, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, NamedTuple

import psutil

from ..models.families import FEED_FORWARD, ROLES, Dimensions
from . import memory, memory_walks, times
from .memory_walks import Walked
from .sizes import HALF_BYTES, SINGLE_BYTES, parameters, site_sums

MIB = 1 << 20
BASE_MIB = 600  # Python with torch and transformers imported
# less or more where a rule imports less, or frees what it used late; measured at hidden sizes of
# 1024 and 2048 (benchmarks/results/plans.md)
BASES = {"spec": 100, "transferred": 120, "model_merged": 120, "cka": 330, "layers": 100,
         "embedding": 330, "heads": 450, "maps": 1000,
         "maps of attention": 360}  # fmt: skip
WITHOUT_TORCH = ("spec", "layers", "transferred", "model_merged")
CUDA_BUILD_MIB = 300  # more, where torch is one that can use a GPU, whether there is one or not
CUDA_MIB = 400  # more, where CUDA is used, with the libraries of such a build
# of a job that runs models on a GPU: libraries, CUDA, and weights on their way. Measured: 2.9 GiB
# by activations (1.8B and 3B), 4.4 by moments and by evaluations (0.5B and 1.5B), of whole models
GPU_HOST_MIB = 4600
# the same where models are streamed: weights on their way are planned. Measured: 1.4 to 1.7 GiB by
# activations and by maps (1.8B and 3B), up to 2.4 (70B) where streams of half the tokens are
GPU_WALK_MIB = 2200
GPU_GAIN_MIB = 2900  # the same of the choice of a gain, of which nothing was measured
MARGIN = 1.3  # of what is planned over what is held
# rules that hold one tensor, to the byte, and are planned without it: with it, spec would be asked
# 2.6 times the bytes of bfloat16 weights
WITHOUT_MARGIN = ("spec",)
# of a carried table of the vocabulary: as it is made, of the new base beside it, as it is written.
# Measured: 3.2 (tables of 60,000 × 512)
TABLE_COPIES = 3.5
FITTED = ("fitted_maps", "output_maps")
# whose needs follow the modules that maps are made for
BY_ROLES = ("moments", "maps", "maps_in_turn", *FITTED)
ON_CPU = ("spec", "cka", "layers", "transferred", "model_merged")  # whatever there is


class Need(NamedTuple):
    """What a rule may use of a machine, and how long it takes by estimate.

    Attributes
    ----------
    mib : of the machine's memory, where its CPU computes
    seconds : on one core
    host_mib : of the machine's memory where a GPU computes; 0 for a rule that uses none
    gpu_mib : of the GPU, as torch allocates it: without CUDA's own context, 0.8 GiB of an H100, and
        without what torch keeps of memory that it has let go
    gpu_seconds : where a GPU computes
    """

    mib: int
    seconds: float
    host_mib: int
    gpu_mib: int
    gpu_seconds: float


def need(
    rule: str, *models: Dimensions, whole: bool = False, roles: Collection[str] = ROLES
) -> Need:
    """Memory in MiB, MARGIN over what most rules hold, and seconds as they are estimated: what a
    scheduler is asked for is `times.limit_minutes` of them.

    Parameters
    ----------
    models : the one model of a per-model rule, or the old and the new one of a pair's
    whole : whether models that could be streamed are held whole
    roles : whose maps are fitted, or whose moments are summed
    """
    served: dict[str, Any] = {"roles": roles} if rule in BY_ROLES else {}
    seconds = [times.RULES[rule](*models, rates=r, **served) for r in (times.CORE, times.GPU)]
    if rule in memory_walks.WALKED:
        return _need_of_walk(rule, *models, seconds=seconds, whole=whole, **served)
    size = memory.RULES[rule](*models, **served)
    named = rule
    if rule == "maps" and not set(FEED_FORWARD) & set(roles):
        named = "maps of attention"
    mib = _base(named) + _planned(size, 1 if rule in WITHOUT_MARGIN else MARGIN)
    if rule in ON_CPU:
        return Need(mib, seconds[0], 0, 0, 0.0)
    if rule == "gradients":
        host = GPU_HOST_MIB
    else:
        beside = memory.beside_fits(models[0], models[1], roles) if rule in FITTED else size
        host = BASES.get(named, BASE_MIB) + CUDA_MIB + _planned(beside)
    on_gpu = memory.ON_GPU.get(rule, memory.RULES[rule])(*models, **served)
    return Need(mib, seconds[0], host, _planned(on_gpu), seconds[1])


def streamed_gain(new: Dimensions, batch: int, cutoff: int) -> Need:
    """The same of the choice of a gain on a model that is streamed.

    Parameters
    ----------
    batch : examples in a forward pass
    cutoff : tokens of an example, at most
    """
    on_cpu, on_gpu = (
        memory_walks.gain(new, batch, cutoff, number) for number in (SINGLE_BYTES, HALF_BYTES)
    )
    seconds = [times.gain(new, cutoff, rates) for rates in (times.CORE, times.GPU)]
    return _need_of_walked(on_cpu, on_gpu, GPU_GAIN_MIB, seconds)


def with_tables(asked: Need, held: int, carried: int) -> Need:
    """What a transfer needs whose adapter holds whole tables of its vocabulary.

    Parameters
    ----------
    held : numbers of the adapter's tables
    carried : numbers of those that are written for the new model
    """
    more = _planned(SINGLE_BYTES * (held + TABLE_COPIES * carried))
    return asked._replace(mib=asked.mib + more)


def layers_at_once(
    mib: float,
    threads: int,
    old: Dimensions,
    new: Dimensions,
    in_turn: bool = False,
    roles: Collection[str] = ROLES,
) -> int:
    """How many layers a job of so much memory fits side by side, a thread each; `in_turn` where
    their moments are summed meanwhile, beside both models.
    """
    one, beside = memory.fit_bytes(old, new, roles), 0.0
    if in_turn:
        walked = memory_walks.moments(old, new, roles=roles)
        one, beside = one + site_sums(old, new, roles), walked.computing + walked.beside
    return max(1, min(threads, int(((mib - BASE_MIB) * MIB - beside) / one)))


def workers(
    snakemake: Any,
    device: str,
    old: Dimensions,
    new: Dimensions,
    in_turn: bool = False,
    roles: Collection[str] = ROLES,
) -> int:
    """How many layers' maps a rule's job makes side by side: one on a GPU, on a CPU one a thread,
    as far as the memory reaches that it asked for and that the machine has left.
    """
    if device != "cpu":
        return 1
    left = psutil.virtual_memory().available / MIB
    asked = getattr(getattr(snakemake, "resources", None), "mem_mb", left)
    return layers_at_once(min(asked, left), snakemake.threads, old, new, in_turn, roles)


@cache
def is_cuda_build() -> bool:
    """Whether torch is a build for GPUs, whose libraries are large where none is used too."""
    try:
        return sys.platform == "linux" and "+cpu" not in version("torch")
    except PackageNotFoundError:
        return False


def _base(rule: str) -> int:
    """MiB of a rule's process without what it holds."""
    libraries = CUDA_BUILD_MIB if is_cuda_build() and rule not in WITHOUT_TORCH else 0
    return BASES.get(rule, BASE_MIB) + libraries


def _need_of_walk(rule: str, *models: Dimensions, seconds: Sequence[float], **how: Any) -> Need:
    walk = memory_walks.WALKED[rule]
    on_cpu, on_gpu = (walk(*models, number=each, **how) for each in (SINGLE_BYTES, HALF_BYTES))
    whole = how["whole"]
    host = GPU_HOST_MIB if whole else GPU_WALK_MIB
    if rule == "adapter_maps":  # weights on their way. Measured: 12 GiB for 0.5B and 1.5B, whole
        on_way = models if whole else models[:1]  # the old one, in float32, writes answers
        host = GPU_HOST_MIB + int(sum(map(parameters, on_way)) * SINGLE_BYTES / MIB)
    return _need_of_walked(on_cpu, on_gpu, host, seconds)


def _need_of_walked(on_cpu: Walked, on_gpu: Walked, host: int, seconds: Sequence[float]) -> Need:
    """`host`: MiB of the machine's memory where a GPU computes, without what is beside it."""
    return Need(
        _base("") + _planned(on_cpu.computing + on_cpu.beside),
        seconds[0],
        host + _planned(on_gpu.beside),
        _planned(on_gpu.computing),
        seconds[1],
    )


def _planned(size: float, margin: float = MARGIN) -> int:
    return int(margin * size / MIB)
