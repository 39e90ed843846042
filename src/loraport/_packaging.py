"""A wheel brings the workflow along, as loraport/_workflow: used while one is built."""

import shutil
from pathlib import Path

from setuptools.command.build_py import build_py

PARTS = (
    "Snakefile",
    "environment.yml",
    "config",
    "profiles",
    "resources/tasks",
    "rules",
    "workflow",
)


class BuildPy(build_py):
    """The standard build of the package's files, and the workflow's beside them."""

    def run(self) -> None:
        """Build, and unless the install is editable copy the workflow's files beside."""
        super().run()
        for path in [] if self.editable_mode else workflow_files():
            target = Path(self.build_lib) / "loraport" / "_workflow" / path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)

    def get_source_files(self) -> list[str]:
        """For a source distribution, from which a wheel may be built as well."""
        return [*super().get_source_files(), *map(str, workflow_files())]


def workflow_files() -> list[Path]:
    """The workflow's files, relative to the project."""
    paths = [path for part in PARTS for path in (Path(part), *sorted(Path(part).rglob("*")))]
    return [path for path in paths if path.is_file() and "__pycache__" not in path.parts]
