"""`convert`: a model that TF-MOT pruned, carried over to Keras 3."""

import contextlib
import itertools
import os
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

import h5py
import keras
import numpy as np

from tfticket.common.arguments import check_bool, check_path, shown
from tfticket.common.files import open_regular
from tfticket.compat.hdf5 import open_h5
from tfticket.compat.keras_file import read_keras_file
from tfticket.keras_models.copies import (
    clone_with,
    copy_state,
    require_transformable,
)
from tfticket.keras_models.kernels import prunable_weights
from tfticket.keras_models.masked_layer import inner_layer
from tfticket.keras_models.names import every_layer, named_layers, sublayers
from tfticket.keras_models.twins import copy_layer
from tfticket.pruning.wrapper import Prune

_PREFIX = "prune_low_magnitude_"
# What TF-MOT's wrapper stores next to the weights of its layer.
_BOOKKEEPING = ("mask", "threshold", "pruning_step")
_WAY_OUT = (
    "Where TF-MOT is installed, load it with tf_keras inside "
    "tfmot.sparsity.keras.prune_scope() and save it with model.save('model.keras'), or "
    "pass the loaded model itself."
)


def convert(
    source: Any, into: keras.Model, *, masks_from_zeros: bool = False
) -> keras.Model:
    """Copies a Keras 3 model with the weights and masks of one that TF-MOT pruned.

    Layers are matched by name. If `into` lacks a name of the source, they are matched
    in order and their shapes are checked; give a nested model the same names, because
    an .h5 file lists its frozen layers last. Layers that TF-MOT did not prune are not
    wrapped. The optimizer's state, the schedule and the step are not carried over.

    Args:
        source: The pruned tf_keras model, or the path of a file that was saved from it:
            a .keras file, or an .h5 file of the whole model or of its weights. tf_keras
            writes no .h5 of a pruned recurrent or attention layer.
        into: A built Sequential or Functional Keras 3 model of the same
            architecture, not wrapped. It is not changed.
        masks_from_zeros: Whether the zeros of a source without masks become the masks.
            TF-MOT's `strip_pruning` makes such a source. Layers without a zero are then
            not wrapped.

    Returns:
        A wrapped copy of `into`, as `tfticket.prune` makes it. Pruned weights are
        exactly 0.0, and the copy is not compiled.

    Raises:
        TypeError: If `source` is neither a model nor a path, `into` can't be copied,
            or `masks_from_zeros` is not a bool.
        FileNotFoundError: If there is no such file.
        ValueError: If the file has another format or links to another file, if a layer
            differs (the error names the first one), if the source has no masks and
            `masks_from_zeros` is False, or if the source pruned a layer that can't be
            pruned here.

    Example:

    >>> from tfticket.compat.convert import convert
    >>> path = folder / "pruned.h5"
    >>> with h5py.File(path, "w") as file:  # as model.save_weights writes it
    ...     file.attrs["layer_names"] = ["prune_low_magnitude_out"]
    ...     group = file.create_group("prune_low_magnitude_out")
    ...     group["out/kernel:0"] = [[3.0], [0.5]]
    ...     mask = "prune_low_magnitude_out/mask:0"
    ...     group[mask] = [[1.0], [0.0]]
    ...     group.attrs["weight_names"] = ["out/kernel:0", mask]
    >>> out = keras.layers.Dense(1, use_bias=False, name="out")
    >>> converted = convert(path, keras.Sequential([keras.Input((2,)), out]))
    >>> tfticket.get_masks(converted)["out/kernel"].ravel().tolist()
    [True, False]
    """
    check_bool("masks_from_zeros", masks_from_zeros)
    if isinstance(source, (str, os.PathLike)):
        check_path("source", source)
        if os.path.exists(source) and not os.path.isdir(source):
            open_regular(source).close()  # opening a pipe would wait for a writer
    require_transformable(into)
    with _naming(source):
        pairs, masks = _found(source, list(_owners(into)), masks_from_zeros)
    wrap = {id(owner.layer): path for path, owner, _ in masks}

    def clone(layer):
        copy = copy_layer(layer)
        return Prune(copy) if id(layer) in wrap else copy

    model = clone_with(into, clone, _copy_state)
    copies = {owner.path: owner for owner in _owners(model)}
    for item, owner in pairs:
        for weight, (_, value) in zip(
            copies[owner.path].weights, item.weights, strict=True
        ):
            weight.assign(value)
    wrappers = dict(named_layers(model))
    for path, _, values in masks:
        for mask, value in zip(wrappers[path].masks, values, strict=True):
            mask.assign(value)
        wrappers[path].apply_masks()
    for _, layer in every_layer(model):
        if hasattr(layer, "finalize_state"):
            layer.finalize_state()
    return model


