"""The page docs/results/served.md, made of the rows that served_matrix.py measured."""

import csv

RUNTIMES = (
    *("TensorFlow", "C API", "Triton HTTP", "Triton gRPC", "OpenVINO"),
    *("ONNX Runtime", "LiteRT", "LiteRT.js"),
)
_SAVED = dict.fromkeys(RUNTIMES[:5], "dense")
_LITE = {
    "LiteRT": "LiteRT float32",
    "LiteRT.js": "LiteRT float32",
    "OpenVINO": "dense",
}
# Form to the runtimes for its kind of file, and there to the form that ratios are to.
FORMS = {
    "dense": _SAVED,
    "encoded": _SAVED,
    "encoded float16": _SAVED,
    "foldable": _SAVED,
    "csr": _SAVED,
    "compact": _SAVED,
    "LiteRT float32": _LITE,
    "LiteRT dynamic": _LITE,
    "LiteRT int8": _LITE,
    "LiteRT sparse": _LITE,
    "ONNX": {"ONNX Runtime": "ONNX", "OpenVINO": "dense"},
}
# Largest difference that counts as equal, relative to the largest output: what the
# exports allow by default.
_EQUAL = {"encoded float16": 1e-2, "LiteRT dynamic": 0.1, "LiteRT int8": 0.15}
COLUMNS = (
    *("network", "sparsity", "form", "runtime", "status", "bytes", "difference"),
    *("agreement", "load_s", "ms", "ratio", "version", "detail"),
)
_NOT_IN_THE_CHECKPOINT = (
    "When the model loads, the weights are expanded into a variable that is in no "
    "checkpoint. OpenVINO looks up each variable of the graph in the checkpoint and "
    'runs no initializers, so it fails with "Cannot find requested variable" '
    '(`VarHandleOp`). `format="foldable"` is as small, and OpenVINO can read it.'
)
_LOW_PRECISION = (
    "OpenVINO reads the file but computes different outputs. Its CPU plugin multiplies "
    "int8 numbers and, on a CPU without VNNI such as this one, adds the products in "
    "16 bits, which saturate. A single int8 convolution then differs from LiteRT's by "
    '0.18 of the largest output. Compiled with `{"LP_TRANSFORMS_MODE": "NO"}`, which '
    "keeps the operation in floats, it differs by 5e-8. On a CPU with VNNI the "
    "unchanged int8 file of the trained ResNet-8 gives Keras's answer for 99.4 % of "
    "512 test images. Run int8 files with LiteRT, or check them on the CPU that "
    "serves them."
)
_BLOCKS = (
    "OpenVINO can read a sparse kernel only if it has no blocks. LiteRT's converter "
    "stores a kernel in blocks of 1x4 if enough of them are zero (LeNet-300-100 at "
    '98 %, not at 95 %), and OpenVINO fails with "Supports only sparse tensor '
    'with sparse dimension as a last dimension".'
)
# Why a cell is red. `page` refuses rows with a red cell that has no entry here.
EXPLAINED = {
    ("encoded", "OpenVINO"): _NOT_IN_THE_CHECKPOINT,
    ("encoded float16", "OpenVINO"): _NOT_IN_THE_CHECKPOINT,
    ("csr", "OpenVINO"): _NOT_IN_THE_CHECKPOINT,
    ("LiteRT int8", "OpenVINO"): _LOW_PRECISION,
    ("LiteRT sparse", "OpenVINO"): _BLOCKS,
}


def status(form: str, difference: float) -> str:
    """Whether a difference counts as equal; NaN does not."""
    return "equal" if difference <= _EQUAL.get(form, 1e-3) else "different"


def read(path) -> list[dict]:
    """The rows of the CSV."""
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def ordered(rows: list[dict]) -> list[dict]:
    """Rows by network as they came, then runtime, then form."""
    networks = list(dict.fromkeys(row["network"] for row in rows))
    forms = list(FORMS)
    return sorted(
        rows,
        key=lambda row: (
            networks.index(row["network"]),
            RUNTIMES.index(row["runtime"]),
            forms.index(row["form"]),
        ),
    )


def is_red(row: dict) -> bool:
    """Whether something that should run does not, or gives something else."""
    return row["status"] in ("fails", "different", "not made")


