"""Measures on a GPU: selection, steps, popup steps, and a shortened Conv-6 experiment.

    python benchmarks/gpu.py --out=docs/results/gpu.md
    python benchmarks/gpu.py --parts=selection,steps
    python benchmarks/gpu.py --device=cpu --quick

Runs on TensorFlow, on JAX where TensorFlow is not installed, and on what KERAS_BACKEND
says; of other packages it needs Keras and NumPy. Without a GPU it says so, measures
nothing and ends with 0. `--device=cpu` is a dry run, whose figures are no page.

selection: The top half of scores that lie on the device, to a mask that lies there, by
    `top_mask` (what popup layers use), by the backend's sort and top_k, and on the host
    by `keep_largest`, with the ways there and back. Every mask is compared with NumPy's
    before its time counts.
steps: `model.fit` on chunks of steps, dense, wrapped by tfticket, and masked as most
    code does it, by a multiplication in the forward pass. A fifth of each kernel is
    kept. The data are random, ready batches.
popup: The same of popup layers of density 0.5, with SGD and momentum.
experiment: Conv-6 through rounds of iterative magnitude pruning, and from tickets that
    are initialised anew, on CIFAR-10 where TFDS has it prepared and TensorFlow is
    there to read it, else on images that this script makes.

Contenders take turns, in an order that every repeat reverses; ratios are taken within a
repeat. Tables give medians, ratios with their quartiles.
"""

import functools
import importlib.util
import os
import platform

os.environ.setdefault(
    "KERAS_BACKEND",
    "tensorflow" if importlib.util.find_spec("tensorflow") else "jax",
)
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import short_experiment
from absl import app, flags
from keras import ops
from timing import measure, random_batches, ratio_quartiles

import tfticket
from tfticket import models
from tfticket.common.files import atomic_path
from tfticket.common.runs import versions
from tfticket.edge_popup.topk_in_graph import top_mask
from tfticket.keras_models.gradients import compiled
from tfticket.sparsity import topk

BACKEND = keras.backend.backend()

