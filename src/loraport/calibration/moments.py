"""Second moments of what two models' modules read and write on the same tokens.

Both models read the same texts; tokens that end on the same character are one pair of rows. Only
sums of outer products are kept, in float64, so that memory does not grow with the texts. A part of
the texts is held out, for choices that must not be made on what was fitted.
"""

import math
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
import torch

from ..artifacts import H5Writer, read_h5
from ..errors import LoraportError
from ..models.families import ROLES
from ..models.spec import Model
from ..numerics.linalg import chunks

if TYPE_CHECKING:
    from .resume import Kept

# role -> site that its input stands at, and site that its output map is fitted at. gate and up are
# fitted behind the activation: their own outputs lie in a space of the hidden size, below theirs
READS = {"q": "attention", "k": "attention", "v": "attention", "o": "heads", "gate": "mlp",
         "up": "mlp", "down": "inner"}  # fmt: skip
WRITES = {"q": "q", "k": "k", "v": "v", "o": "o", "gate": "inner", "up": "inner", "down": "down"}
# o and down write into the residual stream: role -> site where the stream has taken their output in
STREAM = {"o": "middle", "down": "stream"}
# site -> role of the module, and whether its input or its output is meant
SITES = {
    "middle": ("block", "input"),
    "stream": ("block", "output"),
    "attention": ("q", "input"),
    "heads": ("o", "input"),
    "mlp": ("up", "input"),
    "inner": ("down", "input"),
    "q": ("q", "output"),
    "k": ("k", "output"),
    "v": ("v", "output"),
    "o": ("o", "output"),
    "down": ("down", "output"),
}
HELD_OUT = 5  # every fifth text
PARTS = ("fit", "held")
GRAMS = ("gram_old", "gram_new")


@dataclass
class Moments:
    """Sums over paired tokens at one site; `x` rows of the old model, `y` of the new one.

    Attributes
    ----------
    count : token pairs
    cross : Σ x yᵀ (d_o, d_n)
    gram_old, gram_new : Σ x xᵀ and Σ y yᵀ, None where no map needs them
    sum_old, sum_new : Σ x and Σ y
    square_old, square_new : Σ ‖x‖² and Σ ‖y‖²
    rms_old, rms_new : at a site where the residual stream has taken a normed output in: Σ rms of
        what the module wrote, as its norm has it; 0 where the family has no such norm
    """

    cross: torch.Tensor
    gram_old: torch.Tensor | None
    gram_new: torch.Tensor | None
    sum_old: torch.Tensor
    sum_new: torch.Tensor
    square_old: float = 0.0
    square_new: float = 0.0
    rms_old: float = 0.0
    rms_new: float = 0.0
    count: int = 0

    @classmethod
    def empty(
        cls, site: str, old: int, new: int, device: str, roles: Collection[str] = ROLES
    ) -> "Moments":
        """Of no token yet, for maps of `roles`; `old` and `new` are the widths at the site."""

        def zeros(*shape: int) -> torch.Tensor:
            return torch.zeros(*shape, dtype=torch.float64, device=device)

        written, read = needed(roles)[site]
        return cls(
            zeros(old, new),
            zeros(old, old) if written else None,
            zeros(new, new) if read else None,
            zeros(old),
            zeros(new),
        )

    def add(
        self,
        x: torch.Tensor,
        y: torch.Tensor,
        rms_old: torch.Tensor | None = None,
        rms_new: torch.Tensor | None = None,
    ) -> None:
        """Take in token pairs, (t, d_o) and (t, d_n); `rms_old` and `rms_new` are (t, 1)."""
        x, y = x.to(self.cross), y.to(self.cross)
        self.cross.addmm_(x.T, y)
        if self.gram_old is not None:
            self.gram_old.addmm_(x.T, x)
        if self.gram_new is not None:
            self.gram_new.addmm_(y.T, y)
        self.sum_old += x.sum(dim=0)
        self.sum_new += y.sum(dim=0)
        self.square_old += float(x.square().sum())
        self.square_new += float(y.square().sum())
        self.rms_old += 0.0 if rms_old is None else float(rms_old.sum())
        self.rms_new += 0.0 if rms_new is None else float(rms_new.sum())
        self.count += len(x)

    def __add__(self, other: "Moments") -> "Moments":
        def both(a: torch.Tensor | None, b: torch.Tensor | None) -> torch.Tensor | None:
            return None if a is None or b is None else a + b

        return Moments(
            self.cross + other.cross,
            both(self.gram_old, other.gram_old),
            both(self.gram_new, other.gram_new),
            self.sum_old + other.sum_old,
            self.sum_new + other.sum_new,
            self.square_old + other.square_old,
            self.square_new + other.square_new,
            self.rms_old + other.rms_old,
            self.rms_new + other.rms_new,
            self.count + other.count,
        )


