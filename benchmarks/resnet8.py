"""Prunes the ResNet-8 of MLPerf Tiny while the dense network teaches it, on CIFAR-10.

    python benchmarks/resnet8.py --all --parallel=4 --model=pretrainedResnet.h5 \
        --images=cifar10.npz --out=resnet8.csv --save=students
    python benchmarks/resnet8.py --one --flops=0.5 --seed=0 --model=... --images=...
    python benchmarks/resnet8.py --compare --epochs=12 --validation=5000 --model=... \
        --images=... --out=compare.csv --save=compared

The model is `pretrainedResnet.h5` of github.com/mlcommons/tiny (Apache-2.0). A student
starts as a copy of it. In the first part of the training channels are cut step by step
until the asked part of the operations is left (`--flops`), or single weights until the
asked part of them is left (`--weights`); `--dense` trains the same way and cuts
nothing, which is the control. The loss is the cross-entropy of the labels and the
divergence from the dense network's softened outputs, as `keras.distillation.Distiller`
computes them, on images that are cropped and flipped at random. The weights after the
last epoch are what counts: no epoch is chosen by its accuracy. With `--validation=5000`
so many of the training images are kept out, for choosing between recipes.

One configuration is one process and one row of the CSV, and the student goes to the
folder of `--save`. `--all` runs what has no row yet, several processes at a time.
Training needs Keras with JAX and, where the images are an .npz, neither TensorFlow nor
TFDS. An epoch is one program on the device: the images lie there and are shuffled,
cropped and flipped there.
"""

import csv
import fcntl
import itertools
import os
import pathlib
import subprocess
import sys
import time

# Before Keras is imported.
os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags

FLOPS = (0.5, 0.75, 0.6, 0.4, 0.3, 0.25)
WEIGHTS = 0.2
SEEDS = (0, 1, 2)
# What `--compare` tries at half of the operations, each against the defaults.
VARIANTS = (
    *("", "--scope=layerwise", "--scope=isomorphic", "--criterion=taylor"),
    *("--optimizer=sgd", "--rate=0.001", "--decay=0.001", "--decay=0.05"),
    *("--label_weight=0.1", "--label_weight=0.6", "--temperature=2", "--cut=0.1"),
)
PAD = 4  # pixels that a crop may move
COLUMNS = (
    *("structure", "target", "seed", "operations_left", "weights_left", "epochs"),
    *("start_accuracy", "validation_accuracy", "test_accuracy", "seconds"),
    *("batch", "optimizer", "rate", "decay", "temperature", "label_weight"),
    *("criterion", "scope", "cut", "train_images"),
)

_ALL = flags.DEFINE_bool("all", False, "Run every configuration without a row.")
_ONE = flags.DEFINE_bool("one", False, "Run one configuration.")
_COMPARE = flags.DEFINE_bool("compare", False, "Try VARIANTS on images kept out.")
_MODEL = flags.DEFINE_string("model", None, "pretrainedResnet.h5.", required=True)
_IMAGES = flags.DEFINE_string(
    "images", None, "An .npz with x_train, y_train, x_test, y_test; else TFDS is read."
)
_DATA_DIR = flags.DEFINE_string("data_dir", None, "Where TFDS has CIFAR-10.")
_OUT = flags.DEFINE_string("out", "resnet8.csv", "The rows.")
_SAVE = flags.DEFINE_string("save", "students", "Folder of students and logs.")
_PARALLEL = flags.DEFINE_integer("parallel", 4, "Processes at a time.", 1)
_LIMIT = flags.DEFINE_float(
    "limit", None, "With --all: start nothing once so many seconds have passed."
)
_SEEDS = flags.DEFINE_list("seeds", list(map(str, SEEDS)), "With --all: the seeds.")

_FLOPS = flags.DEFINE_float("flops", None, "Cut channels to this part.", 0, 1)
_WEIGHTS = flags.DEFINE_float("weights", None, "Cut weights to this part.", 0, 1)
_DENSE = flags.DEFINE_bool("dense", False, "Cut nothing: the control.")
_SEED = flags.DEFINE_integer("seed", 0, "Of the order, the crops and the flips.")

