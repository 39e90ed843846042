"""The new base, for the few transfers that read something of it; opened when it is asked."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from ..models.families import Dimensions
from ..models.spec import Model, load_spec
from ..models.tokens import Vocabulary, read_vocabulary


@dataclass
class NewBase:
    """A base by its spec.json, and where it lies.

    Attributes
    ----------
    spec : path of its spec.json
    source, revision : its directory or hub id, read only for weights and tokens
    """

    spec: str | Path
    source: str
    revision: str = ""

    @classmethod
    def of(cls, spec: str | Path, params: Mapping[str, Any]) -> "NewBase":
        """By the parameters of a transfer."""
        return cls(spec, params.get("source", params["base"]), params["revision"])

    @property
    def dims(self) -> Dimensions:
        """Its sizes."""
        return self._described.dims

    @property
    def tied(self) -> bool:
        """Whether its head shares the weight of its embedding."""
        return self._described.tied

    def table(self, path: str) -> np.ndarray:
        """The weight of its embedding or head, (vocabulary, d)."""
        name = self._model.architecture.embedding if self.tied else path
        return self._model.checkpoint().read(f"{name}.weight")

    def vocabulary(self) -> Vocabulary:
        """Its tokens."""
        return read_vocabulary(self._model.directory)

    @cached_property
    def _described(self) -> Model:
        return load_spec(self.spec)

    @cached_property
    def _model(self) -> Model:
        return load_spec(self.spec, self.source, self.revision, streamed=True)