def needed(roles: Collection[str]) -> dict[str, tuple[bool, bool]]:
    """Sites that maps of these roles are fitted at, and whether Σ x xᵀ and Σ y yᵀ are needed there.

    The first for a map that writes the new model's side, the second for one that reads it.
    """
    stream = {STREAM[role] for role in roles if role in STREAM}
    written = stream | {WRITES[role] for role in roles}
    read = stream | {READS[role] for role in roles}
    return {site: (site in written, site in read) for site in SITES if site in written | read}


def paired_tokens(
    old: Sequence[tuple[int, int]], new: Sequence[tuple[int, int]]
) -> list[tuple[int, int]]:
    """Positions of tokens that end on the same character, by the tokens' character spans.

    The first token of a text, which carries massive activations, and tokens of no length (special
    ones) are left out; of several that end on one character (the bytes of it) the last one counts.
    """

    def ends(spans: Sequence[tuple[int, int]]) -> dict[int, int]:
        return {last: place for place, (first, last) in enumerate(spans) if place and last > first}

    left, right = ends(old), ends(new)
    return [(place, right[last]) for last, place in left.items() if last in right]


@dataclass
class Batch:
    """Texts of one part as both models read them.

    Attributes
    ----------
    part : `fit` or `held`
    inputs : per side, input_ids and attention_mask (b, t)
    rows : per side, (text, position) of the paired tokens, (2, p)
    """

    part: str
    inputs: list[dict[str, torch.Tensor]] = field(default_factory=list)
    rows: list[torch.Tensor] = field(default_factory=list)


def make_batches(
    tokenizers: tuple[Any, Any], texts: Sequence[str], max_tokens: int, size: int
) -> list[Batch]:
    """Batches of texts of like length, those to fit on and those held out apart.

    Raises
    ------
    LoraportError
        If a tokenizer gives no character offsets, or no two tokens of the texts of a part end on
        the same character: of fewer than five texts none is held out.
    """
    encoded = [[_encode(each, text, max_tokens) for text in texts] for each in tokenizers]
    batches = []
    for part in PARTS:
        mine = [i for i in range(len(texts)) if (i % HELD_OUT == HELD_OUT - 1) == (part == "held")]
        mine.sort(key=lambda i: (len(encoded[0][i].input_ids), i))
        for span in chunks(len(mine), size):
            batch, pairs = Batch(part), []
            for number, i in enumerate(mine[span]):
                offsets = (encoded[side][i].offset_mapping for side in range(2))
                pairs += [(number, a, b) for a, b in paired_tokens(*offsets)]
            if not pairs:
                continue
            table = torch.tensor(pairs).T
            for side, tokenizer in enumerate(tokenizers):
                ids = [encoded[side][i].input_ids for i in mine[span]]
                padded = tokenizer.pad(
                    {"input_ids": ids}, padding_side="right", return_tensors="pt"
                )
                batch.inputs.append({k: padded[k] for k in ("input_ids", "attention_mask")})
                batch.rows.append(table[[0, 1 + side]])
            batches.append(batch)
    _check_parts([batch.part for batch in batches], len(texts))
    return batches


