"""Trains LeNet-300-100 on MNIST in every way to end sparse, and times RigL's updates.

    python benchmarks/dynamic.py --data_dir=DIR
    python benchmarks/dynamic.py --what=time
    python benchmarks/dynamic.py --what=page

Trainings have 12,000 steps of 60 images (Adam, 1.2e-3, cosine decay) with the densities
of ERK. One row per training is added to docs/results/dynamic.csv, and trainings that
are there already are left out. The last command writes docs/results/dynamic.md.
"""

import csv
import functools
import math
import os
import pathlib
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dynamic_page
import keras
import numpy as np
from absl import app, flags
from timing import random_batches

import tfticket
from tfticket import models
from tfticket.keras_models.names import named_weights
from tfticket.keras_models.variables import State
from tfticket.lottery.measures.widths import width_with
from tfticket.models import BATCH_SIZE

STEPS, FREQUENCY = 12_000, 100
END = int(0.75 * STEPS)
SPARSITIES = (0.98, 0.99, 0.995)
IMAGES = 240  # of each of RigL's gradients
PHASE, EXPLORATION = 1000, 1e-5  # of AC/DC, of Top-KAST
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
NETWORK, SHAPE, CLASSES = "lenet_300_100", (28, 28, 1), 10
WEIGHTS = 266_200

