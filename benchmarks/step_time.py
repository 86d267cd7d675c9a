"""Times a training step: dense Keras 3, the same model pruned by tfticket, TF-MOT.

    pip install '.[tfmot]'
    python benchmarks/step_time.py
    python benchmarks/step_time.py --network=lenet_300_100 --repeats=21
    python benchmarks/step_time.py --network=conv_4 --steps=50 --json=step_time.json

What is timed is `model.fit` on a chunk of `--steps` steps, all of it: that is what a
user waits for, and TF-MOT's callback only runs there. Chunks are long enough that
what `fit` costs once hardly counts. The data are random and stay in memory as ready
batches; the pipeline repeats for ever, with tf.data's autotuning off, since ending an
autotuned iterator waits for the tuner's thread.

Dense and wrapped share a process and compile settings: on LeNet-300-100 XLA and 50
steps in an execution; on Conv-4 no XLA, which slows convolutions down on a CPU, and 5
steps. TF-MOT runs in a process of its own, because importing it turns tf.keras into
tf_keras. It is timed as a plain `compile` leaves it and with the settings above, alone
and together, and the fastest that runs is the one compared. Dense tf_keras at its
fullest settings tells tf_keras's share from TF-MOT's.

Only one process is ever busy. Each repeat times one chunk of every contender, in an
order that the next repeat reverses. A ratio is taken within each repeat; the table
gives the median of those ratios and their quartiles. Sparse models keep 20% of each
kernel. TF-MOT recomputes its masks every 100 steps, its default: a median over shorter
chunks leaves that out.
"""

import contextlib
import dataclasses
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
from absl import app, flags

BATCH_SIZE = 60
BATCHES = 50
CLASSES = 10
DENSITY = 0.2
MOST_WRAPPED_TO_DENSE = 1.05
LEAST_TFMOT_TO_WRAPPED = {"lenet_300_100": 1.5}
QUARTILES = [0.25, 0.5, 0.75]


@dataclasses.dataclass(frozen=True)
class Network:
    """A network of convolution pairs, each pooled, then dense layers."""

    image_shape: tuple[int, int, int]
    filters: list[int]
    hidden: list[int]
    learning_rate: float
    settings: dict[str, Any]
    steps: int


LENET = Network(
    image_shape=(28, 28, 1),
    filters=[],
    hidden=[300, 100],
    learning_rate=1.2e-3,
    settings={"jit_compile": True, "steps_per_execution": 50},
    steps=2000,
)
CONV_4 = Network(
    image_shape=(32, 32, 3),
    filters=[64, 128],
    hidden=[256, 256],
    learning_rate=3e-4,
    settings={"jit_compile": False, "steps_per_execution": 5},
    steps=25,
)
NETWORKS = {"lenet_300_100": LENET, "conv_4": CONV_4}

_NETWORK = flags.DEFINE_enum("network", "all", ["all", *NETWORKS], "What to train.")
_REPEATS = flags.DEFINE_integer("repeats", 11, "Chunks of each contender.", 1)
_STEPS = flags.DEFINE_integer(
    "steps", None, "Steps in a chunk. Default: 2000 on LeNet-300-100, 25 on Conv-4.", 1
)
_JSON = flags.DEFINE_string("json", None, "File to write every chunk's time to.")
_WORKER = flags.DEFINE_enum("worker", None, ["keras", "tf_keras"], "Internal.")


def build(keras, network: Network):
    """The network in Keras 3 or tf_keras, whichever is given."""
    layers = [keras.Input(network.image_shape)]
    for filters in network.filters:
        for _ in range(2):
            layers.append(
                keras.layers.Conv2D(filters, 3, padding="same", activation="relu")
            )
        layers.append(keras.layers.MaxPooling2D())
    layers.append(keras.layers.Flatten())
    layers += [keras.layers.Dense(units, activation="relu") for units in network.hidden]
    return keras.Sequential([*layers, keras.layers.Dense(CLASSES)])


def compiled(keras, model, network: Network, **settings):
    model.compile(
        optimizer=keras.optimizers.Adam(network.learning_rate),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **settings,
    )
    return model


