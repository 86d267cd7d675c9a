"""Sparse LiteRT files on ARM, in an emulator: are they right, and how much is to do?

    python benchmarks/arm_emulated.py --what=files --files=arm-files
    python benchmarks/arm_emulated.py --root=arm-root --files=arm-files
    python benchmarks/arm_emulated.py --what=page

`files` writes networks dense and sparse with what Keras answers; `run` has LiteRT for
ARM run them in QEMU, compares, and counts instructions; `page` writes
docs/results/arm.md. It needs QEMU 10, `qemu-user-static` of Debian 13 or of the
backports of 12 (LiteRT 2.2 and 2.3 crash in QEMU 7.2), and a folder with a Python for
ARM, which need not be installed:

    dpkg --add-architecture arm64 && apt-get update
    apt-get download {python3.11-minimal,libpython3.11-minimal}:arm64
    apt-get download libpython3.11-stdlib:arm64
    apt-get download {libc6,libstdc++6,libgcc-s1,zlib1g,libexpat1,libffi8}:arm64
    for deb in *_arm64.deb; do dpkg-deb -x $deb arm-root; done
    pip install --target=arm-root/site --platform=manylinux_2_27_aarch64 \\
        --platform=manylinux_2_17_aarch64 --python-version=311 --no-deps \\
        --only-binary=:all: ai-edge-litert==2.3.0 'numpy<2'

(Debian 12 has Python 3.11, 13 has 3.13.) Other versions of LiteRT go to folders of
their own, named by `--sites`.

Times in an emulator are no times. Instructions are a proxy: the emulator notes each
block of LiteRT's code that it runs, and the length of each block. What the C library
does (copies) is not counted.
"""

import collections
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import arm_page
import numpy as np
from absl import app, flags

NETWORKS = {
    "MobileNetV2 0.35": ("0.9", "0.8", "0.7"),
}
KINDS = ("networks", "after_cluster")
MULTIPLYING = ("fmla", "fmls", "fmadd", "fmul")
SIZE, SAMPLES, INVOKES = 96, 4, 2

_WHAT = flags.DEFINE_enum("what", "run", ("files", "run", "page"), "What to do.")
_ROOT = flags.DEFINE_string("root", None, "Folder of the unpacked packages.")
_SITES = flags.DEFINE_list("sites", ["site"], "Folders of LiteRT in it.")
_FILES = flags.DEFINE_string("files", None, "Folder of the networks.")
_KINDS = flags.DEFINE_list("kinds", list(KINDS), "Of networks: these.")
_ONLY = flags.DEFINE_list("only", [], "These networks, not all.")
_COUNT = flags.DEFINE_bool("count", True, "Also count instructions, of 'networks'.")
_QEMU = flags.DEFINE_string("qemu", "qemu-aarch64-static", "The emulator.")
_CPU = flags.DEFINE_string("cpu", "cortex-a72", "The processor, by QEMU's name.")
_RESULTS = flags.DEFINE_string("results", "docs/results", "Folder of the page.")


def network(name):
    """A network of keras.applications, as benchmarks/sparse_convs.py makes it."""
    import keras

    keras.utils.set_random_seed(0)
    kind, alpha = name.split()
    image = keras.Input((SIZE, SIZE, 3), batch_size=1)
    make = getattr(keras.applications, kind)
    model = make(input_tensor=image, alpha=float(alpha), weights=None)
    random = np.random.default_rng(0)
    for layer in model.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            for weight in layer.weights:
                scale = weight.path.endswith(("gamma", "moving_variance"))
                low, high = (0.7, 1.3) if scale else (-0.2, 0.2)
                weight.assign(random.uniform(low, high, weight.shape))
    return model


def pruned(model, sparsity):
    """The model with so many of the weights of each 1x1 convolution zero."""
    import keras

    import tfticket

    def pointwise(layer):
        return isinstance(layer, keras.layers.Conv2D) and layer.kernel_size == (1, 1)

    others = [layer.name for layer in model.layers if not pointwise(layer)]
    wrapped = tfticket.prune(model, exclude=others)
    tfticket.sparsify(wrapped, sparsity)
    return tfticket.strip(wrapped)


