"""What benchmarks share: contenders that take turns, batches, a process for each."""

import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from absl import flags

QUARTILES = [0.25, 0.5, 0.75]
BATCHES, CLASSES = 20, 10

# What is timed, and how many steps it takes.
Contender = tuple[Callable[[], Any], int]


def measure(
    contenders: Mapping[str, Contender], repeats: int
) -> dict[str, list[float]]:
    """Milliseconds a step of each contender, one a repeat, after two runs to warm up.

    Every repeat takes them in the order that the one before reversed.
    """
    for run, _ in contenders.values():
        run()
        run()
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats):
        for name in list(contenders)[:: -1 if repeat % 2 else 1]:
            run, steps = contenders[name]
            start = time.perf_counter()
            run()
            times[name].append((time.perf_counter() - start) * 1e3 / steps)
    return times


def ratio_quartiles(
    times: Mapping[str, list[float]], name: str, base: str
) -> np.ndarray:
    """Quartiles of one contender's time to another's, taken within repeats."""
    return np.quantile(np.divide(times[name], times[base]), QUARTILES)


def random_batches(
    image_shape: tuple[int, int, int], batch_size: int
) -> Callable[[], Any]:
    """Endless ready batches in memory, by a function to call for each `fit`."""
    random = np.random.default_rng(0)
    images = random.standard_normal((BATCHES * batch_size, *image_shape), np.float32)
    labels = random.integers(CLASSES, size=len(images), dtype=np.int32)
    if os.environ.get("KERAS_BACKEND", "tensorflow") != "tensorflow":
        from keras import ops

        # On the device, where `fit` leaves them.
        split = [np.split(part, BATCHES) for part in (images, labels)]
        ready = [tuple(map(ops.convert_to_tensor, b)) for b in zip(*split, strict=True)]
        return lambda: (batch for batch in itertools.cycle(ready))
    import tensorflow as tf

    data = tf.data.Dataset.from_tensor_slices((images, labels))
    options = tf.data.Options()
    options.autotune.enabled = False  # which would wait for its thread at the end
    data = data.batch(batch_size).cache().repeat().prefetch(2).with_options(options)
    return lambda: data


def in_a_process(script: str, way: str, *given: flags.FlagHolder) -> dict[str, Any]:
    """What a script prints last, as JSON, where it goes one `--way` by itself."""
    command = [sys.executable, script, f"--way={way}"]
    command += [f"--{flag.name}={flag.value}" for flag in given]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{way} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.splitlines()[-1])
