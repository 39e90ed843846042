"""`loraport report`: what came of many adapters as one page, report.html, that needs nothing else.

FOLDER is what `loraport upgrade` wrote. The page of a pair is made by the workflow, as report.html
in the pair's folder of artifacts.
"""

from argparse import ArgumentParser, Namespace
from pathlib import Path

from ..errors import LoraportError

HELP = "what came of many adapters, as one HTML page"
EXAMPLES = ("loraport report upgraded",)


def add_arguments(parser: ArgumentParser) -> None:
    """The folder, and where the page goes."""
    parser.add_argument("folder", metavar="FOLDER", type=Path, help="what `loraport upgrade` wrote")
    parser.add_argument("--out", metavar="FILE", type=Path, help="default: FOLDER/report.html")


def run(arguments: Namespace) -> int:
    """Write the page, and say where it is."""
    from ..artifacts import read_json
    from ..planning import layout
    from ..report import fleet, fleet_page
    from ..report.render import write_text

    content = arguments.folder / "fleet.json"
    if not content.is_file():
        raise LoraportError(
            f"{arguments.folder} holds no adapters that were upgraded",
            got="no fleet.json",
            expected="a folder that `loraport upgrade` wrote",
            todo="run it, or make a pair's page by the workflow: "
            f"snakemake --cores 2 {layout.path(layout.REPORT, pair='PAIR')}",
        )
    apps = fleet.upgraded(read_json(content, "fleet")["rows"])
    out = arguments.out or arguments.folder / "report.html"
    write_text(out, fleet_page.page(f"Upgraded adapters: {arguments.folder.resolve().name}", apps))
    print(f"The report: {out}")
    return 0
