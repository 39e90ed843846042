"""Look-ups of the rules that describe models, and what every rule asks for."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from ..artifacts import read_json
from ..models.spec import is_local
from ..provenance import code_hash, versions
from . import layout, preflight
from .places import Places
from .queries import Config
from .resources import Resources

Wildcards = Any  # Snakemake's: an attribute for each wildcard of a rule
Inputs = dict[str, Any]
Lookup = Callable[[Wildcards], Any]


class ModelLookups(Resources):
    """Inputs and params of rules, from their wildcards.

    Parameters
    ----------
    config : of the workflow
    given : marks a file as the user's own, on this disk also where artifacts are kept elsewhere
    source : finds a file of the workflow by its path below the workflow's root
    """

    def __init__(self, config: Config, given: Callable[[str], Any], source: Callable[[str], Path]):
        super().__init__(config)
        self._given, self._source = given, source

    def code(self, script: str, *modules: str) -> Inputs:
        """Hash of a rule's script, of what it imports, and the versions of what computes."""
        entry = self._source(f"workflow/scripts/{script}.py")
        return {"code": code_hash(entry, *modules), "versions": versions()}

    def code_with_method(self, script: str) -> Lookup:
        """Function of wildcards: the same with the code of the method that they name."""
        return lambda wildcards: self.code(
            script, f"methods.{self.config.method(wildcards.method)}"
        )

    def given_files(self, files: Iterable[str]) -> list[Any]:
        """Files that are the user's own."""
        return [self._given(file) for file in files]

    def everything(self) -> list[str]:
        """What a bare `snakemake` builds: every adapter of every pair in `run`."""
        config, ends = self.config, [layout.TRANSFERRED]
        if config.content["transfer"]["merged_model"] != "none":
            ends.append(layout.MODEL_MERGED)
        return [
            f"{layout.path(layout.APP, pair=pair, app=app)}/{end}"
            for pair in config.content["run"]
            for app in config.apps(config.pair(pair)[0])
            for end in ends
        ]

    # models

    def spec(self, model: str) -> str:
        """spec.json of a model; its weights need not be there once it is."""
        spec = layout.path(layout.SPEC, model=model)
        if not Path(spec).exists():
            preflight.check_model(self.config.model(model)["source"])
        return spec

    def reachable_models(self) -> str:
        """Pattern of the models whose specs can be made here: their source is on the hub or on
        disk.
        """
        names = self.config.content["models"]
        reachable = (n for n in names if preflight.is_reachable(self.config.model(n)))
        return "|".join(map(re.escape, reachable)) or "(?!)"

    def model_files(self, wildcards: Wildcards) -> list[Any]:
        """Files of a local model, so that a change is noticed; none for a model of the hub."""
        source = self.config.model(wildcards.model)["source"]
        return self.given_files(preflight.local_files(source))

    def hub_id(self, wildcards: Wildcards) -> str:
        """The hub's name of a model; none for a local one, which its files stand for."""
        source = self.config.model(wildcards.model)["source"]
        return "" if is_local(source) else source

    def revision(self, wildcards: Wildcards) -> str:
        """The revision of a model that is asked for."""
        return self.config.model(wildcards.model)["revision"]

    def place(self, model: str) -> tuple[str, str]:
        """Where a model is: its source, and the commit of the hub that its spec.json records, as
        long as there is one; else the revision that is asked for.
        """
        entry, path = self.config.model(model), Path(layout.path(layout.SPEC, model=model))
        recorded = read_json(path, "spec")["revision"] if path.is_file() else ""
        return entry["source"], recorded or entry["revision"]

    def remote_code(self, wildcards: Wildcards) -> bool:
        """Whether a model's own code may run."""
        return self.config.model(wildcards.model)["remote_code"]

    def model_sources(self, wildcards: Wildcards) -> Places:
        """Where a model's weights and its calibration texts are."""
        name = wildcards.model
        return Places(model=self.config.model(name)["source"], texts=self.config.texts(name))

    def calibration(self) -> Inputs:
        """Settings of the reading of the calibration texts."""
        section = self.config.content["calibration"]
        return {key: section[key] for key in section if key not in ("texts", "gpus")}

    def name_of(self, wildcards: Wildcards, side: str) -> str:
        """A base model: the rule's `own`, or the pair's `old` or `new` one."""
        if side == "own":
            return wildcards.model
        return self.config.pair(wildcards.pair)[side == "new"]

    def spec_of(self, side: str) -> Lookup:
        """Function of wildcards: spec.json of a base model (`own`, `old` or `new`)."""
        return lambda wildcards: self.spec(self.name_of(wildcards, side))

    def source_of(self, side: str) -> Lookup:
        """Function of wildcards: where a base model is."""
        return lambda wildcards: self.config.model(self.name_of(wildcards, side))["source"]

    def known_as(self, side: str) -> Lookup:
        """Function of wildcards: names under which an adapter may record its base model."""
        return lambda wildcards: self._known_as(self.name_of(wildcards, side), wildcards.app)

    def _known_as(self, model: str, app: str) -> list[str]:
        """The same of a given adapter; a folder that holds the same model is one of them."""
        names = self.config.known_as(model)
        row = self.config.adapters.get((app, model), {})
        if not row.get("source"):
            return names
        folder = self.config.given_adapter(app, model)
        source = self.config.model(model)["source"]
        return sorted({*names, *preflight.recorded_names(folder, source)})
