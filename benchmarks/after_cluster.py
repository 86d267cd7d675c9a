"""What may follow, or leave, a cluster of convolutions that LiteRT.js runs sparse.

    python benchmarks/after_cluster.py
    python benchmarks/after_cluster.py --cases=mean_dense,mean_pointwise_flatten

Networks that obey XNNPACK's rules up to one place, each with another ending or with a
second output, are written dense and sparse, run in LiteRT.js in headless Chromium, and
compared with the Keras model. Writes docs/results/after_cluster.md and the rows behind
it as CSV. Needs Chromium, and `npm install @litertjs/core`.

Files are converted without the checks of `tfticket.export.litert`, which runs them on
x86 and can't see what goes wrong here.
"""

import os

# Before TensorFlow is imported: its start-up notes would hide the progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import pathlib
import tempfile
from collections.abc import Callable
from typing import NamedTuple

import keras
import numpy as np
from absl import app, flags
from keras import layers

import tfticket
from tfticket.common.files import write_csv
from tfticket.export.browser.result import SAME, BrowserError
from tfticket.export.saved_model_export import write
from tfticket.export.served.function import serving
from tfticket.export.tflite.conversion import convert

RIGHT, WRONG, FAILS = "right", "wrong", "fails"
SIZE, SPARSITY, SAMPLES = 96, 0.9, 4

PAGE = """# LiteRT.js, after a sparse cluster

In LiteRT.js, XNNPACK runs clusters of convolutions sparse, and computes some of those
networks wrongly without an error. The same files are right on x86, where XNNPACK
disables sparse convolutions, so a check there does not detect the error. They are also
wrong [on ARM, emulated](arm.md). `benchmarks/after_cluster.py` builds networks that
follow XNNPACK's rules except in one place (96x96 images, random weights, {sparsity:.0%}
of the 1x1 weights zero), and compares the outputs of headless Chromium with Keras's.

**{wrong} of {count} networks do not give the right answer**. All of these run without
an error, except the rows marked "fails". There are two patterns. The first is a 1x1
convolution or an element-wise operation on the single pixel that the last mean produces
with `keepdims`. To avoid it, add a Flatten right after the mean or leave out
`keepdims`. The second is a feature map from inside the cluster that is an output of the
model, either directly or through 1x1 and depthwise convolutions and activations only,
as in object detectors. To avoid it, flatten the feature map in the model and reshape
the output outside, because the converter removes a Flatten that a Reshape follows.

{table}

"Difference" is the difference between the sparse file and Keras, relative to the
largest value of the output. With several outputs it is the worst one; up to {same:g}
counts as right. "Faster" is the median of {repeats} alternating rounds at batch 1. The
machine was busy, so read it as "about 1" or "about 2". "Plan" is the number of 1x1
kernels that will run sparse according to `tfticket.export.sparse_plan(model, "web")`.
The plan is about speed: if it says 0, the answers can still be wrong.

{device}
"""


class Case(NamedTuple):
    """A network, and how LiteRT.js answers it.

    Args:
        build: Makes the Keras model.
        answer: "right", "wrong", or "fails" where it says so itself.
        about: What follows the cluster, or leaves it, in words.
    """

    build: Callable[[], keras.Model]
    answer: str
    about: str


def start():
    """The image, and what the cluster begins with."""
    image = keras.Input((SIZE, SIZE, 3), batch_size=1, name="image")
    x = layers.ZeroPadding2D(1)(image)
    return image, layers.Conv2D(16, 3, strides=2, activation="relu")(x)


def mix(x, width, activation="relu"):
    return layers.Conv2D(width, 1, activation=activation)(x)


def depthwise(x, strides=1):
    x = layers.ZeroPadding2D(1)(x)
    return layers.DepthwiseConv2D(3, strides=strides, activation="relu")(x)


def after(ending):
    """A network whose last feature map, of 6x6 pixels, goes to `ending`."""

    def build():
        image, x = start()
        x = mix(depthwise(x), 64)
        for width in (128, 256, 256):
            x = mix(depthwise(x, 2), width)
        return keras.Model(image, ending(x))

    return build


def beside(branch):
    """A network with a second output, made of a feature map in the middle."""

    def build():
        image, x = start()
        x = middle = mix(depthwise(mix(x, 64)), 128)
        x = mix(mix(depthwise(x, 2), 256), 256)
        return keras.Model(image, [dense(mean(x)), branch(middle)])

    return build