_WHAT = flags.DEFINE_enum("what", "train", ["train", "time", "page"], "What to do.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS has MNIST.")
_OUT = flags.DEFINE_string("out", "docs/results/dynamic.csv", "The table of trainings.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Trainings of each kind.", 1)
_SPARSITIES = flags.DEFINE_list(
    "sparsities", [*map(str, SPARSITIES)], "Sparsities to train to."
)
_METHODS = flags.DEFINE_list("methods", None, "Methods to train; all if left out.")
_TIMED = flags.DEFINE_integer("timed_steps", STEPS, "Steps of a timed fit.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 11, "Fits of each kind that are timed.", 1)


def lenet(seed, width=1.0):
    keras.utils.set_random_seed(seed)
    return models.build(NETWORK, SHAPE, CLASSES, width)


@functools.cache
def compiled(kind, width=1.0):
    """A network of a kind, compiled once for all trainings, and how it begins."""
    model = lenet(0, width)
    if kind != "plain":
        model = tfticket.prune(model, keep_dense=kind == "keeps dense")
    rate = models.LEARNING_RATES[NETWORK]
    schedule = keras.optimizers.schedules.CosineDecay(rate, STEPS)
    settings = models.compile_settings(model, STEPS)
    optimizer = keras.optimizers.Adam(schedule)
    model.compile(optimizer, LOSS, metrics=["accuracy"], **settings)
    return model, State.of(model)


def start(seed, kind="masked", width=1.0):
    """The network with the weights of a seed and a new optimizer."""
    model, state = compiled(kind, width)
    state.restore()
    initial = named_weights(lenet(seed, width))
    for name, variable in named_weights(model).items():
        variable.assign(initial[name])
    return model


def dense(sparsity, seed, of_gradients):
    return start(seed, "plain"), None


def small_dense(sparsity, seed, of_gradients):
    width = width_with(NETWORK, SHAPE, CLASSES, round((1 - sparsity) * WEIGHTS))
    return start(seed, "plain", width), None


def gradual(sparsity, seed, of_gradients):
    schedule = tfticket.schedules.PolynomialDecay(
        0.0, sparsity, 0, END, frequency=FREQUENCY
    )
    return start(seed), tfticket.GradualPruning(schedule, scope="erk")


def dynamic(method):
    def prepare(sparsity, seed, of_gradients):
        source = {"data": of_gradients(seed)} if method == "rigl" else {}
        return start(seed), tfticket.DynamicSparseTraining(
            *(sparsity, method),
            **{"scope": "erk", "frequency": FREQUENCY, "seed": seed, **source},
        )

    return prepare


def batches(x, y, size, seed):
    """What RigL takes its gradients of, one batch per update."""
    order = np.random.default_rng(seed).permutation(len(x))
    starts = range(0, len(x) - size + 1, size)
    return [(x[order[i : i + size]], y[order[i : i + size]]) for i in starts]


def largest(method, **arguments):
    kind = "masked" if method == "ac_dc" else "keeps dense"

    def prepare(sparsity, seed, of_gradients):
        own = {name: value(sparsity) for name, value in arguments.items()}
        callback = tfticket.TopKTraining(
            *(sparsity, method), **{"scope": "erk", "frequency": FREQUENCY, **own}
        )
        return start(seed, kind), callback

    return prepare


# What each makes: a compiled model, and the callback of its fit.
METHODS = {
    "dense": dense,
    "static": dynamic("static"),
    "SET": dynamic("set"),
    "RigL": dynamic("rigl"),
    "STE": largest("ste"),
    "Top-KAST": largest(
        "top_kast",
        backward_sparsity=lambda sparsity: 1 - 5 * (1 - sparsity),
        exploration=lambda sparsity: EXPLORATION,
    ),
    "AC/DC": largest(
        "ac_dc", begin_step=lambda sparsity: PHASE, frequency=lambda sparsity: PHASE
    ),
    "gradual": gradual,
    "small dense": small_dense,
}


def trainings():
    """(method, sparsity, seed) of every training, seeds last."""
    for seed in range(_SEEDS.value):
        for sparsity in map(float, _SPARSITIES.value):
            for method in _METHODS.value or METHODS:
                yield method, 0.0 if method == "dense" else sparsity, seed


def train(path):
    data = tfticket.data.load("mnist", _DATA_DIR.value, download=False)
    there = {(x["method"], float(x["sparsity"]), int(x["seed"])) for x in rows(path)}
    for method, sparsity, seed in trainings():
        if (method, sparsity, seed) in there:
            continue
        there.add((method, sparsity, seed))  # dense, at the next sparsity
        model, callback = METHODS[method](
            sparsity, seed, functools.partial(batches, *data.train, IMAGES)
        )
        begun = time.perf_counter()
        model.fit(
            data.training_pipeline(BATCH_SIZE, seed),
            steps_per_epoch=STEPS,
            shuffle=False,
            verbose=0,
            callbacks=[callback] if callback else [],
        )
        seconds = time.perf_counter() - begun
        _, accuracy = model.evaluate(*data.test, batch_size=1000, verbose=0)
        if callback:
            kept = sum(x.sum() for x in tfticket.get_masks(model).values())
            if kept != WEIGHTS - round(sparsity * WEIGHTS):
                raise RuntimeError(f"{method} trained, but to {kept} weights.")
            flops = callback.training_flops(BATCH_SIZE).relative
        else:
            sizes = [math.prod(w.shape) for w in model.weights if len(w.shape) > 1]
            flops = sum(sizes) / WEIGHTS
        add(path, method, sparsity, seed, accuracy, f"{flops:.5f}", seconds)


def measure_time(path):
    """Whole fits with updates against one with masks that stay, turn by turn.

    RigL takes its gradient of one batch of a step, as in its paper. Times are of the
    processor, since other programs may take the cores meanwhile.
    """
    data = random_batches(SHAPE, BATCH_SIZE)()
    at_hand = list(data.take(20).as_numpy_iterator())
    steps = _TIMED.value
    times = {"static": [], "SET": [], "RigL": []}
    for repeat in range(_REPEATS.value + 1):
        for method in list(times)[:: -1 if repeat % 2 else 1]:
            model, callback = METHODS[method](SPARSITIES[0], 0, lambda _: at_hand)
            begun = time.process_time()
            model.fit(data, steps_per_epoch=steps, verbose=0, callbacks=[callback])
            times[method].append(time.process_time() - begun)
            if method != "static" and not callback.records:
                raise RuntimeError(f"{method} made no update.")
    with path.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(dynamic_page.TIMES)
        for method, seconds in times.items():
            ratios = np.divide(seconds[1:], times["static"][1:])
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75])
            each = 1e3 * np.median(seconds[1:]) / steps
            row = [method, steps, len(ratios), f"{each:.3f}"]
            writer.writerow([*row, *(f"{r:.3f}" for r in (low, middle, high))])
            print(*row, f"{middle:.3f} ({low:.3f} to {high:.3f})")


def rows(path):
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add(path, *row):
    """Appends a row, so that nothing is lost when the script is stopped."""
    new = not path.exists()
    method, sparsity, seed, accuracy, cost, seconds = row
    with path.open("a", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        if new:
            writer.writerow(dynamic_page.COLUMNS)
        writer.writerow(
            [method, sparsity, seed, f"{accuracy:.4f}", cost, f"{seconds:.1f}"]
        )
    print(*row, flush=True)


def main(_):
    path = pathlib.Path(_OUT.value)
    if _WHAT.value == "train":
        train(path)
    elif _WHAT.value == "time":
        measure_time(path.with_name(f"{path.stem}_time.csv"))
    elif _WHAT.value == "page":
        dynamic_page.write(path)


if __name__ == "__main__":
    app.run(main)