_EPOCHS = flags.DEFINE_integer("epochs", 100, "Epochs.", 1)
_BATCH = flags.DEFINE_integer("batch", 256, "Images in a step.", 1)
_OPTIMIZER = flags.DEFINE_enum("optimizer", "sgd", ["sgd", "adamw"], "Which.")
_RATE = flags.DEFINE_float("rate", None, "Highest rate: 0.05 of SGD, 0.003 of AdamW.")
_DECAY = flags.DEFINE_float("decay", None, "Weight decay: 2e-4 of SGD, 0.01 of AdamW.")
_TEMPERATURE = flags.DEFINE_float("temperature", 4.0, "Of the distillation.")
_LABELS = flags.DEFINE_float("label_weight", 0.9, "Weight of the labels' loss.", 0, 1)
_CRITERION = flags.DEFINE_string("criterion", "magnitude", "Scores.")
_SCOPE = flags.DEFINE_string("scope", "global", "What is ranked together.")
_CUT = flags.DEFINE_float("cut", 0.4, "Part of the epochs in which it is cut.", 0, 1)
_VALIDATION = flags.DEFINE_integer("validation", 0, "Training images kept out.", 0)
_QUICK = flags.DEFINE_bool("quick", False, "4 steps of 64 images: does it run?")


def read_images() -> dict[str, np.ndarray]:
    """x_train, y_train, x_test and y_test; images are uint8."""
    if _IMAGES.value:
        with np.load(_IMAGES.value) as arrays:
            images = {key: arrays[key] for key in arrays.files}
    else:
        import tensorflow_datasets as tfds

        images = {}
        for split in ("train", "test"):
            loaded = tfds.load(
                "cifar10", split=split, data_dir=_DATA_DIR.value, batch_size=-1
            )
            for key, name in (("x", "image"), ("y", "label")):
                images[f"{key}_{split}"] = tfds.as_numpy(loaded)[name]
    return {
        key: array if key[0] == "x" else array.reshape(-1).astype(np.int32)
        for key, array in images.items()
    }


def dense_network():
    """The trained network without its softmax: distillation wants logits."""
    import keras

    model = keras.models.load_model(_MODEL.value, compile=False)
    model.get_layer("dense").activation = keras.activations.linear
    return model


def accuracy(model, x, y) -> float:
    outputs = model.predict(x.astype(np.float32), batch_size=1000, verbose=0)
    return float((np.argmax(outputs, -1) == y).mean())


def epochs_on_the_device():
    """A `Distiller` for which a step of `fit` is an epoch; JAX only."""
    import jax
    import keras

    class EpochDistiller(keras.distillation.Distiller):
        """Takes (random key, padded images) as x and all labels as y."""

        def train_step(self, state, data):
            (key, images), labels = data
            train_step = super().train_step
            steps = len(labels) // _BATCH.value
            order, crops = jax.random.split(key)
            order = jax.random.permutation(order, len(labels))
            order = order[: steps * _BATCH.value].reshape(steps, -1)

            def step(state, given):
                chosen, key = given
                x = augmented(key, images, chosen)
                logs, state = train_step(state, (x, labels[chosen]))
                return state, logs

            keys = jax.random.split(crops, steps)
            # In a loop XLA computes convolutions slowly on a CPU.
            unroll = jax.default_backend() == "cpu"
            state, logs = jax.lax.scan(step, state, (order, keys), unroll=unroll)
            # Metrics accumulate: the last step's are those of the epoch.
            return {name: values[-1] for name, values in logs.items()}, state

    return EpochDistiller


def augmented(key, images, chosen):
    """The chosen of the padded images, cropped and flipped at random, as float32."""
    import jax
    from jax import numpy as jnp

    size = images.shape[1] - 2 * PAD
    move, flip = jax.random.split(key)
    top, left = jax.random.randint(move, (2, len(chosen), 1), 0, 2 * PAD + 1)
    place = jnp.arange(size)[None]
    flipped = jax.random.bernoulli(flip, shape=(len(chosen), 1))
    columns = left + jnp.where(flipped, size - 1 - place, place)
    rows = (top + place)[:, :, None]
    return images[chosen[:, None, None], rows, columns[:, None]].astype(jnp.float32)