def u_shaped(joined, end):
    """A network that comes back to the size of a map in the middle, and joins it."""

    def build():
        image, x = start()
        x = middle = mix(depthwise(mix(x, 64)), 128)
        x = mix(mix(depthwise(x, 2), 256), 128)
        x = layers.UpSampling2D(2, interpolation="bilinear")(x)
        return keras.Model(image, end(mix(joined()([x, middle]), 64)))

    return build


def mean(x):
    return layers.GlobalAveragePooling2D()(x)


def pixel(x):
    return layers.GlobalAveragePooling2D(keepdims=True)(x)


def flat(x):
    return layers.Flatten()(x)


def dense(x):
    return layers.Dense(10)(x)


def act(x, name):
    return layers.Activation(name)(x)


def excited(x, gate="sigmoid", squeeze="relu"):
    """Squeeze-and-excite by 1x1 convolutions."""
    channels = x.shape[-1]
    s = mix(mix(pixel(x), 32, squeeze), channels, gate)
    return layers.Multiply()([x, s])


def excited_by_dense(x):
    channels = x.shape[-1]
    s = layers.Dense(32, activation="relu")(mean(x))
    s = layers.Dense(channels, activation="sigmoid")(s)
    return layers.Multiply()([x, layers.Reshape((1, 1, channels))(s)])


def twice(x):
    return layers.Multiply()([x, x])


def ending(about, answer, function):
    return Case(after(function), answer, about)


def second(about, answer, function):
    return Case(beside(function), answer, f"{about} of a map in the middle, an output")