def keras_contenders(network: Network) -> dict[str, Callable]:
    """Functions that return a model and the callbacks it trains with."""
    import keras

    import tfticket

    def dense():
        return compiled(keras, build(keras, network), network, **network.settings), []

    def wrapped():
        model = tfticket.prune(build(keras, network))
        compiled(keras, model, network, **network.settings)
        rng = np.random.default_rng(0)
        masks = tfticket.get_masks(model)
        masks = {k: rng.random(mask.shape) < DENSITY for k, mask in masks.items()}
        tfticket.set_masks(model, masks)
        return model, []

    return {"dense": dense, "wrapped": wrapped}


def tfmot_contenders(network: Network) -> dict[str, Callable]:
    """As `keras_contenders`: TF-MOT at several settings, and dense tf_keras."""
    import tensorflow_model_optimization as tfmot
    import tf_keras

    def pruned(**settings):
        sparsity = tfmot.sparsity.keras
        schedule = sparsity.ConstantSparsity(1 - DENSITY, begin_step=1)
        model = sparsity.prune_low_magnitude(build(tf_keras, network), schedule)
        compiled(tf_keras, model, network, **settings)
        return model, [sparsity.UpdatePruningStep()]

    def dense():
        model = build(tf_keras, network)
        return compiled(tf_keras, model, network, **network.settings), []

    several = network.settings["steps_per_execution"]
    variants = {"": {}, f", {several} steps": {"steps_per_execution": several}}
    if network.settings["jit_compile"]:
        for name, settings in list(variants.items()):
            variants[f"{name}, XLA"] = {**settings, "jit_compile": True}
    contenders = {
        f"TF-MOT{name}": lambda settings=settings: pruned(**settings)
        for name, settings in variants.items()
    }
    return {**contenders, "tf_keras dense": dense}


def random_batches(network: Network):
    import tensorflow as tf

    rng = np.random.default_rng(0)
    shape = (BATCHES * BATCH_SIZE, *network.image_shape)
    images = rng.standard_normal(shape, np.float32)
    labels = rng.integers(CLASSES, size=len(images), dtype=np.int32)
    data = tf.data.Dataset.from_tensor_slices((images, labels))
    options = tf.data.Options()
    options.autotune.enabled = False
    return data.batch(BATCH_SIZE).cache().repeat().prefetch(2).with_options(options)


def kernel_density(model) -> float:
    kernels = [w.numpy() for w in model.trainable_variables if len(w.shape) > 1]
    return sum(map(np.count_nonzero, kernels)) / sum(k.size for k in kernels)


