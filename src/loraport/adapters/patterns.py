"""Names that an adapter's config gives as regular expressions: matched as peft does, or refused.

A file that comes from elsewhere must not be able to stall the workflow: an expression whose
matching could take more than polynomial time, by its form, is never evaluated.
"""

import re
from collections.abc import Mapping
from typing import Any

from ..errors import LoraportError

LONGEST, MOST_REPEATS = 300, 3


def is_safe(pattern: str) -> bool:
    """Whether an expression is short and free of what can explode.

    No repeated group, no back-reference, no look-around, and at most three repeats: matching a
    path of n characters then takes at most O(n⁴) steps.
    """
    if len(pattern) > LONGEST:
        return False
    plain = re.sub(r"\\[.\-_/dwDWsSbB]", "_", pattern)  # escapes that are one character or class
    plain = re.sub(r"\[[\w\-]+\]", "_", plain)  # character classes
    if "\\" in plain or "[" in plain or "(?" in plain.replace("(?:", "("):
        return False
    if re.search(r"\)[*+?{]", plain):
        return False
    return len(re.findall(r"[*+{]", plain)) <= MOST_REPEATS


def matches(pattern: str, path: str, *, ending: bool) -> bool:
    """Whether a module's path is meant: the whole of it, or (`ending`) the end after a dot.

    Raises
    ------
    LoraportError
        For an expression that is not safe to evaluate, or none at all.
    """
    if not is_safe(pattern):
        raise _refused(pattern, "its form can take exponential time")
    whole = rf"(.*\.)?({pattern})$" if ending else pattern
    try:
        match = re.match(whole, path) if ending else re.fullmatch(whole, path)
    except re.error as error:
        raise _refused(pattern, error) from error
    return match is not None


def _refused(pattern: str, reason: object) -> LoraportError:
    shown = pattern if len(pattern) <= 80 else f"{pattern[:77]}…"
    return LoraportError(
        "its config holds a regular expression that is not evaluated",
        got=f"{shown!r}: {reason}",
        expected="module names, or an expression without repeated groups and look-around",
        todo="write the modules out by name in adapter_config.json",
    )


def by_pattern(patterns: Mapping[str, Any], path: str, default: Any) -> Any:
    """The value of the first pattern that meets a path, as peft picks a rank or an alpha."""
    for pattern, value in patterns.items():
        if matches(pattern, path, ending=True):
            return value
    return default


def has_unsafe(config: Mapping[str, Any]) -> bool:
    """Whether an adapter's config holds an expression that peft would evaluate and that can
    explode.

    Names in lists are compared, not matched.
    """
    patterns = [config.get(key) for key in ("target_modules", "exclude_modules")]
    layers = config.get("layers_pattern") or []
    patterns += [layers] if isinstance(layers, str) else [*layers]
    for key in ("rank_pattern", "alpha_pattern"):
        patterns += [*(config.get(key) or {})]
    return any(isinstance(pattern, str) and not is_safe(pattern) for pattern in patterns)
