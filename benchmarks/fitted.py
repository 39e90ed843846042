"""`aligned` from two models' folders to a file of maps, with the time of each part.

Run as a child process by bars.py: `fitted.py maps JSON`. By the functions that rule maps runs with
`keep_moments: false`; the clock waits for the GPU at each part's ends. What was found so far is
added to a file, two JSON lines for each layer pair: when it is fitted (`fitted`), and when its maps
are with the thread that writes them (`pairs`): of the last pair, when they are written.
"""

import dataclasses
import json
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from pipeline import ROLES

from loraport.calibration import moments, sums
from loraport.mapping.in_turn import in_turn
from loraport.mapping.pair import open_pair
from loraport.methods import aligned, make_maps, maps_ahead
from loraport.models.spec import load_spec
from loraport.runtime.gpus import one_piece
from loraport.runtime.memory import peak_mib
from loraport.transfer.maps import ModuleMap, write_maps

SETTINGS = {"modules": ROLES, "ridge": "auto", "prior": "procrustes", "writes": "stream"}


class Clock:
    """Seconds of parts by name, and the GPU's peak in MiB during each; parts may lie in others."""

    def __init__(self, device: str):
        self.gpu = device != "cpu"
        self.seconds: dict[str, float] = defaultdict(float)
        self.peaks: dict[str, float] = defaultdict(float)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = self._now()
        try:
            yield
        finally:
            self.seconds[name] += self._now() - start
            if self.gpu:
                self.peaks[name] = max(self.peaks[name], torch.cuda.max_memory_allocated() / 2**20)

    def timed(self, function: Callable, name: str | Callable[..., str]) -> Callable:
        """The function with its calls timed; `name` may be one of its arguments' making."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.part(name if isinstance(name, str) else name(*args)):
                return function(*args, **kwargs)

        return call

    def _now(self) -> float:
        if self.gpu:
            torch.cuda.synchronize()
        return time.perf_counter()

    def told(self) -> dict[str, Any]:
        """What was found so far."""
        found = {
            "seconds": {name: round(each, 3) for name, each in self.seconds.items()},
            "gpu_mib_until_then": {name: round(each) for name, each in self.peaks.items()},
            "host_peak_mib": round(peak_mib()),
        }
        if self.gpu:
            found["gpu_allocated_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
            found["gpu_reserved_mib"] = round(torch.cuda.max_memory_reserved() / 2**20)
        return found


def maps(root: str, device: str, texts: str, calibration: dict[str, Any], told: str) -> None:
    """Write {root}/maps.h5, and tell in the file `told` what each layer pair took."""
    clock, folder = Clock(device), Path(root)
    with clock.part("opened"):
        old, new = (
            load_spec(folder / f"{side}_spec.json", folder / side, streamed=True)
            for side in ("old", "new")
        )
        given = {"layers": str(folder / "layers.json")}
        pair = open_pair(old, new, given, {**SETTINGS, "device": device}, device)
        reading = {"calibration": {**calibration, "device": device}, "remote_code": [False] * 2}
        pair = in_turn(pair, texts, {"reading": reading, "modules": ROLES})
    pair = dataclasses.replace(pair, moments=clock.timed(pair.moments, "moments"))
    moments.Moments.add = clock.timed(moments.Moments.add, "moments: sums")
    sums._end_part = clock.timed(sums._end_part, "moments: mirrored, and from the GPU")
    aligned.fit_parts = clock.timed(
        aligned.fit_parts,
        lambda side, parts, *_: f"fit {side.__name__} {'x'.join(map(str, parts[0].cross.shape))}",
    )
    aligned.right_inverse = clock.timed(aligned.right_inverse, "right inverse")
    norms = aligned.base_norms
    aligned.base_norms = lambda pair: clock.timed(norms(pair), "norms of weights")
    start = time.perf_counter()

    def counted(found: Iterator[ModuleMap]) -> Iterator[ModuleMap]:
        for count in range(len(pair.path) * len(ROLES)):
            pairs, first = divmod(count, len(ROLES))
            if pairs and not first:
                tell(pairs=pairs)
            with clock.part("all but writing"):
                entry = next(found)
            if not first:  # a layer pair's maps come together
                tell(fitted=pairs + 1)
            with clock.part("waiting for the writer"):
                yield entry
            del entry  # as `runtime.job.counted`

    def tell(**done: int) -> None:
        with Path(told).open("a") as file:
            wall = round(time.perf_counter() - start, 2)
            file.write(f"{json.dumps({**done, 'wall': wall, **clock.told()})}\n")

    made = counted(make_maps("aligned", pair))
    write_maps(folder / "maps.h5", "aligned", {}, made, maps_ahead("aligned", pair))
    tell(pairs=len(pair.path))


if __name__ == "__main__":
    with one_piece():  # as every job of the workflow
        maps(**json.loads(sys.argv[2]))
