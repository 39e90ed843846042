"""The page of a pair is made by the workflow, and its numbers are those of the table."""

import json
import re

from browser import CHROMIUM, dom_of
from workdir import Workdir

from loraport.report.render import read_csv

STAGES = ["old", "old_lora", "new", "transferred"]


def test_the_page_shows_the_tables_numbers(tmp_path):
    work = Workdir(tmp_path, shared=True)
    lines = [json.dumps({"prompt": f"{n} + 1 =", "completion": f" {n + 1}"}) for n in range(6)]
    (work.root / "test.jsonl").write_text("\n".join(lines) + "\n")
    (work.root / "adapters.tsv").write_text("app\tmodel\tsource\ttask\na\told\tadapter\tsums\n")
    work.configure(
        tasks={"sums": {"test": "test.jsonl"}},
        evaluation={"stages": STAGES, "resamples": 100, "empty": "score"},
    )
    work.run("artifacts/p/report.html")
    page = (work.root / "artifacts/p/report.html").read_text()
    table = {row["stage"]: row for row in read_csv(work.root / "artifacts/p/tables/a.csv")}
    cells = re.findall(r"<td[^>]*>(.*?)</td>", page.partition("<tbody>")[2].partition("</tr>")[0])
    assert cells[2:5] == [f"{100 * table[stage]['average']:.1f}" for stage in STAGES[1:]]
    if CHROMIUM:
        opened = dom_of(work.root / "artifacts/p/report.html")
        body = opened.partition("<tbody>")[2].partition("</tr>")[0]
        assert re.findall(r"<td[^>]*>(.*?)</td>", body) == cells
    assert page.count("data:image/svg+xml;base64,") == 2
    assert "old → new" in page and str(work.root) not in page
