"""Trains networks in every way to end sparse, and times RigL's updates.

    python benchmarks/dynamic.py --data_dir=DIR
    python benchmarks/dynamic.py --data_dir=DIR --task=cifar10
    python benchmarks/dynamic.py --what=time
    python benchmarks/dynamic.py --what=page

`TASKS` says how each network is trained; all have the densities of ERK. One row per
training is added to docs/results/dynamic.csv or dynamic_cifar10.csv, and trainings that
are there already are left out. The last command writes docs/results/dynamic.md.
"""

import csv
import dataclasses
import functools
import math
import os
import pathlib
import time
from collections.abc import Callable

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import dynamic_page
import keras
import numpy as np
import product_layers
from absl import app, flags
from timing import random_batches

import tfticket
from tfticket import models
from tfticket.keras_models.names import named_weights
from tfticket.keras_models.variables import State
from tfticket.lottery.measures.widths import width_with

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
FREQUENCY = 100  # steps from one update to the next
EXPLORATION = 1e-5  # of Top-KAST


@dataclasses.dataclass(frozen=True)
class Task:
    """A network, and how all of its trainings go.

    Args:
        network: Name of one of `tfticket.models`.
        dataset: Name for `tfticket.data.load`.
        shape: Shape of an image.
        weights: How many weights masks are on.
        steps: Steps of a training.
        batch_size: Images of a step.
        images: Images of each of RigL's gradients.
        phase: Steps of a phase of AC/DC.
        sparsities: To train to.
        seeds: Trainings of each kind.
        methods: Of `METHODS`.
        optimizer: Makes one of a schedule of the learning rate.
        rate: Where that schedule begins.
        path: The table of trainings.
    """

    network: str
    dataset: str
    shape: tuple[int, int, int]
    weights: int
    steps: int
    batch_size: int
    images: int
    phase: int
    sparsities: tuple[float, ...]
    seeds: int
    methods: tuple[str, ...]
    optimizer: Callable[..., keras.optimizers.Optimizer]
    rate: float
    path: str


TASKS = {
    "mnist": Task(
        *("lenet_300_100", "mnist", (28, 28, 1), 266_200, 12_000, 60, 240, 1000),
        sparsities=(0.98, 0.99, 0.995),
        seeds=5,
        methods=dynamic_page.METHODS,
        optimizer=keras.optimizers.Adam,
        rate=1.2e-3,
        path="docs/results/dynamic.csv",
    ),
    "cifar10": Task(
        *("resnet_8", "cifar10", (32, 32, 3), 77_360, 1_400, 64, 256, 150),
        sparsities=(0.8, 0.9),
        seeds=3,
        methods=dynamic_page.CIFAR10_METHODS,
        optimizer=functools.partial(keras.optimizers.SGD, momentum=0.9, nesterov=True),
        rate=0.1,
        path="docs/results/dynamic_cifar10.csv",
    ),
}

