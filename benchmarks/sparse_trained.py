"""Trains a MobileNet on CIFAR-10, prunes its 1x1 kernels, and runs it in a browser.

    python benchmarks/sparse_trained.py --what=train --images=cifar10.npz
    python benchmarks/sparse_trained.py --what=files --images=cifar10.npz \
        --litertjs=node_modules/@litertjs/core

The network is MobileNet of keras.applications; it enlarges the images itself. It is
trained densely, then pruned to 80 and on to 90 % of its 1x1 weights, step by step in
the first half of the epochs after each, all of them ranked together. No epoch is
chosen: what counts are the weights after the last one. `control` trains the dense
network on for as many epochs as the pruned ones have had. `files` runs LiteRT files of
the dense and the pruned networks in headless Chromium, in turns, and writes
`docs/results/sparse_convs/trained.csv`.
"""

import csv
import os
import pathlib
import re
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cifar10
import keras
import numpy as np
from absl import app, flags

import tfticket

SPARSITIES = (0.0, 0.8, 0.9)
# What stays dense: all but the 1x1 convolutions.
OTHERS = re.compile(r"^(?!.*conv_pw_\d+$).*")

WHAT = ("train", "control", "files")
_WHAT = flags.DEFINE_enum("what", "train", WHAT, "What to do.")
_IMAGES = flags.DEFINE_string("images", None, "As of resnet8_small.py.", required=True)
_FOLDER = flags.DEFINE_string("folder", "trained", "Where the networks are kept.")
_RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of the page.")
_LITERTJS = flags.DEFINE_string("litertjs", None, "Folder of @litertjs/core.")
_ALPHA = flags.DEFINE_float("alpha", 0.5, "Width of the network.", 0)
_ENLARGE = flags.DEFINE_integer("enlarge", 2, "Times that images are enlarged.", 1)
_EPOCHS = flags.DEFINE_integer("epochs", 24, "Epochs of the dense network.", 1)
_MORE = flags.DEFINE_integer("more", 16, "Epochs for each sparsity.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Of weights, order and crops.")
_BATCH = flags.DEFINE_integer("batch", 128, "Images in a step.", 1)
_RATE = flags.DEFINE_float("rate", 0.1, "Highest learning rate.", 0)
_DECAY = flags.DEFINE_float("decay", 0.0005, "Decoupled weight decay.", 0)
_REPEATS = flags.DEFINE_integer("repeats", 50, "Calls of each file.", 1)


def network() -> keras.Model:
    """MobileNet that gives logits and enlarges its images."""
    side = 32 * _ENLARGE.value
    image = keras.Input((32, 32, 3), name="image")
    x = keras.layers.Rescaling(1 / 127.5, -1.0)(image)
    x = keras.layers.UpSampling2D(_ENLARGE.value)(x)
    body = keras.applications.MobileNet(
        input_shape=(side, side, 3),
        alpha=_ALPHA.value,
        weights=None,
        include_top=False,
    )
    x = keras.layers.GlobalAveragePooling2D()(body(x))
    return keras.Model(
        image, keras.layers.Dense(10, name="logits")(x), name="mobilenet"
    )


def path_of(name: object) -> pathlib.Path:
    return pathlib.Path(_FOLDER.value, f"{name}-{_SEED.value}.keras")


def train() -> None:
    cifar10.one_thread()
    keras.utils.set_random_seed(_SEED.value)
    x, y, x_test, y_test = cifar10.read_images(_IMAGES.value)
    path_of(0.0).parent.mkdir(parents=True, exist_ok=True)
    model = network()
    fit(model, x, y, _EPOCHS.value, _RATE.value)
    report(model, 0.0, x_test, y_test)
    student = tfticket.prune(model, exclude=[OTHERS])
    before = 0.0
    for sparsity in SPARSITIES[1:]:
        steps = _MORE.value * (len(y) // _BATCH.value)
        schedule = tfticket.schedules.PolynomialDecay(
            before, sparsity, 0, steps // 2, frequency=100
        )
        pruning = tfticket.GradualPruning(schedule, scope="global")
        fit(student, x, y, _MORE.value, _RATE.value / 2, [pruning])
        report(tfticket.strip(student), sparsity, x_test, y_test)
        before = sparsity


def control() -> None:
    cifar10.one_thread()
    keras.utils.set_random_seed(_SEED.value)
    x, y, x_test, y_test = cifar10.read_images(_IMAGES.value)
    model = keras.models.load_model(path_of(0.0), compile=False)
    for _ in SPARSITIES[1:]:
        fit(model, x, y, _MORE.value, _RATE.value / 2)
    report(model, "control", x_test, y_test)


def fit(model, x, y, epochs, rate, callbacks=()):
    cifar10.train(
        model,
        x,
        y,
        epochs=epochs,
        seed=_SEED.value,
        batch=_BATCH.value,
        rate=rate,
        decay=_DECAY.value,
        callbacks=callbacks,
    )


def report(model, name, x_test, y_test) -> None:
    model.save(path_of(name))
    print(name, cifar10.accuracy(model, x_test, y_test), flush=True)


def files() -> None:
    _, _, x_test, y_test = cifar10.read_images(_IMAGES.value)
    models = {s: keras.models.load_model(path_of(s)) for s in SPARSITIES}
    images = x_test[:64].astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for sparsity, model in models.items():
            paths[sparsity] = tfticket.export.litert(
                model,
                pathlib.Path(folder, f"{sparsity}.tflite"),
                sparse=bool(sparsity),
                target="web" if sparsity else None,
                batch_size=None if sparsity else 1,
                inputs=images[:1],
            ).path
        found = tfticket.export.compare_in_browser(
            {str(s): path for s, path in paths.items()},
            images[:8],
            repeats=_REPEATS.value,
            litertjs=_LITERTJS.value,
        )
    rows = []
    for (sparsity, model), row in zip(models.items(), found.rows, strict=True):
        (answers,) = row.outputs.values()
        wanted = model.predict(images[:8], verbose=0)
        np.testing.assert_allclose(
            answers.reshape(wanted.shape), wanted, atol=1e-4 * np.abs(wanted).max()
        )
        rows.append(
            {
                "network": f"MobileNet {_ALPHA.value:g}",
                "size": 32 * _ENLARGE.value,
                "epochs": _EPOCHS.value,
                "more": _MORE.value,
                "seed": _SEED.value,
                "sparsity": sparsity,
                "accuracy": cifar10.accuracy(model, x_test, y_test),
                "ms": round(row.milliseconds, 3),
                "speedup": round(row.speedup, 3),
                "bytes": row.bytes,
            }
        )
        print(rows[-1], flush=True)
    path = pathlib.Path(_RESULTS.value, "sparse_convs", "trained.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def main(_) -> None:
    {"train": train, "control": control, "files": files}[_WHAT.value]()


if __name__ == "__main__":
    app.run(main)