def optimizer(steps: int):
    """SGD with momentum or AdamW; the rate rises for 5 % and falls as a cosine."""
    import keras

    sgd = _OPTIMIZER.value == "sgd"
    rate = _RATE.value or (0.05 if sgd else 0.003)
    decay = (2e-4 if sgd else 0.01) if _DECAY.value is None else _DECAY.value
    warmup = max(1, steps // 20)
    rates = keras.optimizers.schedules.CosineDecay(
        rate / 100, steps - warmup, warmup_target=rate, warmup_steps=warmup
    )
    if sgd:
        # Of images in 0 to 255 the first layer's gradients are large.
        made = keras.optimizers.SGD(
            rates, momentum=0.9, nesterov=True, weight_decay=decay, global_clipnorm=5.0
        )
    else:
        made = keras.optimizers.AdamW(rates, weight_decay=decay)
    made.exclude_from_weight_decay(var_names=["bias", "gamma", "beta"])
    return made, rate, decay


def pruning(x, y):
    """The callbacks that cut: none for the control."""
    import keras

    import tfticket

    if _DENSE.value:
        return []
    channels = _FLOPS.value is not None
    left = _FLOPS.value if channels else _WEIGHTS.value
    # Asked before each epoch, which is one step of `fit`.
    end = round(_CUT.value * _EPOCHS.value) * (len(y) // _BATCH.value)
    schedule = tfticket.schedules.PolynomialDecay(
        0.0, 1 - left, 0, max(1, end), frequency=1
    )
    data = {}
    if _CRITERION.value not in ("magnitude", "random"):
        data = {
            "data": (x[:2048].astype(np.float32), y[:2048]),
            "loss": keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        }
    return [
        tfticket.GradualPruning(
            schedule,
            _CRITERION.value,
            _SCOPE.value,
            measure="flops" if channels else "units",
            **data,
        )
    ]


def structure() -> tuple[str, float]:
    """What is cut and the part of it that is to be left."""
    if _DENSE.value:
        return "none", 1.0
    if _FLOPS.value is not None:
        return "channels", _FLOPS.value
    return "weights", _WEIGHTS.value


def left(student) -> tuple[float, float]:
    """The parts of the operations and of the parameters that are left."""
    import tfticket

    masks = tfticket.get_masks(student)
    gone = sum(int((~mask).sum()) for mask in masks.values())
    weights = 1 - gone / tfticket.strip(student).count_params()
    if structure()[0] != "channels":
        return 1.0, weights
    groups = tfticket.channel_groups(student)
    alive = {}
    for name in groups.free:
        mask = masks[f"{name}/kernel"]
        alive[name] = int(mask.any(tuple(range(mask.ndim - 1))).sum())
    return groups.flops(alive) / groups.flops(), weights


def student_of(dense):
    import keras

    import tfticket

    weights = dense.get_weights()
    copy = keras.models.clone_model(dense)
    copy.set_weights(weights)
    if structure()[0] == "weights":
        return tfticket.prune(copy)
    return tfticket.prune(copy, structure=tfticket.structures.Channel())


def train(student, dense, x, y):
    """Fits the student and says in how many seconds, and with what rate and decay."""
    import jax
    import keras

    # An instance: what Keras 3.15 makes of the default name takes no softmax first.
    divergence = keras.losses.KLDivergence()
    distillation = keras.distillation.LogitsDistillation(_TEMPERATURE.value, divergence)
    distiller = epochs_on_the_device()(
        dense, student, [distillation], student_loss_weight=_LABELS.value
    )
    steps = len(y) // _BATCH.value
    made, rate, decay = optimizer(_EPOCHS.value * steps)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distiller.compile(made, loss, metrics=["accuracy"])
    # Builds the metrics, which `fit` would do by calling the model with its x.
    distiller.evaluate(x[:8].astype(np.float32), y[:8], verbose=0)
    pad = ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0))
    images, labels = jax.device_put(np.pad(x, pad)), jax.device_put(y)
    epochs = (
        ((np.array([_SEED.value, epoch], np.uint32), images), labels)
        for epoch in itertools.count()
    )
    start = time.perf_counter()
    distiller.fit(
        epochs,
        steps_per_epoch=1,
        epochs=_EPOCHS.value,
        verbose=2,
        callbacks=pruning(x, y),
    )
    return time.perf_counter() - start, rate, decay


