"""Loads a SavedModel as a server would, and runs it: a program, not a module.

    python run_saved_model.py INPUTS.npz OUTPUTS.npz MODEL

Neither keras nor tfticket can be imported in it, so a model that needs either fails
here and not in production. Inputs are named "inputs/name" and results
"signature/output". Every signature runs, and `serving_default` runs once more through
TensorFlow's C API, as "c_api/output"; "latency_ms" is of one sample.
"""

import glob
import os
import sys
import time

import numpy as np

SIGNATURE = "serving_default"


def run(path, inputs):
    # Before TensorFlow's library is loaded; from this folder, which goes then.
    import run_c_api  # type: ignore[import-not-found]

    hide_the_sources()
    import tensorflow as tf
    from tensorflow.core.protobuf import saved_model_pb2

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
    one = {name: value[:1] if value.ndim else value for name, value in tensors.items()}
    results["latency_ms"] = latency(lambda: serve(**one))
    library = glob.glob(os.path.join(os.path.dirname(tf.__file__), "libtensorflow_cc*"))
    content = saved_model_pb2.SavedModel()
    with open(os.path.join(path, "saved_model.pb"), "rb") as file:
        content.ParseFromString(file.read())
    signature = content.meta_graphs[0].signature_def[SIGNATURE]
    infos = [*signature.inputs.values(), *signature.outputs.values()]
    if not library or any(info.dtype not in run_c_api.DTYPES for info in infos):
        return results  # TensorFlow's libraries are others on some systems
    feeds = {signature.inputs[name].name: value for name, value in inputs.items()}
    names = [info.name for info in signature.outputs.values()]
    arrays = run_c_api.Session(sorted(library)[0], path).run(feeds, names)
    for name, value in zip(signature.outputs, arrays, strict=True):
        results[f"c_api/{name}"] = value
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


def hide_the_sources():
    """Makes imports of keras, tfticket and this folder's modules by name fail."""
    sys.path.pop(0)
    for package in ("keras", "tf_keras", "tfticket"):
        sys.modules[package] = None


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
    main(*sys.argv[1:])
