"""What the students of `resnet8.py` come to when small: trained on, and served.

    python benchmarks/resnet8_small.py --what=tune --student=channels-0.5-0 \
        --model=pretrainedResnet.h5 --images=cifar10.npz --students=students
    python benchmarks/resnet8_small.py --what=steps --flops=0.6,0.4,0.25 --seed=0 \
        --model=pretrainedResnet.h5 --images=cifar10.npz --students=students
    python benchmarks/resnet8_small.py --what=weights --epochs=20 --seed=0 \
        --model=pretrainedResnet.h5 --images=cifar10.npz
    python benchmarks/resnet8_small.py --what=files --model=... --images=...
    python benchmarks/resnet8_small.py --what=page

`tune` takes the channels that were pruned out of a student, by
`tfticket.export.compact`, and trains the small network on by SGD on the labels alone:
an epoch of half of the operations is half of the work. It needs no GPU. A row goes to
`tuned.csv`, the network beside the student.

`steps` needs no student: it cuts the dense network to each of `--flops` in turn, takes
the channels out, and trains what is left for `--between` epochs, after the last cut for
`--epochs`; its rows go to `stepped.csv`. `weights` prunes single weights of the dense
network to 80 % in the first half of the epochs, all layers ranked together, and trains
on; its rows go to `weights.csv`. `files` writes LiteRT files of the dense network and
of each student of the first seed that is in `--students`, float32 and int8, and
measures their bytes, their accuracy on all test images, and the time of a call with one
image on one thread, in turns. `page` makes `docs/results/resnet8.md` of the
CSVs in `docs/results/resnet8/`.
"""

import csv
import os
import pathlib
import statistics
import tempfile

os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import cifar10
import numpy as np
import resnet8_page
from absl import app, flags

WHAT = ("tune", "steps", "weights", "files", "page")
# `files` measures the dense network and those of these students that are there.
STUDENTS = (
    *(f"channels-{x}-0" for x in ("0.75", "0.6", "0.5", "0.4", "0.3")),
    "steps-0.25-0",
)

_WHAT = flags.DEFINE_enum("what", "page", WHAT, "What to do.")
_MODEL = flags.DEFINE_string("model", None, "pretrainedResnet.h5.")
_IMAGES = flags.DEFINE_string("images", None, "The .npz that resnet8.py was given.")
_STUDENTS = flags.DEFINE_string("students", "students", "Folder of the students.")
_STUDENT = flags.DEFINE_string("student", None, "Name of the student to train on.")
_FLOPS = flags.DEFINE_list("flops", "0.6,0.4,0.25", "With steps: what each leaves.")
_SEED = flags.DEFINE_integer("seed", 0, "With steps: of the order and the images.")
_BETWEEN = flags.DEFINE_integer("between", 5, "With steps: epochs after a cut.", 1)
_RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of the page.")
_EPOCHS = flags.DEFINE_integer("epochs", 25, "Epochs of the small network.", 1)
_BATCH = flags.DEFINE_integer("batch", 128, "Images in a step.", 1)
_RATE = flags.DEFINE_float("rate", 0.05, "Highest learning rate.", 0)
_DECAY = flags.DEFINE_float("decay", 0.0005, "Decoupled weight decay.", 0)
_REPEATS = flags.DEFINE_integer("repeats", 41, "Calls of each file.", 1)


def small(name: str):
    """A student without what was pruned; the dense network without its softmax."""
    import keras

    import tfticket

    if name == "dense":
        model = keras.models.load_model(_MODEL.value, compile=False)
        model.get_layer("dense").activation = keras.activations.linear
        return model
    tuned = pathlib.Path(_STUDENTS.value, f"{name}-tuned.keras")
    if _WHAT.value != "tune" and tuned.exists():
        return keras.models.load_model(tuned, compile=False)
    path = pathlib.Path(_STUDENTS.value, f"{name}.keras")
    student = keras.models.load_model(path, compile=False)
    if name.startswith(("weights", "steps")):
        return student  # whose masks keep its zeros, or whose channels are gone
    return tfticket.export.compact(student).model


def trained(model, x, y, epochs: int, seed: int, callbacks=()) -> int:
    """Trains a model and says in how many seconds."""
    return cifar10.train(
        model,
        x,
        y,
        epochs=epochs,
        seed=seed,
        batch=_BATCH.value,
        rate=_RATE.value,
        decay=_DECAY.value,
        callbacks=callbacks,
    )


def tune() -> None:
    import keras

    cifar10.one_thread()
    name = _STUDENT.value
    seed = int(name.rsplit("-", 1)[1])
    keras.utils.set_random_seed(seed)
    x, y, x_test, y_test = cifar10.read_images(_IMAGES.value)
    model = small(name)
    before = cifar10.accuracy(model, x_test, y_test)
    seconds = trained(model, x, y, _EPOCHS.value, seed)
    model.save(pathlib.Path(_STUDENTS.value, f"{name}-tuned.keras"))
    add_row(
        "tuned.csv",
        student=name,
        epochs=_EPOCHS.value,
        batch=_BATCH.value,
        rate=_RATE.value,
        decay=_DECAY.value,
        seconds=seconds,
        accuracy_before=before,
        test_accuracy=cifar10.accuracy(model, x_test, y_test),
    )


