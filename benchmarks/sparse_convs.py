"""How fast LiteRT.js runs unstructured sparse 1x1 convolutions, network by network.

    npm install @litertjs/core
    python benchmarks/sparse_convs.py --litertjs=node_modules/@litertjs/core
    python benchmarks/sparse_convs.py --what=page

For each network of keras.applications and each sparsity two files are written: the
network as it is, its batch fixed to one image, and the same weights written by
`tfticket.export.sparse_ready` with sparse kernels, which is
`tfticket.export.litert(..., sparse=True, target="web")`. Both hold the same zeros. They
are run in headless Chromium, in turns, on the same images, by
`tfticket.export.compare_in_browser`. Weights are random unless `--weights=imagenet`;
BatchNormalization has statistics as after training. A row of
`docs/results/sparse_convs/figures.csv` is one pair; `page` makes the page and its
picture of all rows.
"""

import csv
import os
import pathlib
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import sparse_convs_page
from absl import app, flags

NETWORKS = (
    *("MobileNet", "MobileNetV2", "EfficientNetB0"),
    *("MobileNetV3Small", "MobileNetV3Large"),
)
SPARSITIES = ("0.9", "0.8", "0.7")

_WHAT = flags.DEFINE_enum("what", "run", ("run", "page"), "What to do.")
_NETWORKS = flags.DEFINE_list("networks", list(NETWORKS), "Of keras.applications.")
_SPARSITIES = flags.DEFINE_list("sparsities", list(SPARSITIES), "Of the 1x1 kernels.")
_SIZE = flags.DEFINE_integer("size", 224, "Pixels of a side.", 32)
_WEIGHTS = flags.DEFINE_string("weights", None, "imagenet, or none: random.")
_REPEATS = flags.DEFINE_integer("repeats", 20, "Calls of each file.", 1)
_LITERTJS = flags.DEFINE_string("litertjs", None, "Folder of @litertjs/core.")
_RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of the page.")


def network(name: str):
    """A network of keras.applications with one image a batch."""
    import keras

    keras.utils.set_random_seed(0)
    shape = (_SIZE.value, _SIZE.value, 3)
    make = getattr(keras.applications, name)
    model = make(
        input_tensor=keras.Input(shape, batch_size=1), weights=_WEIGHTS.value or None
    )
    random = np.random.default_rng(0)
    for layer in model.layers:
        if _WEIGHTS.value or not isinstance(layer, keras.layers.BatchNormalization):
            continue
        for weight in layer.weights:
            low, high = (0.7, 1.3) if _is_scale(weight) else (-0.2, 0.2)
            weight.assign(random.uniform(low, high, weight.shape))
    return model


def _is_scale(weight):
    return weight.path.endswith(("gamma", "moving_variance"))


def pruned(model, sparsity: float):
    """The model with so many of the weights of each 1x1 convolution zero."""
    import keras

    import tfticket

    wrapped = tfticket.prune(
        model,
        exclude=[
            layer.name
            for layer in model.layers
            if not isinstance(layer, keras.layers.Conv2D)
            or tuple(layer.kernel_size) != (1, 1)
        ],
    )
    tfticket.sparsify(wrapped, sparsity)
    return tfticket.strip(wrapped)


def measured(name: str, sparsity: str) -> dict[str, object]:
    """The row of one network at one sparsity."""
    import tfticket

    model = pruned(network(name), float(sparsity))
    images = np.random.default_rng(1).uniform(-1, 1, (4, *model.input_shape[1:]))
    images = images.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        dense, sparse = (
            tfticket.export.litert(model, pathlib.Path(folder, "dense.tflite")),
            tfticket.export.litert(
                model,
                pathlib.Path(folder, "sparse.tflite"),
                sparse=True,
                target="web",
            ),
        )
        found = tfticket.export.compare_in_browser(
            [dense.path, sparse.path],
            images,
            repeats=_REPEATS.value,
            litertjs=_LITERTJS.value,
        )
    ready = tfticket.export.sparse_ready(model)
    wanted = model.predict(images, batch_size=1, verbose=0)
    (answer,) = found.rows[1].outputs.values()
    first, second = found.rows
    return {
        "network": name,
        "size": _SIZE.value,
        "sparsity": sparsity,
        "weights": _WEIGHTS.value or "random",
        "kernels": len(ready.plan.pointwise),
        "sparse_kernels": len(ready.plan.running),
        "dense_bytes": first.bytes,
        "sparse_bytes": second.bytes,
        "dense_ms": round(first.milliseconds, 3),
        "sparse_ms": round(second.milliseconds, 3),
        "speedup": round(second.speedup, 3),
        "difference": float(f"{relative(answer, wanted):.2g}"),
        "litertjs": found.litertjs,
        "browser": found.browser,
        "threads": found.threads,
    }


def relative(found, wanted) -> float:
    """Largest difference, relative to the largest output of Keras's model."""
    return float(np.abs(np.reshape(found, wanted.shape) - wanted).max() / wanted.max())


def main(_) -> None:
    path = pathlib.Path(_RESULTS.value, "sparse_convs", "figures.csv")
    if _WHAT.value == "run":
        for name in _NETWORKS.value:
            for sparsity in _SPARSITIES.value:
                row = measured(name, sparsity)
                print(row, flush=True)
                add(path, row)
    sparse_convs_page.write(pathlib.Path(_RESULTS.value))


def add(path: pathlib.Path, row: dict[str, object]) -> None:
    """Puts a row in the place of the one of the same network, size and sparsity."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = ("network", "size", "sparsity")
    rows = sparse_convs_page.read(path)
    rows = [x for x in rows if [x[k] for k in key] != [str(row[k]) for k in key]]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(row), lineterminator="\n")
        writer.writeheader()
        writer.writerows([*rows, row])


if __name__ == "__main__":
    app.run(main)
