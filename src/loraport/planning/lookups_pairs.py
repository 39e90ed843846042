"""Look-ups of the rules that map a pair's models and carry adapters."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from .. import methods
from ..adapters.base_names import recorded_commit
from ..errors import LoraportError
from ..models.spec import is_local
from ..provenance import code_hash, versions
from . import layout, preflight, stages
from .places import Places
from .prospect import Prospect
from .queries import Config
from .resources import Resources

Wildcards = Any  # Snakemake's: an attribute for each wildcard of a rule
Inputs = dict[str, Any]
Lookup = Callable[[Wildcards], Any]


class PairLookups(Resources):
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

    # pairs

    def pair_models(self, wildcards: Wildcards) -> tuple[str, str]:
        """Names of a pair's old and new model."""
        return self.config.pair(wildcards.pair)

    def pair_specs(self, wildcards: Wildcards) -> Inputs:
        """Specs of a pair's models as named inputs."""
        old, new = self.pair_models(wildcards)
        return {"old_spec": self.spec(old), "new_spec": self.spec(new)}

    def activations_of(self, wildcards: Wildcards) -> Inputs:
        """Features of both models of a pair as named inputs."""
        return {
            f"{side}_activations": layout.path(layout.ACTIVATIONS, model=name)
            for side, name in zip(("old", "new"), self.pair_models(wildcards), strict=True)
        }

    def sources(self, wildcards: Wildcards) -> Places:
        """Where the weights of a pair's models are, and the texts that both read."""
        old, new = self.pair_models(wildcards)
        return Places(
            old=self.config.model(old)["source"],
            new=self.config.model(new)["source"],
            texts=self.config.texts(old),
        )

    def texts_version(self, wildcards: Wildcards) -> str:
        """What names the calibration texts of a model, or of both models of a pair.

        Empty where the file is gone but the model is described already: its activations may be
        there too, or never be needed, and the rule that reads the texts will tell.
        """
        name = self.name_of(wildcards, "own" if hasattr(wildcards, "model") else "old")
        texts = self.config.texts(name)
        gone = isinstance(texts, str) and not Path(texts).exists()
        if gone and Path(layout.path(layout.SPEC, model=name)).exists():
            return ""
        preflight.check_texts(texts, self.config.content["calibration"]["examples"])
        return preflight.texts_version(texts)

    def reading(self, wildcards: Wildcards) -> Inputs:
        """How both models of a pair read the calibration texts."""
        config = self.config
        return {
            "texts_version": self.texts_version(wildcards),
            "remote_code": [config.model(n)["remote_code"] for n in self.pair_models(wildcards)],
            "calibration": {
                key: config.content["calibration"][key]
                for key in ("examples", "max_tokens", "batch_size", "device", "stream")
            },
        }

    # mapping

    def method(self, wildcards: Wildcards) -> str:
        """The method behind the name in a target."""
        return self.config.method(wildcards.method)

    def mapping(self, *keys: str) -> Lookup:
        """Function of wildcards: some mapping settings of their method or variant."""
        return lambda wildcards: {
            key: self.config.mapping(getattr(wildcards, "method", ""))[key] for key in keys
        }

    def method_settings(self, wildcards: Wildcards) -> Inputs:
        """The mapping settings that a method reads."""
        return self.mapping(*methods.settings(self.method(wildcards)))(wildcards)

    def output_settings(self, wildcards: Wildcards) -> Inputs:
        """The mapping settings that a method's output maps depend on."""
        return self.mapping(*methods.output_settings(self.method(wildcards)))(wildcards)

    def moments_settings(self, wildcards: Wildcards) -> Inputs:
        """For which modules moments are summed."""
        return {"modules": self.config.summed_modules(getattr(wildcards, "method", ""))}

    def gradients_settings(self, wildcards: Wildcards) -> Inputs:
        """The same of gradients, and how much memory one pass may take for sums."""
        return {**self.mapping("moments_gib")(wildcards), **self.moments_settings(wildcards)}

    @staticmethod
    def pair_artifact(artifact: str) -> str:
        """An artifact of a pair's mapping, as a pattern."""
        return f"{layout.PAIR}/{layout.MAPPING[artifact]}"

    @staticmethod
    def variant_artifact(artifact: str) -> str:
        """An artifact of a variant's own mapping, as a pattern."""
        return f"{layout.VARIANT}/{layout.MAPPING[artifact]}"

    def made_in_home(self, artifact: str) -> Lookup:
        """Function of wildcards: an artifact of a variant's mapping, its own or the pair's."""
        return lambda wildcards: (
            f"{self.config.home(wildcards.pair, wildcards.method, artifact)}"
            f"/{layout.MAPPING[artifact]}"
        )

    def maps_inputs(self, wildcards: Wildcards) -> Inputs:
        """What the maps of a method are made from, by its declaration."""
        method = self.method(wildcards)
        preflight.check_place(method, own=hasattr(wildcards, "app"))
        needed = methods.needs(method)
        artifacts = ("layers", "embedding", "heads", "moments", "gradients")
        names = [each for each in artifacts if each in needed]
        if self.config.sums_in_turn(wildcards.method):
            names.remove("moments")
        made: Inputs = {name: self.made_in_home(name)(wildcards) for name in names}
        if owner := self.config.outputs_of(wildcards.method):
            made["outputs"] = layout.path(layout.OUTPUT_MAPS, pair=wildcards.pair, method=owner)
        return {**self.pair_specs(wildcards), **made}

    def summed_in_turn(self, wildcards: Wildcards) -> Inputs:
        """How the moments are summed that maps are fitted to while models run; else empty."""
        if not self.config.sums_in_turn(wildcards.method):
            return {}
        return {"reading": self.reading(wildcards), **self.moments_settings(wildcards)}

    def output_maps_inputs(self, wildcards: Wildcards) -> Inputs:
        """What the output maps of a method are made from, if it has any."""
        methods.output_settings(self.method(wildcards))
        made = {name: self.made_in_home(name)(wildcards) for name in ("layers", "moments")}
        return {**self.pair_specs(wildcards), **made}

    # transfer

    def method_of(self, wildcards: Wildcards) -> str:
        """The method that a target names, or the configured one."""
        return getattr(wildcards, "method", self.config.content["transfer"]["method"])

    def transfer_inputs(self, wildcards: Wildcards) -> Inputs:
        """Maps, of the pair or of the adapter itself, specs and the adapter."""
        method = self.method_of(wildcards)
        own = methods.per_adapter(self.config.method(method))
        names = {"pair": wildcards.pair, "app": wildcards.app, "method": method}
        maps = layout.path(layout.ADAPTER_MAPS if own else layout.MAPS, **names)
        return {**self.pair_specs(wildcards), "maps": maps, "adapter": self.old_adapter(wildcards)}

    def gain_file(self, wildcards: Wildcards) -> Inputs:
        """The gain of a carried update, where it is to be chosen and the app's task has texts."""
        automatic = self.transfer_settings(wildcards)["gain"] == "auto"
        models = self.pair_models(wildcards)
        if not automatic or not stages.has_training_data(self.config, wildcards.app, *models):
            return {}
        by_method = hasattr(wildcards, "method")
        home = layout.BY_METHOD if by_method else layout.APP
        return {"gain": layout.path(f"{home}/{layout.GAIN}", **dict(wildcards.items()))}

    def finetuned_from(self, wildcards: Wildcards) -> Inputs:
        """What an app's light fine-tuning starts from: the carried adapter, or what is chosen."""
        chosen = self.config.content["finetune"]["start"] == "chosen"
        name = layout.START if chosen else layout.TRANSFERRED
        return {"start": layout.path(f"{layout.APP}/{name}", **dict(wildcards.items()))}

    def old_adapter(self, wildcards: Wildcards) -> Any:
        """What is carried: files that are checked against the old model, or a folder made here."""
        old, _ = self.pair_models(wildcards)
        if folder := self.config.given_adapter(wildcards.app, old):
            self.check_carried(wildcards)
            return self.given_files(preflight.adapter_files(folder))
        merged = self.config.merge(wildcards.app)
        made = layout.LORA_MERGED if merged else layout.LORA_TRAINED
        return layout.path(made, model=old, app=wildcards.app)

    def check_carried(self, wildcards: Wildcards) -> None:
        """Refuse a given adapter that can't be carried, as far as is known before anything runs,
        together with all others of its model that can't.
        """
        app, pair = wildcards.app, wildcards.pair
        if not self._refused(app, pair):
            return
        model = self.config.pair(pair)[0]
        given = (
            each for each in self.config.apps(model) if self.config.adapter(each, model)["source"]
        )
        every = dict.fromkeys([app, *given])
        raise preflight.refused_together(
            {each: why for each in every if (why := self._refused(each, pair))}
        )

    def _refused(self, app: str, pair: str) -> list[str]:
        """Why a given adapter can't be carried."""
        try:
            return self.prospect(app, pair).refused
        except LoraportError as error:  # of an adapter that is not there, or a config
            return [str(error)]

    def prospect(self, app: str, pair: str) -> Prospect:
        """What is known of carrying a given adapter before anything runs."""
        old, new = self.config.pair(pair)
        entries = (self.config.model(each) for each in (old, new))
        at = [(each["source"], each["revision"]) for each in entries]
        known_as = tuple(self._known_as(old, app))
        return preflight.told_of_transfer(self.config.given_adapter(app, old), *at, known_as)

    def notes(self, jobs: Iterable[Any]) -> list[str]:
        """What will not be carried of the given adapters that jobs are about to carry."""
        carried = {
            (job.wildcards.pair, job.wildcards.app)
            for job in jobs
            if job.rule.name in ("transferred", "transferred_by_method")
        }
        return [
            f"{app}: left behind: {each}"
            for pair, app in sorted(carried)
            if self.config.given_adapter(app, self.config.pair(pair)[0])
            for each in self.prospect(app, pair).left
        ]

    def checked_adapter(self, app: str, model: str) -> list[str]:
        """Files of a given adapter, which fits its base model as far as that is at hand."""
        folder = self.config.given_adapter(app, model)
        entry = self.config.model(model)
        known_as = self._known_as(model, app)
        preflight.check_adapter(folder, entry["source"], known_as, entry["revision"])
        return preflight.adapter_files(folder)

    def transfer_settings(self, wildcards: Wildcards) -> Inputs:
        """Settings of a transfer. Methods are compared by whole updates: a gain is chosen for an
        app, and for a variant that asks for it itself.
        """
        method = self.method_of(wildcards)
        settings = self.config.transfer(method)
        asked = self.config.content["variants"].get(method, {}).get("transfer", {})
        if hasattr(wildcards, "method") and settings["gain"] == "auto" and "gain" not in asked:
            return {**settings, "gain": 1.0}
        return settings

    def transfer_params(self, wildcards: Wildcards) -> Inputs:
        """Settings of a transfer, and how the models are named in what it writes."""
        old, new = self.pair_models(wildcards)
        method, entry = self.method_of(wildcards), self.config.model(new)
        return {
            "settings": self.transfer_settings(wildcards),
            "of": {
                "old": old,
                "new": new,
                "app": wildcards.app,
                "method": method,
                "source": self._source_name(wildcards.app, old),
            },
            "known_as": self._known_as(old, wildcards.app),
            "base": self.config.recorded_base(new),
            "source": entry["source"],
            "old_base": self.config.recorded_base(old),
            "revision": entry["revision"] or recorded_commit(entry["source"]),
        }

    def _source_name(self, app: str, model: str) -> str:
        """What a given adapter is called where it came from: its id on the hub, or its folder; no
        path, which is this machine's. Empty for one that is made here.
        """
        source = self.config.adapter(app, model)["source"]
        return Path(source).name if is_local(source) else source

    def other_inputs(self, wildcards: Wildcards) -> Inputs:
        """What is needed beside maps: W_h and the shared tokens, for an adapter of its model's
        embedding or head; the match of experts, for one of experts.
        """
        folder = self.config.given_adapter(wildcards.app, self.name_of(wildcards, "old"))
        made: Inputs = {}
        if folder and preflight.adapts_vocabulary(folder):
            home = self.config.home(wildcards.pair, self.method_of(wildcards), "embedding")
            made["embedding"] = f"{home}/{layout.MAPPING['embedding']}"
        if folder and preflight.adapts_experts(folder):
            preflight.check_experts_method(self.config.method(self.method_of(wildcards)))
            made["experts"] = layout.path(layout.EXPERTS, pair=wildcards.pair)
        return made

    def merged_dtype(self) -> str:
        """Of the weights of a merged model: as configured, or each as the base has it."""
        wanted = self.config.content["transfer"]["merged_model"]
        return "base" if wanted == "none" else wanted
