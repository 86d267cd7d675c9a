"""Exported files as functions, timed in turns."""

import math
import pathlib
import time
from collections.abc import Callable

import numpy as np
import tensorflow as tf

from tfticket.export.served.function import SIGNATURE


def runner(path: pathlib.Path) -> Callable[[np.ndarray], np.ndarray]:
    """A function that maps a batch to the first output of a file with one input.

    Args:
        path: A SavedModel's version folder or a `.tflite` file, checked before.
    """
    if path.suffix != ".tflite":
        serve = tf.saved_model.load(str(path)).signatures[SIGNATURE]
        (name,) = serve.structured_input_signature[1]
        first = next(iter(serve.structured_outputs))
        return lambda x: serve(**{name: tf.constant(x)})[first].numpy()
    from ai_edge_litert.interpreter import Interpreter

    # An interpreter keeps the batch size of its last call, so each size has its own.
    runners = {}

    def run(x):
        if len(x) not in runners:
            runners[len(x)] = Interpreter(str(path)).get_signature_runner(SIGNATURE)
        signature = runners[len(x)]
        (name,) = signature.get_input_details()
        return next(iter(signature(**{name: x}).values()))

    return run


def timed(
    runs: dict[str, Callable], inputs: dict[str, np.ndarray], repeats: int
) -> dict[str, list[float]]:
    """Seconds per call of each function, measured in turns in alternating order.

    Args:
        runs: Maps a name to a function of one array.
        inputs: The only input, by its name.
        repeats: Number of calls per function.
    """
    (x,) = inputs.values()
    for run in runs.values():
        run(x)
    # Several short calls are timed together, because the clock is coarse.
    start = time.perf_counter()
    next(iter(runs.values()))(x)
    calls = math.ceil(2e-3 / (time.perf_counter() - start))
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats):
        for name in list(runs)[:: -1 if repeat % 2 else 1]:
            start = time.perf_counter()
            for _ in range(calls):
                runs[name](x)
            times[name].append((time.perf_counter() - start) / calls)
    return times