def run_one() -> None:
    import keras

    keras.utils.set_random_seed(_SEED.value)
    images = read_images()
    x, y = images["x_train"], images["y_train"]
    x_test, y_test = images["x_test"], images["y_test"]
    if _QUICK.value:
        x, y, x_test, y_test = x[:128], y[:128], x_test[:1000], y_test[:1000]
    kept = len(y) - _VALIDATION.value
    dense = dense_network()
    student = student_of(dense)
    start_accuracy = accuracy(student, x_test, y_test)
    seconds, rate, decay = train(student, dense, x[:kept], y[:kept])
    operations, weights = left(student)
    held = accuracy(student, x[kept:], y[kept:]) if _VALIDATION.value else ""
    kind, target = structure()
    folder = pathlib.Path(_SAVE.value)
    folder.mkdir(parents=True, exist_ok=True)
    student.save(folder / f"{name_of(kind, target, _SEED.value)}.keras")
    values = (
        *(kind, target, _SEED.value, round(operations, 4), round(weights, 4)),
        *(_EPOCHS.value, start_accuracy, held, accuracy(student, x_test, y_test)),
        *(round(seconds, 1), _BATCH.value, _OPTIMIZER.value, rate, decay),
        *(_TEMPERATURE.value, _LABELS.value, _CRITERION.value, _SCOPE.value),
        *(_CUT.value, kept),
    )
    row = dict(zip(COLUMNS, values, strict=True))
    append(row)
    print(row, flush=True)


def append(row) -> None:
    """Adds a row, also while other processes do."""
    with open(_OUT.value, "a", newline="") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
        if file.seek(0, os.SEEK_END) == 0:
            writer.writeheader()
        writer.writerow(row)


def read_rows() -> list[dict[str, str]]:
    path = pathlib.Path(_OUT.value)
    if not path.exists():
        return []
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def name_of(kind: str, target: float | str, seed: int | str) -> str:
    return f"{kind}-{float(target):g}-{seed}"


def configurations() -> dict[str, list[str]]:
    """Name and flags of every run, those that matter most first."""
    if _COMPARE.value:
        return {f"variant{variant}": ["--flops=0.5", variant] for variant in VARIANTS}
    runs = {}
    kinds = [("channels", FLOPS[0]), ("none", 1.0), ("weights", WEIGHTS)]
    kinds += [("channels", part) for part in FLOPS[1:]]
    option = {"channels": "--flops={}", "none": "--dense", "weights": "--weights={}"}
    for kind, target in kinds:
        for seed in _SEEDS.value:
            given = [option[kind].format(target), f"--seed={seed}"]
            runs[name_of(kind, target, seed)] = given
    return runs


def run_all() -> None:
    """Runs what has no row, several at a time; says at the end what failed."""
    started = time.monotonic()
    rows = [] if _COMPARE.value else read_rows()
    done = {name_of(r["structure"], r["target"], r["seed"]) for r in rows}
    waiting = {k: v for k, v in configurations().items() if k not in done}
    folder = pathlib.Path(_SAVE.value)
    folder.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {
        "XLA_PYTHON_CLIENT_PREALLOCATE": "false",
        # All runs of a structure are one program: compiled once.
        "JAX_COMPILATION_CACHE_DIR": str(folder / "compiled"),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
    }
    ours = ("all", "compare", "parallel", "limit", "seeds", "one", "seed")
    passed = [
        flag.serialize()
        for flag in flags.FLAGS.get_key_flags_for_module(sys.argv[0])
        if flag.present and flag.name not in ours
    ]
    running, failed = {}, []
    print(f"{len(done)} done, {len(waiting)} to run", flush=True)
    while waiting or running:
        late = _LIMIT.value and time.monotonic() - started > _LIMIT.value
        while waiting and not late and len(running) < _PARALLEL.value:
            name = next(iter(waiting))
            given = [option for option in waiting.pop(name) if option]
            command = [sys.executable, __file__, "--one", *passed, *given]
            with open(folder / f"{name}.log", "w") as log:
                running[name] = subprocess.Popen(
                    command, env=environment, stdout=log, stderr=subprocess.STDOUT
                )
        for name in [name for name, run in running.items() if run.poll() is not None]:
            code = running.pop(name).returncode
            failed += [name] if code else []
            print(f"{time.monotonic() - started:5.0f} s {name}: {code}", flush=True)
        if late and not running:
            print(f"not started: {list(waiting)}")
            break
        time.sleep(0.2)
    if failed:
        raise SystemExit(f"Failed, see the logs in {folder}: {failed}")


def main(_) -> None:
    chosen = [_FLOPS.value is not None, _WEIGHTS.value is not None, _DENSE.value]
    if _QUICK.value:
        flags.FLAGS.epochs, flags.FLAGS.batch = 2, 64
    if _ONE.value:
        if sum(chosen) != 1:
            raise app.UsageError("Give one of --flops, --weights and --dense.")
        run_one()
    elif _ALL.value or _COMPARE.value:
        run_all()
    else:
        raise app.UsageError("Give one of --one, --all and --compare.")


if __name__ == "__main__":
    app.run(main)