def serve(network: Network, steps: int, make_contenders: Callable) -> None:
    """Warms up every contender, then times a chunk for each name that comes in."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What libraries print must not mix with the answers.
    contenders = make_contenders(network)  # First: TF-MOT must precede TensorFlow.
    data = random_batches(network)

    def fit(model, callbacks, count: int) -> float:
        start = time.perf_counter()
        model.fit(data, steps_per_epoch=count, verbose=0, callbacks=callbacks)
        return (time.perf_counter() - start) * 1e3 / count

    ready, failures = {}, {}
    for name, make in contenders.items():
        try:
            model, callbacks = make()
            fit(model, callbacks, BATCHES)  # Compiles; the next is at full speed.
            fit(model, callbacks, steps)
            density, expected = kernel_density(model), 1 if "dense" in name else DENSITY
            if abs(density - expected) > 0.01:
                raise RuntimeError(f"It trains, but at a density of {density:.3f}.")
            ready[name] = model, callbacks
        except Exception as error:  # Whatever it is, the others go on.
            failures[name] = f"{type(error).__name__}: {str(error).strip()[:300]}"
    print(json.dumps({"ready": list(ready), "failures": failures}), file=answers)
    for line in sys.stdin:
        print(json.dumps(fit(*ready[line.strip()], steps)), file=answers)


class Worker:
    """A process that holds compiled contenders and times them one at a time."""

    def __init__(self, kind: str, network: str, steps: int):
        legacy = {"TF_USE_LEGACY_KERAS": "1"} if kind == "tf_keras" else {}
        env = {k: v for k, v in os.environ.items() if k != "TF_USE_LEGACY_KERAS"}
        env |= {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2", **legacy}
        arguments = [f"--worker={kind}", f"--network={network}", f"--steps={steps}"]
        self.process = subprocess.Popen(
            [sys.executable, __file__, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )
        answer = self._answer()
        self.contenders, self.failures = answer["ready"], answer["failures"]

    def milliseconds_per_step(self, contender: str) -> float:
        print(contender, file=self.process.stdin, flush=True)
        return self._answer()

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()

    def _answer(self):
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"A worker ended with status {self.process.wait()}.")
        return json.loads(line)


def measure(name: str, kinds: list[str], steps: int, repeats: int) -> dict[str, Any]:
    """Times all contenders on one network; compares each to `wrapped` or `dense`."""
    with contextlib.ExitStack() as stack:
        owners, failures = {}, {}
        for kind in kinds:
            worker = Worker(kind, name, steps)
            stack.callback(worker.close)
            owners |= dict.fromkeys(worker.contenders, worker)
            failures |= worker.failures
        times = {contender: [] for contender in owners}
        for repeat in range(repeats):
            for contender in list(owners)[:: -1 if repeat % 2 else 1]:
                time_ms = owners[contender].milliseconds_per_step(contender)
                times[contender].append(time_ms)
    if not {"dense", "wrapped"} <= set(times):
        raise RuntimeError(f"Keras 3 contenders failed: {failures}")
    ratios = {}
    for contender in times:
        base = "dense" if contender in ("dense", "wrapped") else "wrapped"
        paired = np.divide(times[contender], times[base])
        ratios[contender] = {"to": base, "quartiles": [*np.quantile(paired, QUARTILES)]}
    medians = {contender: statistics.median(t) for contender, t in times.items()}
    return {
        "network": name,
        "steps": steps,
        "settings": NETWORKS[name].settings,
        "median_ms": medians,
        "ratios": ratios,
        "fastest_tfmot": min(
            (n for n in times if "TF-MOT" in n), key=medians.get, default=None
        ),
        "failures": failures,
        "ms": times,
    }


def report(result: dict[str, Any]) -> None:
    """Prints the table of one network, what failed, and whether targets are met."""
    print(
        f"\n{result['network']}, {result['steps']} steps a chunk, {result['settings']}"
    )
    print(f"{'':26}{'ms/step':>9}   ratio (quartiles)")
    for contender, median in result["median_ms"].items():
        ratio = result["ratios"][contender]
        low, middle, high = ratio["quartiles"]
        spread = f"{middle:6.3f} ({low:.3f} to {high:.3f}) of {ratio['to']}"
        print(f"{contender:26}{median:9.3f}  {'' if contender == 'dense' else spread}")
    for contender, reason in result["failures"].items():
        print(f"{contender:26}   failed: {reason}")

    def verdict(contender: str, met: Callable[[float], bool], target: str) -> None:
        ratio = result["ratios"][contender]
        value = ratio["quartiles"][1]
        outcome = "pass" if met(value) else "FAIL"
        print(f"{outcome}: {contender} / {ratio['to']} = {value:.3f}, target {target}")

    most = MOST_WRAPPED_TO_DENSE
    verdict("wrapped", lambda value: value <= most, f"at most {most}")
    least = LEAST_TFMOT_TO_WRAPPED.get(result["network"])
    if least and result["fastest_tfmot"]:
        verdict(
            result["fastest_tfmot"], lambda value: value >= least, f"at least {least}"
        )


def main(_) -> None:
    names = list(NETWORKS) if _NETWORK.value == "all" else [_NETWORK.value]
    steps = {name: _STEPS.value or NETWORKS[name].steps for name in names}
    for name, count in steps.items():
        if count % NETWORKS[name].settings["steps_per_execution"]:
            raise app.UsageError(
                f"--steps must be a multiple of the steps in an execution on {name}, "
                f"{NETWORKS[name].settings['steps_per_execution']}. Received: {count}"
            )
    if _WORKER.value:
        makers = {"keras": keras_contenders, "tf_keras": tfmot_contenders}
        serve(NETWORKS[names[0]], steps[names[0]], makers[_WORKER.value])
        return
    kinds = ["keras"]
    packages = ("tensorflow_model_optimization", "tf_keras")
    if all(map(importlib.util.find_spec, packages)):
        kinds.append("tf_keras")
    else:
        print(
            "TF-MOT is not installed and left out. Install it: pip install '.[tfmot]'"
        )
    results = []
    for name in names:
        results.append(measure(name, kinds, steps[name], _REPEATS.value))
        report(results[-1])
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
