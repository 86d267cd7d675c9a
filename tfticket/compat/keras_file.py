"""Reads the `.keras` file that tf_keras wrote for a model that TF-MOT pruned."""

import collections
import io
import json
import os
import re
import zipfile
from collections.abc import Iterator
from typing import Any

import h5py
import numpy as np

from tfticket.common.files import DAMAGE, open_regular
from tfticket.compat.hdf5 import open_h5

# tf_keras stores without compression, so it did not write a small file that unpacks to
# gigabytes.
_MOST_A_BYTE = 20
_WRAPPER = "PruneLowMagnitude"


def read_keras_file(
    path: str,
) -> list[tuple[tuple[str, ...], list[np.ndarray], list[np.ndarray]]]:
    """Reads weights and masks by layer, and runs no code from the file.

    Args:
        path: The file.

    Returns:
        (path, weights, masks) for each layer, or part of one, that holds some itself.
        The path has the names of nested models and the layer, then the attributes that
        hold the part, without a leading "_".

    Raises:
        ValueError: If the file is damaged, or holds no Sequential or Functional model.
    """
    try:
        with open_regular(path) as raw, zipfile.ZipFile(raw) as file:
            most = _MOST_A_BYTE * os.path.getsize(path)
            for name in ("config.json", "model.weights.h5"):
                if file.getinfo(name).file_size > most:
                    raise ValueError(f"'{name}' claims more than the file can hold")
            config = json.loads(file.read("config.json"))
            content = io.BytesIO(file.read("model.weights.h5"))
        with open_h5(content, path) as weights:
            return list(_of_model(config["config"], weights, ()))
    except DAMAGE as error:
        if str(path) in str(error):
            raise
        raise ValueError(
            f"'{path}' is no .keras file of a Sequential or Functional model of "
            f"tf_keras: {type(error).__name__}: {error}"
        ) from error


def _of_model(
    config: dict[str, Any], group: h5py.Group, prefix: tuple[str, ...]
) -> Iterator:
    """The layers of a model, whose groups are counted by the class of the layer."""
    counts: collections.Counter = collections.Counter()
    for layer in config["layers"]:
        kind, own = layer["class_name"], layer["config"]
        key = _snake_case(kind)
        number, counts[key] = counts[key], counts[key] + 1
        held = group.get(f"layers/{key}_{number}" if number else f"layers/{key}")
        if held is None:
            continue
        if kind == _WRAPPER:
            inner = own["layer"]
            name = (*prefix, inner["config"]["name"])
            if masks := _masks(_variables(held)):
                yield name, [], masks
            yield from _of_layer(inner, held["layer"], name)
        else:
            yield from _of_layer(layer, held, (*prefix, own["name"]))


def _of_layer(
    layer: dict[str, Any], group: h5py.Group, path: tuple[str, ...]
) -> Iterator:
    if "layers" in layer["config"]:
        yield from _of_model(layer["config"], group, path)
        return
    if own := _variables(group):
        yield path, own, []
    for name, part in group.items():
        if name != "vars":
            attribute = (*path, name.lstrip("_"))
            yield from _of_layer({"config": {}}, part, attribute)


def _variables(group):
    held = group.get("vars", {})
    return [np.array(held[key]) for key in sorted(held, key=int)]


def _masks(variables):
    """The masks among a wrapper's variables: weights, masks, thresholds, a step."""
    count = (len(variables) - 1) // 3
    return [mask != 0 for mask in variables[count : 3 * count : 2]]


def _snake_case(name):
    """The name of a class as tf_keras writes it: "prune_low_magnitude"."""
    name = re.sub(r"\W+", "", name)
    name = re.sub("(.)([A-Z][a-z]+)", r"\1_\2", name)
    return re.sub("([a-z])([A-Z])", r"\1_\2", name).lower()
