"""Runs an `.onnx` file by ONNX Runtime, on the CPU: a program, not a module.

    python run_onnx.py INPUTS.npz OUTPUTS.npz MODEL

Names are "inputs/name" and "outputs/name"; "again/name" comes from a second call.
"""

import sys

import numpy as np


def main(inputs, outputs, model):
    import onnxruntime

    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    with np.load(inputs) as file:
        given = {key.split("/", 1)[1]: file[key] for key in file}
    names = [output.name for output in session.get_outputs()]
    results = {}
    for call in ("outputs", "again"):
        for name, value in zip(names, session.run(names, given), strict=True):
            results[f"{call}/{name}"] = value
    np.savez(outputs, **results)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules are not to be found by name
    main(*sys.argv[1:])
