"""Every form of one model in every runtime, compared and timed.

    python benchmarks/served_matrix.py
    python benchmarks/served_matrix.py --model=pretrainedResnet.h5 --name=ResNet-8
    python benchmarks/served_matrix.py --runtimes=OpenVINO,LiteRT --repeats=51
    python benchmarks/served_matrix.py --page_only

The model is one of `tfticket.models` with random weights, or a file that Keras loads,
pruned by magnitude over all layers together, and not trained on. Inputs are random:
`--scale=255` for networks that take pixels as they are. Every runtime is a process of
its own, with one thread; in it all forms that it reads are called in turns with one
sample, and a form's ratio is the median of its ratios to the dense form, turn by turn.
"Difference" is the largest one to Keras's output over 16 samples, relative to the
largest output.

Rows of this network and of the runtimes that were run are replaced in the CSV; the page
is made of the CSV. A runtime that is not installed is listed with how to install it:

    pip install 'tfticket[served]' && pip install --no-deps nvidia-pytriton
"""

import csv
import importlib.metadata
import importlib.util
import json
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
# Triton's processes take these from here.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")

import numpy as np
import served_page
from absl import app, flags
from served_page import COLUMNS, FORMS, RUNTIMES
from served_runtimes import OPENERS, triton

SAMPLES = 16
CALLS = 5  # of one form, before the next has its turn
TIMEOUT = 1500
RESULTS = pathlib.Path(__file__).parent.parent / "docs" / "results"
INSTALL = {
    "TensorFlow": ("tensorflow", "pip install tensorflow"),
    "C API": ("tensorflow", "pip install tensorflow"),
    "Triton HTTP": (
        "pytriton",
        "pip install 'tfticket[served]' && pip install --no-deps nvidia-pytriton",
    ),
    "Triton gRPC": (
        "pytriton",
        "pip install 'tfticket[served]' && pip install --no-deps nvidia-pytriton",
    ),
    "OpenVINO": ("openvino", "pip install openvino"),
    "ONNX Runtime": ("onnxruntime", "pip install 'tfticket[onnx]'"),
    "LiteRT": ("ai_edge_litert", "pip install ai-edge-litert"),
    "LiteRT.js": (None, "npm install @litertjs/core, and Chromium of your system"),
}
DISTRIBUTIONS = {"pytriton": "nvidia-pytriton", "ai_edge_litert": "ai-edge-litert"}

_MODEL = flags.DEFINE_string("model", None, "A file that load_model reads.")
_NETWORK = flags.DEFINE_string("network", "lenet_5", "Without --model: which of ours.")
_NAME = flags.DEFINE_string("name", None, "The network's name in the table.")
_SPARSITY = flags.DEFINE_float("sparsity", 0.8, "Part of all kernels to prune.", 0, 1)
_SCALE = flags.DEFINE_float("scale", 1.0, "The largest input.")
_RUNTIMES = flags.DEFINE_list("runtimes", list(RUNTIMES), "Which to run.")
_REPEATS = flags.DEFINE_integer("repeats", 31, "Turns of each form.", 1)
_CSV = flags.DEFINE_string("csv", str(RESULTS / "served.csv"), "The rows.")
_PAGE = flags.DEFINE_string("page", str(RESULTS / "served.md"), "The page.")
_PAGE_ONLY = flags.DEFINE_bool("page_only", False, "Make the page of the CSV.")
_CHILD = flags.DEFINE_string("child", None, "A runtime to run in this process.")
_FOLDER = flags.DEFINE_string("folder", None, "With --child: the files.")
_ONLY = flags.DEFINE_list("only", [], "With --child: the forms.")


# In a process of its own


def measured(opener, files, x, want, repeats):
    """Form to what was found: the difference, the times, or the error."""
    found, runs = {}, {}
    for form, path in files.items():
        try:
            start = time.perf_counter()
            run = opener(path)
            got = run(x)
            load = time.perf_counter() - start
            run(x[:1])
        except Exception as error:  # whatever a runtime raises is the finding
            found[form] = {"error": f"{type(error).__name__}: {error}"[:2000]}
            continue
        apart = float(np.max(np.abs(np.asarray(got, np.float64) - want)))
        same = float(np.mean(got.argmax(-1) == want.argmax(-1)))
        found[form] = {
            "difference": apart / float(np.max(np.abs(want))),
            "agreement": same,
            "load": load,
            "ms": [],
        }
        runs[form] = run
    for repeat in range(repeats):
        for form in list(runs)[:: -1 if repeat % 2 else 1]:
            start = time.perf_counter()
            for _ in range(CALLS):
                runs[form](x[:1])
            found[form]["ms"].append(1e3 * (time.perf_counter() - start) / CALLS)
    return found


