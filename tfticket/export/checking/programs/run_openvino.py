"""Runs an OpenVINO model on the CPU, in float32: a program, not a module.

    python run_openvino.py INPUTS.npz OUTPUTS.npz MODEL.xml

Names are "inputs/name" and "outputs/name"; "again/name" comes from a second call.
"""

import sys

import numpy as np


def main(inputs, outputs, model):
    import openvino

    # Some processors would compute in bfloat16, which would be compared with float32.
    hints = {"INFERENCE_PRECISION_HINT": "f32"}
    compiled = openvino.Core().compile_model(model, "CPU", hints)
    with np.load(inputs) as file:
        given = {key.split("/", 1)[1]: file[key] for key in file}
    named = {}
    for call in ("outputs", "again"):
        results = compiled(given)
        for output in compiled.outputs:
            # Operations that do nothing leave several names for one output.
            for name in output.get_names():
                # This copies, because the next call writes to the same memory.
                named[f"{call}/{name}"] = np.array(results[output])
    np.savez(outputs, **named)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules are not to be found by name
    main(*sys.argv[1:])
