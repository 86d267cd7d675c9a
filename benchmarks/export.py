"""Weighs, loads and times what exports of sparse models come to.

    python benchmarks/export.py
    python benchmarks/export.py --network=mlp --sparsities=0.95 --repeats=31
    python benchmarks/export.py --json=export.json
    python benchmarks/export.py --table=tfticket/export/storage/format_table.json

Networks have random weights, pruned by magnitude, layer by layer. In each row, files
are loaded and called in turns in one process, so that what else the machine does falls
on all of them; ratios are taken turn by turn, and the table gives their medians, of the
dense model in the same form (SavedModel or float32 LiteRT). One thread, unless
`--threads` says otherwise: sparse products have one, and dense ones gain by more.
"weights" are the bytes of a SavedModel's variables, "whole" all of its files; no gzip.
`compact` is measured on Conv-6 with half of the channels pruned.
"""

import json
import os
import pathlib
import statistics
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras
import numpy as np
import tensorflow as tf
from absl import app, flags

import tfticket
from tfticket import export, models
from tfticket.export.checking.timing import runner, timed
from tfticket.sparsity.structures import Block, Channel

BATCHES = (1, 64)
_NETWORK = flags.DEFINE_enum(
    "network",
    "all",
    ["all", "lenet", "mlp", "conv_6", "pointwise", "compact"],
    "Which.",
)
_SPARSITIES = flags.DEFINE_list("sparsities", ["0.8", "0.9", "0.95", "0.98"], "Of all.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Calls and loads of each.", 1)
_THREADS = flags.DEFINE_integer("threads", 1, "Threads of TensorFlow's operations.", 1)
_JSON = flags.DEFINE_string("json", None, "File to write every figure to.")
_TABLE = flags.DEFINE_string(
    "table", None, "Table of format='auto' to bring up to date."
)


def mlp(shape, *units):
    layers = [keras.layers.Dense(n, activation="relu") for n in units[:-1]]
    return keras.Sequential(
        [keras.Input(shape), *layers, keras.layers.Dense(units[-1])]
    )


def pointwise():
    """1x1 convolutions with what MobileNets have between them."""
    layers = [keras.Input((14, 14, 64))]
    for filters in (128, 256, 256, 512):
        layers += [
            keras.layers.Conv2D(filters, 1, activation="relu"),
            keras.layers.DepthwiseConv2D(3, padding="same"),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dense(10)]
    return keras.Sequential(layers)


NETWORKS = {
    "lenet": lambda: mlp((784,), 300, 100, 10),
    "mlp": lambda: mlp((784,), 2048, 2048, 10),
    "conv_6": lambda: models.MODELS["conv_6"]((32, 32, 3), 10),
    "pointwise": pointwise,
}
# Network, sparsity, what, form: the figure may not be above.
TARGETS = {
    ("mlp", 0.95, "weights", "encoded"): 1 / 14,
    ("mlp", 0.95, "whole", "encoded"): 1 / 15,
    ("lenet", 0.95, "whole", "encoded"): 1 / 8.5,
    ("mlp", 0.98, "whole", "encoded"): 1 / 35,
    ("mlp", 0.95, "load", "encoded"): 2.5,
    ("lenet", 0.95, "load", "encoded"): 2.5,
    ("mlp", 0.95, "batch 64", "encoded"): 1.1,
    ("mlp", 0.95, "batch 64", "csr"): 0.65,
    ("mlp", 0.95, "batch 1", "litert 1x4"): 0.2,
    ("compact", 0.5, "batch 1", "compact"): 0.5,
    ("compact", 0.5, "batch 64", "compact"): 0.5,
}


def size(path, part=""):
    files = [f for f in [path, *path.rglob("*")] if f.is_file()]
    return sum(
        f.stat().st_size for f in files if part in str(f.relative_to(path.parent))
    )


def load_seconds(path):
    start = time.perf_counter()
    tf.saved_model.load(str(path))
    return time.perf_counter() - start


def pruned(build, sparsity, structure=None):
    model = tfticket.prune(build(), structure=structure)
    tfticket.sparsify(model, sparsity)
    return tfticket.strip(model)


def compared(files, base, shape, repeats):
    """Form to figures, as ratios to `base`."""
    runs = {form: runner(path) for form, path in files.items()}
    figures = {
        form: {"whole": size(p) / size(files[base])} for form, p in files.items()
    }
    for batch in BATCHES:
        x = np.random.default_rng(0).standard_normal((batch, *shape), np.float32)
        times = timed(runs, {"x": x}, repeats)
        for form, taken in times.items():
            ratio = statistics.median(np.divide(taken, times[base]))
            figures[form][f"batch {batch}"] = ratio
    if files[base].is_dir():
        loads = {form: [] for form in files}
        for repeat in range(repeats):
            for form in list(files)[:: -1 if repeat % 2 else 1]:
                loads[form].append(load_seconds(files[form]))
        for form, path in files.items():
            ratio = statistics.median(np.divide(loads[form], loads[base]))
            figures[form]["load"] = ratio
            weights = size(path, "variables") / size(files[base], "variables")
            figures[form]["weights"] = weights
    return figures


