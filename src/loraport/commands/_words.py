"""Errors of the workflow in the words of the command: its flags in place of keys of config.yaml.

The workflow's errors name the files that its users write. Who calls `loraport transfer` writes
none: each key has a flag, or `--set`.
"""

import re

SECTIONS = "calibration|mapping|transfer|finetune"
ALONE = r"(?<![\w./-])(?:config\.)?"  # not inside a path, and not behind a flag
WORDS = (  # the first ones before what is more general
    (r"`known_as` in\s+config\.yaml", "names by --known-as"),
    (r"the old model's names by", "OLD's names by"),
    (r"name the right pair", "name the right OLD"),
    (r"name the pair whose old model the adapter was trained on", "name its base as OLD"),
    (r"the pair's old model", "OLD"),
    (r"transfer\.allow_large: true, or --allow-large", "--allow-large"),
    (rf"{ALONE}transfer\.allow_large\b", "--allow-large"),
    (rf"{ALONE}calibration\.texts\b", "--texts"),
    (rf"{ALONE}transfer\.method\b", "--method"),
    (rf"{ALONE}transfer\.merged(?:_model)?(?:: ?| )(\w+)", r"--merged \1"),
    (r"`device: auto` in config\.yaml", "--set calibration.device=auto"),
    (r"a task in adapters\.tsv, or generic texts", "generic texts"),
    (r"name the task, or set mapping", "set mapping"),
    (rf"set {ALONE}((?:{SECTIONS})\.[a-z_]+) to (\w+)", r"--set \1=\2"),
    (rf"(?:set )?`?{ALONE}((?:{SECTIONS})\.(?!json\b|py\b)[a-z_]+): (\w+)`?", r"--set \1=\2"),
    (rf"(?<!--set )`?{ALONE}((?:{SECTIONS})\.(?!json\b|py\b)[a-z_]+)\b(?!=)`?", r"--set \1=…"),
    (rf"(?<!--set )config\.({SECTIONS})\b", r"--set \1"),
    (r"config\.models\.[\w.-]+\.source", "a model's path"),
    (r"(?:the )?(?:(?:adapter|model)'s )?`source` in "
     r"(?:config\.yaml|adapters\.tsv|the adapters table)", "the path or hub id"),
    (r" as `source`", " in its place"),
    (r" \(relative to the working directory\)", ""),
    (r" in config\.yaml| in adapters\.tsv", ""),
)  # fmt: skip


def in_flags(text: str) -> str:
    """What the workflow says, with the flags of `loraport transfer` for what it tells to change.

    Examples
    --------
    >>> in_flags("set mapping.wh to auto, or correct calibration.texts")
    '--set mapping.wh=auto, or correct --texts'
    """
    for pattern, flag in WORDS:
        text = re.sub(pattern, flag, text)
    return text
