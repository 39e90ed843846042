"""Sums over two models' output gradients on the same tokens.

The loss is that of the next token, summed over a text. Its gradient g by what a module writes at a
token says how the loss answers to a change there; a training step adds `−η g xᵀ` to the module's
weight, so that the columns of a LoRA's B are sums of such g (BiCo, arXiv 2605.28444). Tokens are
paired, and every fifth text is held out, as for the moments of activations.
"""

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from ..artifacts import H5Writer, read_h5
from ..models.families import ROLES
from ..models.spec import Model, shared_roles
from ..numerics.linalg import chunks
from .batches import PARTS, Batch
from .moments_file import pack, unpack
from .sites import STREAM
from .solutions import Regression

TEXTS_AT_ONCE = 4  # that pass backward at a time: the scores of all their tokens are in memory
INNER = tuple(role for role in ROLES if role not in STREAM)  # what they write stays in the block
Parts = tuple[Regression, Regression]  # of the texts to fit on, and of those held out
RoleGradients = Mapping[str, Parts]


def layer_gradients(
    models: tuple[Model, Model],
    bases: tuple[Any, Any],
    batches: Sequence[Batch],
    pairs: Sequence[tuple[int, int]],
    device: str,
    progress: Callable[[int], Any] = lambda count: None,
    roles: Collection[str] = INNER,
) -> list[dict[str, Parts]]:
    """Sums over the output gradients of some layer pairs, in one pass over the texts.

    Parameters
    ----------
    models, bases : old and new; the bases' parameters end up frozen
    batches : of few texts each, see `TEXTS_AT_ONCE`
    pairs : (old, new) layers
    device : where the sums are
    roles : whose modules are meant

    Returns
    -------
    for each layer pair, role -> `Σ g_o g_nᵀ` (d_o, d_n), `Σ g_n g_nᵀ` (d_n, d_n) and `Σ ‖g_o‖²`, as
    the prediction of old gradients from new ones needs them; nothing is centred

    Notes
    -----
    A forward and a backward pass of each model, about three times what reading the texts takes, and
    O(tokens · Σ d_n (d_o + d_n)). Memory: both models, what a batch keeps for its backward pass
    (some twenty widths a token and layer, and four vocabularies a token), and the sums.
    """
    shared = [[role for role in roles if role in shared_roles(models, pair)] for pair in pairs]
    sums = [
        {role: _empty(models, pair, role, device) for role in mine}
        for pair, mine in zip(pairs, shared, strict=True)
    ]
    for batch in batches:
        seen = [_run(models[side], bases[side], batch, side, [pair[side] for pair in pairs], shared)
                for side in range(2)]  # fmt: skip
        part = PARTS.index(batch.part)
        for old, new, layer in zip(*seen, sums, strict=True):
            for role, parts in layer.items():
                parts[part] = _with(parts[part], old[role], new[role])
        progress(len(batch.inputs[0]["input_ids"]))
    return [{role: (fit, held) for role, (fit, held) in layer.items()} for layer in sums]


def _empty(
    models: tuple[Model, Model], layers: tuple[int, int], role: str, device: str
) -> list[Regression]:
    """Sums of no token yet for one role, those to fit on and those held out."""
    sides = zip(models, layers, strict=True)
    old, new = (model.dims.at(layer).shape(role)[0] for model, layer in sides)

    def zeros(rows: int) -> torch.Tensor:
        return torch.zeros(rows, new, dtype=torch.float64, device=device)

    return [Regression(zeros(old), zeros(new), 0.0) for _ in PARTS]


def _with(sums: Regression, old: torch.Tensor, new: torch.Tensor) -> Regression:
    """The sums with token pairs (t, d_o), (t, d_n) taken in."""
    x, y = old.to(sums.cross), new.to(sums.cross)
    sums.cross.addmm_(x.T, y)
    sums.gram.addmm_(y.T, y)
    return Regression(sums.cross, sums.gram, sums.square + float(x.square().sum()))


