"""Training sets without what is held out of them, and real text for the implicit upgrade.

    python benchmarks/smollm2/sets.py DATA OUT

DATA is a folder with math/gsm8k.{train,test}.jsonl and commonsense/ARC-Easy.{train,test}.json
(LLM-Adapters' layout). Held out are the last 200 training records of each app, for settings, and
the training records of ARC-Easy whose question is also in its test. ARC-Easy's answers say the
chosen option's words before its number: from "the correct answer is answer2" alone, a model of this
size learns the form and guesses the number. The text is the documentation strings of scipy and
scikit-learn (BSD) as they are installed; every eighth is for calibration.
"""

import argparse
import ast
import json
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

HELD_OUT = 200


def records(path: Path) -> list[dict[str, Any]]:
    """Records of a .json or .jsonl file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".json":
        return json.loads(text)
    return [json.loads(line) for line in text.split("\n") if line.strip()]


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Records as .jsonl."""
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def spelled_out(row: dict[str, Any]) -> dict[str, Any]:
    """A record of ARC-Easy whose answer is the words of the right option, then its number."""
    asked, answer = row["instruction"], row["answer"]
    options = asked.split("\n\n")[-2]
    words = re.search(rf"A{answer[1:]}: (.*?)(?= Answer\d: |$)", options)
    if words is None:
        raise SystemExit(f"no option {answer} in {options!r}")
    return row | {"output": f"{words[1].strip()}: {answer}"}


def documentation(package: str) -> list[str]:
    """The documentation strings of a package, at least 200 characters each, in a fixed order."""
    found = find_spec(package)
    home = Path(found.submodule_search_locations[0])
    texts: dict[str, None] = {}
    for path in sorted(home.rglob("*.py")):
        if "tests" in path.parts:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
                text = ast.get_docstring(node) or ""
                if len(text) >= 200:
                    texts[text] = None
    return list(texts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    asked = parser.parse_args()
    asked.out.mkdir(parents=True, exist_ok=True)
    gsm8k = records(asked.data / "math" / "gsm8k.train.jsonl")
    arc = records(asked.data / "commonsense" / "ARC-Easy.train.json")
    arc_test = records(asked.data / "commonsense" / "ARC-Easy.test.json")
    seen = {row["instruction"] for row in arc_test}
    arc = [spelled_out(row) for row in arc if row["instruction"] not in seen]
    for app, rows in (("math", gsm8k), ("arc", arc)):
        write(asked.out / f"{app}.train.jsonl", rows[:-HELD_OUT])
        write(asked.out / f"{app}.heldout.jsonl", rows[-HELD_OUT:])
    test = records(asked.data / "math" / "gsm8k.test.jsonl")
    write(asked.out / "math.worked.jsonl", test[:HELD_OUT])
    write(asked.out / "arc.worked.jsonl", [spelled_out(row) for row in arc_test[:HELD_OUT]])
    texts = documentation("scipy") + documentation("sklearn")
    calibration, rest = texts[::8], [text for place, text in enumerate(texts) if place % 8]
    write(asked.out / "documentation.jsonl", [{"text": text} for text in rest])
    lines = [" ".join(text.split()) for text in calibration]
    (asked.out / "calibration.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