def _check_parts(there: Collection[str], count: int) -> None:
    """Refuse texts of which a part has no paired tokens."""
    if not there:
        raise LoraportError(
            "the two tokenizers have no token of the calibration texts in common",
            got="no two tokens that end on the same character",
            expected="texts of several words, in a language that both tokenizers know",
            todo="give other texts in calibration.texts",
        )
    if lacking := [part for part in PARTS if part not in there]:
        none = {"fit": "those to fit on", "held": "those held out"}[lacking[0]]
        raise LoraportError(
            "there are too few texts to fit maps on some and to hold others out",
            got=f"{count} texts, and none of {none} has a token that both tokenizers end alike",
            expected=f"at least {HELD_OUT}, better some hundreds: every fifth one is held out",
            todo="give more: lines of calibration.texts (as many as calibration.examples says), or "
            "prompts of the app's task for maps of one adapter",
        )


def _encode(tokenizer: Any, text: str, max_tokens: int) -> Any:
    try:
        return tokenizer(text, truncation=True, max_length=max_tokens, return_offsets_mapping=True)
    except NotImplementedError as error:
        raise LoraportError(
            "aligned transfer pairs tokens by the characters they stand for",
            got=f"{type(tokenizer).__name__}, which gives no offsets",
            expected="a fast tokenizer (tokenizer.json) in both models",
            todo="save the tokenizer in its fast form",
        ) from error


@contextmanager
def caught_sites(
    base: Any, model: Model, layer: int, rows: Callable[[], torch.Tensor]
) -> Iterator[dict[str, torch.Tensor]]:
    """Catch what passes the sites of a layer: site -> (tokens, width) at the positions `rows()`.

    Where a norm stands on what o or down writes, `normed(site)` of the site behind it holds what
    the residual stream takes in, and `rms(site)`, (tokens, 1), the rms of what the module wrote.
    """
    family, caught = model.architecture, {}
    modules = dict(base.named_modules())

    def catch(site: str, where: str, cut: np.ndarray | None) -> Callable:
        def hook(module: Any, inputs: Any, output: Any) -> None:
            values = inputs[0] if where == "input" else output
            values = values[0] if isinstance(values, tuple) else values
            text, place = rows().to(values.device)
            picked = values[text, place]
            caught[site] = picked if cut is None or where == "input" else picked[:, cut]

        return hook

    handles = []
    for site, (role, where) in SITES.items():
        if site in STREAM.values():
            block = modules[family.block.format(layer=layer)]
            handles.append(block.register_forward_hook(catch(site, where, None)))
        elif role in family.roles:
            module = modules[family.path(layer, family.module_of(role))]
            hook = catch(site, where, family.rows(role, model.dims))
            handles.append(module.register_forward_hook(hook))
    for role, norm in family.output_norms.items():
        hook = _catch_norm(caught, STREAM[role], rows, family.norm_shift)
        handles.append(modules[family.path(layer, norm)].register_forward_hook(hook))
    block = modules[family.block.format(layer=layer)]

    def add_attention(module: Any, inputs: Any, output: Any) -> None:
        caught["middle"] = caught["middle"] + written(caught, "middle")

    handles.append(block.register_forward_hook(add_attention))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def normed(site: str) -> str:
    """Name under which what a norm makes of a module's output is caught."""
    return f"{site} normed"


def rms(site: str) -> str:
    """Name under which the rms of what a module writes, before its norm, is caught."""
    return f"{site} rms"


def written(caught: Mapping[str, torch.Tensor], site: str) -> torch.Tensor:
    """What the residual stream has taken in behind o (`middle`) or down (`stream`)."""
    role = next(role for role, behind in STREAM.items() if behind == site)
    return caught.get(normed(site), caught[role])


def _catch_norm(
    caught: dict[str, torch.Tensor], site: str, rows: Callable[[], torch.Tensor], shift: float
) -> Callable:
    """Hook of a norm `N(y) = w ∘ y / rms(y)`: N(y), and rms(y) as the norm itself has it."""

    def hook(module: Any, inputs: Any, output: Any) -> None:
        text, place = rows().to(output.device)
        after = output[text, place].double()
        weighted = inputs[0][text, place].double() * (module.weight.double() + shift)
        square = weighted.square().sum(dim=1, keepdim=True)
        both = (weighted * after).sum(dim=1, keepdim=True)  # Σ (w ∘ y)² / rms
        caught[normed(site)] = output[text, place]
        caught[rms(site)] = torch.where(both > 0, square / both, 1.0)

    return hook


