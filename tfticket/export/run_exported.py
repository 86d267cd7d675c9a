"""Loads an exported model as a server would, and runs it: a program, not a module.

    python run_exported.py saved_model|litert MODEL INPUTS.npz OUTPUTS.npz

Neither keras nor tfticket can be imported in it, so a model that needs either
fails here and not in production.
"""

import sys

import numpy as np

SIGNATURE = "serving_default"


def run_saved_model(path, inputs):
    import tensorflow as tf

    serve = tf.saved_model.load(path).signatures[SIGNATURE]
    outputs = serve(**{name: tf.constant(value) for name, value in inputs.items()})
    return {name: value.numpy() for name, value in outputs.items()}


def run_litert(path, inputs):
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ModuleNotFoundError:
        from tensorflow.lite.python.interpreter import Interpreter

    return Interpreter(path).get_signature_runner(SIGNATURE)(**inputs)


def main(kind, model, inputs, outputs):
    sys.path.pop(0)  # this folder, whose modules are not to be found by name
    for package in ("keras", "tf_keras", "tfticket"):
        sys.modules[package] = None  # makes the import fail
    run = {"saved_model": run_saved_model, "litert": run_litert}[kind]
    with np.load(inputs) as file:
        results = run(model, dict(file))
    # NumPy's files know no bfloat16.
    known = {
        name: value.astype(np.float32) if value.dtype.name == "bfloat16" else value
        for name, value in results.items()
    }
    np.savez(outputs, **known)


if __name__ == "__main__":
    main(*sys.argv[1:])
