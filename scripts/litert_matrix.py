"""Runs every combination of quantization, sparsity and network in LiteRT.

    python scripts/litert_matrix.py
    python scripts/litert_matrix.py --out=/tmp/matrix.md --rounds=50

Writes docs/results/litert_matrix.md: what works, what is wrong without saying so,
what fails and what crashes, with sizes and times against dense float32. Files are
converted and run in processes of their own, since the converter or a bad file can take
its process down. Says where the rules of `tfticket.export.tflite.known_faults` and the
installed versions part; the exit status is 1 if they do.
"""

import os

# Before TensorFlow is imported: its start-up notes would hide the progress.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import concurrent.futures
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import keras
import numpy as np
from absl import app, flags
from keras import layers
from rich.console import Console

import tfticket
from tfticket.common.files import atomic_path
from tfticket.export.checking.compare import difference
from tfticket.export.checking.processes import RunError
from tfticket.export.saved_model_export import write
from tfticket.export.served.function import serving
from tfticket.export.tflite import known_faults, reader
from tfticket.export.tflite.check import run, versions
from tfticket.export.tflite.conversion import QUANTIZATIONS, convert
from tfticket.export.tflite.known_faults import RUNTIMES

_OUT = flags.DEFINE_string("out", "docs/results/litert_matrix.md", "The page to write.")
_SPARSITY = flags.DEFINE_float("sparsity", 0.9, "Fraction of the blocks pruned.")
_ROUNDS = flags.DEFINE_integer("rounds", 100, "Runs that a time is the median of.")
_CONVERT = flags.DEFINE_string(
    "convert", None, "For the script itself: NETWORK/MASKS to convert, into --folder."
)
_FOLDER = flags.DEFINE_string("folder", None, "For the script itself.")
_SKIP = flags.DEFINE_list("skip", [], "For the script itself: what crashed.")

MASKS = {"dense": 0, "unstructured": 1, "1x4": 4, "1x16": 16}

# A right file of another form gives the same numbers up to the order of sums and, where
# activations are quantized, a step of those; the wrong ones are off by a tenth or NaN.
_RIGHT = {None: 1e-4, "float16": 1e-3, "dynamic": 1e-2, "int8": 2e-2}


def dense(widths):
    return [
        keras.Input((widths[0],), name="x"),
        *(layers.Dense(n, activation="relu") for n in widths[1:-1]),
        layers.Dense(widths[-1]),
    ]


