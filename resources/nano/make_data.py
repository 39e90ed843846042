"""Write `data/{app}.{train,test}.jsonl` and `calibration.txt` from the generators' fixed seeds.

python resources/nano/make_data.py
"""

import json
from pathlib import Path

from nanopair.apps import MAKERS, Example, examples
from nanopair.corpus import calibration_lines

HERE = Path(__file__).resolve().parent


def jsonl(rows: list[Example]) -> str:
    """One JSON object a line."""
    return "".join(json.dumps(row, separators=(",", ":")) + "\n" for row in rows)


def main() -> None:
    """Write all files beside this script."""
    (HERE / "data").mkdir(exist_ok=True)
    for app in MAKERS:
        for split in ("train", "test"):
            path = HERE / "data" / f"{app}.{split}.jsonl"
            path.write_text(jsonl(examples(app, split)), encoding="ascii")
            print(f"{path.name}: {path.stat().st_size / 1e6:.2f} MB")
    (HERE / "calibration.txt").write_text("\n".join(calibration_lines()) + "\n", encoding="ascii")


if __name__ == "__main__":
    main()