def steps() -> None:
    import keras

    import tfticket

    cifar10.one_thread()
    keras.utils.set_random_seed(_SEED.value)
    x, y, x_test, y_test = cifar10.read_images(_IMAGES.value)
    model = small("dense")
    whole = tfticket.channel_groups(model).flops()
    all_parameters = model.count_params()
    seconds = epochs = 0
    for number, part in enumerate(_FLOPS.value):
        wrapped = tfticket.prune(
            model, structure=tfticket.structures.Channel(min_channels=8)
        )
        left = float(part) * whole / tfticket.channel_groups(model).flops()
        tfticket.sparsify(wrapped, scope="global", flops=left)
        model = tfticket.export.compact(wrapped).model
        last = number == len(_FLOPS.value) - 1
        more = _EPOCHS.value if last else _BETWEEN.value
        seconds += trained(model, x, y, more, _SEED.value)
        epochs += more
    name = f"steps-{_FLOPS.value[-1]}-{_SEED.value}"
    pathlib.Path(_STUDENTS.value).mkdir(parents=True, exist_ok=True)
    model.save(pathlib.Path(_STUDENTS.value, f"{name}.keras"))
    add_row(
        "stepped.csv",
        student=name,
        steps=" ".join(_FLOPS.value),
        operations_left=round(tfticket.channel_groups(model).flops() / whole, 4),
        weights_left=round(model.count_params() / all_parameters, 4),
        epochs=epochs,
        batch=_BATCH.value,
        rate=_RATE.value,
        decay=_DECAY.value,
        seconds=seconds,
        test_accuracy=cifar10.accuracy(model, x_test, y_test),
    )


def weights() -> None:
    import keras

    import tfticket

    cifar10.one_thread()
    keras.utils.set_random_seed(_SEED.value)
    x, y, x_test, y_test = cifar10.read_images(_IMAGES.value)
    model = tfticket.prune(small("dense"))
    half = _EPOCHS.value * (len(y) // _BATCH.value) // 2
    schedule = tfticket.schedules.PolynomialDecay(0.0, 0.8, 0, half, frequency=100)
    pruning = tfticket.GradualPruning(schedule, scope="global")
    seconds = trained(model, x, y, _EPOCHS.value, _SEED.value, [pruning])
    add_row(
        "weights.csv",
        student=f"weights-0.8-{_SEED.value}",
        epochs=_EPOCHS.value,
        batch=_BATCH.value,
        rate=_RATE.value,
        decay=_DECAY.value,
        seconds=seconds,
        test_accuracy=cifar10.accuracy(tfticket.strip(model), x_test, y_test),
    )


def add_row(name: str, **values) -> None:
    path = pathlib.Path(_RESULTS.value, "resnet8", name)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = list(csv.DictReader(path.open())) if path.exists() else []
    rows = [row for row in rows if row["student"] != values["student"]] + [values]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, values, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def files() -> None:
    import tfticket
    from tfticket.export.checking.timing import runner, timed

    cifar10.one_thread()
    folder_of_students = pathlib.Path(_STUDENTS.value)
    there = [x for x in STUDENTS if (folder_of_students / f"{x}.keras").exists()]
    names = ["dense", *there]
    x, _, x_test, y_test = cifar10.read_images(_IMAGES.value)
    samples = x_test.astype(np.float32)
    with tempfile.TemporaryDirectory() as folder:
        paths = {}
        for name in names:
            model = small(name)
            for form, quantization in (("float32", None), ("int8", "int8")):
                paths[name, form] = tfticket.export.litert(
                    model,
                    pathlib.Path(folder, f"{name}-{form}.tflite"),
                    quantization=quantization,
                    representative_data=x[:512].astype(np.float32)
                    if quantization
                    else None,
                    inputs=samples[:64],
                    tolerance=0.5 if quantization else None,
                ).path
        runs = {key: runner(path) for key, path in paths.items()}
        times = timed(runs, {"x": samples[:1]}, _REPEATS.value)
        for name in names:
            values = {"student": name}
            for form in ("float32", "int8"):
                run, key = runs[name, form], (name, form)
                answers = [run(samples[i : i + 1000]) for i in range(0, 10_000, 1000)]
                right = np.argmax(np.concatenate(answers), -1) == y_test
                ratio = np.divide(times[key], times["dense", form])
                values |= {
                    f"{form}_bytes": paths[key].stat().st_size,
                    f"{form}_ms": round(1e3 * statistics.median(times[key]), 4),
                    f"{form}_ratio": round(float(np.median(ratio)), 3),
                    f"{form}_accuracy": float(right.mean()),
                }
            print(values, flush=True)
            add_row("files.csv", **values)


def main(_) -> None:
    if _WHAT.value == "page":
        resnet8_page.write(pathlib.Path(_RESULTS.value))
    else:
        work = {"tune": tune, "steps": steps, "weights": weights, "files": files}
        work[_WHAT.value]()


if __name__ == "__main__":
    app.run(main)
