"""Serves the SavedModel in its folder: `model.py` for Triton's Python backend.

`tfticket.export.triton_repository` copies this file unchanged; it imports neither keras
nor tfticket. Triton runs it in a separate Python process, which has to find TensorFlow:
set PYTHONPATH for the server if TensorFlow is not in that Python's site-packages.
"""

import os
import pathlib
import sys

FOLDER = "model.savedmodel"

# The Python backend of nvidia-pytriton runs an isolated Python, which does not look.
for _path in reversed(os.environ.get("PYTHONPATH", "").split(os.pathsep)):
    if _path and _path not in sys.path:
        sys.path.insert(0, _path)


class TritonPythonModel:
    """One instance of a version of the model, which Triton creates."""

    def initialize(self, args):
        """Loads the SavedModel, and calls it once so that no request waits for tracing.

        Args:
            args: Triton's arguments: the folder of the model and its version, among
                others.
        """
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
        # Imported here, because Triton also imports this file only to inspect it.
        import numpy as np
        import tensorflow as tf

        self._tf, self._numpy = tf, np
        folder = pathlib.Path(args["model_repository"], args["model_version"], FOLDER)
        if not folder.is_dir():
            raise FileNotFoundError(f"{folder} is missing: copy the version whole.")
        self._loaded = tf.saved_model.load(str(folder))
        self._serve = self._loaded.signatures["serving_default"]
        specs = self._serve.structured_input_signature[1]
        self._inputs = list(specs)
        self._outputs = list(self._serve.structured_outputs)
        shapes = {
            name: [1 if size is None else size for size in spec.shape]
            for name, spec in specs.items()
        }
        self._serve(
            **{name: tf.zeros(shapes[name], specs[name].dtype) for name in specs}
        )

    def execute(self, requests):
        """Answers requests, each by itself.

        Args:
            requests: Triton's requests, with one batch each.
        """
        import triton_python_backend_utils as triton

        return [self._answer(request, triton) for request in requests]

    def _answer(self, request, triton):
        # By DLPack both ways: `as_numpy` and `Tensor(name, array)` of a backend that
        # was built with NumPy 1 give zeros under NumPy 2, without an error. And a copy
        # of what comes, which lies at any address, where TensorFlow's must be aligned.
        tf, np = self._tf, self._numpy
        try:
            given = {}
            for name in self._inputs:
                tensor = triton.get_input_tensor_by_name(request, name)
                given[name] = tf.constant(np.from_dlpack(tensor).copy())
            found = self._serve(**given)
        except Exception as error:
            said = triton.TritonError(f"{type(error).__name__}: {error}")
            return triton.InferenceResponse(output_tensors=[], error=said)
        tensors = [
            triton.Tensor.from_dlpack(
                name, tf.experimental.dlpack.to_dlpack(found[name])
            )
            for name in self._outputs
        ]
        return triton.InferenceResponse(output_tensors=tensors)