def in_a_browser(files, x, want, repeats):
    """As `measured`, in headless Chromium: there a row of all files takes turns."""
    from tfticket import export

    try:
        rows = export.compare_in_browser(files, x, repeats=repeats).rows
    except export.BrowserError as error:
        if len(files) == 1:
            return {form: {"error": str(error)[:2000]} for form in files}
        found = {}
        for form, path in files.items():  # to find the one that fails
            found |= in_a_browser({form: path}, x, want, repeats)
        return found
    found = {}
    for row in rows:
        (got,) = row.outputs.values()
        apart = np.abs(np.asarray(got, np.float64).reshape(want.shape) - want)
        found[row.name] = {
            "difference": float(apart.max() / np.abs(want).max()),
            "agreement": float(
                np.mean(got.reshape(want.shape).argmax(-1) == want.argmax(-1))
            ),
            "load": float("nan"),
            "ms": list(row.times),
        }
    return found


def child(runtime, folder, only):
    """Prints what one runtime makes of the files, as JSON."""
    name = "single.json" if runtime == "LiteRT.js" else "files.json"
    files = json.loads((folder / name).read_text())
    files = {
        form: pathlib.Path(path)
        for form, path in files.items()
        if runtime in FORMS[form] and (not only or form in only)
    }
    x, want = np.load(folder / "x.npy"), np.load(folder / "y.npy")
    if runtime == "LiteRT.js":
        found = in_a_browser(files, x, want, _REPEATS.value)
    elif not runtime.startswith("Triton"):
        found = measured(OPENERS[runtime], files, x, want, _REPEATS.value)
    else:
        from triton_server import TritonServer

        from tfticket import export

        with tempfile.TemporaryDirectory() as work:
            for path in files.values():
                export.triton_repository(path, pathlib.Path(work, "models"))
            with TritonServer(pathlib.Path(work, "models"), patience=900) as server:
                if runtime == "Triton HTTP":
                    import tritonclient.http as library

                    opener = triton(library, server.http)
                else:
                    import tritonclient.grpc as library

                    opener = triton(library, server.grpc)
                found = measured(opener, files, x, want, _REPEATS.value)
    print(json.dumps(found))


def in_a_process(runtime, folder, only=()):
    """What `child` prints; where a form ends the process, that is what it is."""
    command = [sys.executable, __file__, f"--child={runtime}", f"--folder={folder}"]
    command += [f"--repeats={_REPEATS.value}", f"--only={','.join(only)}"]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=TIMEOUT
        )
        said, code = done.stderr.strip()[-2000:], done.returncode
    except subprocess.TimeoutExpired:
        said, code = f"no answer in {TIMEOUT} seconds", 1
    if code == 0:
        return json.loads(done.stdout.splitlines()[-1])
    forms = only or [form for form in FORMS if runtime in FORMS[form]]
    if len(forms) == 1:
        return {forms[0]: {"error": f"the process ended with {code}: {said}"}}
    found = {}
    for form in forms:  # to find the one that takes the others down
        found |= in_a_process(runtime, folder, [form])
    return found


# The model and its files


def pruned_model():
    """The stripped model."""
    import keras

    import tfticket

    keras.utils.set_random_seed(0)
    if _MODEL.value:
        model = keras.models.load_model(_MODEL.value, compile=False)
    else:
        model = tfticket.models.MODELS[_NETWORK.value]((28, 28, 1), 10)
    wrapped = tfticket.prune(model)
    tfticket.sparsify(wrapped, _SPARSITY.value, scope="global")
    return tfticket.strip(wrapped)


def write_files(model, folder, x):
    """Form to path, and form to why it could not be made."""
    from tfticket import export

    compact = export.compact(model).model
    calibration = {"quantization": "int8", "representative_data": x}

    def saved(name, model=model, **arguments):
        return export.saved_model(model, folder / name, inputs=x, **arguments)

    def lite(name, **arguments):
        return export.litert(model, folder / f"{name}.tflite", **arguments)

    makers = {
        "dense": lambda: saved("dense"),
        "encoded": lambda: saved("encoded", format="encoded"),
        "encoded float16": lambda: saved(
            "encoded_float16", format="encoded", value_dtype="float16"
        ),
        "foldable": lambda: saved("foldable", format="foldable"),
        "csr": lambda: saved("csr", format="csr"),
        "compact": lambda: saved("compact", compact),
        "LiteRT float32": lambda: lite("float32"),
        "LiteRT dynamic": lambda: lite("dynamic", quantization="dynamic"),
        "LiteRT int8": lambda: lite("int8", **calibration),
        "LiteRT sparse": lambda: lite("sparse", sparse=True),
        "ONNX": lambda: export.onnx(model, folder / "model.onnx", inputs=x),
    }
    made, not_made = {}, {}
    for form, make in makers.items():
        try:
            made[form] = make()
        except (export.ExportError, ImportError) as error:
            not_made[form] = f"{type(error).__name__}: {error}"[:1000]
    # LiteRT.js takes no open batch.
    singles = {
        "LiteRT float32": {},
        "LiteRT dynamic": {"quantization": "dynamic"},
        "LiteRT int8": calibration,
        "LiteRT sparse": {"sparse": True},
    }
    paths = {
        form: str(lite(f"single {form}", batch_size=1, **arguments).path)
        for form, arguments in singles.items()
        if form in made and "LiteRT.js" in _RUNTIMES.value
    }
    (folder / "single.json").write_text(json.dumps(paths))
    return made, not_made