@dataclass
class _Saved:
    """The weights that a layer of the source holds itself, without its sublayers."""

    path: tuple[str, ...]
    weights: list[tuple[str, np.ndarray]] = field(default_factory=list)
    masks: list[np.ndarray] = field(default_factory=list)


@contextlib.contextmanager
def _naming(source):
    """Errors about what a file holds begin with its path."""
    try:
        yield
    except ValueError as error:
        is_path = isinstance(source, (str, os.PathLike))
        if not is_path or os.fspath(source) in str(error):
            raise
        raise ValueError(f"'{os.fspath(source)}': {error}") from error


def _found(source, owners, masks_from_zeros):
    """(saved, owner) of every layer, and the masks of those that are pruned."""
    if _is_keras_file(source):
        saved = [
            _Saved(path, [("", value) for value in values], masks)
            for path, values, masks in read_keras_file(os.fspath(source))
        ]
        pairs = _match_by_attribute(saved, owners)
    else:
        saved = _collect(_read(source))
        pairs = _match(saved, owners)
    masks = _masks(saved, pairs)
    if not masks and masks_from_zeros:
        masks = _zeros(pairs)
    if not masks:
        raise ValueError(
            "The source has no pruned layer: "
            + (
                "no prunable weight is 0.0."
                if masks_from_zeros
                else "it holds no mask. If TF-MOT's strip_pruning removed them, pass "
                "masks_from_zeros=True. If it was never pruned, copy its weights "
                "with set_weights() and call tfticket.prune."
            )
        )
    return pairs, masks


@dataclass
class _Owner:
    """A layer or sublayer of the Keras 3 model that holds weights itself."""

    path: tuple[str, ...]
    layer_path: str  # of the layer in its model: "bi" for ("bi", "forward_lstm")
    layer: keras.layers.Layer
    weights: list[keras.Variable]
    attributes: tuple[str, ...]  # as path, parts by the attributes that hold them


_Groups = Iterable[tuple[str, list[tuple[str, np.ndarray]]]]


def _read(source: Any) -> list:
    if isinstance(source, (str, os.PathLike)):
        return _read_file(os.fspath(source))
    if isinstance(source, keras.layers.Layer):
        raise TypeError(
            f"source must be a tf_keras model or the path of an .h5 file of one. "
            f"Received: the Keras 3 object {source!r}, which tfticket.prune wraps."
        )
    if not hasattr(source, "layers"):
        raise TypeError(
            "source must be a tf_keras model that TF-MOT pruned, or the path of an "
            f".h5 file saved from it. Received: source={shown(source)}"
        )
    return list(_read_model(source))


def _read_model(model: Any, prefix: str = "") -> Iterator:
    """The model's weights by layer, as tf_keras writes them to an .h5 file."""
    for layer in model.layers:
        if any(kind.__name__ == "Model" for kind in type(layer).__mro__):
            yield from _read_model(layer, f"{prefix}{layer.name}/")
            continue
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        yield prefix + layer.name, [(v.name, v.numpy()) for v in variables]


