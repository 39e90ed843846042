"""`loraport report`: what came of adapters as one page, report.html, that needs nothing else.

FOLDER is what `loraport upgrade` wrote. The page of a pair is made by the workflow, as report.html
in the pair's folder of artifacts.
"""

from argparse import ArgumentParser, Namespace
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import LoraportError

HELP = "what came of adapters, as one HTML page"
EXAMPLES = ("loraport report upgraded",)


def add_arguments(parser: ArgumentParser) -> None:
    """The folder, and where the page goes."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="what `loraport upgrade` wrote")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: FOLDER/report.html")


def run(arguments: Namespace) -> int:
    """Write the page, and say where it is."""
    from ..report import fleet, fleet_page
    from ..report.render import write_text

    apps = fleet.upgraded(*_upgraded(arguments.folder))
    out = arguments.out or arguments.folder / "report.html"
    write_text(out, fleet_page.page(f"Upgraded adapters: {arguments.folder.resolve().name}", apps))
    print(f"The report: {out}")
    return 0


def _upgraded(folder: Path) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows of the adapters in a folder, many or one, and the content of each verdict.json.

    Raises
    ------
    LoraportError
        If there are none.
    """
    from ..artifacts import read_json

    if (folder / "fleet.json").is_file():
        rows = read_json(folder / "fleet.json", "fleet")["rows"]
        places = {row["name"]: folder / row["name"] for row in rows}
    elif (folder / "upgrade.json").is_file():
        rows, places = [_row(folder)], {_row(folder)["name"]: folder}
    else:
        raise _nothing(folder)
    judged = {name: place / "verdict.json" for name, place in places.items()}
    return rows, {n: read_json(path, "verdict") for n, path in judged.items() if path.is_file()}


def _row(folder: Path) -> dict[str, Any]:
    """The row of an adapter that was upgraded alone; how long it took is not kept."""
    from ..artifacts import read_json
    from ..upgrade.fleet import row

    report, judged = (read_json(folder / f"{kind}.json", kind) for kind in ("upgrade", "verdict"))
    about = judged["about"]
    return asdict(
        row(about["name"], about["adapter"], 0.0, judged["verdict"], judged["why"], report)
    )


def _nothing(folder: Path) -> LoraportError:
    from ..planning import layout

    return LoraportError(
        f"{folder} holds no adapters that were upgraded",
        got="no fleet.json and no upgrade.json",
        expected="a folder that `loraport upgrade` wrote",
        todo="run it, or make a pair's page by the workflow: "
        f"snakemake --cores 2 {layout.path(layout.REPORT, pair='PAIR')}",
    )