def convolutions():
    return [
        keras.Input((16, 16, 16), name="x"),
        layers.Conv2D(32, 3, activation="relu"),
        layers.Conv2D(64, 3, activation="relu"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dense(16),
    ]


def pointwise():
    return [
        keras.Input((16, 16, 32), name="x"),
        layers.Conv2D(64, 1, activation="relu"),
        layers.Conv2D(64, 1, activation="relu"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(16),
    ]


NETWORKS = {
    "MLP 256-512-512-16": lambda: dense([256, 512, 512, 16]),
    "MLP 250-507-301-10": lambda: dense([250, 507, 301, 10]),
    "3x3 convolutions": convolutions,
    "1x1 convolutions": pointwise,
}


def network(name, masks):
    """A network with random weights of the size of trained ones, and random masks."""
    keras.utils.set_random_seed(0)
    model = tfticket.prune(keras.Sequential(NETWORKS[name]()))
    random = np.random.default_rng(0)
    block = MASKS[masks]
    if block:
        chosen = {}
        for key, mask in tfticket.get_masks(model).items():
            shape = list(mask.shape)
            shape[-2] = -(-shape[-2] // block)  # inputs lie along this axis
            kept = random.random(shape) >= _SPARSITY.value
            chosen[key] = np.repeat(kept, block, -2)[..., : mask.shape[-2], :]
        tfticket.set_masks(model, chosen)
    for layer in model.layers:
        if layer.weights:
            layer = layer.layer
            # What pruning took from the sums is given back, or biases are all one sees.
            layer.kernel.assign(
                layer.kernel / np.sqrt(1 - _SPARSITY.value if block else 1)
            )
            layer.bias.assign(0.1 * random.standard_normal(layer.bias.shape))
    return model


def samples(name):
    shape = NETWORKS[name]()[0].shape[1:]
    return {"x": np.random.default_rng(1).standard_normal((64, *shape), np.float32)}


def convert_all():
    """Converts one network with one kind of masks in all quantizations."""
    folder = pathlib.Path(_FOLDER.value)
    name, masks = _CONVERT.value.split("/")
    given = samples(name)
    ready = serving(network(name, masks))
    np.savez(folder / "expected.npz", **ready.predict(given))
    write(ready, folder / "model")
    for quantization in QUANTIZATIONS:
        for sparse in (False, True):
            key = f"{quantization}-{'sparse' if sparse else 'dense'}"
            if key in _SKIP.value or (folder / f"{key}.json").exists():
                continue
            (folder / "now").write_text(key)
            data = given if quantization == "int8" else None
            settings = (folder / "model", name, quantization, sparse, data)
            try:
                (folder / f"{key}.tflite").write_bytes(convert(*settings))
                found = {}
            except tfticket.export.ExportError as error:
                found = {"error": str(error).split("The converter says: ")[-1][:120]}
            (folder / f"{key}.json").write_text(json.dumps(found))


def converted(name, masks, folder):
    """Key of each combination to why there is no file, or `None` where there is one."""
    crashed = []
    while True:
        command = [sys.executable, __file__, f"--convert={name}/{masks}"]
        command += [f"--folder={folder}", f"--skip={','.join(crashed)}"]
        command += [f"--sparsity={_SPARSITY.value}"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if not done.returncode:
            break
        if not (folder / "now").exists():
            raise RuntimeError(done.stderr[-2000:])
        key = (folder / "now").read_text()
        if key in crashed:
            raise RuntimeError(done.stderr[-2000:])
        crashed.append(key)
    found = dict.fromkeys(crashed, "the converter crashes")
    for path in folder.glob("*.json"):
        error = json.loads(path.read_text()).get("error")
        found[path.stem] = error and f"not converted: {error}"
    return found


def outcome(path, given, expected, runtime, right):
    """((what happened, the error or why), the outputs or `None`) of a file."""
    try:
        [(outputs, _)] = run([path], given, runtime)
    except RunError as error:
        said = error.stderr.splitlines()[-1][-400:] if error.stderr else error.reason
        return ("crashes" if error.crashed else "fails", said), None
    error = difference(expected, outputs).relative
    what = "works" if error <= right else "wrong"
    return (what, error), outputs


def measure(name, folder, conversions):
    """Rows of one network: a dict for each quantization, masks and encoding.

    Args:
        name: Name of the network.
        folder: Has a folder for each kind of masks.
        conversions: Futures of `converted` by kind of masks.
    """
    given = samples(name)
    rows = []
    for masks in MASKS:
        place = folder / masks
        errors = conversions[masks].result()
        for quantization in QUANTIZATIONS:
            twins = {}
            for form in ("dense",) if masks == "dense" else ("dense", "sparse"):
                key = f"{quantization}-{form}"
                row = {
                    "quantization": quantization,
                    "masks": masks,
                    "stored": form,
                    "error": errors.get(key, "the converter crashes"),
                }
                rows.append(row)
                if row["error"]:
                    continue
                path = row["path"] = place / f"{key}.tflite"
                weights = reader.read(path.read_bytes()).sparse
                if form == "sparse":
                    row["stored"] = " and ".join(sorted({w.form for w in weights}))
                known = known_faults.findings(weights, quantization)
                row["rules"] = known_faults.outcomes(known)
                row["bytes"] = path.stat().st_size
                for runtime in RUNTIMES:
                    if form == "dense":
                        with np.load(place / "expected.npz") as file:
                            expected, right = dict(file), 0.1
                    elif runtime in twins:
                        expected, right = twins[runtime], _RIGHT[quantization]
                    else:
                        row[runtime] = ("fails", "so does the dense file")
                        continue
                    row[runtime], outputs = outcome(
                        path, given, expected, runtime, right
                    )
                    if form == "dense" and row[runtime][0] == "works":
                        twins[runtime] = outputs
    add_times(rows, given)
    return rows


def add_times(rows, given):
    """Seconds at batch 1 of what works, measured in turn with dense float32."""
    one = {name: values[:1] for name, values in given.items()}
    for runtime in RUNTIMES:
        right = [row for row in rows if row.get(runtime, [""])[0] == "works"]
        found = run([row["path"] for row in right], one, runtime, _ROUNDS.value)
        for row, (_, seconds) in zip(right, found, strict=True):
            row[f"{runtime} seconds"] = float(np.median(seconds))


def table(rows):
    base = rows[0]  # float32, dense masks, dense
    lines = [
        "| weights | masks | stored | bytes | with XNNPACK | batch 1 | without | "
        "batch 1 |",
        "| --- | --- | --- | ---: | --- | ---: | --- | ---: |",
    ]
    for row in rows:
        works = not row["error"] and all(row[r][0] == "works" for r in RUNTIMES)
        if row["stored"] == "dense" and row["masks"] != "dense" and works:
            continue
        cells = [row["quantization"] or "float32", row["masks"], row["stored"]]
        if row["error"]:
            lines.append(f"| {' | '.join(cells)} | | {row['error']} | | | |")
            continue
        cells.append(f"{row['bytes'] / base['bytes']:.3f}")
        for runtime in RUNTIMES:
            what, detail = row[runtime]
            if what == "wrong":
                # How wrong depends on what lies behind the weights in memory.
                cells.append("**wrong**: NaN" if np.isnan(detail) else "**wrong**")
            else:
                cells.append(what if what == "works" else f"**{what}**")
            seconds = row.get(f"{runtime} seconds")
            ratio = seconds and seconds / base[f"{runtime} seconds"]
            cells.append(f"{ratio:.2f}" if ratio else "")
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def reasons(rows):
    """What the interpreter said, once each."""
    return sorted(
        {
            # Numbers of nodes differ between networks and say nothing.
            f"{row['quantization'] or 'float32'}, {row['stored']}, {runtime}: "
            + re.sub(r" ?(node #|Node number )\d+", "", detail)
            for row in rows
            for runtime in RUNTIMES
            for what, detail in [row.get(runtime, ("", ""))]
            if what in ("fails", "crashes")
        }
    )


def disagreements(name, rows):
    """Where what happened is not what the exporter's rules say."""
    found = []
    for row in rows:
        for runtime in RUNTIMES:
            if row["error"] or row[runtime][0] == row["rules"][runtime]:
                continue
            found.append(
                f"{name}, {row['quantization'] or 'float32'}, {row['masks']} masks "
                f"stored {row['stored']}, {runtime}: {row[runtime][0]}, and not "
                f"{row['rules'][runtime]}"
            )
    return found


def page(results, parted):
    installed = ", ".join(f"{name} {version}" for name, version in versions().items())
    cells = sum(len(rows) for rows in results.values()) * len(RUNTIMES)
    lines = [
        "# What LiteRT does with sparse and quantized files",
        "",
        f"`python scripts/litert_matrix.py` wrote this page with {installed}.",
        "",
        "**Processor:** we measured on an x86 processor with AVX, where "
        "XNNPACK disables its sparse convolutions and runs them dense. On ARM and in "
        "browsers (WebAssembly) they are enabled, and unstructured 1x1 convolutions "
        "run sparse if the network follows the rules of "
        "`tfticket.export.sparse_plan`. The rows for unstructured 1x1 convolutions "
        "therefore say nothing about phones and browsers. Sparse Dense layers and all "
        "quantized rows run there as they do here.",
        "",
        "The networks have random weights and masks. In every kernel, "
        f"{_SPARSITY.value:.0%} of the blocks named under *masks* are pruned. *Stored* "
        "is the form that the converter chose with `sparse=True` from the zeros that "
        "it found. Bytes and times at batch 1 (one thread, medians of "
        f"{_ROUNDS.value} interleaved runs, smaller is better) are ratios to the dense "
        "float32 file in the same runtime. A sparse file is **wrong** if its "
        "outputs differ, without any error, from those of the dense file with the same "
        "weights and quantization; it **fails** if the interpreter does not load "
        "it. The dense files were run too, and have a row only if they are wrong.",
        "",
    ]
    if parted:
        lines += [
            "The exporter's rules (`tfticket/export/tflite/known_faults.py`) differ:",
            "",
        ]
        lines += [f"- {line}" for line in parted]
    else:
        lines.append(
            "The exporter's rules (`tfticket/export/tflite/known_faults.py`) agree "
            f"with all {cells} cells."
        )
    for name, rows in results.items():
        lines += ["", f"## {name}", "", *table(rows)]
    said = sorted({line for rows in results.values() for line in reasons(rows)})
    if said:
        lines += ["", "## Error messages of the interpreter", ""]
        lines += [f"- {line}" for line in said]
    return "\n".join([*lines, ""])


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}. Flags start with --.")
    if _CONVERT.value:
        return convert_all()
    console = Console()
    results, parted = {}, []
    with (
        tempfile.TemporaryDirectory() as folder,
        concurrent.futures.ThreadPoolExecutor(2) as pool,
    ):
        places = {name: pathlib.Path(folder, str(i)) for i, name in enumerate(NETWORKS)}
        futures = {}
        for name, place in places.items():
            for masks in MASKS:
                (place / masks).mkdir(parents=True)
                job = pool.submit(converted, name, masks, place / masks)
                futures.setdefault(name, {})[masks] = job
        with console.status("Converting"):
            # All before anything is timed.
            concurrent.futures.wait(
                [f for each in futures.values() for f in each.values()]
            )
        for name, place in places.items():
            with console.status(name):
                results[name] = measure(name, place, futures[name])
            parted += disagreements(name, results[name])
            console.print(f"{name}: {len(results[name])} files", highlight=False)
    with atomic_path(_OUT.value) as path:
        path.write_text(page(results, parted))
    console.print(f"Written: {_OUT.value}", highlight=False)
    for line in parted:
        console.print(f"Not as known: {line}", style="red", markup=False)
    return int(bool(parted))


if __name__ == "__main__":
    app.run(main)