def make_files(folder):
    """Writes a folder a network: its files, x.npy, and Keras's answers as want.npz."""
    import after_cluster
    import keras

    import tfticket

    for name, sparsities in NETWORKS.items() if "networks" in _KINDS.value else ():
        for sparsity in sparsities:
            model = pruned(network(name), float(sparsity))
            here = folder / "networks" / f"{name} {sparsity}"
            for form, options in (
                ("dense", {}),
                ("sparse_as_it_was", {"sparse": True}),
                ("sparse", {"sparse": True, "target": "arm"}),
            ):
                path = here / f"{form}.tflite"
                if not path.exists():
                    tfticket.export.litert(model, path, **options)
            save(model, here)
            print(here, flush=True)
    cases = after_cluster.CASES if "after_cluster" in _KINDS.value else ()
    for name in _ONLY.value or cases:
        keras.utils.set_random_seed(0)
        model = after_cluster.pruned(after_cluster.CASES[name].build())
        here = folder / "after_cluster" / name
        here.mkdir(parents=True, exist_ok=True)
        after_cluster.written(model, here)
        shutil.rmtree(here / "model")
        save(model, here)
        print(here, flush=True)


def save(model, folder):
    x = np.random.default_rng(1).standard_normal((SAMPLES, *model.input_shape[1:]))
    x = x.astype("float32")
    np.save(folder / "x.npy", x)
    answers = [model(x[i : i + 1], training=False) for i in range(len(x))]
    answers = [x if isinstance(x, list) else [x] for x in answers]
    want = {
        name: np.concatenate([answer[i] for answer in answers])
        for i, name in enumerate(model.output_names)
    }
    np.savez(folder / "want.npz", **want)


def command(site, folders, invokes=0, options=()):
    """The guest program, in the emulator, always at the same addresses."""
    root = pathlib.Path(_ROOT.value).resolve()
    (python,) = (root / "usr/bin").glob("python3.[0-9]*[0-9]")
    settings = {
        "PYTHONHOME": root / "usr",
        "PYTHONPATH": root / site,
        "PYTHONDONTWRITEBYTECODE": 1,
    }
    given = [x for key, value in settings.items() for x in ("-E", f"{key}={value}")]
    guest = pathlib.Path(__file__).with_name("arm_guest.py")
    emulator = [_QEMU.value, "-cpu", _CPU.value, "-L", root, *options, *given]
    return [
        *("setarch", "-R"),
        *map(str, [*emulator, python, guest, invokes, *folders]),
    ]


def run(site, folders):
    """Runs each file of folders: a row of each, also of those that crash it."""
    rows, left = {}, list(folders)
    while left:
        done = subprocess.run(command(site, left), capture_output=True, text=True)
        lines = [json.loads(x) for x in done.stdout.splitlines() if x[:1] == "{"]
        if not lines:
            raise SystemExit(f"It does not start: {done.stderr[-2000:]}")
        for line in lines:
            rows[line["file"]] = line
        if done.returncode == 0:
            break
        crashed = lines[-1]
        rows[crashed["file"]]["error"] = f"crash: {done.stderr.strip()[-200:]}"
        # On with the folder after it: the sparse file is a folder's last.
        at = [str(x) for x in left].index(str(pathlib.Path(crashed["file"]).parent))
        left = left[at + 1 :]
    return rows


BLOCK = re.compile(r"0x([0-9a-f]+): +\S+ +(\S+)")
RUN = re.compile(r"Trace \d+: \S+ \[\w+/(\w+)/")