def cell(row: dict | None, notes: list[str]) -> str:
    """A cell of the table: the difference and the ratio, or what is wrong.

    Args:
        row: A row, or `None` where there is none.
        notes: The explanations so far, to which one may be added.
    """
    if row is None or row["status"] == "other":
        return "-" if row else "not run"
    if row["status"] == "not run":
        return "not run"
    if is_red(row):
        key = (row["form"], row["runtime"])
        if key not in EXPLAINED:
            raise ValueError(
                f"{row['network']}: {key} is red ({row['status']}: {row['detail']}) "
                "and has no entry in EXPLAINED. Find out why, and say so there."
            )
        if EXPLAINED[key] not in notes:
            notes.append(EXPLAINED[key])
        word = {"fails": "no", "different": "wrong", "not made": "not made"}
        number = notes.index(EXPLAINED[key]) + 1
        return f"**{word[row['status']]}** ({number})"
    difference = float(row["difference"])
    shown = "0" if difference == 0 else f"{difference:.0e}".replace("e-0", "e-")
    return f"{shown}; {float(row['ratio']):.2f}" if row["ratio"] else shown


def table(rows: list[dict], notes: list[str]) -> list[str]:
    """The lines of one network's table."""
    found = {(row["form"], row["runtime"]): row for row in rows}
    sizes = {row["form"]: row["bytes"] for row in rows if row["bytes"]}
    lines = [
        f"| form | kB | {' | '.join(RUNTIMES)} |",
        f"| --- | ---: |{' --- |' * len(RUNTIMES)}",
    ]
    for form in FORMS:
        cells = [cell(found.get((form, runtime)), notes) for runtime in RUNTIMES]
        size = f"{int(sizes[form]) / 1000:,.0f}" if form in sizes else ""
        lines.append(f"| {form} | {size} | {' | '.join(cells)} |")
    bases = []
    for runtime in RUNTIMES:
        form = next(f[runtime] for f in FORMS.values() if runtime in f)
        row = found.get((form, runtime), {})
        bases.append(f"{float(row['ms']):.2f}" if row.get("ms") else "")
    lines.append(f"| *1.00 is, in ms* | | {' | '.join(bases)} |")
    return lines


_HEAD = """# The served matrix

This page shows every form that tfticket exports in every runtime that can be installed
from a package index. `benchmarks/served_matrix.py` wrote the page and [the underlying
rows](served.csv), which also contain load times and versions.

Each cell gives the largest difference from Keras's output, relative to the largest
output, and the latency of one sample as a ratio to the dense form in the same runtime
(below 1 is faster; medians of interleaved calls, one thread). "-" means that the
runtime reads another kind of file. The machine had two cores without VNNI and was also
used for other work. Ratios within 0.1 of 1 are therefore not significant, and the times
of different columns were not interleaved.

"C API" is `TF_LoadSessionFromSavedModel`, the loader of TensorFlow Serving, called
through ctypes. Triton is the server of the wheel `nvidia-pytriton` with its Python
backend and a repository that `tfticket.export.triton_repository` wrote; its times
include the transport by HTTP or gRPC. "csr" computes on sparse weights only in Dense
layers of 200,000 weights or more, of which ResNet-8 has none. "LiteRT sparse" is
`sparse=True` without blocks, which x86 unpacks and runs dense; neither network has the
1x1 convolutions that LiteRT.js runs sparse ([Sparse convolutions](sparse_convs.md)).
"""


def page(rows: list[dict]) -> str:
    """The page.

    Raises:
        ValueError: If a cell is red and nothing explains it.
    """
    lines = [_HEAD]
    notes: list[str] = []
    for network in dict.fromkeys(row["network"] for row in rows):
        own = [row for row in rows if row["network"] == network]
        lines.append(
            f"## {network}, {float(own[0]['sparsity']):.0%} of its kernels zero"
        )
        lines += ["", *table(own, notes), ""]
    if notes:
        lines += ["## Cells that fail", ""]
        lines += [f"{number}. {text}" for number, text in enumerate(notes, 1)] + [""]
    lines += ["## Versions", ""]
    versions = {r["runtime"]: r["version"] for r in rows if r["version"]}
    for runtime in RUNTIMES:
        if runtime in versions:
            wheel = "nvidia-pytriton " if runtime.startswith("Triton") else ""
            lines.append(f"- {runtime}: {wheel}{versions[runtime]}")
    not_run = {r["runtime"]: r["detail"] for r in rows if r["status"] == "not run"}
    lines += [
        f"- {runtime}: not run: {not_run[runtime]}"
        for runtime in RUNTIMES
        if runtime in not_run
    ]
    return "\n".join(lines) + "\n"