CASES = {
    # Of the mean without keepdims nothing goes wrong.
    "mean": ending("mean", RIGHT, mean),
    "mean_dense": ending("mean, Dense", RIGHT, lambda x: dense(mean(x))),
    "mean_dense_softmax": ending(
        "mean, Dense, softmax", RIGHT, lambda x: act(dense(mean(x)), "softmax")
    ),
    "mean_two_denses": ending(
        "mean, two Dense outputs", RIGHT, lambda x: [dense(mean(x)), dense(mean(x))]
    ),
    "mean_dropout_dense": ending(
        "mean, Dropout, Dense", RIGHT, lambda x: dense(layers.Dropout(0.5)(mean(x)))
    ),
    "mean_hard_swish_dense": ending(
        "mean, hard swish, Dense", RIGHT, lambda x: dense(act(mean(x), "hard_silu"))
    ),
    "mean_relu_dense": ending(
        "mean, ReLU, Dense", RIGHT, lambda x: dense(act(mean(x), "relu"))
    ),
    "mean_layer_normalization_dense": ending(
        "mean, LayerNormalization, Dense",
        RIGHT,
        lambda x: dense(layers.LayerNormalization()(mean(x))),
    ),
    "mean_batch_normalization_dense": ending(
        "mean, BatchNormalization, Dense",
        RIGHT,
        lambda x: dense(layers.BatchNormalization()(mean(x))),
    ),
    "mean_unit_normalization_dense": ending(
        "mean, UnitNormalization, Dense",
        RIGHT,
        lambda x: dense(layers.UnitNormalization()(mean(x))),
    ),
    # With keepdims its pixel is a feature map.
    "pixel": ending("mean with keepdims", RIGHT, pixel),
    "pixel_flatten_dense": ending(
        "mean with keepdims, Flatten, Dense", RIGHT, lambda x: dense(flat(pixel(x)))
    ),
    "pixel_reshape_dense": ending(
        "mean with keepdims, Reshape, Dense",
        RIGHT,
        lambda x: dense(layers.Reshape((x.shape[-1],))(pixel(x))),
    ),
    "pixel_dropout_flatten_dense": ending(
        "mean with keepdims, Dropout, Flatten, Dense",
        RIGHT,
        lambda x: dense(flat(layers.Dropout(0.5)(pixel(x)))),
    ),
    "pixel_batch_normalization_flatten_dense": ending(
        "mean with keepdims, BatchNormalization, Flatten, Dense",
        RIGHT,
        lambda x: dense(flat(layers.BatchNormalization()(pixel(x)))),
    ),
    "pixel_layer_normalization_flatten_dense": ending(
        "mean with keepdims, LayerNormalization, Flatten, Dense",
        RIGHT,
        lambda x: dense(flat(layers.LayerNormalization()(pixel(x)))),
    ),
    "pixel_relu_flatten_dense": ending(
        "mean with keepdims, ReLU, Flatten, Dense",
        WRONG,
        lambda x: dense(flat(act(pixel(x), "relu"))),
    ),
    "pixel_hard_swish_flatten_dense": ending(
        "mean with keepdims, hard swish, Flatten, Dense",
        WRONG,
        lambda x: dense(flat(act(pixel(x), "hard_silu"))),
    ),
    "pixel_square_flatten_dense": ending(
        "mean with keepdims, product with itself, Flatten, Dense",
        WRONG,
        lambda x: dense(flat(twice(pixel(x)))),
    ),
    "pixel_sigmoid": ending(
        "mean with keepdims, sigmoid", FAILS, lambda x: act(pixel(x), "sigmoid")
    ),
    "pixel_pointwise": ending(
        "mean with keepdims, 1x1", WRONG, lambda x: mix(pixel(x), 10, None)
    ),
    "pixel_pointwise_flatten": ending(
        "mean with keepdims, 1x1, Flatten",
        WRONG,
        lambda x: flat(mix(pixel(x), 10, None)),
    ),
    "pixel_pointwise_reshape_softmax": ending(
        "mean with keepdims, 1x1, Reshape, softmax",
        WRONG,
        lambda x: act(layers.Reshape((10,))(mix(pixel(x), 10, None)), "softmax"),
    ),
    "pixel_pointwise_hard_swish_flatten_dense": ending(
        "mean with keepdims, 1x1, hard swish, Flatten, Dense",
        RIGHT,
        lambda x: dense(flat(mix(pixel(x), 64, "hard_silu"))),
    ),
    "pixel_pointwise_mean_dense": ending(
        "mean with keepdims, 1x1, mean, Dense",
        RIGHT,
        lambda x: dense(mean(mix(pixel(x), 64))),
    ),
    # Inside, before the last mean.
    "excite_sigmoid": ending(
        "squeeze-and-excite (ReLU, sigmoid), mean, Dense",
        RIGHT,
        lambda x: dense(mean(excited(x))),
    ),
    "excite_silu": ending(
        "squeeze-and-excite (swish, sigmoid), mean, Dense",
        RIGHT,
        lambda x: dense(mean(excited(x, squeeze="silu"))),
    ),
    "excite_hard_sigmoid": ending(
        "squeeze-and-excite (ReLU, hard sigmoid), mean, Dense",
        RIGHT,
        lambda x: dense(mean(excited(x, "hard_sigmoid"))),
    ),
    "excite_by_dense": ending(
        "squeeze-and-excite by Dense layers, mean, Dense",
        RIGHT,
        lambda x: dense(mean(excited_by_dense(x))),
    ),
    "excite_pointwise": ending(
        "squeeze-and-excite, 1x1, mean, Dense",
        RIGHT,
        lambda x: dense(mean(mix(excited(x), 128))),
    ),
    "residual": ending(
        "sum with its 1x1, mean, Dense",
        RIGHT,
        lambda x: dense(mean(layers.Add()([x, mix(x, x.shape[-1])]))),
    ),
    "pixel_added": ending(
        "sum with its mean, mean, Dense",
        RIGHT,
        lambda x: dense(mean(layers.Add()([x, pixel(x)]))),
    ),
    "concatenate": ending(
        "concatenation with its 1x1, mean, Dense",
        RIGHT,
        lambda x: dense(mean(layers.Concatenate()([x, mix(x, 64)]))),
    ),
    "window": ending(
        "3x3 convolution, mean, Dense",
        RIGHT,
        lambda x: dense(mean(layers.Conv2D(32, 3, padding="same")(x))),
    ),
    # No mean at the end.
    "map": ending("nothing: the map is the output", RIGHT, lambda x: x),
    "map_softmax": ending("softmax over channels", RIGHT, lambda x: act(x, "softmax")),
    "map_flatten_dense": ending("Flatten, Dense", RIGHT, lambda x: dense(flat(x))),
    "max_dense": ending(
        "global max pooling, Dense",
        RIGHT,
        lambda x: dense(layers.GlobalMaxPooling2D()(x)),
    ),
    "max_pooling_flatten_dense": ending(
        "2x2 max pooling, Flatten, Dense",
        RIGHT,
        lambda x: dense(flat(layers.MaxPooling2D(2)(x))),
    ),
    "average_flatten_dense": ending(
        "6x6 average pooling (all pixels), Flatten, Dense",
        RIGHT,
        lambda x: dense(flat(layers.AveragePooling2D(x.shape[1])(x))),
    ),
    "average_2_flatten_dense": ending(
        "2x2 average pooling, Flatten, Dense",
        RIGHT,
        lambda x: dense(flat(layers.AveragePooling2D(2)(x))),
    ),
    "up_nearest": ending(
        "upsampling, nearest", RIGHT, lambda x: layers.UpSampling2D(2)(x)
    ),
    "up_bilinear": ending(
        "upsampling, bilinear",
        RIGHT,
        lambda x: layers.UpSampling2D(2, interpolation="bilinear")(x),
    ),
    "transposed": ending(
        "transposed convolution",
        RIGHT,
        lambda x: layers.Conv2DTranspose(8, 2, strides=2)(x),
    ),
    "mean_and_map": ending(
        "mean and Dense, and the map as a second output",
        RIGHT,
        lambda x: [dense(mean(x)), x],
    ),
    "mean_and_max": ending(
        "mean and global max joined, Dense",
        RIGHT,
        lambda x: dense(
            layers.Concatenate()([mean(x), layers.GlobalMaxPooling2D()(x)])
        ),
    ),
    # A second output from the middle.
    "middle": second("nothing", WRONG, lambda x: x),
    "middle_relu6": second("ReLU6", WRONG, lambda x: layers.ReLU(6.0)(x)),
    "middle_depthwise": second("depthwise", WRONG, depthwise),
    "middle_pointwise": second("1x1", WRONG, lambda x: mix(x, 12, None)),
    "middle_depthwise_pointwise": second(
        "depthwise and 1x1", WRONG, lambda x: mix(depthwise(x), 12, None)
    ),
    "middle_mean_dense": second("mean and Dense", RIGHT, lambda x: dense(mean(x))),
    "middle_flatten_dense": second(
        "Flatten and Dense", RIGHT, lambda x: dense(flat(x))
    ),
    "middle_softmax": second("softmax", RIGHT, lambda x: act(x, "softmax")),
    "middle_max_pooling": second(
        "4x4 max pooling", RIGHT, lambda x: layers.MaxPooling2D(4)(x)
    ),
    "middle_flatten": second("Flatten", RIGHT, flat),
    "middle_flatten_reshape": second(
        "Flatten and Reshape to a map",
        WRONG,
        lambda x: layers.Reshape(x.shape[1:])(flat(x)),
    ),
    "middle_window": second(
        "3x3 convolution", RIGHT, lambda x: layers.Conv2D(8, 3, padding="same")(x)
    ),
    "middle_up": second("upsampling", RIGHT, lambda x: layers.UpSampling2D(2)(x)),
    # Back to a map in the middle, as in a U-Net.
    "u_concatenate": Case(
        u_shaped(layers.Concatenate, lambda x: mix(x, 4, None)),
        RIGHT,
        "bilinear upsampling, joined with a map in the middle, 1x1",
    ),
    "u_add": Case(
        u_shaped(layers.Add, lambda x: mix(x, 4, None)),
        RIGHT,
        "bilinear upsampling, added to a map in the middle, 1x1",
    ),
    "u_add_mean": Case(
        u_shaped(layers.Add, lambda x: dense(mean(x))),
        RIGHT,
        "bilinear upsampling, added to a map in the middle, mean, Dense",
    ),
}


