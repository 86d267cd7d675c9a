"""Loads a SavedModel through TensorFlow's C API and runs it, by ctypes.

`TF_LoadSessionFromSavedModel` is the loader of TensorFlow Serving: a graph and a
session, initialized by the SavedModel's own operations, with no Python in it.

    python run_c_api.py INPUTS.npz OUTPUTS.npz LIBRARY MODEL NAMES.json

where NAMES.json has {"inputs": {name: tensor}, "outputs": {name: tensor}}. Results are
"c_api/name", and "again/name" for a second call.
"""

import ctypes
import json
import sys

# NumPy comes before TensorFlow's library: loaded after it, its random module can crash.
import numpy as np
import numpy.random

_POINTER = ctypes.c_void_p
DTYPES = {
    1: "float32",
    2: "float64",
    3: "int32",
    4: "uint8",
    5: "int16",
    6: "int8",
    9: "int64",
    10: "bool",
    14: "bfloat16",
    17: "uint16",
    19: "float16",
    22: "uint32",
    23: "uint64",
}
_NUMBERS = {name: number for number, name in DTYPES.items()}


class _Output(ctypes.Structure):
    _fields_ = (("operation", _POINTER), ("index", ctypes.c_int))


class Session:
    """A loaded SavedModel.

    Args:
        library: Path of TensorFlow's C++ library, which holds the C API.
        model: Folder of the SavedModel.
    """

    def __init__(self, library, model):
        self._lib = lib = ctypes.CDLL(library)
        for name in (
            "TF_NewStatus",
            "TF_NewGraph",
            "TF_NewSessionOptions",
            "TF_LoadSessionFromSavedModel",
            "TF_GraphOperationByName",
            "TF_AllocateTensor",
            "TF_TensorData",
        ):
            getattr(lib, name).restype = _POINTER
        lib.TF_Message.restype = ctypes.c_char_p
        for name in ("TF_Dim", "TF_TensorByteSize"):
            getattr(lib, name).restype = ctypes.c_int64
        self._status = _POINTER(lib.TF_NewStatus())
        self._graph = _POINTER(lib.TF_NewGraph())
        tags = (ctypes.c_char_p * 1)(b"serve")
        self._session = _POINTER(
            lib.TF_LoadSessionFromSavedModel(
                _POINTER(lib.TF_NewSessionOptions()),
                None,
                model.encode(),
                tags,
                1,
                self._graph,
                None,
                self._status,
            )
        )
        self._check()

    def run(self, feeds, fetches):
        """Runs the graph: arrays by name of a tensor ("x:0") to a list of arrays."""
        lib, count = self._lib, len(fetches)
        inputs = (_Output * len(feeds))(*[self._output(name) for name in feeds])
        outputs = (_Output * count)(*[self._output(name) for name in fetches])
        given = (_POINTER * len(feeds))(*[self._tensor(a) for a in feeds.values()])
        got = (_POINTER * count)()
        lib.TF_SessionRun(
            self._session,
            None,
            inputs,
            given,
            len(feeds),
            outputs,
            got,
            count,
            None,
            0,
            None,
            self._status,
        )
        self._check()
        arrays = [self._array(_POINTER(tensor)) for tensor in got]
        for tensor in [*given, *got]:
            lib.TF_DeleteTensor(_POINTER(tensor))
        return arrays

    def _check(self):
        if self._lib.TF_GetCode(self._status):
            raise RuntimeError(self._lib.TF_Message(self._status).decode())

    def _output(self, name):
        operation, index = name.rsplit(":", 1)
        found = self._lib.TF_GraphOperationByName(self._graph, operation.encode())
        if not found:
            raise RuntimeError(f"The loaded graph has no operation '{operation}'.")
        return _Output(found, int(index))

    def _tensor(self, array):
        array = np.ascontiguousarray(array)
        shape = (ctypes.c_int64 * array.ndim)(*array.shape)
        tensor = self._lib.TF_AllocateTensor(
            _NUMBERS[array.dtype.name],
            shape,
            array.ndim,
            ctypes.c_size_t(array.nbytes),
        )
        data = self._lib.TF_TensorData(_POINTER(tensor))
        ctypes.memmove(data, array.tobytes(), array.nbytes)
        return tensor

    def _array(self, tensor):
        lib = self._lib
        name = DTYPES[lib.TF_TensorType(tensor)]
        shape = [lib.TF_Dim(tensor, axis) for axis in range(lib.TF_NumDims(tensor))]
        content = ctypes.string_at(
            lib.TF_TensorData(tensor), lib.TF_TensorByteSize(tensor)
        )
        if name == "bfloat16":  # the upper half of a float32
            high = np.frombuffer(content, np.uint16).astype(np.uint32) << 16
            return high.view(np.float32).reshape(shape)
        return np.frombuffer(content, name).reshape(shape)


def main(inputs, outputs, library, model, names):
    with open(names) as file:
        tensors = json.load(file)
    with np.load(inputs) as file:
        feeds = {tensors["inputs"][key.split("/", 1)[1]]: file[key] for key in file}
    session, results = Session(library, model), {}
    for call in ("c_api", "again"):
        arrays = session.run(feeds, list(tensors["outputs"].values()))
        names = [f"{call}/{name}" for name in tensors["outputs"]]
        results |= dict(zip(names, arrays, strict=True))
    np.savez(outputs, **results)


if __name__ == "__main__":
    main(*sys.argv[1:])