def missing(runtime):
    """How to install a runtime that is not, else `None`."""
    module, how = INSTALL[runtime]
    if runtime == "LiteRT.js":
        from tfticket.export.browser import chromium, litertjs

        try:
            litertjs.find()
            chromium.find()
        except FileNotFoundError:
            return how
        return None
    return how if importlib.util.find_spec(module) is None else None


def version(runtime):
    module, _ = INSTALL[runtime]
    if runtime == "LiteRT.js":
        from tfticket.export.browser import litertjs

        return litertjs.find().version
    return importlib.metadata.version(DISTRIBUTIONS.get(module, module))


def rows_of(runtime, found, made, not_made, name):
    """The rows of one runtime: one a form."""
    rows = []
    for form, runtimes in FORMS.items():
        row = dict.fromkeys(COLUMNS, "") | {
            "network": name,
            "sparsity": _SPARSITY.value,
            "form": form,
            "runtime": runtime,
        }
        if form in made:
            row["bytes"] = made[form].size
        if runtime not in runtimes:
            row["status"] = "other"
        elif isinstance(found, str):
            row |= {"status": "not run", "detail": found}
        elif form in not_made:
            row |= {"status": "not made", "detail": not_made[form]}
        elif "error" in found[form]:
            row |= {"status": "fails", "detail": found[form]["error"]}
            row["version"] = version(runtime)
        else:
            got, base = found[form], found[runtimes[runtime]]
            row |= {
                "status": served_page.status(form, got["difference"]),
                "difference": f"{got['difference']:.2e}",
                "agreement": f"{got['agreement']:.3f}",
                "load_s": f"{got['load']:.3f}",
                "ms": f"{statistics.median(got['ms']):.3f}",
                "version": version(runtime),
            }
            if base.get("ms"):
                ratios = np.divide(got["ms"], base["ms"])
                row["ratio"] = f"{statistics.median(ratios):.3f}"
        rows.append(row)
    return rows


def replaced(rows, new):
    """Rows with those of one network and runtime anew, at the end."""
    key = new[0]["network"], new[0]["runtime"]
    return [row for row in rows if (row["network"], row["runtime"]) != key] + new


def main(_):
    if _CHILD.value:
        child(_CHILD.value, pathlib.Path(_FOLDER.value), _ONLY.value)
        return
    path = pathlib.Path(_CSV.value)
    rows = served_page.read(path) if path.exists() else []
    if not _PAGE_ONLY.value:
        rows = run(rows)
        with open(path, "w", newline="") as file:
            writer = csv.DictWriter(file, COLUMNS, lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    pathlib.Path(_PAGE.value).write_text(served_page.page(rows))


def run(rows):
    """The rows, with this network's anew."""
    unknown = set(_RUNTIMES.value) - set(RUNTIMES)
    if unknown:
        raise app.UsageError(f"--runtimes has {sorted(unknown)}, not {list(RUNTIMES)}.")
    name = _NAME.value or pathlib.Path(_MODEL.value or _NETWORK.value).stem
    lacking = {runtime: missing(runtime) for runtime in _RUNTIMES.value}
    if all(lacking.values()):
        for runtime, how in lacking.items():
            print(f"{runtime}: not run: {how}")
            rows = replaced(rows, rows_of(runtime, how, {}, {}, name))
        return served_page.ordered(rows)
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        model = pruned_model()
        shape = (SAMPLES, *model.input_shape[1:])
        x = np.random.default_rng(0).random(shape, np.float32) * _SCALE.value
        x = x.astype(np.float32)
        made, not_made = write_files(model, folder, x)
        files = {form: str(exported.path) for form, exported in made.items()}
        (folder / "files.json").write_text(json.dumps(files))
        np.save(folder / "x.npy", x)
        np.save(folder / "y.npy", model.predict(x, verbose=0))
        for runtime, found in lacking.items():
            if found is None:
                forms = [form for form in files if runtime in FORMS[form]]
                found = in_a_process(runtime, folder, forms)
            else:
                print(f"{runtime}: not run: {found}")
            rows = replaced(rows, rows_of(runtime, found, made, not_made, name))
            for row in rows[-len(FORMS) :]:
                if row["status"] != "other":
                    shown = ("form", "status", "difference", "ms", "ratio", "detail")
                    print(f"{runtime}:", *(str(row[key])[:100] for key in shown))
    return served_page.ordered(rows)


if __name__ == "__main__":
    app.run(main)
