"""Times a training step of a popup network against its dense twin, and selection.

    python benchmarks/popup_step.py
    python benchmarks/popup_step.py --network=lenet_300_100 --repeats=21

The step: `model.fit` on chunks of `--steps` steps at batch 128, the same network with
Keras layers and with popup layers of density 0.5, the same optimizer (SGD with
momentum) and compile settings (XLA on LeNet-300-100, none on Conv-4). Popup selection
is XLA's everywhere. Data are random, ready batches in memory.

Selection alone: the mask of the top half of n scores, by tfticket's counting, by a full
sort of the scores, and by `tf.math.top_k`, all compiled as they are fastest, and by
NumPy's partition on the host.

Contenders take turns in one process, in an order that every repeat reverses; ratios
are taken within a repeat, and the table gives their median and quartiles.
"""

import json
import pathlib

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags
from timing import measure, random_batches, ratio_quartiles

import tfticket
from tfticket import models
from tfticket.edge_popup.topk_in_graph import top_mask

BATCH_SIZE = 128
NETWORKS = {
    # Image shape, compile settings, steps in a chunk, the most popup / dense may be.
    "lenet_300_100": (
        (28, 28, 1),
        {"jit_compile": True, "steps_per_execution": 50},
        1000,
        1.6,
    ),
    "conv_4": (
        (32, 32, 3),
        {"jit_compile": False, "steps_per_execution": 5},
        15,
        1.15,
    ),
}
SIZES = (30_000, 235_200, 2_359_296)
LEAST_SORT_TO_SELECTION = 10

_NETWORK = flags.DEFINE_enum("network", "all", ["all", *NETWORKS], "What to train.")
_REPEATS = flags.DEFINE_integer("repeats", 11, "Chunks of each contender.", 1)
_JSON = flags.DEFINE_string("json", None, "File to write every time to.")


def step_contenders(network):
    image_shape, settings, steps, _ = NETWORKS[network]
    data = random_batches(image_shape, BATCH_SIZE)

    def contender(model):
        model.compile(
            keras.optimizers.SGD(0.01, momentum=0.9),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
            **settings,
        )

        def run():
            model.fit(data(), steps_per_epoch=steps, verbose=0, shuffle=False)

        return run, steps

    dense = models.build(network, image_shape, 10)
    return {"dense": contender(dense), "popup": contender(tfticket.popup(dense))}


def selection_contenders(size):
    # No two alike, so that a threshold alone tells the top half; not uniform, which
    # would flatter interpolation.
    scores = (np.random.default_rng(0).permutation(size) / size).astype(np.float32) ** 2
    keep = size // 2
    tensor = tf.constant(scores)

    def by_sort(x):
        return x >= tf.sort(x)[size - keep]

    def by_top_k(x):
        return x >= tf.math.top_k(x, keep).values[-1]

    compiled = {
        "counting": tf.function(lambda x: top_mask(x, keep)[0]),
        "sort": tf.function(by_sort),
        "top_k": tf.function(by_top_k),
    }
    want = np.array(compiled["counting"](tensor))
    for name, choose in compiled.items():
        np.testing.assert_array_equal(choose(tensor), want, name)
    runs = {name: (lambda f=f: f(tensor).numpy(), 1) for name, f in compiled.items()}
    host = lambda: scores >= np.partition(scores, size - keep)[size - keep]  # noqa: E731
    return {**runs, "np.partition": (host, 1)}


def report(title, times):
    """Prints medians and ratios to the first contender; returns the ratios."""
    print(f"\n{title}")
    base = next(iter(times))
    ratios = {}
    for name, values in times.items():
        low, middle, high = ratio_quartiles(times, name, base)
        ratios[name] = middle
        text = f"{middle:8.3f} ({low:.3f} to {high:.3f}) of {base}"
        print(f"{name:14}{np.median(values):10.3f} ms  {'' if name == base else text}")
    return ratios


def main(_):
    results = {}
    names = list(NETWORKS) if _NETWORK.value == "all" else [_NETWORK.value]
    for network in names:
        times = measure(step_contenders(network), _REPEATS.value)
        ratio = report(f"{network}, a step at batch {BATCH_SIZE}", times)["popup"]
        most = NETWORKS[network][-1]
        verdict = "pass" if ratio <= most else "FAIL"
        print(f"{verdict}: popup / dense = {ratio:.3f}, target at most {most}")
        results[network] = times
    for size in SIZES:
        times = measure(selection_contenders(size), _REPEATS.value)
        ratio = report(f"The top half of {size:,} scores", times)["sort"]
        results[f"selection {size}"] = times
    least = LEAST_SORT_TO_SELECTION
    verdict = "pass" if ratio >= least else "FAIL"
    print(f"{verdict}: sort / counting = {ratio:.1f}, target at least {least}")
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
