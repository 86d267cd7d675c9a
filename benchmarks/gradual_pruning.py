"""Times a whole `fit` with `GradualPruning` against dense, and weighs checkpoints.

    python benchmarks/gradual_pruning.py
    python benchmarks/gradual_pruning.py --network=lenet_300_100 --repeats=21

A fit of the pruned model takes it from 0 to 80 % by `PolynomialDecay`, a pruning every
100 steps (every 5 on Conv-4, whose fit is short), so scoring, selection and setting the
masks are all in. Masks and the optimizer's step are set back before each. Dense and
pruned fits take turns in one process, in an order that the next repeat reverses; a
ratio is taken within each repeat, and the table gives the median and the quartiles.
Checkpoints are what `save` and `save_weights` write of both, Adam's slots included in
the first.
"""

import os
import pathlib
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import tfticket

MOST_TIME, MOST_BYTES = 1.05, 1.3
# Input shape, filters of convolution pairs, hidden units, steps, frequency, settings.
NETWORKS = {
    "lenet_300_100": (
        (28, 28, 1),
        [],
        [300, 100],
        2000,
        100,
        {"jit_compile": True, "steps_per_execution": 50},
    ),
    "conv_4": (
        (32, 32, 3),
        [64, 128],
        [256, 256],
        40,
        5,
        {"jit_compile": False, "steps_per_execution": 5},
    ),
}

_NETWORK = flags.DEFINE_enum("network", "all", ["all", *NETWORKS], "What to train.")
_REPEATS = flags.DEFINE_integer("repeats", 11, "Fits of each kind.", 1)


def build(shape, filters, hidden):
    layers = [keras.Input(shape)]
    for count in filters:
        for _ in range(2):
            convolution = keras.layers.Conv2D(count, 3, padding="same")
            layers += [convolution, keras.layers.ReLU()]
        layers.append(keras.layers.MaxPooling2D())
    layers.append(keras.layers.Flatten())
    layers += [keras.layers.Dense(units, activation="relu") for units in hidden]
    return keras.Sequential([*layers, keras.layers.Dense(10)])


def batches(shape):
    random = np.random.default_rng(0)
    x = random.standard_normal((3000, *shape), np.float32)
    data = tf.data.Dataset.from_tensor_slices((x, random.integers(10, size=3000)))
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.batch(60).cache().repeat().prefetch(2).with_options(options)


def compiled(model, settings):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(), loss, metrics=["accuracy"], **settings)
    return model


def checkpoint_bytes(model, suffix):
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / f"model{suffix}"
        (model.save if suffix == ".keras" else model.save_weights)(path)
        return path.stat().st_size


def measure(name, repeats):
    shape, filters, hidden, steps, frequency, settings = NETWORKS[name]
    data = batches(shape)
    dense = compiled(build(shape, filters, hidden), settings)
    pruned = compiled(tfticket.prune(build(shape, filters, hidden)), settings)
    everything = {k: np.ones_like(m) for k, m in tfticket.get_masks(pruned).items()}
    schedule = tfticket.schedules.PolynomialDecay(
        0.0, 0.8, 0, steps // 2, frequency=frequency
    )

    def fit(model, callbacks):
        start = time.perf_counter()
        model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
        return time.perf_counter() - start

    def pruned_fit():
        tfticket.set_masks(pruned, everything)
        pruned.optimizer.iterations.assign(0)
        time_s = fit(pruned, [tfticket.GradualPruning(schedule)])
        masks = tfticket.get_masks(pruned).values()
        density = sum(m.sum() for m in masks) / sum(m.size for m in masks)
        if abs(density - 0.2) > 0.01:
            raise RuntimeError(f"It trained, but to a density of {density:.3f}.")
        return time_s

    fits = {"dense": lambda: fit(dense, []), "gradual": pruned_fit}
    for run in fits.values():
        run()
    times = {kind: [] for kind in fits}
    for repeat in range(repeats):
        for kind in list(fits)[:: -1 if repeat % 2 else 1]:
            times[kind].append(fits[kind]())
    ratios = np.divide(times["gradual"], times["dense"])
    low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
    print(f"\n{name}: {steps} steps, a pruning every {frequency} for the first half")
    for kind, seconds in times.items():
        print(f"  {kind:10}{np.median(seconds) * 1e3 / steps:8.3f} ms/step")
    verdict("a whole fit", middle, MOST_TIME, f" ({low:.3f} to {high:.3f})")
    for suffix in (".keras", ".weights.h5"):
        sizes = [checkpoint_bytes(model, suffix) for model in (dense, pruned)]
        verdict(f"{suffix}, {sizes[1]:,} bytes", sizes[1] / sizes[0], MOST_BYTES)


def verdict(what, ratio, most, spread=""):
    outcome = "pass" if ratio <= most else "FAIL"
    print(f"  {outcome}: {what}: {ratio:.3f}{spread} of dense, at most {most}")


def main(_):
    for name in NETWORKS if _NETWORK.value == "all" else [_NETWORK.value]:
        measure(name, _REPEATS.value)


if __name__ == "__main__":
    app.run(main)
