"""`tfticket.json` beside a SavedModel: what it is, how good, and how it was made."""

import hashlib
import importlib.metadata
import json
import pathlib
from typing import Any

import keras
import numpy as np

from tfticket.export.checking.compare import Exported
from tfticket.keras_models.calls import positions

FILE = "tfticket.json"


def write_manifest(
    folder: pathlib.Path,
    model: keras.Model,
    exported: Exported,
    made: dict,
) -> None:
    """Writes the manifest of the files that are in a version's folder now.

    Args:
        folder: Of the SavedModel.
        model: The plain model that it was made of.
        exported: Result of its check.
        made: What else to say of how it was made, as `json` takes it.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    layers = layer_rows(model)
    weights = sum(row["parameters"] for row in layers)
    left = sum(row["nonzero"] for row in layers)
    manifest = {
        "manifest": 1,
        "made": {
            **made,
            "notes": list(exported.notes),
            "tfticket": importlib.metadata.version("tfticket"),
            "keras": keras.__version__,
            "tensorflow": importlib.metadata.version("tensorflow"),
        },
        "parity": {
            "max_error": exported.max_error,
            "agreement": exported.agreement,
            "c_api": exported.c_api,
            "latency_ms": exported.latency_ms,
        },
        "parameters": weights,
        "nonzero": left,
        "density": left / max(1, weights),
        "flops_dense": sum(row["flops_dense"] or 0 for row in layers),
        "flops_sparse": sum(row["flops_sparse"] or 0 for row in layers),
        "layers": layers,
        "bytes": sum(path.stat().st_size for path in files),
        "files": {
            path.relative_to(folder).as_posix(): {
                "bytes": path.stat().st_size,
                "sha256": hashlib.sha256(path.read_bytes()).hexdigest(),
            }
            for path in files
        },
    }
    (folder / FILE).write_text(json.dumps(manifest, indent=1) + "\n")


def layer_rows(model: keras.Model) -> list[dict]:
    """Weights, density and floating-point operations of each layer that has weights.

    Operations are of one sample, a product and a sum for each weight and each place
    where it is used, biases left out; `None` where a layer's kernel is not known to be
    used so.

    Args:
        model: A plain model.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a")])
    >>> layer_rows(model)[0]["flops_dense"]
    16
    """
    rows = []
    for layer in model._flatten_layers(recursive=True):
        # Of this layer alone: a model's weights are its layers'.
        weights = [*layer._trainable_variables, *layer._non_trainable_variables]
        if not weights:
            continue
        values = [keras.ops.convert_to_numpy(weight) for weight in weights]
        parameters = sum(value.size for value in values)
        nonzero = sum(int(np.count_nonzero(value)) for value in values)
        uses = _uses(layer)
        kernel: Any = None
        if uses is not None:
            kernel = keras.ops.convert_to_numpy(layer.kernel)
        rows.append(
            {
                "name": layer.path,
                "class": type(layer).__name__,
                "parameters": parameters,
                "nonzero": nonzero,
                "density": nonzero / max(1, parameters),
                "flops_dense": None if uses is None else 2 * uses * kernel.size,
                "flops_sparse": (
                    None if uses is None else 2 * uses * int(np.count_nonzero(kernel))
                ),
            }
        )
    return rows


def _uses(layer):
    """How often a sample uses each value of the layer's kernel."""
    try:
        given, made = layer.input.shape, layer.output.shape
    except (AttributeError, ValueError):  # shared, or not of a graph of layers
        return None
    # A separable convolution has two kernels, used on different channels.
    return positions(layer, given, made) if hasattr(layer, "kernel") else None