def tally(lines):
    """Instructions between marks, in what QEMU writes with `-d exec,nochain,in_asm`.

    Args:
        lines: Its lines. A block is listed once, before it first runs, and named by its
            address each time that it runs.

    Returns:
        By file, a list with a Counter of mnemonics for every call.
    """
    blocks, calls, block, runs = {}, [], None, None
    for line in lines:
        if line.startswith("Trace"):
            if runs is not None:
                runs[int(RUN.match(line)[1], 16)] += 1
        elif line.startswith("IN:"):
            block = []
        elif (found := BLOCK.match(line)) and block is not None:
            if not block:
                blocks[int(found[1], 16)] = block
            block.append(found[2])
        elif line.startswith("MARK"):
            path = line.removeprefix("MARK").strip().rpartition(" ")[0]
            runs = collections.Counter() if path else None
            if path:
                calls.append((path, runs))
    result = collections.defaultdict(list)
    for path, runs in calls:
        total = collections.Counter()
        for address, times in runs.items():
            for mnemonic in blocks[address]:
                total[mnemonic] += times
        result[path].append(total)
    return dict(result)


def counted(site, folders, text):
    """Instructions of LiteRT's code in a call of each file of folders.

    Args:
        site: The folder of LiteRT.
        folders: Those of networks.
        text: Addresses of the code, from a run before.

    Returns:
        As `tally`.
    """
    options = ("-d", "exec,nochain,in_asm", "-dfilter", f"{text[0]:#x}..{text[1]:#x}")
    process = subprocess.Popen(
        command(site, folders, INVOKES, options),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    result = tally(process.stderr)
    last = json.loads(process.stdout.read().splitlines()[-1])
    if process.wait() or last["text"] != list(text):
        raise SystemExit(f"The count failed, or LiteRT moved: {last}, not at {text}")
    return result


def difference(path):
    """Largest difference to Keras, relative to an output's largest; inf: its shape."""
    found, want = np.load(path.with_suffix(".npz")), np.load(path.with_name("want.npz"))
    worst = 0.0
    for name in want.files:
        if found[name].shape != want[name].shape:
            return float("inf")  # seen: (1, 1, 1, 6) instead of (1, 1, 1, 256)
        apart = np.abs(found[name] - want[name]).max() / np.abs(want[name]).max()
        worst = float(np.maximum(worst, apart))  # keeps NaN
    return worst


def measure(site, kind, folders):
    """Rows of the table of networks, or of endings."""
    rows, texts = {}, set()
    for file, found in run(site, folders).items():
        path = pathlib.Path(file)
        row = {
            "runtime": found["runtime"],
            "cpu": _CPU.value,
            "network": path.parent.name,
            "file": path.stem,
            "bytes": path.stat().st_size,
            "error": " ".join(found.get("error", "").split()),
        }
        if not row["error"]:
            row["difference"] = float(f"{difference(path):.2g}")
            texts.add(tuple(found["text"]))
        row["answer"] = arm_page.answer(row)
        print(row, flush=True)
        rows[file] = row
    if kind == "networks" and _COUNT.value:
        (text,) = texts
        for file, calls in counted(site, folders, text).items():
            totals = [sum(call.values()) for call in calls]
            # The same work in every call, or the count is none.
            assert max(totals) < 1.001 * min(totals), (file, totals)
            multiplying = [n for m, n in calls[-1].items() if m in MULTIPLYING]
            rows[file] |= {
                "instructions": totals[-1],
                "multiplying": sum(multiplying),
            }
            print(file, totals, calls[-1].most_common(8), flush=True)
    return list(rows.values())


def main(_):
    results = pathlib.Path(_RESULTS.value)
    if _WHAT.value == "page":
        arm_page.write(results)
        return
    if not _FILES.value or (_WHAT.value == "run" and not _ROOT.value):
        raise app.UsageError("--files is needed, and --root to run.")
    if _WHAT.value == "files":
        make_files(pathlib.Path(_FILES.value).resolve())
        return
    missing = [x for x in (_QEMU.value, "setarch") if not shutil.which(x)]
    if missing:
        raise app.UsageError(f"Not found: {missing}. {sys.modules[__name__].__doc__}")
    for site in _SITES.value:
        for kind in _KINDS.value:
            folders = sorted(pathlib.Path(_FILES.value, kind).resolve().iterdir())
            if _ONLY.value:
                folders = [x for x in folders if x.name in _ONLY.value]
            if folders:
                arm_page.add(
                    results / "arm" / f"{kind}.csv", measure(site, kind, folders)
                )
    arm_page.write(results)


if __name__ == "__main__":
    app.run(main)
