"""The bars of speed and memory that need a GPU, in one run that fits a lent machine.

    python benchmarks/gpu_bars.py OUT --minutes 9 --work /tmp/loraport_bars
    python benchmarks/gpu_bars.py OUT --tiny     # a trial on a CPU, with small models

Each bar (bars.py) is a process of its own with a limit of its own, the most wanted first. OUT gets
bars.jsonl, a line for each bar as soon as it has ended: what it found, how long it took, the most
that the GPU held (as the driver says), the machine's memory that its processes took, the disk that
was filled; where it failed, the end of its output. logs.txt has the ends of all bars' outputs, and
profile.txt the profile. Models lie in --work; a later run with the same folder goes on with the
bars that have not ended well.
"""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
TAIL = 40_000  # characters of a bar's output that are kept


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0], allow_abbrev=False)
    add = parser.add_argument
    add("out", type=Path, help="folder of the results")
    add("--minutes", type=float, default=9.0, help="of all bars together")
    add("--work", type=Path, default=Path(tempfile.gettempdir(), "loraport_bars"))
    add("--only", nargs="+", help="names of bars, in their order; default: all")
    add("--again", action="store_true", help="also bars that have ended well in --work before")
    add("--tiny", action="store_true", help="small models, on a CPU")
    add("--one", help=argparse.SUPPRESS)
    return parser.parse_args()


class Watch:
    """The most that a process and its children take, looked at twice a second."""

    def __init__(self, process: int, work: Path):
        self.peaks: dict[str, float] = {}
        self._process, self._work, self._ended = process, work, threading.Event()
        self._disk = shutil.disk_usage(work).used
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        import psutil

        while not self._ended.wait(0.5):
            try:
                mine = psutil.Process(self._process)
                sizes = [p.memory_info().rss for p in [mine, *mine.children(recursive=True)]]
            except psutil.Error:
                continue
            self._keep("host_mib_of_all", sum(sizes) / 2**20)
            self._keep("host_mib_of_one", max(sizes) / 2**20)
            used = shutil.disk_usage(self._work).used - self._disk
            self._keep("disk_filled_mib", used / 2**20)
            self._keep("gpu_mib_of_driver", gpu_mib())

    def _keep(self, name: str, value: float) -> None:
        self.peaks[name] = round(max(value, self.peaks.get(name, 0.0)))

    def end(self) -> dict[str, float]:
        """Stop, and what was seen."""
        self._ended.set()
        self._thread.join()
        return self.peaks


def gpu_mib() -> float:
    """What is in use of the first GPU that is seen; 0 without one."""
    first = os.environ.get("CUDA_VISIBLE_DEVICES", "").partition(",")[0] or "0"
    query = ["nvidia-smi", "-i", first, "--query-gpu=memory.used", "--format=csv,noheader,nounits"]
    try:
        return float(subprocess.run(query, capture_output=True, text=True, timeout=5).stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return 0.0


def measure(name: str, seconds: float, asked: argparse.Namespace) -> tuple[dict[str, Any], str]:
    """Run one bar: its line of bars.jsonl, and the end of its output."""
    notes, output = asked.work / f"{name}.jsonl", asked.work / f"{name}.txt"
    notes.unlink(missing_ok=True)
    command = [sys.executable, __file__, str(asked.out), "--work", str(asked.work), "--one", name]
    command += ["--tiny"] if asked.tiny else []
    start = time.perf_counter()
    with output.open("w") as file:
        process = subprocess.Popen(command, stdout=file, stderr=file, start_new_session=True)
        watch = Watch(process.pid, asked.work)
        try:
            status = {0: "done"}.get(process.wait(seconds), "failed")
        except subprocess.TimeoutExpired:
            status = f"cut off after {seconds:.0f} s"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    wall = time.perf_counter() - start
    said = output.read_text(errors="replace")[-TAIL:]
    found = [json.loads(line) for line in notes.read_text().splitlines()] if notes.exists() else []
    line = {"bar": name, "status": status, "seconds": round(wall, 1), **watch.end(), "found": found}
    if status != "done":
        line["error"] = said[-3000:]
    return line, said


def run_all(asked: argparse.Namespace) -> None:
    """All bars that are asked for and fit the minutes, one after the other."""
    import bars

    ends = time.perf_counter() + 60 * asked.minutes
    asked.out.mkdir(parents=True, exist_ok=True)
    asked.work.mkdir(parents=True, exist_ok=True)
    for name in asked.only or list(bars.BARS):
        limit, kept = 60 * bars.BARS[name][1], asked.work / f"{name}.done"
        left = ends - time.perf_counter()
        if kept.exists() and not asked.again:
            line, said = json.loads(kept.read_text()), ""
        elif left < 20:
            line, said = {"bar": name, "status": "no time left"}, ""
        else:
            try:
                line, said = measure(name, min(limit, left - 5), asked)
            except Exception:
                line, said = {"bar": name, "status": "failed", "error": traceback.format_exc()}, ""
            if line["status"] == "done":
                kept.write_text(json.dumps(line))
        with (asked.out / "bars.jsonl").open("a") as file:
            file.write(json.dumps(line) + "\n")
        with (asked.out / "logs.txt").open("a") as file:
            file.write(f"\n==== {name}\n{said}")
        if (asked.work / "profile.txt").exists():
            shutil.copy(asked.work / "profile.txt", asked.out)
        print(f"{name}: {line['status']}, {line.get('seconds', 0)} s", flush=True)


def main() -> None:
    asked = arguments()
    sys.path.insert(0, str(HERE))
    sys.path.insert(0, str(HERE.parent / "src"))
    if asked.one is None:
        run_all(asked)
        return
    import bars

    bars.BARS[asked.one][0](bars.Bench(asked.work, asked.one, asked.tiny))


if __name__ == "__main__":
    main()
