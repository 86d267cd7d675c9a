"""ONNX files by Keras's own exporter, from any backend, with tfticket's names."""

import importlib
import pathlib
import warnings

import keras

from tfticket.export.checking.exported import ExportError
from tfticket.export.served.function import Prepared

# The packages that Keras converts with, and how to install each.
_CONVERTERS = {
    "tensorflow": ({"tf2onnx": "", "onnx": ""}, 17),
    "jax": ({"jax2onnx": "jax2onnx", "onnx": ""}, 21),
    "torch": ({"onnxscript": "onnxscript", "onnx": ""}, 17),
}

# jax2onnx writes operations in the form that this version introduced.
_LEAST = {"jax": 18}


def require_converter(opset: int | None) -> int:
    """Finds the version of ONNX's operations to write.

    Args:
        opset: The requested version; `None` for the backend's usual one.

    Raises:
        ImportError: If a package that this backend needs for the conversion is not
            installed.
        RuntimeError: If there is no converter for this backend.
        ValueError: If the backend's converter can't write that version.
    """
    backend = keras.backend.backend()
    if backend not in _CONVERTERS:
        raise RuntimeError(
            f"Keras has no ONNX exporter on the '{backend}' backend. Save the model, "
            "and export it in a process with KERAS_BACKEND=tensorflow."
        )
    packages, usual = _CONVERTERS[backend]
    for package, also in packages.items():
        try:
            importlib.import_module(package)
        except ImportError as error:
            raise ImportError(
                f"ONNX export from the '{backend}' backend needs {package}. Install it "
                f"with: pip install 'tfticket[onnx]' {also}".rstrip()
            ) from error
    least = _LEAST.get(backend, 13)
    if opset is not None and opset < least:
        raise ValueError(
            f"opset={opset} can't be written from the '{backend}' backend. Pass opset="
            f"{least} or more."
        )
    return usual if opset is None else opset


def write_onnx(prepared: Prepared, path: pathlib.Path, opset: int) -> None:
    """Writes the model; its inputs and outputs have the same names as in every export.

    Args:
        prepared: The model.
        path: The file to write.
        opset: Version of ONNX's operations.

    Raises:
        ExportError: If the model can't be converted.
    """
    import onnx

    model = prepared.model
    flat = keras.Model(list(model.inputs), list(model.outputs))
    specs = [
        keras.InputSpec(dtype=spec.dtype.name, shape=tuple(spec.shape), name=name)
        for name, spec in prepared.signature.items()
    ]
    try:
        with warnings.catch_warnings():
            # The exporters warn about what they trace; the file is compared later.
            warnings.simplefilter("ignore")
            flat.export(
                str(path),
                format="onnx",
                verbose=False,
                input_signature=[specs],
                opset_version=opset,
            )
        proto = onnx.load(str(path))
        _rename(proto.graph, list(prepared.signature), prepared.outputs)
        onnx.checker.check_model(proto)
    except Exception as error:  # the converters raise many kinds of errors
        raise ExportError(
            f"Keras can't convert model '{model.name}' to ONNX opset {opset} on the "
            f"'{keras.backend.backend()}' backend. It says: {str(error).strip()[:500]}"
        ) from error
    path.write_bytes(proto.SerializeToString())


def _rename(graph, inputs, outputs):
    """Gives inputs and outputs their names, by position.

    It adds operations that do nothing and that runtimes remove, because the bodies of
    loops may use a name too.
    """
    from onnx import helper

    constants = {constant.name for constant in graph.initializer}
    given = [value for value in graph.input if value.name not in constants]
    before, after = [], []
    for value, name in zip(given, inputs, strict=True):
        if value.name != name:
            before.append(helper.make_node("Identity", [name], [value.name]))
            value.name = name
    for value, name in zip(graph.output, outputs, strict=True):
        if value.name != name:
            after.append(helper.make_node("Identity", [value.name], [name]))
            value.name = name
    nodes = [*before, *graph.node, *after]
    del graph.node[:]
    graph.node.extend(nodes)
