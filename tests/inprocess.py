"""The workflow's scripts run in this process, as Snakemake would run them, without Snakemake."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

import h5py
import numpy as np

from loraport.models.families import ROLES

SCRIPTS = Path(__file__).parents[1] / "workflow" / "scripts"
MAPPING = {
    "wh": "auto",
    "tokens": "bytes",
    "underdetermined": False,
    "unshared": "none",
    "minibatch": 16,
    "similarity": "cka",
    "layers": "cka",
    "max_offset": None,
    "unmatched": "empty",
    "heads": "hungarian",
    "wi": "code",
    "modules": list(ROLES),
    "device": "cpu",
}
TRANSFER = {"scale": "paper", "new_layers": "zero", "dtype": "float32"}
CALIBRATION = {
    "examples": 200,
    "max_tokens": 64,
    "batch_size": 8,
    "pooling": "mean",
    "device": "cpu",
    "device_map": "",
    "stream": "auto",
}
# how the rules moments and maps read the texts
READING = {
    "texts_version": "1",
    "remote_code": [False, False],
    "calibration": {
        key: CALIBRATION[key]
        for key in ("examples", "max_tokens", "batch_size", "device", "stream")
    },
}


def numbers(path: Path) -> dict[str, np.ndarray]:
    """Datasets and attributes of an artifact, but what it was made from."""
    found = {}

    def visit(name, node):
        found.update({f"{name} @{key}": np.array(value) for key, value in node.attrs.items()})
        if isinstance(node, h5py.Dataset):
            found[name] = node[...]

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


class Named(dict):
    """What Snakemake gives a script: values by name, by attribute or by place."""

    def __getattr__(self, name):
        if name not in self:
            raise AttributeError(name)
        return self[name]

    def __getitem__(self, key):
        return list(self.values())[key] if isinstance(key, int) else super().__getitem__(key)


class PairRun:
    """The artifacts of one model pair in `folder`, each made when it is first asked for.

    `old`, `new` and `texts` are paths; `mapping` overrides mapping settings. Rules are given what
    `resources` holds.
    """

    def __init__(self, folder: Path, old: Path, new: Path, texts: Path, **mapping):
        self.folder, self.texts = Path(folder), texts
        self.models = {"old": Path(old), "new": Path(new)}
        self.mapping = {**MAPPING, **mapping}
        self.resources: dict[str, int] = {}

    def _script(
        self, name: str, output: str | dict[str, str], inputs: dict, wildcards=(), **params
    ) -> Path:
        outputs = output if isinstance(output, dict) else {"only": output}
        outputs = {key: self.folder / each for key, each in outputs.items()}
        target = next(iter(outputs.values()))
        if not target.exists():
            fake = SimpleNamespace(
                input=Named({key: str(path) for key, path in inputs.items()}),
                output=Named({key: str(path) for key, path in outputs.items()}),
                params=Named(params),
                resources=Named(self.resources),
                wildcards=Named({"model": name, "pair": "pair", "app": "app", **dict(wildcards)}),
                log=[f"{target}.log"],
                rule=name,
                threads=1,
            )
            runpy.run_path(str(SCRIPTS / f"{name}.py"), init_globals={"snakemake": fake})
        return target

    def _settings(self, *keys: str) -> dict:
        return {key: self.mapping[key] for key in keys}

    def _sources(self) -> dict:
        return {side: str(path) for side, path in self.models.items()}

    def spec(self, side: str) -> Path:
        sources = {"model": str(self.models[side])}
        return self._script("spec", f"{side}_spec.json", {}, sources=sources, revision="")

    def _specs(self) -> dict:
        return {"old_spec": self.spec("old"), "new_spec": self.spec("new")}

    def activations(self, side: str) -> Path:
        params = {
            "calibration": dict(CALIBRATION),
            "texts_version": "1",
            "sources": {"model": str(self.models[side]), "texts": str(self.texts)},
            "remote_code": False,
        }
        inputs = {"spec": self.spec(side)}
        return self._script("activations", f"{side}_activations.h5", inputs, **params)

    def embedding(self) -> Path:
        settings = self._settings("wh", "tokens", "underdetermined", "unshared", "device")
        params = {"settings": settings, "sources": self._sources()}
        return self._script("embedding", "embedding.h5", self._specs(), **params)

    def cka(self) -> Path:
        inputs = {f"{side}_activations": self.activations(side) for side in ("old", "new")}
        settings = self._settings("minibatch", "similarity")
        return self._script("cka", "cka.h5", {**self._specs(), **inputs}, settings=settings)

    def layers(self) -> Path:
        settings = self._settings("layers", "max_offset", "unmatched")
        return self._script(
            "layers", "layers.json", {**self._specs(), "cka": self.cka()}, settings=settings
        )

    def heads(self) -> Path:
        inputs = {**self._specs(), "embedding": self.embedding(), "layers": self.layers()}
        params = {"settings": self._settings("heads", "device"), "sources": self._sources()}
        return self._script("heads", "heads.h5", inputs, **params)

    def maps(self, wi: str = "code") -> Path:
        inputs = {**self._specs(), "embedding": self.embedding()}
        inputs |= {"layers": self.layers(), "heads": self.heads()}
        settings = {**self._settings("modules", "device"), "wi": wi}
        params = {"settings": settings, "sources": self._sources(), "method": "lorasuite"}
        return self._script("maps", f"maps_{wi}.h5", inputs, **params)

    def transferred(self, adapter: Path, wi: str = "code", **transfer) -> Path:
        params = {
            "settings": {**TRANSFER, **transfer},
            "known_as": [str(self.models["old"])],
            "base": str(self.models["new"]),
            "revision": "",
            "of": {"old": "old", "new": "new", "app": "app", "method": "lorasuite"},
        }
        words = [wi, *map(str, transfer.values()), adapter.name, "transferred"]
        inputs = {**self._specs(), "maps": self.maps(wi), "adapter": adapter}
        return self._script("transferred", "_".join(words), inputs, transfer=params)

    def features(self, side: str) -> list[np.ndarray]:
        """Pooled features (n, d) of each layer."""
        with h5py.File(self.activations(side)) as file:
            names = [name for name in file if name.startswith("layer_")]
            names.sort(key=lambda name: int(name.removeprefix("layer_")))
            return [file[name][...] for name in names]

    def read(self, artifact: Path, name: str) -> np.ndarray:
        """A dataset of an HDF5 artifact."""
        with h5py.File(artifact) as file:
            return file[name][...]

    def path(self) -> list[tuple[int, int]]:
        """(old, new) layers."""
        rows = json.loads(self.layers().read_text())["path"]
        return [(old, new) for old, new, _ in rows]

    def assignment(self, layer: int) -> list[tuple[int, int]]:
        """(old, new) heads of a new layer, sorted."""
        pairs = self.read(self.heads(), f"layer_{layer}/assignment")
        return sorted((int(a), int(b)) for a, b in pairs)
