"""What transfers did, as tables on the terminal: `python -m loraport.summary DIRECTORY`."""

import math
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..artifacts import read_json
from ..errors import LoraportError
from ..planning import layout
from ..runtime.job import last_record
from .terminal import WIDTH, in_lines, listed, table

Words = Callable[[str], str]


def layer_table(modules: dict[str, dict[str, Any]]) -> str:
    """Per new layer: its source, and how large the update is beside the weights it changes."""
    layers: dict[int, list[dict[str, Any]]] = {}
    for path, entry in modules.items():
        number = next(int(part) for part in path.split(".") if part.isdigit())
        layers.setdefault(number, []).append(entry)
    rows = []
    for number, entries in sorted(layers.items()):
        served = [entry for entry in entries if entry["source"] is not None]
        if not served:
            rows.append([f"layer {number}", "none", f"0 of {len(entries)}", "", ""])
            continue
        means = [
            math.sqrt(sum(entry[key] ** 2 for entry in served) / len(served))
            for key in ("relative_norm_before", "relative_norm_after")
        ]
        source = f"layer {served[0]['source']}"
        served_text = f"{len(served)} of {len(entries)}"
        rows.append([f"layer {number}", source, served_text, *(f"{100 * m:.2f} %" for m in means)])
    header = ["new model", "from old", "modules", "update / weight, old", "update / weight, new"]
    return table(header, rows)


def cost_table(logs: Sequence[Path]) -> str:
    """Per step that was run: wall time and peak memory, from the last line of its log."""
    records = [record for path in sorted(logs) if (record := last_record(path))]
    rows = [
        [
            " ".join([each["rule"], *each["wildcards"].values()]),
            f"{each['seconds']:.1f} s",
            f"{each['peak_mib']:.0f} MiB",
        ]
        for each in sorted(records, key=lambda each: -each["seconds"])
    ]
    return table(["step", "time", "peak memory"], rows)


def gain_lines(gain: Mapping[str, Any]) -> list[str]:
    """What the update was multiplied by, where that is not 1, and what it rests on."""
    if gain.get("gain", 1.0) == 1.0 and "curve" not in gain:
        return []
    line = f"the update is multiplied by {gain['gain']:g}, chosen on {gain['chosen_on']}"
    if "improvement" in gain:
        better = "better" if gain["improvement"] >= 0 else "worse"
        line += (
            f": on those left out, {abs(gain['improvement']):.2f} nats an answer {better} than no "
            f"update (standard error {gain['standard_error']:.2f}, {gain['examples']} answers)"
        )
    if not gain["gain"]:
        return [
            line,
            "so the adapter changes nothing: this pair's maps carry too little of it to be served "
            "as it is. `lora_finetuned` tries the whole update as a start, `loraport upgrade` "
            "learns from the old adapter's answers, and `transfer.gain: 1` writes the update as "
            "the maps give it",
        ]
    return [line]


def expert_lines(layers: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Of how many layers experts were carried, and how clear their match is."""
    if not layers:
        return []
    least = min(each["correlation"] for each in layers.values())
    return [
        f"experts of {len(layers)} layers are carried; routers' choices correlate by {least:.2f} "
        "or more"
    ]


def summarise(directory: Path, shown: Path | None = None, words: Words = str) -> str:
    """The whole summary of a `lora_transferred` directory.

    Parameters
    ----------
    shown : a copy of it to point to
    words : puts a remark into the words of who asked
    """
    shown = shown or directory
    report = read_json(directory / "transfer.json", "transfer")
    pair = directory.parent.parent if report["of"]["app"] == directory.parent.name else None
    pair = pair or directory.parent.parent.parent
    root = pair.parent
    names = report["of"]["old"], report["of"]["new"]
    models = [root / "models" / name / "logs" for name in names]
    own = pair / "logs" / directory.parent.relative_to(pair)
    logs = [
        *(path for folder in models for path in folder.glob("*.log")),
        *(pair / "logs").glob("*.log"),
        pair / "logs" / "maps" / f"{report['of']['method']}.log",
        own / "gain.log",
        own / "transferred.log",
    ]
    left = len(report["left_behind"])
    without = f"{left} modules of the old adapter have no place in the new model"
    lines = [
        f"{report['of']['app']}: {report['of']['old']} → {report['of']['new']} "
        f"by {report['of']['method']}",
        "",
        layer_table(report["modules"]),
        "",
        cost_table(logs),
        "",
        *([without] if left else []),
        *expert_lines(report.get("experts", {}).get("layers", {})),
        *(in_lines(words(line), WIDTH) for line in gain_lines(report.get("gain", {}))),
        *(in_lines(f"warning: {words(each)}", WIDTH) for each in report["warnings"]),
        f"The carried adapter: {shown}",
        f"Load it with: peft.PeftModel.from_pretrained(new_model, {str(shown)!r})",
    ]
    return "\n".join(lines)


def summarise_all(directories: Sequence[Path], shown: Sequence[Path], words: Words = str) -> str:
    """Several carried adapters: a row for each, and each warning once.

    Parameters
    ----------
    directories : `lora_transferred` directories
    shown : copies of them to point to
    words : as for `summarise`
    """
    rows: list[list[str]] = []
    warnings: dict[str, list[str]] = {}
    for directory, copy in zip(directories, shown, strict=True):
        report = read_json(directory / "transfer.json", "transfer")
        modules = report["modules"].values()
        served = [each for each in modules if each["source"] is not None]
        squares = [each["relative_norm_after"] ** 2 for each in served]
        size = math.sqrt(sum(squares) / len(squares)) if squares else 0.0
        counts = f"{len(served)} of {len(modules)}", str(len(report["left_behind"]))
        rows.append([str(copy), *counts, f"{100 * size:.2f} %"])
        for each in report["warnings"]:
            warnings.setdefault(each, []).append(report["of"]["app"])
    header = ["carried adapter", "modules carried", "left behind", "update / weight"]
    lines = [f"{listed(apps)}: warning: {words(each)}" for each, apps in warnings.items()]
    told = [in_lines(line, WIDTH) for line in lines]
    return "\n".join([table(header, rows), *([""] if told else []), *told])


def main(arguments: Sequence[str]) -> int:
    """Print the summary of a carried adapter's folder; status 2 where there is none."""
    try:
        if len(arguments) != 1 or not Path(arguments[0]).is_dir():
            raise LoraportError(
                "no folder of a carried adapter was named",
                got=" ".join(arguments) or "nothing",
                expected=f"{layout.path(layout.APP, pair='PAIR', app='APP')}/{layout.TRANSFERRED}",
            )
        print(summarise(Path(arguments[0])))
    except LoraportError as error:
        print(error, file=sys.stderr)
        return 2
    return 0
