"""Pages of the site whose text lies elsewhere in the repository, and links between all pages.

In the repository a link is relative to the file that holds it, so that it works where the
repository is read. Here it is turned into one to the site's page, or to the repository where the
site has none.
"""

import posixpath
import re
from typing import Any

from mkdocs.structure.files import File

ROOT = posixpath.dirname(posixpath.dirname(posixpath.dirname(__file__.replace("\\", "/"))))
FROM_ELSEWHERE = {  # file of the repository -> page of the site
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "benchmarks/README.md": "benchmarks.md",
    "benchmarks/notebook/aligned.md": "notebook_aligned.md",
    "benchmarks/real/README.md": "real.md",
    "benchmarks/smollm2/README.md": "smollm2.md",
    "config/README.md": "configuration.md",
    "resources/nano/README.md": "nano.md",
}
LINK = re.compile(r"\]\((?!\w+:|#)([^)#\s]+)(#[^)\s]*)?\)")


def on_files(files: Any, config: Any) -> Any:
    """Add the pages whose text lies outside of docs/."""
    for source, page in FROM_ELSEWHERE.items():
        files.append(File.generated(config, page, abs_src_path=f"{ROOT}/{source}"))
    return files


def on_page_markdown(markdown: str, page: Any, config: Any, files: Any) -> str:
    """Turn the links of a page into links of the site."""
    sources = {target: source for source, target in FROM_ELSEWHERE.items()}
    here = page.file.src_uri
    source = sources.get(here, f"docs/{here}")

    def site_link(match: re.Match[str]) -> str:
        path = posixpath.normpath(posixpath.join(posixpath.dirname(source), match[1]))
        target = FROM_ELSEWHERE.get(path, path.removeprefix("docs/"))
        anchor = match[2] or ""
        if path in FROM_ELSEWHERE or path.startswith("docs/"):
            return f"]({posixpath.relpath(target, posixpath.dirname(here) or '.')}{anchor})"
        return f"]({config.repo_url.rstrip('/')}/blob/main/{path}{anchor})"

    return LINK.sub(site_link, markdown)
