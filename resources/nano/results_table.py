"""Print the model card's tables from `results.json`.

python resources/nano/results_table.py
"""

import json
from pathlib import Path

HERE = Path(__file__).resolve().parent
APPS = ("math", "mcq", "command")
TARGETS = {"": "q k v o", "_all": "all seven"}


def cell(row: dict) -> str:
    """Accuracy and its 95 % interval, in per cent."""
    return f"{row['accuracy']:.1%} ({row['low']:.1%} to {row['high']:.1%})".replace("%", " %")


def line(label: str, cells: list[str]) -> str:
    """One line of a Markdown table."""
    return "| " + " | ".join([label, *cells]) + " |"


def table(path: Path) -> str:
    """Apps in columns; bare models, shipped adapters and 100-example adapters in lines."""
    rows = json.loads(path.read_text())["rows"]

    def find(**wanted: object) -> list[str]:
        hits = [r for r in rows if all(r[k] == v for k, v in wanted.items())]
        return [cell(r) for app in APPS for r in hits if r["app"] == app]

    lines = [line("", list(APPS)), "|---|---|---|---|"]
    for version in ("v1", "v2"):
        lines.append(line(f"{version} bare", find(kind="bare", version=version)))
        for suffix, name in TARGETS.items():
            cells = find(kind="full", version=version, suffix=suffix)
            lines.append(line(f"{version} + LoRA(10k), {name}", cells))
    for suffix, name in TARGETS.items():
        for rate, epochs in ((1e-3, 3), (3e-3, 3), (1e-3, 10), (3e-3, 10)):
            cells = find(kind="small", suffix=suffix, rate=rate, epochs=epochs)
            lines.append(line(f"v2 + LoRA(100), {name}, {rate:g}, {epochs} epochs", cells))
    return "\n".join(lines)


if __name__ == "__main__":
    print(table(HERE / "results.json"))