def pruned(model):
    """Random weights, of the 1x1 kernels a tenth, and offsets that are not zero."""
    random = np.random.default_rng(0)
    for layer in model.layers:
        for weight in layer.weights:
            if weight.name in ("bias", "beta", "moving_mean"):
                weight.assign(0.1 * random.standard_normal(weight.shape))
        if isinstance(layer, layers.Conv2D) and layer.kernel_size == (1, 1):
            kernel = keras.ops.convert_to_numpy(layer.kernel)
            kept = random.random(kernel.shape) >= SPARSITY
            # Of the same variance, so that outputs are no rounding errors.
            scaled = kernel / np.sqrt(1 - SPARSITY)
            layer.kernel.assign(np.where(kept, scaled, 0))
    return model


def written(model, folder):
    """A dense and a sparse file of a model, as LiteRT's converter makes them."""
    folder.mkdir(exist_ok=True)
    write(serving(model), folder / "model")
    files = {}
    for form in ("dense", "sparse"):
        files[form] = folder / f"{form}.tflite"
        content = convert(folder / "model", model.name, sparse=form == "sparse")
        files[form].write_bytes(content)
    return files


def measure(name, folder, litertjs=None, repeats=20):
    """What LiteRT.js makes of a case: a row of the table.

    Args:
        name: A key of `CASES`.
        folder: Where files go.
        litertjs: As in `compare_in_browser`.
        repeats: As there.
    """
    keras.utils.set_random_seed(0)
    model = pruned(CASES[name].build())
    plan = tfticket.export.sparse_plan(model, "web")
    files = written(model, pathlib.Path(folder, name))
    row = {
        "case": name,
        "about": CASES[name].about,
        "plan": f"{len(plan.running)} of {len(plan.pointwise)}",
    }
    x = np.random.default_rng(1).standard_normal((SAMPLES, SIZE, SIZE, 3))
    x = x.astype("float32")
    try:
        found = tfticket.export.compare_in_browser(
            files, x, litertjs=litertjs, repeats=repeats
        )
    except BrowserError as error:
        return row | {"answer": FAILS, "error": str(error).partition(" (")[0]}
    rows = {row.name: row for row in found.rows}
    differences = {form: _difference(model, x, rows[form].outputs) for form in rows}
    # Else it is not the sparse file that is wrong.
    assert differences["dense"] < SAME, (name, differences)
    return row | {
        "answer": RIGHT if differences["sparse"] <= SAME else WRONG,
        "difference": differences["sparse"],
        "dense_ms": rows["dense"].milliseconds,
        "sparse_ms": rows["sparse"].milliseconds,
        "faster": rows["sparse"].speedup,
        "device": str(found).rpartition("\n\n")[2],
    }