_WHAT = flags.DEFINE_enum("what", "train", ["train", "time", "page"], "What to do.")
_TASK = flags.DEFINE_enum("task", "mnist", [*TASKS], "What is trained.")
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS has the images.")
_OUT = flags.DEFINE_string("out", None, "The table of trainings, if not the task's.")
_SEEDS = flags.DEFINE_list("seeds", None, "Seeds to train; the task's if left out.")
_SPARSITIES = flags.DEFINE_list("sparsities", None, "Sparsities to train to.")
_METHODS = flags.DEFINE_list("methods", None, "Methods to train; all if left out.")
_TIMED = flags.DEFINE_integer("timed_steps", 12_000, "Steps of a timed fit.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 11, "Fits of each kind that are timed.", 1)


def task() -> Task:
    return TASKS[_TASK.value]


def network(seed, width=1.0):
    keras.utils.set_random_seed(seed)
    return models.build(task().network, task().shape, 10, width)


@functools.cache
def compiled(kind, width=1.0):
    """A network of a kind, compiled once for all trainings, and how it begins."""
    model = network(0, width)
    if kind == "products":
        model = product_layers.of_products(model)
    elif kind != "plain":
        model = tfticket.prune(model, keep_dense=kind == "keeps dense")
    schedule = keras.optimizers.schedules.CosineDecay(task().rate, task().steps)
    settings = models.compile_settings(model, task().steps)
    optimizer = task().optimizer(schedule)
    model.compile(optimizer, LOSS, metrics=["accuracy"], **settings)
    return model, State.of(model)


def start(seed, kind="masked", width=1.0):
    """The network with the weights of a seed and a new optimizer."""
    model, state = compiled(kind, width)
    state.restore()
    initial = named_weights(network(seed, width))
    for name, variable in named_weights(model).items():
        variable.assign(initial[name])
    return model


@functools.cache
def data():
    return tfticket.data.load(task().dataset, _DATA_DIR.value, download=False)


def fit(model, seed, callbacks=()):
    model.fit(
        data().training_pipeline(task().batch_size, seed),
        steps_per_epoch=task().steps,
        shuffle=False,
        verbose=0,
        callbacks=list(callbacks),
    )


@dataclasses.dataclass(frozen=True)
class Plan:
    """A training to do.

    Args:
        model: A compiled model.
        callback: The callback of its fit.
        flops: Operations as a fraction of dense training, if the callback and the sizes
            of the weights don't say.
    """

    model: keras.Model
    callback: keras.callbacks.Callback | None = None
    flops: float | None = None


def dense(sparsity, seed):
    return Plan(start(seed, "plain"))


def small_dense(sparsity, seed):
    wanted = round((1 - sparsity) * task().weights)
    width = width_with(task().network, task().shape, 10, wanted)
    return Plan(start(seed, "plain", width))


def gradual(part):
    def plan(sparsity, seed):
        end = int(part * task().steps) // FREQUENCY * FREQUENCY
        schedule = tfticket.schedules.PolynomialDecay(
            0.0, sparsity, 0, end, frequency=FREQUENCY
        )
        return Plan(start(seed), tfticket.GradualPruning(schedule, scope="erk"))

    return plan


def dynamic(method):
    def plan(sparsity, seed, source=None):
        if method == "rigl" and source is None:
            source = batches(*data().train, task().images, seed)
        callback = tfticket.DynamicSparseTraining(
            *(sparsity, method),
            scope="erk",
            frequency=FREQUENCY,
            seed=seed,
            data=source if method == "rigl" else None,
        )
        return Plan(start(seed), callback)

    return plan


def batches(x, y, size, seed):
    """What RigL takes its gradients of, one batch per update."""
    order = np.random.default_rng(seed).permutation(len(x))
    starts = range(0, len(x) - size + 1, size)
    return [(x[order[i : i + size]], y[order[i : i + size]]) for i in starts]


def ste(sparsity, seed):
    callback = tfticket.TopKTraining(sparsity, scope="erk", frequency=FREQUENCY)
    return Plan(start(seed, "keeps dense"), callback)


def top_kast(sparsity, seed):
    callback = tfticket.TopKTraining(
        *(sparsity, "top_kast"),
        scope="erk",
        frequency=FREQUENCY,
        exploration=EXPLORATION,
        backward_sparsity=1 - 5 * (1 - sparsity),
    )
    return Plan(start(seed, "keeps dense"), callback)


def ac_dc(sparsity, seed):
    phase = task().phase
    callback = tfticket.TopKTraining(
        *(sparsity, "ac_dc"), begin_step=phase, frequency=phase, scope="erk"
    )
    return Plan(start(seed), callback)


def sign_in(sparsity, seed):
    masked = start(seed)
    tfticket.sparsify(masked, sparsity, "random", scope="erk", seed=seed)
    model, state = compiled("products")
    state.restore()
    product_layers.begin(
        model, named_weights(network(seed)), tfticket.get_masks(masked)
    )
    steps = task().steps
    return Plan(model, product_layers.Rebalance(steps // 12, steps // 2), 1 - sparsity)


def ticket(sparsity, seed):
    masks, flops = ticket_masks(sparsity, seed)
    model = start(seed)  # which is the one that found the masks
    tfticket.set_masks(model, masks)
    return Plan(model, flops=flops + 1 - sparsity)


@functools.cache
def ticket_masks(sparsity, seed):
    """The masks of a ticket, and the operations of the trainings that found it.

    Each training has half of the weights of the one before, and the same start.
    """
    density = round(2 * (1 - sparsity), 6)
    masks, flops = None, 0.0
    if density < 1:
        masks, flops = ticket_masks(round(1 - density, 6), seed)
    model = start(seed)
    if masks is not None:
        tfticket.set_masks(model, masks)
    fit(model, seed)
    tfticket.sparsify(model, sparsity, scope="erk")
    return tfticket.get_masks(model), flops + min(1.0, density)


METHODS = {
    "dense": dense,
    "static": dynamic("static"),
    "Sign-In": sign_in,
    "SET": dynamic("set"),
    "RigL": dynamic("rigl"),
    "STE": ste,
    "Top-KAST": top_kast,
    "AC/DC": ac_dc,
    "gradual": gradual(0.75),
    "gradual to half": gradual(0.5),
    "ticket": ticket,
    "small dense": small_dense,
}


def trainings():
    """(method, sparsity, seed) of every training, seeds last."""
    for seed in map(int, _SEEDS.value or range(task().seeds)):
        for sparsity in map(float, _SPARSITIES.value or task().sparsities):
            for method in _METHODS.value or task().methods:
                yield method, 0.0 if method == "dense" else sparsity, seed


def train(path):
    there = {(x["method"], float(x["sparsity"]), int(x["seed"])) for x in rows(path)}
    for method, sparsity, seed in trainings():
        if (method, sparsity, seed) in there:
            continue
        there.add((method, sparsity, seed))  # dense, at the next sparsity
        begun = time.perf_counter()
        plan = METHODS[method](sparsity, seed)
        model, callback = plan.model, plan.callback
        fit(model, seed, [callback] if callback else [])
        seconds = time.perf_counter() - begun
        _, accuracy = model.evaluate(*data().test, batch_size=1000, verbose=0)
        check_size(method, model, sparsity)
        flops = plan.flops
        if flops is None:
            flops = relative_flops(model, callback)
        add(path, method, sparsity, seed, accuracy, f"{flops:.5f}", seconds)


def relative_flops(model, callback):
    if callback is not None:
        return callback.training_flops(task().batch_size).relative
    sizes = [math.prod(w.shape) for w in model.weights if len(w.shape) > 1]
    return sum(sizes) / task().weights


def check_size(method, model, sparsity):
    """Refuses a sparse network of another size than was asked for."""
    if method in ("dense", "small dense"):
        return
    if method == "Sign-In":
        kernels = [x.kernel for x in product_layers.product_layers(model)]
        kept = sum(np.count_nonzero(x) for x in kernels)
    else:
        kept = sum(x.sum() for x in tfticket.get_masks(model).values())
    if kept != task().weights - round(sparsity * task().weights):
        raise RuntimeError(f"{method} trained, but to {kept} weights.")


def measure_time(path):
    """Whole fits with updates against one with masks that stay, turn by turn.

    RigL takes its gradient of one batch of a step, as in its paper. Times are of the
    processor, since other programs may take the cores meanwhile.
    """
    batch = random_batches(task().shape, task().batch_size)()
    at_hand = list(batch.take(20).as_numpy_iterator())
    steps = _TIMED.value
    times = {"static": [], "SET": [], "RigL": []}
    for repeat in range(_REPEATS.value + 1):
        for method in list(times)[:: -1 if repeat % 2 else 1]:
            plan = METHODS[method](task().sparsities[0], 0, at_hand)
            callbacks = [plan.callback]
            begun = time.process_time()
            plan.model.fit(batch, steps_per_epoch=steps, verbose=0, callbacks=callbacks)
            times[method].append(time.process_time() - begun)
            if method != "static" and not plan.callback.records:
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
    path = pathlib.Path(_OUT.value or task().path)
    if _WHAT.value == "train":
        train(path)
    elif _WHAT.value == "time":
        measure_time(path.with_name(f"{path.stem}_time.csv"))
    elif _WHAT.value == "page":
        dynamic_page.write(path)


if __name__ == "__main__":
    app.run(main)
