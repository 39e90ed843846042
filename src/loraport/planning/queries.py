"""The configuration, asked by name: models, pairs, adapters, methods and their settings."""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from .. import methods
from ..adapters.base_names import hub_id
from ..errors import LoraportError
from ..models.families import ROLES
from ..models.spec import adapter_directory
from . import layout

SAME_FOR_ALL = ("method", "merged_model")  # transfer settings that no variant has of its own


_EMBEDDING = frozenset(["wh", "tokens", "underdetermined", "unshared"])
_CKA = frozenset(["minibatch", "similarity"])
_LAYERS = _CKA | {"layers", "max_offset", "unmatched"}
# artifact of a pair's mapping -> the mapping settings that it depends on
DEPENDS_ON = {
    "embedding": _EMBEDDING,
    "cka": _CKA,
    "layers": _LAYERS,
    "heads": _EMBEDDING | _LAYERS | {"heads"},
    "moments": _LAYERS,
    "gradients": _LAYERS | {"moments_gib"},
}


@dataclass(frozen=True)
class Config:
    """The whole configuration with its defaults filled in.

    Attributes
    ----------
    content : as in config.yaml
    adapters : (app, model) -> row of the adapters table
    """

    content: dict[str, Any]
    adapters: dict[tuple[str, str], dict[str, str]]

    def model(self, name: str) -> dict[str, Any]:
        """A model's entry."""
        return self._entry("models", name)

    def pair(self, name: str) -> tuple[str, str]:
        """Names of the old and the new model of a pair."""
        entry = self._entry("pairs", name)
        return entry["old"], entry["new"]

    def adapter(self, app: str, model: str) -> dict[str, str]:
        """The row of an adapter; one without source and task for a merge."""
        if merge := self.merge(app):
            for each in merge["apps"]:
                self.adapter(each, model)
            return {"app": app, "model": model, "source": "", "task": ""}
        if (app, model) not in self.adapters:
            apps = sorted(a for a, m in self.adapters if m == model)
            raise LoraportError(
                f"no adapter {app!r} of model {model!r} in {self.content['adapters']}",
                got=near_to(app, apps),
                expected=f"one of {', '.join(apps)}" if apps else "a row for it",
                todo="add a row: app, model, source, task",
            )
        return self.adapters[app, model]

    def given_adapter(self, app: str, model: str) -> str:
        """Directory of an adapter that is given, fetched where it is the hub's; else empty."""
        return adapter_directory(self.adapter(app, model)["source"])

    def merge(self, app: str) -> dict[str, Any] | None:
        """The entry of `merges` that an app's name stands for, if it is one."""
        return self.content["merges"].get(app)

    def apps(self, model: str) -> list[str]:
        """Apps that have an adapter of a model."""
        return [app for app, owner in self.adapters if owner == model]

    def method(self, name: str) -> str:
        """The method behind a name: the method itself, or what a variant is a variant of."""
        variant = self.content["variants"].get(name)
        base = variant["method"] if variant else name
        methods.needs(base)
        return base

    def mapping(self, name: str) -> dict[str, Any]:
        """Mapping settings of a method or variant."""
        overrides = self.content["variants"].get(name, {}).get("mapping", {})
        return {**self.content["mapping"], **overrides}

    def summed_modules(self, variant: str = "") -> list[str]:
        """Roles that second moments have to serve: a variant's own, or, of the pair's, all that the
        mapping and the variants that read those ask for.
        """
        readers = [
            name
            for name in self.content["variants"]
            if {"moments", "gradients", "outputs"} & set(methods.needs(self.method(name)))
            and not self.has_own(name, "moments")
        ]
        names = [variant] if variant else ["", *readers]
        asked = {role for name in names for role in self.mapping(name)["modules"]}
        return [role for role in ROLES if role in asked]

    def sums_in_turn(self, name: str) -> bool:
        """Whether a method's maps are fitted to moments while these are summed, and not kept."""
        base = self.method(name)
        read = "moments" in methods.needs(base) and not methods.per_adapter(base)
        return read and not self.mapping(name)["keep_moments"]

    def home(self, pair: str, name: str, artifact: str) -> str:
        """Folder of an artifact of a pair's mapping: a variant's own where it makes another one."""
        return layout.home(pair, name if self.has_own(name, artifact) else "")

    def outputs_of(self, name: str) -> str:
        """Whose output maps a method or variant reads: its own where it makes others; or empty."""
        base = self.method(name)
        if "outputs" not in methods.needs(base):
            return ""
        read = DEPENDS_ON["moments"] | set(methods.output_settings(base))
        return name if self._changed(name) & read else base

    def has_own(self, name: str, artifact: str) -> bool:
        """Whether a variant makes an artifact of the mapping that is not the pair's.

        Settings that only a method reads (methods.settings) lead to other maps, not to another
        mapping.
        """
        own = self._changed(name) - set(methods.settings(self.method(name)))
        return bool(own & DEPENDS_ON[artifact])

    def _changed(self, name: str) -> set[str]:
        """The mapping settings of which a variant has its own."""
        return set(self.content["variants"].get(name, {}).get("mapping", {}))

    def transfer(self, name: str) -> dict[str, Any]:
        """What a transfer by a method or variant reads: its settings but the method's name and
        what is made of the result.
        """
        overrides = self.content["variants"].get(name, {}).get("transfer", {})
        settings = {**self.content["transfer"], **overrides}
        return {key: value for key, value in settings.items() if key not in SAME_FOR_ALL}

    def texts(self, model: str) -> Any:
        """Where a model's calibration texts come from."""
        return self.model(model).get("texts") or self.content["calibration"].get("texts")

    def known_as(self, model: str) -> list[str]:
        """Names under which an adapter may record a model as its base."""
        entry = self.model(model)
        source = entry["source"]
        return sorted({model, source, Path(source).name, *entry["known_as"]})

    def recorded_base(self, model: str) -> str:
        """What an adapter records as its base model: the id on the hub where one is known, else
        where the model is.
        """
        entry = self.model(model)
        return hub_id(entry["source"], entry["known_as"]) or entry["source"]

    def _entry(self, section: str, name: str) -> dict[str, Any]:
        entries = self.content[section]
        if name not in entries:
            raise LoraportError(
                f"{section} has no {name!r}",
                got=near_to(name, list(entries)),
                expected=f"one of {', '.join(entries)}",
                todo=f"add it to {section} in config.yaml",
            )
        return entries[name]


def near_to(name: str, known: list[str]) -> str:
    """A name in quotes, with the known one that it may have been meant as."""
    near = get_close_matches(name, known, 1)
    return f"{name!r} (did you mean {near[0]!r}?)" if near else repr(name)