def _read_file(path: str) -> list:
    if os.path.isdir(path):
        raise ValueError(f"'{path}' is a folder, a SavedModel perhaps. {_WAY_OUT}")
    if not os.path.exists(path):
        raise FileNotFoundError(f"source: no file '{path}'")
    if not h5py.is_hdf5(path):
        raise ValueError(
            f"'{path}' is neither an .h5 nor a .keras file; checkpoints of tf_keras "
            f"are not read. {_WAY_OUT}"
        )
    with open_h5(path, path) as file:
        group = file.get("model_weights", file)
        if "layer_names" not in group.attrs and "layer_names0" not in group.attrs:
            raise ValueError(
                f"'{path}' has no layer names: it has the format that tf_keras writes "
                f"for names that end in .weights.h5. {_WAY_OUT}"
            )
        return [
            (name, [(w, np.array(group[name][w])) for w in _names(group[name])])
            for name in _names(group, "layer_names")
        ]


def _names(group: h5py.Group, key: str = "weight_names") -> list[str]:
    # A list too long for one attribute is spread over key0, key1, ...
    values = group.attrs.get(key)
    if values is None:
        keys = itertools.takewhile(
            lambda name: name in group.attrs, (f"{key}{i}" for i in itertools.count())
        )
        values = [value for name in keys for value in group.attrs[name]]
    return [v.decode() if isinstance(v, bytes) else str(v) for v in values]


def _collect(groups: _Groups) -> list[_Saved]:
    """Sorts weights and masks to the layers that hold them, in order."""
    saved: dict[tuple[str, ...], _Saved] = {}
    for group, weights in groups:
        for name, value in weights:
            *owner, leaf = name.split(":")[0].split("/")
            path = _plain_path([*group.split("/"), *owner])
            item = saved.setdefault(path, _Saved(path))
            kept_by_wrapper = (owner or [group])[-1].startswith(_PREFIX)
            if not (kept_by_wrapper and leaf in _BOOKKEEPING):
                item.weights.append((leaf, value))
            elif leaf == "mask":
                item.masks.append(value != 0)
    return list(saved.values())


def _plain_path(parts: Iterable[str]) -> tuple[str, ...]:
    """Names without TF-MOT's prefix; a name that TF-MOT repeats occurs once."""
    parts = [part.removeprefix(_PREFIX) for part in parts]
    return tuple(name for name, _ in itertools.groupby(parts))


def _owners(model: keras.Model) -> Iterator[_Owner]:
    """The layers of a model that hold weights, wrapped or not, in order."""
    for layer_path, layer in named_layers(model):
        layer = inner_layer(layer)
        at = tuple(layer_path.split("/"))
        stack = [(at, at, layer)]
        seen = set()
        while stack:
            path, attributes, part = stack.pop(0)
            if id(part) in seen:
                continue
            seen.add(id(part))
            inside = _with_weights(part)
            inner = {id(w) for _, sub in inside for w in sub.weights}
            own = [w for w in part.weights if id(w) not in inner]
            if own:
                yield _Owner(path, layer_path, layer, own, attributes)
            stack[:0] = [
                ((*path, sub.name), (*attributes, *name.split("/")), sub)
                for name, sub in inside
            ]


def _with_weights(layer):
    """(name, layer) of direct sublayers with weights, in the order of the weights."""
    order = {id(weight): i for i, weight in enumerate(layer.weights)}
    inside = [(name, part) for name, part in sublayers(layer) if part.weights]
    return sorted(inside, key=lambda held: order[id(held[1].weights[0])])


def _is_keras_file(source: Any) -> bool:
    return isinstance(source, (str, os.PathLike)) and zipfile.is_zipfile(source)


def _match_by_attribute(
    saved: list[_Saved], owners: list[_Owner]
) -> list[tuple[_Saved, _Owner]]:
    """Pairs for a .keras file, which names layers and numbers their parts."""
    there = {owner.attributes: owner for owner in owners}
    holders = [item for item in saved if item.weights]
    pairs = [(item, there.pop(item.path, None)) for item in holders]
    return _checked([*pairs, *((None, owner) for owner in there.values())])


