"""Look-ups of the rules that map a pair's models."""

from pathlib import Path

from .. import methods
from . import layout, preflight
from .lookups_models import Inputs, Lookup, ModelLookups, Wildcards
from .places import Places


class PairLookups(ModelLookups):
    """Inputs and params of rules, from their wildcards.

    Parameters
    ----------
    config, given, source : as for `ModelLookups`
    """

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