def _run(
    model: Model,
    base: Any,
    batch: Batch,
    side: int,
    layers: Sequence[int],
    roles: Sequence[Sequence[str]],
) -> list[dict[str, torch.Tensor]]:
    """One forward and one backward pass: for each layer, each of its `roles` -> gradients, (tokens,
    width).
    """
    inputs = {key: value.to(base.device) for key, value in batch.inputs[side].items()}
    base.requires_grad_(False)
    targets = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)[:, 1:]
    with _caught(model, base, layers, roles, batch.rows[side]) as caught, torch.enable_grad():
        scores = base(**inputs, use_cache=False).logits[:, :-1].float()
        torch.nn.functional.cross_entropy(
            scores.flatten(0, 1), targets.flatten(), reduction="sum", ignore_index=-100
        ).backward()
    return caught


@contextmanager
def _caught(
    model: Model,
    base: Any,
    layers: Sequence[int],
    roles: Sequence[Sequence[str]],
    rows: torch.Tensor,
) -> Iterator[list[dict[str, torch.Tensor]]]:
    """Catch the gradients by what modules write, at the positions `rows` (text, position)."""
    family, modules = model.architecture, dict(base.named_modules())
    caught: list[dict[str, torch.Tensor]] = [{} for _ in layers]

    def catch(place: dict[str, torch.Tensor], layer: int, role: str) -> Callable:
        """Hook of one role's module: `place[role]` becomes its gradients, (tokens, width)."""
        cut = family.rows(role, model.dims.at(layer))

        def keep(gradient: torch.Tensor) -> None:
            text, position = rows.to(gradient.device)
            picked = gradient[text, position]
            place[role] = picked if cut is None else picked[:, cut]

        def hook(module: Any, inputs: Any, output: torch.Tensor) -> None:
            output.register_hook(keep)

        return hook

    def start(module: Any, inputs: Any, output: torch.Tensor) -> None:
        output.requires_grad_(True)

    handles = [base.get_input_embeddings().register_forward_hook(start)]
    for place, layer, mine in zip(caught, layers, roles, strict=True):
        for role in mine:
            module = modules[family.path(layer, family.module_of(role))]
            handles.append(module.register_forward_hook(catch(place, layer, role)))
    try:
        yield caught
    finally:
        for handle in handles:
            handle.remove()


def split_pairs(
    pairs: Sequence[tuple[int, int]],
    models: tuple[Model, Model],
    gib: float,
    roles: Collection[str] = INNER,
) -> list[Sequence[tuple[int, int]]]:
    """Layer pairs in passes over the texts: in each as many as have sums of `gib` GiB, or one."""
    widths = [[model.dims.shape(role)[0] for role in roles] for model in models]
    one = 2 * 8 * sum(new * (old + new) for old, new in zip(*widths, strict=True))
    return [pairs[span] for span in chunks(len(pairs), max(1, int(gib * 2**30 / max(1, one))))]


def write_gradients(writer: H5Writer, layer: int, old_layer: int, sums: RoleGradients) -> None:
    """Store one layer pair's sums, float64; of a symmetric matrix the lower triangle."""
    writer.attributes(f"layer_{layer}", old_layer=old_layer)
    for role, parts in sums.items():
        for part, each in zip(PARTS, parts, strict=True):
            group = f"layer_{layer}/{role}/{part}"
            writer.dataset(f"{group}/cross", each.cross.cpu().numpy())
            writer.dataset(f"{group}/gram", pack(each.gram.cpu().numpy()))
            writer.attributes(group, square=each.square)


def read_gradients(path: str | Path, layer: int, role: str, device: str = "cpu") -> Parts:
    """The sums of one role of a new layer."""

    def part(node: Any) -> Regression:
        cross = torch.from_numpy(node["cross"][...]).to(device)
        gram = torch.from_numpy(unpack(node["gram"][...])).to(device)
        return Regression(cross, gram, node.attrs["square"].item())

    with read_h5(path, "gradients") as file:
        fit, held = (part(file[f"layer_{layer}/{role}/{each}"]) for each in PARTS)
    return fit, held