def width(model: Model, site: str) -> int:
    """Numbers a token at a site."""
    role, where = SITES[site]
    if site in STREAM.values():
        return model.dims.hidden
    return model.dims.shape(role)[1 if where == "input" else 0]


def site_bytes(old: Model, new: Model, roles: Collection[str] = ROLES) -> int:
    """Memory that the sums of one layer pair take for maps of `roles`, in bytes."""
    total = 0
    for site, (written, read) in needed(roles).items():
        o, n = width(old, site), width(new, site)
        total += o * n + o * o * written + n * n * read
    return total * len(PARTS) * 8


def split_path(
    path: Sequence[tuple[int, int]],
    models: tuple[Model, Model],
    gib: float,
    roles: Collection[str] = ROLES,
) -> list[Sequence[tuple[int, int]]]:
    """Layer pairs in passes over the texts: in each as many as have sums of `gib` GiB, or one."""
    at_once = max(1, int(gib * 2**30 / site_bytes(*models, roles)))
    return [path[span] for span in chunks(len(path), at_once)]


LayerMoments = Mapping[str, tuple[Moments, Moments]]


def layer_moments(
    models: tuple[Model, Model],
    bases: tuple[Any, Any],
    batches: Sequence[Batch],
    pairs: Sequence[tuple[int, int]],
    device: str,
    progress: Callable[[int], Any] = lambda count: None,
    roles: Collection[str] = ROLES,
    kept: "Kept | None" = None,
) -> list[LayerMoments]:
    """Moments at the sites of some layer pairs, in one pass over the texts.

    Parameters
    ----------
    models, bases : old and new; `bases` as they run
    pairs : (old, new) layers
    device : where the sums are
    roles : whose maps are to be fitted
    kept : where a pass that was cut off left its sums, and this one leaves them. The batches are
        added in the same order, in float64: with the same threads the sums end with the same bytes

    Returns
    -------
    for each layer pair, site -> moments of the texts to fit on, and of those held out

    Notes
    -----
    O(tokens · Σ width²) beside the two forward passes; memory: the sums of these layer pairs, and
    what one batch passes through them.
    """
    done, sums = kept.load(pairs, device) if kept else (0, [])
    sums = sums or [_empty_layer(models, device, roles) for _ in pairs]
    progress(sum(len(batch.inputs[0]["input_ids"]) for batch in batches[:done]))
    for number, batch in enumerate(batches[done:], done + 1):
        seen = [_run(models[side], bases[side], batch, side, [pair[side] for pair in pairs])
                for side in range(2)]  # fmt: skip
        part = PARTS.index(batch.part)
        for old, new, layer in zip(*seen, sums, strict=True):
            for site, parts in layer.items():
                sizes = (side.get(rms(site)) for side in (old, new))
                parts[part].add(old[site], new[site], *sizes)
        if kept and kept.is_due():
            kept.save(pairs, sums, number)
        progress(len(batch.inputs[0]["input_ids"]))
    return sums


def _empty_layer(
    models: tuple[Model, Model], device: str, roles: Collection[str]
) -> dict[str, tuple[Moments, Moments]]:
    """Sums of no token yet, at the sites that both families have."""
    found = {}
    for site in needed(roles):
        if site in STREAM.values() or all(SITES[site][0] in m.architecture.roles for m in models):
            old, new = (width(model, site) for model in models)
            fit, held = (Moments.empty(site, old, new, device, roles) for _ in PARTS)
            found[site] = (fit, held)
    return found


