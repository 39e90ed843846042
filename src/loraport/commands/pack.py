"""`loraport pack`: a pair's artifacts in one archive, for those who only carry adapters."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

HELP = "a pair's artifacts in one archive, for others to carry adapters with"
EXAMPLES = (
    "loraport pack qwen15_to_qwen25",
    "loraport pack qwen15_to_qwen25 --everything --out pair.tar",
)


def add_arguments(parser: ArgumentParser) -> None:
    """The pair, and where its artifacts lie."""
    parser.add_argument("pair", help="name of the pair, as in config.yaml")
    parser.add_argument("--out", type=Path, help="the archive; by default PAIR.tar")
    parser.add_argument(
        "--artifacts", type=Path, default=Path("artifacts"), help="artifacts folder"
    )
    parser.add_argument("--everything", action="store_true", help="activations and moments too")
    for side in ("old", "new"):
        told = f"name of the {side} model, where several are the same by content"
        parser.add_argument(f"--{side}", help=told)


def run(arguments: Namespace) -> int:
    """Write the archive and say what it holds."""
    from ..artifacts import sha256
    from ._archive import pack

    archive = arguments.out or Path(f"{arguments.pair}.tar")
    named = {side: getattr(arguments, side) for side in ("old", "new") if getattr(arguments, side)}
    content = pack(
        arguments.artifacts,
        arguments.pair,
        archive,
        models=named,
        everything=arguments.everything,
    )
    size = sum(about["bytes"] for about in content["files"].values())
    print(f"{archive}: {len(content['files'])} files, {size / 2**20:.1f} MiB")
    print(f"sha256 {sha256(archive)}")
    return 0