def measure(name, sparsity, folder, repeats):
    build = NETWORKS[name]
    dense, sparse = build(), pruned(build, sparsity)
    saved = {"dense": export.saved_model(dense, folder / "dense").path}
    for form in ("encoded", "csr"):
        made = export.saved_model(sparse, folder / form, format=form)
        saved[form] = made.path
    made = export.saved_model(
        sparse, folder / "half", format="encoded", value_dtype="float16"
    )
    saved["encoded float16"] = made.path
    lite = {"litert dense": export.litert(dense, folder / "dense.tflite").path}
    lite["litert int8"] = export.litert(
        sparse, folder / "int8.tflite", quantization="dynamic"
    ).path
    if name in ("lenet", "mlp"):
        kernels = [w.shape for w in dense.weights if len(w.shape) == 2]
        if all(shape[0] % 4 == 0 for shape in kernels):
            blocks = pruned(build, sparsity, Block((4, 1)))
            made = export.litert(blocks, folder / "1x4.tflite", sparse=True)
            lite["litert 1x4"] = made.path
    shape = dense.input_shape[1:]
    figures = compared(saved, "dense", shape, repeats)
    return figures | compared(lite, "litert dense", shape, repeats)


def measure_compact(folder, repeats):
    wide = pruned(NETWORKS["conv_6"], 0.5, Channel())
    small = export.compact(wide)
    files = {
        "stripped": export.saved_model(wide, folder / "wide").path,
        "compact": export.saved_model(small.model, folder / "small").path,
    }
    return compared(files, "stripped", wide.input_shape[1:], repeats)


def show(name, sparsity, figures):
    columns = ("weights", "whole", "load", *(f"batch {batch}" for batch in BATCHES))
    print(f"\n{name}, {sparsity:.0%} pruned" + "".join(f"{c:>10}" for c in columns))
    for form, found in figures.items():
        numbers = "".join(
            f"{found[c]:10.3f}" if c in found else " " * 10 for c in columns
        )
        print(f"  {form:{len(name) + 11}}{numbers}")
    for (network, at, what, form), most in TARGETS.items():
        if (network, at) == (name, sparsity) and form in figures:
            value = figures[form][what]
            outcome = "pass" if value <= most else "FAIL"
            print(f"  {outcome}: {form}, {what}: {value:.3f}, at most {most:.3f}")


def write_table(path, results):
    """Puts what was measured on the MLP into what `format="auto"` goes by."""
    table = json.loads(path.read_text())
    faster = {
        float(key.split()[1]): figures["csr"]
        for key, figures in results.items()
        if key.startswith("mlp")
        and all(figures["csr"][f"batch {batch}"] < 0.95 for batch in BATCHES)
    }
    choices = [row for row in table["choices"] if row["format"] != "csr"]
    if faster:
        least = min(faster)
        times = " and ".join(
            f"{faster[least][f'batch {batch}']:.2f}x dense's time at batch {batch}"
            for batch in BATCHES
        )
        row = {"format": "csr", "min_sparsity": least, "min_csr_share": 0.9}
        choices.insert(0, {**row, "because": f"measured at {least:.0%}: {times}"})
    table["choices"] = choices
    table["measured"] = (
        "MLP 784-2048-2048-10, random masks, "
        f"threads: {_THREADS.value}, TensorFlow {tf.__version__}"
    )
    path.write_text(json.dumps(table, indent=2) + "\n")


def main(_):
    if _TABLE.value and _NETWORK.value not in ("all", "mlp"):
        raise app.UsageError("--table needs --network=mlp, or all.")
    tf.config.threading.set_intra_op_parallelism_threads(_THREADS.value)
    tf.config.threading.set_inter_op_parallelism_threads(_THREADS.value)
    chosen = [*NETWORKS, "compact"] if _NETWORK.value == "all" else [_NETWORK.value]
    results = {}
    for name in chosen:
        for sparsity in [0.5] if name == "compact" else map(float, _SPARSITIES.value):
            with tempfile.TemporaryDirectory() as folder:
                folder = pathlib.Path(folder)
                figures = (
                    measure_compact(folder, _REPEATS.value)
                    if name == "compact"
                    else measure(name, sparsity, folder, _REPEATS.value)
                )
            show(name, sparsity, figures)
            results[f"{name} {sparsity}"] = figures
    if _TABLE.value:
        write_table(pathlib.Path(_TABLE.value), results)
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
