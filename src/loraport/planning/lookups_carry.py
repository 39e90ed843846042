"""Look-ups of the rules that carry adapters."""

import atexit
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .. import methods
from ..adapters.base_names import recorded_commit
from ..errors import LoraportError
from ..models.spec import is_local
from . import layout, preflight, stages
from .lookups_models import Inputs, Wildcards
from .lookups_pairs import PairLookups
from .prospect import Prospect


class CarryLookups(PairLookups):
    """Inputs and params of rules, from their wildcards.

    Parameters
    ----------
    config, given, source : as for `ModelLookups`
    """

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
        name = layout.START if stages.start_is_chosen(self.config) else layout.TRANSFERRED
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
        if not self.refused(app, pair):
            return
        model = self.config.pair(pair)[0]
        given = (
            each for each in self.config.apps(model) if self.config.adapter(each, model)["source"]
        )
        every = dict.fromkeys([app, *given])
        raise preflight.refused_together(
            {each: why for each in every if (why := self.refused(each, pair))}
        )

    def refused(self, app: str, pair: str) -> list[str]:
        """Why a given adapter can't be carried."""
        try:
            return self.prospect(app, pair).refused
        except LoraportError as error:  # of an adapter that is not there, or a config
            return [str(error)]

    def prospect(self, app: str, pair: str) -> Prospect:
        """What is known of carrying a given adapter before anything runs."""
        old, new = self.config.pair(pair)
        at = [self.place(each) for each in (old, new)]
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

    def tell_after_dry_run(self, workflow: Any) -> None:
        """Have the same written at the end of a dry run, which has no `onstart`."""

        def tell() -> None:
            if workflow.dryrun and workflow.dag is not None:
                jobs = workflow.dag.needrun_jobs(exclude_finished=False)  # a dry run finishes all
                sys.stderr.writelines(f"{note}\n" for note in self.notes(jobs))

        atexit.register(tell)

    def checked_adapter(self, app: str, model: str) -> list[str]:
        """Files of a given adapter, which fits its base model as far as that is at hand."""
        folder = self.config.given_adapter(app, model)
        source, revision = self.place(model)
        preflight.check_adapter(folder, source, self._known_as(model, app), revision)
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