DENSITY = 0.2
SIZES = (2_359_296, 10**7, 10**8)
IMAGE_SHAPES = {"lenet_300_100": (28, 28, 1)}  # else CIFAR-10's
# Network, batch size, steps in a chunk.
STEPS = (
    ("lenet_300_100", 60, 500),
    ("lenet_300_100", 1024, 500),
    ("conv_4", 128, 100),
    ("conv_6", 128, 100),
)
QUICK = (("conv_2", 8, 4),)
POPUP = (("lenet_300_100", 128, 500), ("conv_4", 128, 100), ("conv_6", 128, 100))
_DEVICE = flags.DEFINE_enum("device", "gpu", ["gpu", "cpu"], "Where to run.")
_QUICK = flags.DEFINE_bool("quick", False, "Tiny sizes, to see that it runs.")
_REPEATS = flags.DEFINE_integer("repeats", 7, "Times each contender is timed.", 1)
_ITERATIONS = flags.DEFINE_integer(
    "iterations", 3000, "Steps of a round of Conv-6.", short_experiment.VALIDATIONS
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS has CIFAR-10.")
_OUT = flags.DEFINE_string("out", None, "Page to write, after every part.")


def gpu_name() -> str | None:
    """What the chip calls itself; `None` where the backend sees none."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        gpus = tf.config.list_physical_devices("GPU")
        if not gpus:
            return None
        details = tf.config.experimental.get_device_details(gpus[0])
        return details.get("device_name", gpus[0].name)
    import jax

    return jax.devices()[0].device_kind if jax.default_backend() == "gpu" else None


def use_cpu() -> None:
    if BACKEND == "jax":
        import jax

        jax.config.update("jax_platforms", "cpu")
    short_experiment.hide_gpus_from_tensorflow()


def wait(tensor):
    """The tensor, when it is there; TensorFlow is asked for an entry of it."""
    if BACKEND == "jax":
        return tensor.block_until_ready()
    tensor[-1].numpy()
    return tensor


def table(header, rows) -> str:
    rows = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in rows)


def spread(quartiles) -> str:
    low, middle, high = quartiles
    return f"{middle:.2f} ({low:.2f} to {high:.2f})"


def top_half(scores):
    """NumPy's mask of the top half, of equal scores the first, and its threshold."""
    keep = scores.size // 2
    threshold = np.partition(scores, scores.size - keep)[scores.size - keep]
    mask = scores > threshold
    tied = np.flatnonzero(scores == threshold)
    mask[tied[: keep - np.count_nonzero(mask)]] = True
    return mask, threshold


def run_on_device(function, tensor):
    return wait(function(tensor))


def selection_contenders(size):
    # Not uniform, which would flatter interpolation.
    scores = np.random.default_rng(0).random(size, np.float32) ** 2
    keep = size // 2
    exact, threshold = top_half(scores)
    reached = scores >= threshold
    there = wait(ops.convert_to_tensor(scores))
    guess = float(threshold) * 1.001
    # The host's copy of an array of JAX is kept, so each time it is another array.
    another = compiled(lambda x: x + 0)

    def on_host():
        (mask,) = topk.keep_largest([ops.convert_to_numpy(another(there))], keep)
        return ops.convert_to_tensor(mask)

    on_device = {
        "counting": (lambda x: top_mask(x, keep)[0], exact),
        "counting from the last threshold": (
            lambda x: top_mask(x, keep, guess)[0],
            exact,
        ),
        "sort": (lambda x: x >= ops.sort(x)[size - keep], reached),
        "top_k": (lambda x: x >= ops.top_k(x, keep)[0][-1], reached),
    }
    contenders = {
        name: (functools.partial(run_on_device, compiled(choose), there), want)
        for name, (choose, want) in on_device.items()
    }
    contenders["keep_largest on the host"] = (lambda: wait(on_host()), exact)
    found, failures = {}, {}
    for name, (run, want) in contenders.items():
        try:
            wrong = np.count_nonzero(ops.convert_to_numpy(run()) != want)
            if wrong:
                raise RuntimeError(f"the mask is wrong in {wrong:,} entries")
            found[name] = run, 1
        except Exception as error:  # Whatever it is, the others go on.
            failures[name] = f"{type(error).__name__}: {str(error).strip()[:100]}"
    found["the copy to the host alone"] = (
        lambda: ops.convert_to_numpy(another(there)),
        1,
    )
    return found, failures


def selection() -> str:
    text = "## Selection: the top half of n scores\n"
    for size in (30_000,) if _QUICK.value else SIZES:
        contenders, failures = selection_contenders(size)
        times = measure(contenders, repeats())
        base = next(iter(times))
        rows = [
            [
                name,
                f"{np.median(values):.3g}",
                "" if name == base else spread(ratio_quartiles(times, name, base)),
            ]
            for name, values in times.items()
        ]
        rows += [[name, "failed", reason] for name, reason in failures.items()]
        text += f"\n{size:,} scores:\n\n"
        text += table(["", "ms", f"of {base} (quartiles)"], rows) + "\n"
    return text


class MultipliedDense(keras.layers.Dense):
    """Masked as most code does it."""

    def build(self, input_shape):
        super().build(input_shape)
        self.mask = mask_beside(self)

    def call(self, inputs, training=None):
        outputs = ops.matmul(inputs, self.kernel * self.mask) + self.bias
        return self.activation(outputs)


class MultipliedConv2D(keras.layers.Conv2D):
    """Masked as most code does it."""

    def build(self, input_shape):
        super().build(input_shape)
        self.mask = mask_beside(self)

    def call(self, inputs):
        kernel = self.kernel * self.mask
        outputs = ops.conv(inputs, kernel, self.strides, self.padding)
        return self.activation(outputs + self.bias)


def mask_beside(layer):
    shape = layer.kernel.shape
    return layer.add_weight(
        name="mask", shape=shape, initializer="ones", trainable=False
    )


def multiplied(model, chosen):
    """A twin of the model whose kernels are multiplied by masks in every forward."""
    twins = {
        keras.layers.Dense: MultipliedDense,
        keras.layers.Conv2D: MultipliedConv2D,
    }
    twin = keras.models.clone_model(
        model,
        clone_function=lambda layer: twins.get(type(layer), type(layer)).from_config(
            layer.get_config()
        ),
    )
    for layer in twin.layers:
        if hasattr(layer, "mask"):
            layer.mask.assign(chosen[f"{layer.name}/kernel"])
    return twin


def network(name):
    shape = IMAGE_SHAPES.get(name, (32, 32, 3))
    return models.build(name, shape, 10, 0.1 if _QUICK.value else 1.0), shape


def fit_contender(model, optimizer, data, steps):
    model.compile(
        optimizer,
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **models.compile_settings(model, steps),
    )

    def run():
        model.fit(data(), steps_per_epoch=steps, verbose=0, shuffle=False)
        ops.convert_to_numpy(model.trainable_variables[-1])

    return run, steps


def step_contenders(name, batch_size, steps):
    dense, shape = network(name)
    data = random_batches(shape, batch_size)
    wrapped = tfticket.prune(dense)
    random = np.random.default_rng(0)
    chosen = {
        name: random.random(mask.shape) < DENSITY
        for name, mask in tfticket.get_masks(wrapped).items()
    }
    tfticket.set_masks(wrapped, chosen)
    by_product = multiplied(dense, chosen)
    found = {"dense": dense, "wrapped": wrapped, "multiplied": by_product}
    rate = models.LEARNING_RATES[name]
    return {
        kind: fit_contender(model, keras.optimizers.Adam(rate), data, steps)
        for kind, model in found.items()
    }


def popup_contenders(name, batch_size, steps):
    dense, shape = network(name)
    data = random_batches(shape, batch_size)
    found = {"dense": dense, "popup": tfticket.popup(dense)}
    return {
        kind: fit_contender(model, keras.optimizers.SGD(0.01, 0.9), data, steps)
        for kind, model in found.items()
    }


def step_table(cases, contenders_of) -> str:
    rows = []
    for name, batch_size, steps in cases:
        contenders = contenders_of(name, batch_size, steps)
        times = measure(contenders, repeats())
        _, *others = times
        ratios = [spread(ratio_quartiles(times, kind, "dense")) for kind in others]
        dense = f"{np.median(times['dense']):.3g}"
        rows.append([f"{name}, batch {batch_size}", dense, *ratios])
    headers = [f"{kind} / dense (quartiles)" for kind in others]
    return table(["", "dense, ms", *headers], rows) + "\n"


def steps() -> str:
    cases = QUICK if _QUICK.value else STEPS
    title = f"## Wrapped layers: a training step, {DENSITY:.0%} kept\n\n"
    return title + step_table(cases, step_contenders)


def popup() -> str:
    cases = QUICK if _QUICK.value else POPUP
    title = "## Popup layers: a training step, density 0.5\n\n"
    return title + step_table(cases, popup_contenders)


def experiment() -> str:
    rows, what = short_experiment.run(_ITERATIONS.value, _DATA_DIR.value, _QUICK.value)
    header = ["round", "density", "test accuracy", "re-initialised"]
    header += ["lowest validation loss at", "s, training", "s, between"]
    return (
        f"## A shortened Conv-6 experiment\n\n{what} Round 0 is dense, and its time "
        "includes compilation. The time between rounds includes the test, pruning and "
        f"rewinding.\n\n{table(header, rows)}\n"
    )


PARTS = {
    "selection": selection,
    "steps": steps,
    "popup": popup,
    "experiment": experiment,
}
_PARTS = flags.DEFINE_list("parts", list(PARTS), "What to measure.")


def repeats() -> int:
    return 2 if _QUICK.value else _REPEATS.value


def head(chip: str) -> str:
    own = versions()
    made_by = f"{BACKEND} {own[BACKEND]}, Keras {own['keras']}, "
    made_by += f"tfticket {own['tfticket']}, Python {platform.python_version()}"
    return (
        "# On a GPU\n\n"
        f"These figures were measured on {chip} with {made_by}. They are medians of "
        f"{repeats()} interleaved repeats, and ratios are taken within a repeat. "
        "Matrices are multiplied at the backend's default precision. The top of the "
        "script describes what each part measures:\n\n"
        "```sh\npython benchmarks/gpu.py --out=docs/results/gpu.md\n```\n"
    )


def main(_) -> None:
    if unknown := set(_PARTS.value) - set(PARTS):
        raise app.UsageError(f"--parts must be of {list(PARTS)}. Received: {unknown}")
    if _ITERATIONS.value % short_experiment.VALIDATIONS:
        raise app.UsageError(
            f"--iterations must be a multiple of {short_experiment.VALIDATIONS}. "
            f"Received: {_ITERATIONS.value}"
        )
    if _OUT.value and (_QUICK.value or _DEVICE.value == "cpu"):
        raise app.UsageError("--out takes no figures of --quick or --device=cpu.")
    if BACKEND not in ("tensorflow", "jax"):
        raise app.UsageError(f"KERAS_BACKEND={BACKEND} is not measured here.")
    if _DEVICE.value == "cpu":
        use_cpu()
        chip = "No GPU: this is a dry run on the CPU"
    else:
        chip = gpu_name()
        if chip is None:
            print(
                f"No GPU was found by {BACKEND}, so nothing was measured "
                "(--device=cpu --quick is a dry run, KERAS_BACKEND another backend)."
            )
            return
    page = head(chip)
    print(page)
    for part in _PARTS.value:
        section = PARTS[part]()
        print(section, flush=True)
        page += f"\n{section}"
        if _OUT.value:
            with atomic_path(_OUT.value) as path:
                path.write_text(page)


if __name__ == "__main__":
    app.run(main)
