"""`loraport unpack`: put the artifacts of an archive in place, every hash verified before."""

from argparse import ArgumentParser, Namespace
from pathlib import Path

HELP = "put a packed pair's artifacts in place, every hash verified"
EXAMPLES = ("loraport unpack qwen15_to_qwen25.tar",)


def add_arguments(parser: ArgumentParser) -> None:
    """The archive, and where its artifacts go."""
    parser.add_argument("archive", type=Path, help="what `loraport pack` wrote")
    parser.add_argument(
        "--artifacts", type=Path, default=Path("artifacts"), help="artifacts folder"
    )
    parser.add_argument("--replace", action="store_true", help="in the place of other artifacts")


def run(arguments: Namespace) -> int:
    """Unpack, and print what config.yaml must hold for the pair to be used."""
    from ._archive import unpack

    content = unpack(arguments.archive, arguments.artifacts, replace=arguments.replace)
    old, new = (content["models"][side] for side in ("old_spec", "new_spec"))
    print(f"{len(content['files'])} files verified and put in place; config.yaml needs")
    print("models:")
    for model in (old, new):
        print(f"  {model['name']}: {{source: {model['hub_id'] or 'where it would be'}}}")
    print(f"pairs:\n  {content['pair']}: {{old: {old['name']}, new: {new['name']}}}")
    return 0
