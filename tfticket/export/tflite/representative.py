"""Representative data for int8: samples that set the range of every activation."""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import tensorflow as tf

# More samples change the ranges little and take long, because the float model runs
# each.
MOST_SAMPLES = 512


def representative_samples(
    data: Any, signature: dict[str, tf.TensorSpec]
) -> dict[str, np.ndarray]:
    """Takes and checks samples from a data set, an iterable or arrays, by input name.

    Args:
        data: An array of samples or a dict of them by input name; or an iterable,
            a `tf.data.Dataset` for example, of batches or single samples. Of a tuple,
            the first part is used, as in `fit`.
        signature: Maps input names to `tf.TensorSpec`s.

    Raises:
        ValueError: If there are no samples, if a shape does not match the signature, if
            a value is NaN or infinite, or if all values of an input are equal.
    """
    if data is None:
        raise ValueError(
            "quantization='int8' needs representative_data: some hundred samples like "
            "those that the model will see, as an array or a tf.data.Dataset, prepared "
            "as for training. Without any, use quantization='dynamic'."
        )
    parts, count = [], 0
    for batch in _batches(data):
        parts.append(_named(batch, signature))
        count += len(next(iter(parts[-1].values())))
        if count >= MOST_SAMPLES:
            break
    if not parts:
        raise ValueError("representative_data has no samples.")
    samples = {}
    for name in signature:
        shapes = {part[name].shape[1:] for part in parts}
        if len(shapes) > 1:
            raise ValueError(
                f"representative_data must have one shape for input '{name}'. "
                f"Received: {sorted(shapes)}"
            )
        samples[name] = np.concatenate([part[name] for part in parts])[:MOST_SAMPLES]
        _check_values(name, samples[name])
    return samples


def check_range(samples: dict[str, np.ndarray], inputs: dict[str, np.ndarray]) -> None:
    """Raises a ValueError if representative data and inputs have different scales.

    If the data ranges from 0 to 255 and the model gets 0 to 1, it uses a handful of its
    256 steps. The other way round, almost everything is clipped.

    Args:
        samples: Samples from `representative_samples`.
        inputs: Samples that the export is checked on, by input name.
    """
    for name, values in samples.items():
        given = inputs[name]
        if given.dtype.kind != "f":
            continue
        low, high = float(values.min()), float(values.max())
        lowest, highest = float(given.min()), float(given.max())
        span, wanted = high - low, highest - lowest
        # A few inputs need not cover the range of hundreds of samples.
        beyond = max(low - lowest, highest - high)
        reach = max(wanted, abs(lowest), abs(highest))
        if (reach and span > 16 * reach) or beyond > span:
            raise ValueError(
                f"representative_data of input '{name}' ranges from {low:.4g} to "
                f"{high:.4g}, and inputs from {lowest:.4g} to {highest:.4g}. Prepare "
                "both in the same way (scaling, mean)."
            )


def _batches(data):
    if isinstance(data, Mapping) or hasattr(data, "shape"):
        return [data]
    if not isinstance(data, Iterable) or isinstance(data, (str, bytes)):
        raise ValueError(
            "representative_data must be an array, a dict of arrays, or an iterable "
            f"of them, a tf.data.Dataset for example. Received: {type(data).__name__}"
        )
    return data


def _named(batch, signature):
    """A batch, or one sample as a batch of one, as arrays by input name."""
    if isinstance(batch, tuple):
        batch = batch[0]
    if not isinstance(batch, Mapping):
        flat = (
            batch
            if isinstance(batch, (list, tuple)) and len(signature) > 1
            else [batch]
        )
        batch = dict(zip(signature, flat, strict=False))
    if set(batch) != set(signature):
        raise ValueError(
            "representative_data must have one array for each of "
            f"{list(signature)}. Received: {list(batch)}"
        )
    arrays = {name: np.asarray(value) for name, value in batch.items()}
    for name, spec in signature.items():
        if arrays[name].ndim == len(spec.shape) - 1:
            arrays[name] = arrays[name][None]
        rest = arrays[name].shape[1:]
        if arrays[name].ndim != len(spec.shape) or not spec.shape[
            1:
        ].is_compatible_with(rest):
            raise ValueError(
                f"representative_data of input '{name}' must have shape "
                f"{tuple(spec.shape)}. Received: shape {np.shape(batch[name])}"
            )
    lengths = {len(array) for array in arrays.values()}
    if len(lengths) > 1 or 0 in lengths:
        raise ValueError(
            "representative_data must have the same number of samples for each input, "
            f"and at least one. Received: {sorted(lengths)}"
        )
    return arrays


def _check_values(name, values):
    if values.dtype.kind not in "biuf":
        raise ValueError(
            f"representative_data of input '{name}' must be numbers. Received: dtype "
            f"{values.dtype}"
        )
    if values.dtype.kind != "f":
        return
    if not np.all(np.isfinite(values)):
        raise ValueError(
            f"representative_data of input '{name}' has NaN or infinite values."
        )
    if values.size > 1 and np.ptp(values) == 0:
        raise ValueError(
            f"representative_data of input '{name}' is {values.flat[0]:.4g} "
            "everywhere, which gives its quantization no range. Pass real samples."
        )
