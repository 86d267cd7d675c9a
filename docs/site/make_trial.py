"""Makes the two files that the site's page "Side by side" runs, and their plan.

    python docs/site/make_trial.py

A small network that obeys XNNPACK's rules, its weights random and 90 % of its 1x1
kernels zero, stored dense and sparse. Written to docs/try/.
"""

import json
import pathlib
import re

import keras
from absl import app
from keras import layers

import tfticket
from tfticket.export.browser.trial import prepare

FOLDER = pathlib.Path(__file__).parents[1] / "try"
SPARSITY = 0.9
# Channels of the 1x1 convolutions; a stride of 2 begins each row.
WIDTHS = ((64, 64), (128, 128), (256, 256))


def network():
    x = image = keras.Input((96, 96, 3), batch_size=1, name="image")
    x = layers.ZeroPadding2D(1)(x)
    x = layers.Conv2D(16, 3, strides=2, activation="relu")(x)
    for stage, widths in enumerate(WIDTHS):
        for i, width in enumerate(widths):
            strided = stage > 0 and i == 0
            x = layers.ZeroPadding2D(1)(x)
            x = layers.DepthwiseConv2D(
                3,
                strides=1 + strided,
                activation="relu",
                depthwise_initializer="he_normal",
            )(x)
            x = layers.Conv2D(
                width,
                1,
                activation="relu",
                # A tenth of them will be left, the largest.
                kernel_initializer=keras.initializers.VarianceScaling(4.0),
                name=f"mix_{stage}{i}",
            )(x)
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(10, name="logits")(x))


def main(_):
    keras.utils.set_random_seed(0)
    wrapped = tfticket.prune(network())
    tfticket.sparsify(wrapped, 0.0, sparsities={re.compile("mix"): SPARSITY})
    pair = {}
    for name in ("dense", "sparse"):
        path = FOLDER / f"{name}.tflite"
        sparse = name == "sparse"
        print(tfticket.export.litert(wrapped, path, sparse=sparse, overwrite=True))
        pair[name] = path
    plan = prepare(pair, repeats=30).plan("", None)
    for file in plan["files"]:
        file["url"] = f"{file['name']}.tflite"
    # Samples are made when the site is built.
    plan["calls"] = 2
    (FOLDER / "plan.json").write_text(json.dumps(plan, indent=1) + "\n")


if __name__ == "__main__":
    app.run(main)
