"""Loads a SavedModel as a server would, and runs it: a program, not a module.

    python run_saved_model.py INPUTS.npz OUTPUTS.npz MODEL

Neither keras nor tfticket can be imported in it, so a model that needs either fails
here and not in production. Inputs are named "inputs/name" and results
"signature/output". Every signature runs, and `serving_default` a second time, as
"again/output"; "latency_ms" is of one sample.
"""

import sys
import time

import numpy as np

SIGNATURE = "serving_default"


def run(path, inputs):
    import tensorflow as tf

    loaded = tf.saved_model.load(path)
    tensors = {name: tf.constant(value) for name, value in inputs.items()}
    results = {}
    for signature, serve in loaded.signatures.items():
        for name, value in serve(**tensors).items():
            value = value.numpy()
            # NumPy's files hold text of one length, and no objects.
            text = value.dtype.kind in "OS"
            results[f"{signature}/{name}"] = value.astype(bytes) if text else value
    serve = loaded.signatures[SIGNATURE]
    for name, value in serve(**tensors).items():
        results[f"again/{name}"] = value.numpy()
    specs = serve.structured_input_signature[1]
    one = {  # where a batch need not be of one size
        name: value[:1] if value.ndim and specs[name].shape[0] is None else value
        for name, value in tensors.items()
    }
    results["latency_ms"] = latency(lambda: serve(**one))
    return results


def latency(run, most_seconds=0.2, most_runs=30):
    """Median milliseconds of a call, after one that may still set things up."""
    run()
    times, end = [], time.perf_counter() + most_seconds
    while not times or (len(times) < most_runs and time.perf_counter() < end):
        begin = time.perf_counter()
        run()
        times.append(time.perf_counter() - begin)
    return np.float64(1e3 * np.median(times))


def main(inputs, outputs, model):
    with np.load(inputs) as file:
        results = run(model, {key.split("/", 1)[1]: file[key] for key in file})
    # NumPy's files know no bfloat16.
    known = {
        name: value.astype(np.float32) if value.dtype.name == "bfloat16" else value
        for name, value in results.items()
    }
    np.savez(outputs, **known)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules are not to be found by name
    for package in ("keras", "tf_keras", "tfticket"):
        sys.modules[package] = None  # type: ignore[assignment]
    main(*sys.argv[1:])
