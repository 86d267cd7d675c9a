"""Reads a `.tflite` file: its signature, and how its weights are stored."""

import dataclasses
import struct
from typing import NamedTuple

from tensorflow.lite.python import schema_py_generated as schema

_TYPES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.INT8: "int8",
}
_OTHER_TYPES = {
    schema.TensorType.INT32: "int32",
    schema.TensorType.INT64: "int64",
    schema.TensorType.UINT8: "uint8",
    schema.TensorType.BOOL: "bool",
}
_NAMES = {
    value: name
    for name, value in vars(schema.BuiltinOperator).items()
    if isinstance(value, int)
}
# Inputs, outputs, or axes.
_MOST = 1000
# Operations that only unpack a weight for the operation that uses it.
_UNPACK = (schema.BuiltinOperator.DENSIFY, schema.BuiltinOperator.DEQUANTIZE)


@dataclasses.dataclass(frozen=True)
class EncodedWeight:
    """A weight that is stored sparse.

    Args:
        name: The tensor's name in the file.
        operation: The operation that uses it, such as "FULLY_CONNECTED" or "CONV_2D".
        type: "float32", "float16" or "int8".
        block: Length of the blocks along the last axis; 1 is unstructured, which the
            file unpacks before use.
        width: Length of the last axis: the number of inputs per output.
    """

    name: str
    operation: str
    type: str
    block: int
    width: int

    @property
    def form(self) -> str:
        """ "unstructured", "1x4" or "1x16"."""
        return "unstructured" if self.block == 1 else f"1x{self.block}"


class Encoding(NamedTuple):
    """The weights of a file.

    Args:
        sparse: The weights that are stored sparse.
        operations: Names of all operations in the file, in order.
    """

    sparse: list[EncodedWeight]
    operations: list[str]


class Shape(NamedTuple):
    """An input or output of a file.

    Args:
        shape: Lengths of its axes, -1 for an open one.
        dtype: NumPy's name of the dtype, such as "float32".
    """

    shape: tuple[int, ...]
    dtype: str


class Signature(NamedTuple):
    """Inputs and outputs of a file by name, in the file's order."""

    inputs: dict[str, Shape]
    outputs: dict[str, Shape]


def signature(content: bytes) -> Signature:
    """Reads inputs and outputs of the first signature of a `.tflite` file.

    Raises:
        ValueError: If the file has no signature, or is not a `.tflite` file.

    Example:

    >>> model = keras.Sequential([keras.Input((4,), name="x"), keras.layers.Dense(2)])
    >>> exported = tfticket.export.litert(model, folder / "named.tflite")
    >>> content = exported.path.read_bytes()
    >>> tfticket.export.tflite.reader.signature(content).inputs
    {'x': Shape(shape=(-1, 4), dtype='float32')}
    """
    if content[4:8] != b"TFL3":
        raise ValueError("It is not a .tflite file: the mark TFL3 is missing.")
    try:
        return _signature(schema.Model.GetRootAs(content))
    # The errors that the generated reader raises for a wrong offset.
    except (struct.error, TypeError, AttributeError, LookupError) as error:
        raise ValueError(f"It is truncated or damaged: {error}") from error


def _signature(model):
    if not model.SignatureDefsLength():
        raise ValueError("It has no signature. tfticket.export.litert writes one.")
    found = model.SignatureDefs(0)
    _require_few(found.InputsLength(), found.OutputsLength())
    graph = model.Subgraphs(found.SubgraphIndex())
    return Signature(
        *(
            {
                entry.Name().decode(): _shape(graph.Tensors(entry.TensorIndex()))
                for entry in map(of, range(count))
            }
            for of, count in (
                (found.Inputs, found.InputsLength()),
                (found.Outputs, found.OutputsLength()),
            )
        )
    )


def _require_few(*counts):
    # A changed byte in a count would let us read billions of entries.
    if max(counts) > _MOST:
        raise ValueError(f"It is damaged: it claims {max(counts)} entries.")


def _shape(tensor):
    # The second exists only if an axis is open.
    open_shape = tensor.ShapeSignatureLength()
    _require_few(open_shape, tensor.ShapeLength())
    axes = tensor.ShapeSignature if open_shape else tensor.Shape
    shape = tuple(int(axes(i)) for i in range(open_shape or tensor.ShapeLength()))
    kind = tensor.Type()
    name = _TYPES.get(kind) or _OTHER_TYPES.get(kind, f"type {kind}")
    return Shape(shape, name)


def read(content: bytes) -> Encoding:
    """Reads which weights of a `.tflite` file are stored sparse, and how.

    Nothing is copied or run: it reads the file's tables in place.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> exported = tfticket.export.litert(model, folder / "model.tflite")
    >>> tfticket.export.tflite.reader.read(exported.path.read_bytes()).operations
    ['FULLY_CONNECTED']
    """
    model = schema.Model.GetRootAs(content)
    codes = [_code(model.OperatorCodes(i)) for i in range(model.OperatorCodesLength())]
    sparse, operations = [], []
    for number in range(model.SubgraphsLength()):
        graph = model.Subgraphs(number)
        readers: dict[int, tuple] = {}  # tensor -> (operation, its output)
        for i in range(graph.OperatorsLength()):
            operator = graph.Operators(i)
            code = codes[operator.OpcodeIndex()]
            operations.append(_NAMES.get(code, str(code)))
            for j in range(operator.InputsLength()):
                readers.setdefault(operator.Inputs(j), (code, operator.Outputs(0)))
        for i in range(graph.TensorsLength()):
            tensor = graph.Tensors(i)
            if tensor.Sparsity() is not None:
                sparse.append(_weight(tensor, _user(i, readers)))
    return Encoding(sparse, operations)


def _code(operator_code):
    # Codes up to 126 are in the old field of one byte, later ones in the new.
    return max(operator_code.BuiltinCode(), operator_code.DeprecatedBuiltinCode())


def _user(tensor, readers):
    """The operation that uses a tensor, after the operations that unpack it."""
    code, output = readers.get(tensor, (None, None))
    while code in _UNPACK:
        code, output = readers.get(output, (None, None))
    return _NAMES.get(code, "nothing")


def _weight(tensor, operation):
    sparsity = tensor.Sparsity()
    block = 1
    for i in range(sparsity.BlockMapLength()):
        # Dimensions of blocks come after those of the tensor.
        block *= sparsity.DimMetadata(tensor.ShapeLength() + i).DenseSize()
    return EncodedWeight(
        tensor.Name().decode(),
        operation,
        _TYPES.get(tensor.Type(), str(tensor.Type())),
        block,
        tensor.Shape(tensor.ShapeLength() - 1),
    )
