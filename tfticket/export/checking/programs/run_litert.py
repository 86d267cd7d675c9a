"""Runs `.tflite` files with or without XNNPACK, and times them: a program.

    python run_litert.py INPUTS.npz OUTPUTS.npz xnnpack|builtin ROUNDS MODEL...

Inputs are named "inputs/name". Outputs are stored as "0/name", "1/name", by the
models' order, those of a second call as "again/0/name", and the seconds of each round
as "0/", "1/". Every round runs all models in turn, so that other load on the machine
affects all of them. This process can import neither keras nor tfticket, so a file that
needs either fails here and not in production.
"""

import sys
import time

import numpy as np

SIGNATURE = "serving_default"


def runner(path, runtime):
    try:
        from ai_edge_litert import interpreter as lib
    except ModuleNotFoundError:
        from tensorflow.lite.python import interpreter as lib

    plain = lib.OpResolverType.BUILTIN_WITHOUT_DEFAULT_DELEGATES
    kind = lib.OpResolverType.AUTO if runtime == "xnnpack" else plain
    interpreter = lib.Interpreter(
        path, experimental_op_resolver_type=kind, num_threads=1
    )
    return interpreter.get_signature_runner(SIGNATURE)


def main(given, results, runtime, rounds, *models):
    with np.load(given) as file:
        inputs = {key.split("/", 1)[1]: file[key] for key in file}
    runners = [runner(path, runtime) for path in models]
    stored, seconds = {}, [[] for _ in runners]
    for i, run in enumerate(runners):
        for before in ("", "again/"):
            outputs = run(**inputs).items()
            stored |= {f"{before}{i}/{name}": value for name, value in outputs}
    for _ in range(int(rounds)):
        for run, times in zip(runners, seconds, strict=True):
            begin = time.perf_counter()
            run(**inputs)
            times.append(time.perf_counter() - begin)
    stored |= {f"{i}/": np.array(times) for i, times in enumerate(seconds)}
    np.savez(results, **stored)


if __name__ == "__main__":
    sys.path.pop(0)  # this folder, whose modules are not to be found by name
    for package in ("keras", "tf_keras", "tfticket"):
        sys.modules[package] = None  # type: ignore[assignment]
    main(*sys.argv[1:])
