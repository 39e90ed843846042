"""The order in which llama.cpp holds the rows and columns of some modules.

Rows of `q` and `k` are put in pairs where it turns neighbours by rotary embedding. A fused module
whose q, k and v lie head by head is laid out role by role. The value heads of a gated DeltaNet
stand in files side by side for each key head; it holds the first ones of all key heads, then the
second ones.
"""

from collections.abc import Collection

import numpy as np

from ..models.spec import Model, read_config

KEY_HEADS = 16  # of a gated DeltaNet, where config.json leaves them out
LINEAR_ROWS = ("linear_v", "linear_z", "linear_b", "linear_a")  # roles with rows of value heads


def row_order(model: Model, path: str, interleaved: Collection[str]) -> np.ndarray | None:
    """Order in which llama.cpp holds a module's rows; None where it is the module's own.

    Row `2 i + j` of a head is row `i + j · d/2` where rotary embedding turns neighbours: of d rows
    the first half of each pair lies in the first half of the head.
    """
    family = model.architecture
    place = family.locate(path)
    if place is None:
        return None
    dims = model.dims.at(place[0])
    roles = family.modules[place[1]]
    if len(roles) == 1 and roles[0] in interleaved:
        heads = dims.heads if roles[0] == "q" else dims.kv_heads
        rows = np.arange(heads * dims.head_dim).reshape(heads, 2, dims.head_dim // 2)
        return rows.swapaxes(1, 2).reshape(-1)
    if family.layouts.get(place[1]) == "per_head" and "k" in roles:
        return np.concatenate([family.rows(role, dims) for role in roles])
    values = value_heads(model)
    if values is None or not set(roles) & {*LINEAR_ROWS}:
        return None
    order = np.arange(family.module_shape(place[1], dims)[0])
    for role in set(roles) & {*LINEAR_ROWS}:
        own = family.rows(role, dims)
        held = order if own is None else order[own]
        tiled = held.reshape(len(values), -1)[values].ravel()
        order[slice(None) if own is None else own] = tiled
    return order


def column_order(model: Model, path: str) -> np.ndarray | None:
    """Order in which llama.cpp holds a module's columns; None where it is the module's own."""
    family = model.architecture
    place = family.locate(path)
    heads = value_heads(model)
    if place is None or heads is None or "linear_o" not in family.modules[place[1]]:
        return None
    columns = np.arange(family.module_shape(place[1], model.dims.at(place[0]))[1])
    return columns.reshape(len(heads), -1)[heads].ravel()


def value_heads(model: Model) -> np.ndarray | None:
    """Order in which llama.cpp holds a gated DeltaNet's value heads; None where it has none, or one
    for each key head.
    """
    count = model.dims.linear_heads
    if not count:
        return None
    config = read_config(model.directory)
    keys = config.get("text_config", config).get("linear_num_key_heads", KEY_HEADS)
    return None if keys == count else np.arange(count).reshape(keys, -1).T.ravel()
