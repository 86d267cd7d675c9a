"""Writes an ONNX file, from which TensorRT can build 2:4 sparse engines."""

import importlib.util
import os
import warnings
from typing import Any

import keras

from tfticket.common.arguments import (
    check_bool,
    check_integer,
    check_number,
    check_path,
)
from tfticket.common.files import atomic_path, disk_errors
from tfticket.export.checking import processes
from tfticket.export.checking.compare import Rule, answers, judge, not_run
from tfticket.export.checking.exported import Exported
from tfticket.export.onnx_file import require_converter, write_onnx
from tfticket.export.served.function import prepare
from tfticket.export.served.samples import samples_for


def onnx(
    model: keras.Model,
    path: str | os.PathLike,
    opset: int | None = None,
    inputs: Any = None,
    tolerance: float = 1e-4,
    overwrite: bool = False,
    deterministic: bool = True,
) -> Exported:
    """Exports a model as a dense `.onnx` file, run by ONNX Runtime and compared.

    Keras's own exporter writes it, on the TensorFlow, JAX and PyTorch backends; inputs
    and outputs are named as in `saved_model`. Needs `pip install 'tfticket[onnx]'`, and
    `jax2onnx` on JAX, `onnxscript` on PyTorch. Pruned weights are stored as zeros, in
    the pattern of their masks. For TensorRT, check that with `check_two_four` first and
    build with `--sparsity=enable` (`BuilderFlag.SPARSE_WEIGHTS`).

    Args:
        model: A built Keras model. A wrapped model is stripped first.
        path: The file to write.
        opset: Version of ONNX's operations: 13 or more, and on JAX 18 or more. `None`
            means 17, and on JAX 21.
        inputs: Samples to check the export on, as for `saved_model`.
        tolerance: Largest difference allowed between the outputs of the file and of
            the model, relative to the largest absolute value of the output.
        overwrite: Whether an existing file may be replaced.
        deterministic: Whether two calls of the file have to agree, within a process and
            between two. A layer that adds noise or keeps a state is refused unless this
            is False. Then `notes` say how far two calls are apart, and only the first
            is compared with the model.

    Returns:
        `Exported`: path, size, and the largest difference from the model. If ONNX
        Runtime is not installed, the difference is NaN, and a warning says so.

    Raises:
        FileExistsError: If the file exists and `overwrite` is False.
        ImportError: If a package that the backend needs for the conversion is not
            installed.
        RuntimeError: If Keras has no exporter for the backend.
        ExportError: If the model can't be converted, or the outputs of the written file
            differ from the model's. No file is left behind.
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not built or has NaN weights, or if an argument does
            not fit.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> try:
    ...     name = tfticket.export.onnx(model, folder / "model.onnx").path.name
    ... except ImportError:  # the extra is not installed
    ...     name = "model.onnx"
    >>> name
    'model.onnx'
    """
    path = check_path("path", path)
    if opset is not None:
        check_integer("opset", opset, 13)
    check_number("tolerance", tolerance, 0)
    check_bool("overwrite", overwrite)
    check_bool("deterministic", deterministic)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True to replace it.")
    prepared = prepare(model, any_backend=True)
    samples = samples_for(inputs, prepared)
    rule = Rule(tolerance, deterministic=deterministic)
    opset = require_converter(opset)
    with disk_errors(path), atomic_path(path, overwrite) as temporary:
        write_onnx(prepared, temporary, opset)
        return _checked(temporary, path, prepared, samples, rule)


def _checked(written, target, prepared, samples, rule):
    size = written.stat().st_size
    if importlib.util.find_spec("onnxruntime") is None:
        warnings.warn(
            f"{target} has not been run, since onnxruntime is not installed. Install "
            "it with: pip install 'tfticket[onnx]'",
            stacklevel=4,
        )
        return Exported(
            target,
            size,
            float("nan"),
            None,
            notes=prepared.notes,
            compared="nothing: onnxruntime is not installed",
        )
    label = f"The .onnx file written for {target}"
    try:
        starts = processes.starts("run_onnx", samples.arrays, written)
    except processes.RunError as failed:
        raise not_run(label, failed) from failed
    notes = prepared.state_lost(samples.arrays, rule.deterministic)
    expected, rule = answers(prepared.predict, samples.arrays, rule)
    found = judge(label, expected, starts, rule)
    return Exported(
        target,
        size,
        found.error,
        found.agreement,
        notes=(*prepared.notes, *notes, *found.notes),
        compared=samples.text,
    )
