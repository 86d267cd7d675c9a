"""Writes a model for OpenVINO, checked by its runtime."""

import os
from typing import Any

import keras

from tfticket.common.arguments import check_bool, check_number, check_path
from tfticket.common.files import (
    disk_errors,
    put_folder,
    recover_folders,
    temporary_folder,
)
from tfticket.export.checking import processes
from tfticket.export.checking.compare import Rule, answers, judge, not_run
from tfticket.export.checking.exported import Exported, ExportError, size_of
from tfticket.export.onnx_file import require_converter, write_onnx
from tfticket.export.served.function import prepare
from tfticket.export.served.samples import samples_for


def openvino(
    model: keras.Model,
    path: str | os.PathLike,
    inputs: Any = None,
    tolerance: float = 1e-4,
    overwrite: bool = False,
    deterministic: bool = True,
) -> Exported:
    """Exports a model as a folder with `model.xml` and `model.bin`, run by OpenVINO.

    It works on the TensorFlow, JAX and PyTorch backends, and converts the ONNX file
    that Keras writes. Keras's own `model.export(format="openvino")` fails on JAX and
    for recurrent layers on TensorFlow, and leaves outputs without names. Needs `pip
    install 'tfticket[onnx,openvino]'`, and `jax2onnx` on JAX, `onnxscript` on PyTorch.
    Weights are float32, and pruned ones are stored as zeros.

    The check computes in float32. By default OpenVINO computes in bfloat16 on
    processors that support it, and then differs by some thousandths of the largest
    output.

    Args:
        model: A built Keras model. A wrapped model is stripped first.
        path: The folder to write, which appears whole or not at all.
        inputs: Samples to check the export on, as for `saved_model`.
        tolerance: Largest difference allowed between the outputs of the file and of
            the model, relative to the largest absolute value of the output.
        overwrite: Whether an existing folder may be replaced.
        deterministic: Whether two calls of the file have to agree, within a process and
            between two. A layer that adds noise or keeps a state is refused unless this
            is False. Then `notes` say how far two calls are apart, and only the first
            is compared with the model.

    Returns:
        `Exported`: path, size, and the largest difference from the model.

    Raises:
        FileExistsError: If the folder exists and `overwrite` is False.
        ImportError: If openvino, or a package that the backend needs for the
            conversion, is not installed.
        RuntimeError: If Keras has no exporter for the backend.
        ExportError: If the model can't be converted, or the outputs of the written
            files differ from the model's. No file is left behind.
        TypeError: If `model` is not a Keras model, or an argument has the wrong type.
        ValueError: If the model is not built or has NaN weights, or if an argument does
            not fit.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> try:
    ...     name = tfticket.export.openvino(model, folder / "openvino").path.name
    ... except ImportError:  # the extras are not installed
    ...     name = "openvino"
    >>> name
    'openvino'
    """
    path = check_path("path", path)
    check_number("tolerance", tolerance, 0)
    check_bool("overwrite", overwrite)
    check_bool("deterministic", deterministic)
    recover_folders(path.parent)
    if path.exists() and not overwrite:
        raise FileExistsError(f"{path} exists. Pass overwrite=True to replace it.")
    prepared = prepare(model, any_backend=True)
    samples = samples_for(inputs, prepared)
    rule = Rule(tolerance, deterministic=deterministic)
    try:
        import openvino as ov
    except ImportError as error:
        raise ImportError(
            "OpenVINO export needs openvino. Install it with: "
            "pip install 'tfticket[onnx,openvino]'"
        ) from error
    opset = require_converter(None)
    with disk_errors(path), temporary_folder(path.parent) as folder:
        between, written = folder / "model.onnx", folder / "new"
        write_onnx(prepared, between, opset)
        written.mkdir()
        try:
            converted = ov.convert_model(between)
            ov.save_model(converted, written / "model.xml", compress_to_fp16=False)
        except Exception as error:  # OpenVINO's own classes are not public
            raise ExportError(
                f"OpenVINO can't convert model '{model.name}'. It says: "
                f"{str(error).strip()[:500]}"
            ) from error
        exported = _checked(written, path, prepared, samples, rule)
        put_folder(written, path, overwrite)
    return exported


def _checked(written, target, prepared, samples, rule):
    label = f"The OpenVINO model written for {target}"
    try:
        starts = processes.starts("run_openvino", samples.arrays, written / "model.xml")
    except processes.RunError as failed:
        raise not_run(label, failed) from failed
    # Besides its own name, an output of OpenVINO keeps those that it had during the
    # conversion.
    own = [
        [
            {name: call[name] for name in prepared.outputs if name in call}
            for call in start
        ]
        for start in starts
    ]
    notes = prepared.state_lost(samples.arrays, rule.deterministic)
    expected, rule = answers(prepared.predict, samples.arrays, rule)
    found = judge(label, expected, own, rule)
    return Exported(
        target,
        size_of(written),
        found.error,
        found.agreement,
        notes=(*prepared.notes, *notes, *found.notes),
        compared=samples.text,
    )
