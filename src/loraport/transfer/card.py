"""The model card of a carried adapter: what it was made from, and that nothing has judged it."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..adapters import card

UNJUDGED = (
    "**No verdict.** Nothing was trained and nothing was tested. Whether it may take the place of "
    "the old adapter says `loraport check`; `loraport upgrade` teaches it first."
)


def write_card(
    folder: Path, report: Mapping[str, Any], old: tuple[str, str], new: tuple[str, str]
) -> None:
    """Write README.md beside a carried adapter.

    Parameters
    ----------
    report : content of transfer.json
    old, new : what each base model is called, and its commit on the hub or an empty text
    """
    of = report["of"]
    before, after = card.base_name(*old), card.base_name(*new)
    modules = report["modules"].values()
    served = sum(each["source"] is not None for each in modules)
    body = [
        f"Made from the adapter `{of.get('source') or of['app']}` of {before.told()}, for "
        f"{after.told()}.",
        "",
        UNJUDGED,
        "",
        f"- Method: `{report['method']}`, the update multiplied by {report['gain']['gain']:g}.",
        f"- {served} of {len(modules)} modules carried; {len(report['left_behind'])} of the old "
        "adapter have no place in the new model.",
        *(f"- Warning: {each}" for each in report["warnings"]),
        "",
        "`transfer.json` holds every number of the transfer.",
    ]
    card.write_card(folder, f"{of['app']}: a carried LoRA adapter", after, body)
