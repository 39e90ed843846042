"""Configurations: wrong types, unknown keys, and names that would leave their place."""

from pathlib import Path

from workdir import CONFIG

from . import Case, Cases, configured

MODEL, PAIR, VARIANT = {"source": "old"}, {"old": "old", "new": "new"}, {"method": "lorasuite"}
NAMES = {
    "that climb": "../x",
    "with a slash": "a/b",
    "that are absolute": "/etc/x",
    "with a space": "a b",
    "that are empty": "",
    "that are hidden": ".x",
    "that end in a newline": "a\n",
    "of a look-alike letter": "m\u0430th",
    "with an accent": "\u00e4",
    "with a full-width letter": "\uff4dath",
    "written right to left": "a\u202eb",
    "with a shell's end of command": "a;touch MARK",
    "with a shell's substitution": "$(touch MARK)",
    "with backticks": "`touch MARK`",
    "with a wildcard": "{x}",
    "with a glob": "a*",
    "that look like an option": "-rf",
}
NOT_A_NAME = ("not a usable name",)


def _named(section: str, entry: dict) -> dict[str, Case]:
    return {
        f"{section}: names {what}": Case(
            configured(**{section: {**CONFIG.get(section, {}), name: entry}}), NOT_A_NAME
        )
        for what, name in NAMES.items()
    }


def _write(text: str | bytes):
    content = text.encode() if isinstance(text, str) else text
    return lambda root: Path(root / "config.yaml").write_bytes(content)


def _mapping(**settings) -> dict:
    return configured(mapping={**CONFIG["mapping"], **settings})


CASES: Cases = {
    **_named("models", MODEL),
    **_named("pairs", PAIR),
    **_named("variants", VARIANT),
    "a name that is a number": Case(configured(models={1: MODEL, **CONFIG["models"]}), ()),
    "no models at all": Case(_write("pairs: {}\n"), ("missing key", "models")),
    "models that are a list": Case(configured(models=["old", "new"]), ("type object",)),
    "a model that is a string": Case(configured(models={"old": "old"}), ("type object",)),
    "a model without a source": Case(
        configured(models={"old": {}, "new": {"source": "new"}}), ("missing key", "source")
    ),
    "a source that is empty": Case(
        configured(models={"old": {"source": ""}, "new": {"source": "new"}}), ("models.old.source",)
    ),
    "a source with a wildcard": Case(
        configured(models={"old": {"source": "{x}/old"}, "new": {"source": "new"}}),
        ("models.old.source", "braces"),
    ),
    "texts with a wildcard": Case(
        configured(calibration={"texts": "{x}.txt"}), ("calibration.texts", "braces")
    ),
    "a source that is a list": Case(
        configured(models={"old": {"source": ["old"]}, "new": {"source": "new"}}),
        ("models.old.source", "type string"),
    ),
    "an unknown key": Case(configured(mappings={}), ("'mappings' (did you mean 'mapping'?)",)),
    "an unknown key of a model": Case(
        configured(models={"old": {"source": "old", "trust": True}, "new": {"source": "new"}}),
        ("'trust'",),
    ),
    "a null section": Case(configured(mapping=None), ("config.mapping", "type object")),
    "a section that is a number": Case(configured(calibration=3), ("config.calibration",)),
    "text for a number": Case(_mapping(minibatch="many"), ("minibatch", "type integer")),
    "broken YAML for a number": Case(_mapping(minibatch="[}"), ("minibatch", "type integer")),
    "a fraction for a whole number": Case(_mapping(minibatch=8.5), ("minibatch",)),
    "a number that is too small": Case(_mapping(minibatch=2), ("minibatch", "at least 4")),
    "a number that is infinite": Case(_mapping(ridge=float("inf")), ("ridge",)),
    "a number that is none": Case(_mapping(ridge=float("nan")), ("ridge",)),
    "a choice that there is not": Case(_mapping(wi="codex"), ("'codex'", "code, paper")),
    "a device that there is not": Case(_mapping(device="gpu; ls"), ("mapping.device",)),
    "remote code that is not yes or no": Case(
        configured(models={"old": {"source": "old", "remote_code": "please"}, "new": MODEL}),
        ("remote_code", "type boolean"),
    ),
    "a pair of unknown models": Case(
        configured(pairs={"p": {"old": "old", "new": "gone"}}), ("pairs.p.new", "'gone'")
    ),
    "a pair of three": Case(
        configured(pairs={"p": {"old": "old", "new": "new", "next": "new"}}), ("'next'",)
    ),
    "a pair named like a folder": Case(configured(pairs={"models": PAIR}), ("reserved",)),
    "a run of an unknown pair": Case(configured(run=["q"]), ("config.run", "'q'")),
    "a method that there is not": Case(
        configured(transfer={"method": "lorasweet"}), ("did you mean 'lorasuite'?",)
    ),
    "a variant named like a method": Case(
        configured(variants={"lorasuite": VARIANT}), ("a method has that name",)
    ),
    "a method that is a path": Case(
        configured(variants={"x": {"method": "../../evil"}}), ("variants.x.method",)
    ),
    "texts that are a list": Case(
        configured(calibration={"texts": ["texts.txt"]}), ("calibration.texts",)
    ),
    "a table that is not there": Case(configured(adapters="none.tsv"), ("none.tsv",)),
    "a table that is a folder": Case(configured(adapters="old"), ("old: cannot be read",)),
    "a very long name": Case(configured(models={"a" * 300: MODEL, **CONFIG["models"]}), ()),
}
