"""Writes a `.tflite` file for TFLite and LiteRT."""

import dataclasses
import os
import pathlib
import tempfile
import warnings
from collections.abc import Collection
from typing import Any, Literal

import keras

from tfticket.common.arguments import check_choice
from tfticket.common.files import atomic_path
from tfticket.export.checking import compare
from tfticket.export.checking.litert_runtimes import RUNTIMES
from tfticket.export.saved_model import write
from tfticket.export.served.function import named_inputs, serving
from tfticket.export.tflite import reader
from tfticket.export.tflite.check import check, refuse_known
from tfticket.export.tflite.conversion import QUANTIZATIONS, convert
from tfticket.export.tflite.representative import check_range, representative_samples

# Of the largest output. Quantization errors add up with depth; these hold for the
# networks of `tfticket.models` with room to spare.
_TOLERANCES = {None: 1e-3, "float16": 1e-2, "dynamic": 0.1, "int8": 0.15}

_FIELDS = dataclasses.fields(compare.Exported)

# Samples of representative data that the file is checked on.
_CHECKED = 64


@dataclasses.dataclass(frozen=True)
class ExportedLiteRT(compare.Exported):
    """A `.tflite` file that was written, run elsewhere and found right.

    `max_error` and `agreement` are of the worst runtime.

    Args:
        quantization: As asked for.
        sparse: Name of each weight that is stored sparse to "unstructured", "1x4" or
            "1x16". Empty for a dense file.
        tolerance: Largest difference that was allowed, relative to the largest output.
        runtimes: Interpreters it was found right in, of "xnnpack" and "builtin".
        fallback: Why the file is dense although a sparse one was asked for, or `None`.
    """

    quantization: str | None = None
    sparse: dict[str, str] = dataclasses.field(default_factory=dict)
    tolerance: float = 0.0
    runtimes: tuple[str, ...] = RUNTIMES
    fallback: str | None = None

    def __str__(self) -> str:
        forms = sorted(set(self.sparse.values()))
        text = (
            f"{super().__str__()}; {self.quantization or 'float32'}, "
            f"{'sparse: ' + ', '.join(forms) if forms else 'dense'}; tolerance "
            f"{self.tolerance:g}; {' and '.join(self.runtimes)}"
        )
        return f"{text}. Dense, since {self.fallback}" if self.fallback else text