def _match(saved: list[_Saved], owners: list[_Owner]) -> list[tuple[_Saved, _Owner]]:
    holders = [item for item in saved if item.weights]
    pairs = _match_by_name(holders, owners)
    if pairs is None:
        pairs = list(itertools.zip_longest(holders, owners))
    return _checked(pairs)


def _checked(pairs):
    """The pairs, or an error that names the first layer that has no match."""
    for item, owner in pairs:
        if item is None:
            raise ValueError(
                f"The model has the layer '{'/'.join(owner.path)}' "
                f"{_shapes(owner.weights)}, which the source lacks. Give `into` the "
                "source's architecture."
            )
        name = "/".join(item.path)
        shapes = _shapes(value for _, value in item.weights)
        if owner is None:
            raise ValueError(
                f"The source has the layer '{name}' {shapes}, which the model lacks. "
                "Give `into` the source's architecture."
            )
        if _shapes(owner.weights) != shapes:
            raise ValueError(
                f"The first layer that differs is '{name}' of the source, whose "
                f"weights have the shapes {shapes}. The model's, "
                f"'{'/'.join(owner.path)}', has {_shapes(owner.weights)}. Give `into` "
                "the source's architecture, and the source's layer names if the order "
                "differs."
            )
    return pairs


def _match_by_name(holders, owners):
    """Pairs by name, or `None` where a name is not found once."""
    pairs = []
    for item in holders:
        found = [o for o in owners if _plain_path(o.path) == item.path] or [
            # An .h5 file leaves out the models between a nested model and a layer.
            owner
            for owner in owners
            if owner.path[0] == item.path[0] and _is_within(item.path, owner.path)
        ]
        if len(found) != 1:
            return None
        pairs.append((item, found[0]))
    if len({id(owner) for _, owner in pairs}) != len(owners):
        return None
    return pairs


def _is_within(short, long):
    rest = iter(long)
    return all(part in rest for part in short)


def _masks(saved: list, pairs: list) -> list[tuple[str, _Owner, list[np.ndarray]]]:
    """(path of the layer here, one of its holders, its masks) of all masked layers."""
    found = []
    for item in saved:
        if not item.masks:
            continue
        # A recurrent layer holds the masks itself, and its cell holds the weights.
        owner = next(
            owner for held, owner in pairs if held.path[: len(item.path)] == item.path
        )
        weights = _prunable(owner.layer)
        if _shapes(weights) != _shapes(item.masks):
            raise ValueError(
                f"Layer '{owner.layer_path}' ({type(owner.layer).__name__}) is pruned "
                f"in the source, with masks of shapes {_shapes(item.masks)}. Here its "
                f"prunable weights have {_shapes(weights)}. Give it a method "
                "get_prunable_weights() that returns them in TF-MOT's order."
            )
        found.append((owner.layer_path, owner, item.masks))
    return found


def _zeros(pairs):
    """Like `_masks`, for a stripped model: a mask is False where its weight is 0.0."""
    values = {
        id(weight): value
        for item, owner in pairs
        for weight, (_, value) in zip(owner.weights, item.weights, strict=True)
    }
    found = {}
    for _, owner in pairs:
        masks = [values[id(w)] != 0 for w in _prunable(owner.layer)]
        if not all(np.all(mask) for mask in masks):
            found[owner.layer_path] = (owner.layer_path, owner, masks)
    return list(found.values())


def _prunable(layer: keras.layers.Layer) -> list[keras.Variable]:
    return [weight.variable for weight in prunable_weights(layer)]


def _shapes(weights: Iterable[Any]) -> list[tuple[int, ...]]:
    return [tuple(weight.shape) for weight in weights]


def _copy_state(source, target):
    copy_state(source, inner_layer(target))
