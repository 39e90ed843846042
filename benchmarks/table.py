"""From the records of one benchmark to ratios, and to a table in Markdown."""

import platform
import statistics
from importlib.metadata import PackageNotFoundError, version
from typing import Any

MAPPING = ("embedding", "heads", "maps")
BARS = {"mapping": 50, "adapter": 500, "memory": 3}
PACKAGES = ("torch", "numpy", "scipy", "h5py", "safetensors", "cupy-cuda12x", "cupy-cuda13x")
Records = list[dict[str, Any]]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages that compute."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def spread(values: list[float]) -> dict[str, float]:
    """Median, smallest and largest."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def steps(records: Records) -> dict[str, dict[str, dict[str, Any]]]:
    """side -> step -> spread of seconds and of process time, and peaks."""
    found: dict[str, dict[str, dict[str, Any]]] = {"pipeline": {}, "literal": {}}
    for side, held in found.items():
        for step in dict.fromkeys(r["step"] for r in records if r["side"] == side):
            mine = [r for r in records if (r["side"], r["step"]) == (side, step)]
            held[step] = {
                "seconds": spread([r.get("seconds", 0.0) for r in mine]),
                "cpu": spread([r.get("cpu", 0.0) for r in mine]),
                "wall": spread([r["wall"] for r in mine]),
                "peak_mib": max(r["peak_mib"] for r in mine),
                "gpu_mib": max(r.get("gpu_mib", 0.0) for r in mine),
                "error": max((r["error"] for r in mine if "error" in r), default=None),
                "count": len(mine),
            }
    return found


def totals(records: Records, key: str) -> list[dict[str, float]]:
    """Per repeat: seconds of both sides, the literal ones scaled to all layers and head pairs.

    `key` is how they are timed: `seconds` (by the clock), `cpu`, or `wall` (by the clock, the
    pipeline's with the start of its processes).
    """
    found, other = [], "seconds" if key == "wall" else key
    for repeat in sorted({r["repeat"] for r in records}):
        mine = [r for r in records if r["repeat"] == repeat]
        ours = {step: statistics.median(r[key] for r in mine
                if (r["side"], r["step"]) == ("pipeline", step))
                for step in (*MAPPING, "transferred")}  # fmt: skip
        theirs = {r["step"]: r for r in mine if r["side"] == "literal"}
        layers, pairs = theirs["heads"]["layers"], theirs["heads"]["head_pairs"]
        found.append({
            "mapping": sum(ours[step] for step in MAPPING),
            "adapter": ours["transferred"],
            "heads": theirs["heads"][other] * pairs * layers,
            "heads_once": theirs["heads_once"][other] * layers,
            "transform": theirs["adapter"][other] * layers,
        })  # fmt: skip
    return found


def speed(each: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Ratios, literal over pipeline: of the medians, with the range over the repeats."""
    middle = {name: statistics.median(t[name] for t in each) for name in each[0]}
    kinds = {
        "mapping": lambda t: t["heads"] / t["mapping"],
        "mapping_once": lambda t: t["heads_once"] / t["mapping"],
        "adapter": lambda t: (t["heads"] + t["transform"]) / t["adapter"],
        "adapter_once": lambda t: (t["heads_once"] + t["transform"]) / t["adapter"],
        "adapter_transform": lambda t: t["transform"] / t["adapter"],
    }
    return {
        name: {**spread([ratio(t) for t in each]), "median": ratio(middle)}
        for name, ratio in kinds.items()
    }


def memory(found: dict[str, dict[str, dict[str, Any]]], key: str) -> dict[str, float]:
    """Peaks in MiB: the pipeline's largest step, one adapter, and three readings of the literal."""
    ours, theirs = found["pipeline"], found["literal"]
    return {
        "pipeline": max(step[key] for step in ours.values()),
        "pipeline_mapping": max(ours[step][key] for step in MAPPING),
        "adapter": ours["transferred"][key],
        "held": max(theirs[step][key] for step in ("hidden_map", "held")),
        "pair": max(theirs[step][key] for step in ("heads", "adapter")),
        "literal_embedding": theirs["hidden_map"][key],
        "once": theirs["heads_once"][key],
    }


def summarise(records: Records, settings: dict[str, Any], sizes: dict[str, Any]) -> dict[str, Any]:
    """Everything that the table says, but for the machine."""
    found = steps(records)
    each = totals(records, "seconds")
    first = next(r for r in records if r["step"] == "heads_once")
    return {
        "settings": settings,
        "sizes": sizes,
        "layers": first["layers"],
        "head_pairs": first["head_pairs"],
        "steps": found,
        "totals": {name: spread([t[name] for t in each]) for name in each[0]},
        "ratios": speed(each),
        "ratios_cpu": speed(totals(records, "cpu")),
        "ratios_with_start": speed(totals(records, "wall")),
        "memory": memory(found, "peak_mib"),
        "gpu_memory": memory(found, "gpu_mib"),
        "same_assignment": all(r["same"] for r in records if r["step"] == "heads_once"),
    }


def rows(header: list[str], body: list[list[Any]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *body]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def several(values: dict[str, float], digits: int = 2) -> str:
    """Median (smallest to largest)."""
    middle, low, high = (f"{values[key]:.{digits}f}" for key in ("median", "min", "max"))
    return middle if low == high else f"{middle} ({low} to {high})"


def _head(result: dict[str, Any]) -> str:
    s, m = result["settings"], result["machine"]
    new = result["sizes"]["new"]
    load = ", ".join(f"{value:.1f} during the {side}" for side, value in result["loads"].items())
    return f"""# Hidden {s["hidden"]}, {s["layers"]} layers, {s["heads"]} heads, {s["device"]}

Old model: hidden {s["hidden"]}, {s["layers"]} layers, {s["heads"]} heads over {s["kv_heads"]}
key-value heads, intermediate {s["intermediate"]}, {s["vocab"]} tokens; new model: hidden
{new["hidden"]}, {new["layers"]} layers. Weights stored as {s["dtype"]}; both sides compute in
float64. Adapter of rank {s["rank"]} on {", ".join(s["roles"])}.
Machine: {m["cpus"]} CPUs ({m["cpu"]}){", " + m["gpu"] if m["gpu"] else ""}.
Threads: {s["threads"]}.
CPUs that other programs kept busy, median: {load}.
Versions: {", ".join(f"{name} {number}" for name, number in result["versions"].items())}.
"""


def _pipeline(result: dict[str, Any]) -> str:
    body = [
        [step, *(several(each[key]) for key in ("seconds", "cpu", "wall")),
         f"{each['peak_mib']:.0f}", f"{each['gpu_mib']:.0f}", each["count"]]
        for step, each in result["steps"]["pipeline"].items()
    ]  # fmt: skip
    header = ["step", "seconds", "CPU seconds", "with start-up", "peak MiB", "GPU MiB", "times"]
    return f"""## Pipeline

Seconds from disk to disk: median (smallest to largest). Start-up is Python and its imports.
`transferred` is one adapter.

{rows(header, body)}
"""


def _literal(result: dict[str, Any]) -> str:
    literal, totals = result["steps"]["literal"], result["totals"]
    layers, pairs = result["layers"], result["head_pairs"]
    sample = min(result["settings"]["sample_pairs"], pairs)
    every = [
        ("hidden_map", "W_h by SVD", "once", "1", literal["hidden_map"]["seconds"]),
        ("heads", "head mapping as published", f"{sample} head pairs of one layer pair, mean",
         f"{pairs} × {layers}", totals["heads"]),
        ("heads_once", "head mapping, each head's matrices formed and carried once",
         "one layer pair", f"{layers}", totals["heads_once"]),
        ("adapter", "dense transforms and full SVDs of an adapter", "one layer", f"{layers}",
         totals["transform"]),
    ]  # fmt: skip
    body = [
        [name, timed, several(literal[step]["seconds"], 3), scale, several(total, 1),
         f"{literal[step]['peak_mib']:.0f}", f"{literal[step]['gpu_mib']:.0f}"]
        for step, name, timed, scale, total in every
    ]  # fmt: skip
    held = literal["held"]
    body.append(["adapted modules of both models held in memory", "memory only", "", "", "",
                 f"{held['peak_mib']:.0f}", f"{held['gpu_mib']:.0f}"])  # fmt: skip
    header = ["literal", "timed on", "seconds", "scaled by", "seconds in all", "peak MiB",
              "GPU MiB"]  # fmt: skip
    return f"""## Literal algorithm

`tests/literal.py`, weights in memory before the clock starts. Scaled up where the table says so.

{rows(header, body)}
"""


def _ratios(result: dict[str, Any]) -> str:
    names = {
        "mapping": "literal head mapping / embedding + heads + maps",
        "mapping_once": "the same, literal with each head's matrices formed once",
        "adapter": "literal head mapping + transforms + SVDs / one adapter",
        "adapter_once": "the same, literal with each head's matrices formed once",
        "adapter_transform": "literal transforms + SVDs alone / one adapter",
    }
    body = []
    for name, title in names.items():
        kinds = [result[kind][name] for kind in ("ratios", "ratios_cpu", "ratios_with_start")]
        bar = BARS.get(name)
        verdict = "" if bar is None else f"{bar}: {'yes' if kinds[0]['median'] >= bar else 'no'}"
        body.append([title, *(several(each, 1) for each in kinds), verdict])
    header = ["how many times faster", "by the clock", "in CPU time", "pipeline with start-up",
              "bar, at hidden 2048"]  # fmt: skip
    return f"""## Speed

Medians (smallest to largest of {result["settings"]["repeats"]} repeats).

{rows(header, body)}
"""


def _memory(result: dict[str, Any]) -> str:
    kinds = {"main memory": result["memory"]}
    if result["settings"]["device"] == "cuda":
        kinds["GPU memory"] = result["gpu_memory"]
    body = []
    for kind, peak in kinds.items():
        for ours, theirs, title in (
            ("pipeline", "held", "largest step / literal's largest: W_h, or both models held"),
            ("pipeline", "pair", "largest step / literal, one layer pair held, W_h given"),
            ("pipeline_mapping", "literal_embedding", "mapping / literal W_h alone"),
            ("pipeline_mapping", "once", "mapping / literal, each head's matrices formed once"),
            ("adapter", "pair", "one adapter / literal, one layer pair held"),
        ):
            share = peak[ours] / peak[theirs] if peak[theirs] else float("nan")
            bar = "third: " + ("yes" if share < 1 / 3 else "no") if theirs == "held" else ""
            body.append([f"{title} ({kind})", f"{peak[ours]:.0f} / {peak[theirs]:.0f}",
                         f"{share:.2f}", bar])  # fmt: skip
    header = ["peak memory", "MiB", "share", "bar, at hidden 2048"]
    return f"## Memory\n\nOf whole processes, libraries included.\n\n{rows(header, body)}\n"


def _equal(result: dict[str, Any]) -> str:
    literal = result["steps"]["literal"]
    body = [
        ["W_h, relative", f"{literal['compare_hidden_map']['error']:.1e}"],
        ["head similarity, sampled pairs, largest", f"{literal['heads']['error']:.1e}"],
        ["head similarity, one layer pair, largest", f"{literal['heads_once']['error']:.1e}"],
        ["head assignment of that layer pair", "same" if result["same_assignment"] else "DIFFERS"],
        ["updates of one layer, relative, worst module", f"{literal['adapter']['error']:.1e}"],
    ]
    return f"""## Same result

Artifacts are stored in float32.

{rows(["difference from the literal result", ""], body)}
"""


def markdown(result: dict[str, Any]) -> str:
    """The whole table."""
    parts = (_head, _ratios, _memory, _equal, _pipeline, _literal)
    return "\n".join(part(result) for part in parts)