def litert(
    model: keras.Model,
    path: str | os.PathLike,
    quantization: Literal["float16", "dynamic", "int8"] | None = None,
    sparse: bool = False,
    representative_data: Any = None,
    inputs: Any = None,
    tolerance: float | None = None,
    overwrite: bool = False,
    fallback: bool = False,
    runtimes: Collection[str] = RUNTIMES,
) -> ExportedLiteRT:
    """Exports a model as a `.tflite` file, run in another process and compared.

    The file has the signature `serving_default` with the model's names, float inputs
    and outputs, and is run by LiteRT (`ai-edge-litert`) with XNNPACK and without it;
    by TensorFlow's interpreter where LiteRT is not installed.

    What to choose: `quantization="dynamic"`, dense, is a quarter of the size and the
    fastest form that is right for every model and mask, at the cost of int8 weights:
    errors of 1 to 3 % of the largest output, so compare the accuracy on your own test
    set. The default, float32, is exact. `sparse=True` makes files smaller, but faster
    only where Dense layers are pruned in blocks along their inputs: `Block((4, 1))` of
    `tfticket.structures` in float32, from 90 % on, or `Block((16, 1))` in int8, where
    blocks must divide the layers' inputs. That gain is for single samples: of batches
    dense files make more. All else is unpacked and runs as dense.
    `docs/results/litert_matrix.md` has all combinations with their sizes and times.

    Args:
        model: A built Keras model. A wrapped one is stripped first; without `sparse`,
            pruned weights are stored as zeros.
        path: The file to write.
        quantization: `None` for float32; `"float16"` weights; `"dynamic"`: int8
            weights, activations quantized as they come; `"int8"`: both, with ranges
            from `representative_data`.
        sparse: Whether to store weights sparse. The converter chooses the form by the
            zeros it finds: 1x4 blocks (1x16 for int8) along the inputs of an output
            where they come so, else unstructured, and dense below about 30 % zeros.
            The result says which.
        representative_data: For `"int8"`: an array, a dict by input name, or an
            iterable (a `tf.data.Dataset`) of batches or samples. The first 512 count.
        inputs: Sample to check the export on, as for `saved_model`. `None` takes some
            of the representative data, or makes up a random one.
        tolerance: Largest difference allowed between the outputs of the file and of
            the model, relative to the largest output. `None` is 0.001, 0.01 (float16),
            0.1 (dynamic) or 0.15 (int8). Against the dense file of the same
            quantization a sparse one is held to far less.
        overwrite: Whether an existing file may be replaced.
        fallback: Whether to write the dense file, with a warning, where the sparse one
            would be wrong. Else that is an error.
        runtimes: Interpreters that the file has to be right in: "xnnpack", which is
            what they use by default, and "builtin", without it. Leave one out only
            if nothing that loads the file uses it.

    Returns:
        `ExportedLiteRT`: where it is, its size, what is sparse in it, and how far it
        is from the model.

    Raises:
        FileExistsError: If the file exists and `overwrite` is off.
        ExportError: If the model can't be converted, the combination is known to go
            wrong in LiteRT, or the written file does not compute what the model does.
            Nothing is left behind.
        ValueError: If the model is not built or has NaN weights, or an argument does
            not fit.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> exported = tfticket.export.litert(model, folder / "model.tflite")
    >>> exported.path.name, exported.agreement
    ('model.tflite', 1.0)
    >>> exported = tfticket.export.litert(
    ...     model, folder / "small.tflite", quantization="dynamic"
    ... )
    >>> exported.quantization, exported.tolerance
    ('dynamic', 0.1)
    """
    path = pathlib.Path(path)
    check_choice("quantization", quantization, QUANTIZATIONS)
    runtimes = _checked_runtimes(runtimes)
    if representative_data is not None and quantization != "int8":
        raise ValueError(
            "representative_data is for quantization='int8' only. Received: "
            f"quantization={quantization!r}"
        )
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True to replace it.")
    tolerance = _TOLERANCES[quantization] if tolerance is None else tolerance
    ready = serving(model)
    samples = None
    if quantization == "int8":
        samples = representative_samples(representative_data, ready.signature)
        if inputs is None:
            inputs = {name: value[:_CHECKED] for name, value in samples.items()}
    inputs = named_inputs(inputs, ready.signature)
    if samples is not None:
        check_range(samples, inputs)

    with (
        tempfile.TemporaryDirectory() as folder,
        atomic_path(path) as temporary,
    ):
        source = pathlib.Path(folder, "model")
        write(ready, source)

        def converted(sparse):
            return convert(source, model.name, quantization, sparse, samples)

        def checked(dense=None):
            return check(
                temporary, path, ready, inputs, quantization, tolerance, runtimes, dense
            )

        forms, reason = {}, None
        if sparse:
            try:
                content = converted(sparse=True)
                weights = reader.read(content).sparse
                refuse_known(weights, quantization, runtimes, path)
                twin = pathlib.Path(folder, "dense.tflite")
                twin.write_bytes(converted(sparse=False))
                temporary.write_bytes(content)
                found = checked(twin)
                forms = {weight.name: weight.form for weight in weights}
            except compare.ExportError as error:
                if not fallback:
                    raise
                reason = str(error)
                warnings.warn(f"{path} is dense. {reason}", stacklevel=2)
            else:
                if not forms:
                    warnings.warn(_nothing_sparse(model, path), stacklevel=2)
        if not sparse or reason:
            temporary.write_bytes(converted(sparse=False))
            found = checked()
    own = {field.name: getattr(found, field.name) for field in _FIELDS}
    return ExportedLiteRT(
        **own,
        quantization=quantization,
        sparse=forms,
        tolerance=tolerance,
        runtimes=runtimes,
        fallback=reason,
    )


def _checked_runtimes(runtimes: Collection[str]) -> tuple[str, ...]:
    found = (runtimes,) if isinstance(runtimes, str) else tuple(runtimes)
    if not found or not set(found) <= set(RUNTIMES):
        raise ValueError(
            f"runtimes must be one or both of {RUNTIMES}. Received: "
            f"runtimes={runtimes!r}"
        )
    return tuple(runtime for runtime in RUNTIMES if runtime in found)


def _nothing_sparse(model, path):
    return (
        f"No weight of model '{model.name}' is stored sparse in {path}: the converter "
        "wants about 30 % zeros in a kernel. Prune the model first, or leave sparse "
        "out."
    )