def _difference(model, x, outputs):
    """Largest difference to Keras, relative to the largest value of an output."""
    worst = 0.0
    answers = [model(x[i : i + 1], training=False) for i in range(len(x))]
    answers = [x if isinstance(x, list) else [x] for x in answers]
    for i, name in enumerate(model.output_names):
        want = np.concatenate([answer[i] for answer in answers])
        apart = np.abs(outputs[name] - want).max() / np.abs(want).max()
        worst = float(np.maximum(worst, apart))  # keeps NaN
    return worst


def _page(rows, repeats):
    lines = [
        "| layers after the cluster | answer | difference | dense, ms | sparse "
        "| faster | plan |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        answer = row["answer"] if row["answer"] == RIGHT else f"**{row['answer']}**"
        numbers = [
            format(row[key], how) if key in row else ""
            for key, how in (
                *(("difference", ".0e"), ("dense_ms", ".2f"), ("sparse_ms", ".2f")),
                ("faster", ".1f"),
            )
        ]
        lines.append(f"| {' | '.join([row['about'], answer, *numbers, row['plan']])} |")
    return PAGE.format(
        sparsity=SPARSITY,
        wrong=sum(row["answer"] != RIGHT for row in rows),
        count=len(rows),
        table="\n".join(lines),
        same=SAME,
        repeats=repeats,
        device=" ".join(next(row["device"] for row in rows if "device" in row).split()),
    )


_OUT = flags.DEFINE_string("out", "docs/results/after_cluster.md", "Page to write.")
_CASES = flags.DEFINE_list("cases", [], "Only these, and no page.")
_LITERTJS = flags.DEFINE_string("litertjs", None, "Folder of the npm package.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "Rounds of each pair of files.", 1)


def main(_):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for name in _CASES.value or CASES:
            row = measure(name, folder, _LITERTJS.value, _REPEATS.value)
            expected = CASES[name].answer
            note = "" if row["answer"] == expected else f" (EXPECTED: {expected})"
            print(
                f"{name}: {row['answer']}{note}, {row.get('difference', 0):.0e}, "
                f"{row.get('faster', 0):.2f}x, plan {row['plan']}",
                flush=True,
            )
            rows.append(row)
    if _CASES.value:
        return
    out = pathlib.Path(_OUT.value)
    out.write_text(_page(rows, _REPEATS.value))
    keys = ("case", "answer", "difference", "dense_ms", "sparse_ms", "faster", "plan")
    table = [{key: row.get(key, "") for key in keys} for row in rows]
    write_csv(table, out.with_suffix(".csv"))


if __name__ == "__main__":
    app.run(main)
