"""How the weights lie in a `.tflite` file: their type, and which are sparse."""

import dataclasses
from typing import NamedTuple

from tensorflow.lite.python import schema_py_generated as schema

_TYPES = {
    schema.TensorType.FLOAT32: "float32",
    schema.TensorType.FLOAT16: "float16",
    schema.TensorType.INT8: "int8",
}
_NAMES = {
    value: name
    for name, value in vars(schema.BuiltinOperator).items()
    if isinstance(value, int)
}
# What only unpacks a weight for the operation that computes with it.
_UNPACK = (schema.BuiltinOperator.DENSIFY, schema.BuiltinOperator.DEQUANTIZE)


@dataclasses.dataclass(frozen=True)
class EncodedWeight:
    """A weight that is stored sparse.

    Args:
        name: The tensor's name in the file.
        operation: What computes with it: "FULLY_CONNECTED", "CONV_2D".
        type: "float32", "float16" or "int8".
        block: Length of the blocks along the last axis; 1 is unstructured, which the
            file unpacks before use.
        width: Length of the last axis, the inputs of an output.
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
        sparse: Those stored sparse.
        operations: Names of all operations in it, in order.
    """

    sparse: list[EncodedWeight]
    operations: list[str]


def read(content: bytes) -> Encoding:
    """Reads which weights of a `.tflite` file are stored sparse, and how.

    Nothing is copied or run: the file's tables are looked up where they are.

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
    """The operation that computes with a tensor, behind what unpacks it."""
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
