"""The documentation site: each page is in its navigation, each room has a page, it builds."""

import re
import subprocess
import sys
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path

import pytest
import yaml

from loraport import methods
from loraport.models.families import families

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "src" / "loraport"
SITE = yaml.load((ROOT / "mkdocs.yml").read_text(), Loader=yaml.BaseLoader)


def helper(name: str):
    """A module of docs/_site."""
    spec = spec_from_file_location(name, ROOT / "docs" / "_site" / f"{name}.py")
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def listed(entries) -> list[str]:
    """The pages of a navigation."""
    if isinstance(entries, str):
        return [entries]
    values = entries.values() if isinstance(entries, dict) else entries
    return [page for each in values for page in listed(each)]


def test_the_navigation_names_every_page_and_no_other():
    pages = {str(path.relative_to(ROOT / "docs")) for path in (ROOT / "docs").rglob("*.md")}
    elsewhere = helper("pages").FROM_ELSEWHERE
    assert sorted(listed(SITE["nav"])) == sorted(pages | set(elsewhere.values()))
    assert all((ROOT / path).is_file() for path in elsewhere)


def test_every_room_has_a_page_of_the_reference():
    rooms = {path.parent.name for path in PACKAGE.glob("*/__init__.py")}
    pages = {path.stem: path.read_text() for path in (ROOT / "docs/reference").glob("*.md")}
    assert set(pages) - {"index", "common"} == rooms
    for room in rooms:
        assert f"::: loraport.{room}\n" in pages[room]
        assert f"]({room}.md)" in pages["index"]
    for module in re.findall(r"::: loraport\.(\w+)", pages["common"]):
        assert (PACKAGE / f"{module}.py").is_file()


def test_the_page_of_families_names_each_model_type():
    page = (ROOT / "docs" / "families.md").read_text()
    table = set(re.findall(r"`(\w+)`", "".join(x for x in page.splitlines(True) if x[0] == "|")))
    kinds = {kind for family in families().values() for kind in family.model_types}
    assert table - {"model_type"} == kinds


def test_the_page_of_methods_has_each_one_under_its_heading():
    page = (ROOT / "docs" / "methods.md").read_text()
    sections = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", page, re.M | re.S))
    kept = sections["Kept for comparison"]
    withheld = set(methods.names()) - set(methods.offered())
    assert withheld == {"aligned_sequential"}
    assert set(re.findall(r"^\| `(\w+)`", kept, re.M)) == withheld
    assert set(re.findall(r"^\| `(\w+)`", sections["All methods"], re.M)) == set(methods.offered())
    for name in withheld:
        assert name not in sections["Which one to choose"]
        assert name not in (ROOT / "README.md").read_text()
        assert name not in (ROOT / "docs" / "expect.md").read_text()


def test_descriptions_are_no_types():
    write = helper("docstrings").with_descriptions
    text = "What.\n\nParameters\n----------\na, b : two\n    things\n\nNotes\n-----\nW : no entry"
    assert write(text) == (
        "What.\n\nParameters\n----------\na, b\n    two\n    things\n\nNotes\n-----\nW : no entry"
    )


@pytest.mark.parametrize(
    ("page", "link", "made"),
    [
        ("aligned.md", "methods.md#all", "methods.md#all"),
        ("aligned.md", "../benchmarks/README.md", "benchmarks.md"),
        ("aligned.md", "../rules/pairs.smk", "https://host/it/blob/main/rules/pairs.smk"),
        ("contributing.md", "docs/architecture.md", "architecture.md"),
        ("smollm2.md", "../results/smollm2.md", "https://host/it/blob/main/benchmarks/results/smollm2.md"),
        ("reference/index.md", "../architecture.md", "../architecture.md"),
        ("aligned.md", "https://arxiv.org", "https://arxiv.org"),
        ("aligned.md", "#limits", "#limits"),
    ],
)  # fmt: skip
def test_links_lead_to_pages_of_the_site_or_to_the_repository(page, link, made):
    class Given:
        repo_url = "https://host/it/"
        file = type("file", (), {"src_uri": page})

    text = helper("pages").on_page_markdown(f"[a]({link})", Given, Given, None)
    assert text == f"[a]({made})"


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """As `make docs` does, which the gate runs beside the fast tests."""
    if find_spec("mkdocs") is None or find_spec("mkdocstrings") is None:
        pytest.skip("mkdocs is not installed: pip install .[docs]")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet"]
    done = subprocess.run(
        [*command, "--site-dir", str(tmp_path / "site")], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    page = (tmp_path / "site/reference/numerics/index.html").read_text()
    assert "Moore–Penrose inverse" in page
    assert "fonts.googleapis" not in page


def test_the_architecture_lists_the_rooms_in_their_order():
    spec = spec_from_file_location("rooms", ROOT / "tests" / "unit" / "test_rooms.py")
    spec.loader.exec_module(rooms := module_from_spec(spec))
    text = (ROOT / "docs" / "architecture.md").read_text()
    assert re.findall(r"^\| `(\w+)/` ", text, re.M) == list(rooms.ROOMS)
    index = (ROOT / "docs" / "reference" / "index.md").read_text()
    assert re.findall(r"^\| \[(\w+)\]\(\w+\.md\)", index, re.M) == list(rooms.ROOMS)