def _run(
    model: Model, base: Any, batch: Batch, side: int, layers: Sequence[int]
) -> list[dict[str, torch.Tensor]]:
    """One forward pass; what passed the sites of each of the layers."""
    frames = [caught_sites(base, model, layer, lambda: batch.rows[side]) for layer in layers]
    caught = [frame.__enter__() for frame in frames]
    try:
        with torch.no_grad():
            inputs = {key: value.to(base.device) for key, value in batch.inputs[side].items()}
            base(**inputs, use_cache=False)
    finally:
        for frame in frames:
            frame.__exit__(None, None, None)
    return caught


def write_layer(writer: H5Writer, layer: int, old_layer: int, found: LayerMoments) -> None:
    """Store one layer pair's moments, float64; of a symmetric matrix the lower triangle."""
    writer.attributes(f"layer_{layer}", old_layer=old_layer)
    for site, parts in found.items():
        for part, moments in zip(PARTS, parts, strict=True):
            group = f"layer_{layer}/{site}/{part}"
            for name in ("cross", "gram_old", "gram_new", "sum_old", "sum_new"):
                values = getattr(moments, name)
                if values is not None:
                    array = values.cpu().numpy()
                    writer.dataset(f"{group}/{name}", pack(array) if name in GRAMS else array)
            sizes = {name: getattr(moments, name) for name in ("rms_old", "rms_new")}
            writer.attributes(
                group,
                count=moments.count,
                square_old=moments.square_old,
                square_new=moments.square_new,
                **{name: size for name, size in sizes.items() if size},
            )


def pack(matrix: np.ndarray) -> np.ndarray:
    """The lower triangle of a symmetric matrix (n, n), row by row: (n (n + 1) / 2,)."""
    return np.concatenate([row[: number + 1] for number, row in enumerate(matrix)])


def unpack(triangle: np.ndarray) -> np.ndarray:
    """The symmetric matrix (n, n) of a lower triangle (n (n + 1) / 2,)."""
    size = math.isqrt(2 * len(triangle))
    matrix = np.empty((size, size), triangle.dtype)
    for number in range(size):
        start = number * (number + 1) // 2
        row = triangle[start : start + number + 1]
        matrix[number, : number + 1] = matrix[: number + 1, number] = row
    return matrix


Value = TypeVar("Value")


class StoredSites(Mapping[str, Value]):
    """What lies on disk of the sites of one new layer; each site is read when it is asked for.

    Parameters
    ----------
    kind, what : of the artifact, and what it holds of a site, in words
    read : of a site's node in the file
    """

    def __init__(
        self, path: str | Path, layer: int, kind: str, what: str, read: Callable[[Any], Value]
    ):
        self._path, self._layer, self._kind, self._what = path, layer, kind, what
        self._read = read
        with read_h5(path, kind) as file:
            self._sites = [site for site in SITES if site in file[f"layer_{layer}"]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._sites)

    def __len__(self) -> int:
        return len(self._sites)

    def __contains__(self, site: object) -> bool:
        return site in self._sites

    def __getitem__(self, site: str) -> Value:
        if site not in self:
            raise LoraportError(
                f"{self._path} holds no {self._what} at {site} of layer {self._layer}",
                got=f"{self._what} at {', '.join(self)}",
                expected="those that maps of all of mapping.modules need",
                todo="delete it and run the workflow again",
            )
        with read_h5(self._path, self._kind) as file:
            return self._read(file[f"layer_{self._layer}/{site}"])


def read_moments(
    path: str | Path, layer: int, device: str = "cpu", kind: str = "moments"
) -> LayerMoments:
    """Moments at the sites of one new layer: of the texts to fit on, and of those held out."""

    def read(node: Any) -> tuple[Moments, Moments]:
        fit, held = (_read_part(node[part], device) for part in PARTS)
        return fit, held

    return StoredSites(path, layer, kind, "sums", read)


def _read_part(node: Any, device: str) -> Moments:
    found = {name: values[...] for name, values in node.items()}
    full = {name: unpack(found[name]) for name in GRAMS if name in found}
    held = {name: torch.from_numpy(each).to(device) for name, each in {**found, **full}.items()}
    numbers = {key: value.item() for key, value in node.attrs.items()}
    return Moments(**{**dict.fromkeys(GRAMS), **held, **numbers})
