"""The page of `benchmarks/arm_emulated.py`, and the rows behind it."""

import collections
import csv
import pathlib

# Up to which difference files count as computing the same, relative to the output.
SAME = 1e-3

RIGHT, WRONG, FAILS, CRASHES = "right", "wrong", "fails", "crashes"
KEYS = (
    *("runtime", "cpu", "network", "file", "bytes", "answer", "difference"),
    *("instructions", "multiplying", "error"),
)

PAGE = """# Sparse convolutions on ARM, emulated

LiteRT for ARM (aarch64), in QEMU's emulation of a {cpu}, runs the files of
`tfticket.export.litert(model, path, sparse=True, target="arm")` sparse, and answers them
right. No ARM processor was at hand: outputs are what ARM computes, but there are **no
times** here.

## What is right, and how much there is to do

{networks}

Networks of `keras.applications` at 96x96, one image, random weights, zeros in the 1x1
kernels. "Dense" holds the same zeros; "as it was" is the sparse file of the network
without `target="arm"`; "by the rules" is with it. "Difference" is that to Keras's
outputs, relative to the largest one.

Instructions are those that one call runs in LiteRT's own code, after a call to
warm up; a count of one more call came out the same within 0.1 %. "Fewer" is dense over sparse.
They are a **proxy for work, not for time**: the sparse kernels read weights and
positions one after the other and jump about in memory, a dense kernel does neither, and
instructions of an out-of-order core do not cost alike. "Multiplying" are those of them
that multiply floats, most of them four at once. What the C library does, such as copies, is not counted.

{endings}
## Again

The head of `benchmarks/arm_emulated.py` has the commands: Debian's `qemu-user-static` 10
(13, or the backports of 12), a Python for arm64 unpacked into a folder, and LiteRT's
wheel for it. In QEMU 7.2, which Debian 12 has, LiteRT 2.1 runs, 2.2 and 2.3 crash when
an interpreter is made.
"""

ENDINGS = """## Networks that LiteRT.js answers wrong

The same {count} small networks as in [LiteRT.js, after a cluster](after_cluster.md),
converted without the rewriting and the checks of `tfticket.export.litert`. All dense
files are right. What becomes of the sparse ones depends on the release:

{table}

{listed}

{verdict}
`target="arm"` never writes such a file: `sparse_ready` rewrites what goes wrong, and
`sparse_plan(model, "arm").wrong` names the layers. A sparse file written without a
target is checked on x86 only, where none of this shows.

"""


def answer(row: dict[str, object]) -> str:
    """What a row says of its file: "right", "wrong", "fails" or "crashes".

    Args:
        row: With `error`, and without one `difference`.
    """
    if row["error"]:
        return CRASHES if str(row["error"]).startswith("crash") else FAILS
    return RIGHT if float(str(row["difference"])) <= SAME else WRONG


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Rows of a CSV; none where there is no file."""
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def add(path: pathlib.Path, rows: list[dict[str, object]]) -> None:
    """Puts rows in the place of those of the same file in the same runtime."""
    path.parent.mkdir(parents=True, exist_ok=True)
    key = ("runtime", "cpu", "network", "file")
    new = {tuple(str(row[k]) for k in key) for row in rows}
    old = [row for row in read(path) if tuple(row[k] for k in key) not in new]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, KEYS, lineterminator="\n")
        writer.writeheader()
        writer.writerows([*old, *rows])


def table(rows: list[dict[str, str]]) -> str:
    """The table of networks, of the runtime whose instructions were counted."""
    names = {
        "dense": "dense",
        "sparse_as_it_was": "sparse, as it was",
        "sparse": "sparse, by the rules",
    }
    lines = [
        "| network | zeros | file | kB | answer | difference | million instructions "
        "| fewer | multiplying, million | fewer |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    found = {(row["network"], row["file"]): row for row in rows if row["instructions"]}
    for network in sorted({row["network"] for row in rows}):
        dense = found[network, "dense"]
        for file, words in names.items():
            row = found[network, file]
            name, _, sparsity = network.rpartition(" ")
            numbers = []
            for key in ("instructions", "multiplying"):
                times = int(dense[key]) / int(row[key])
                numbers += [f"{int(row[key]) / 1e6:.2f}", f"{times:.2f}x"]
            cells = (
                name,
                f"{float(sparsity):.0%}",
                words,
                f"{int(row['bytes']) / 1000:,.0f}",
                row["answer"],
                f"{float(row['difference']):.0e}",
                *numbers,
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def endings(folder: pathlib.Path) -> str:
    """The section of networks that LiteRT.js answers wrong; nothing without rows."""
    rows = read(folder / "arm" / "after_cluster.csv")
    if not rows:
        return ""
    assert all(row["answer"] == RIGHT for row in rows if row["file"] == "dense")
    rows = [row for row in rows if row["file"] == "sparse"]
    browser = {row["case"]: row["answer"] for row in read(folder / "after_cluster.csv")}
    runtimes = sorted({row["runtime"] for row in rows}, key=version)
    found = {(row["runtime"], row["network"]): row["answer"] for row in rows}
    networks = list(dict.fromkeys(row["network"] for row in rows))
    kinds = (RIGHT, WRONG, FAILS, CRASHES)
    lines = [f"| runtime | {' | '.join(kinds)} |", "| --- | --- | --- | --- | --- |"]
    for runtime in runtimes:
        counts = collections.Counter(found[runtime, name] for name in networks)
        lines.append(f"| {runtime} | {' | '.join(str(counts[k]) for k in kinds)} |")
    counts = collections.Counter(browser[name] for name in networks)
    numbers = " | ".join(str(counts[kind]) for kind in kinds)
    lines.append(f"| LiteRT.js (browser) | {numbers} |")
    listed = [
        f"| network | LiteRT.js | {' | '.join(runtimes)} |",
        "| --- | --- |" + " --- |" * len(runtimes),
    ]
    for name in networks:
        answers = [browser[name], *(found[runtime, name] for runtime in runtimes)]
        if set(answers) != {RIGHT}:
            words = [x if x == RIGHT else f"**{x}**" for x in answers]
            listed.append(f"| `{name}` | {' | '.join(words)} |")
    return ENDINGS.format(
        count=len(networks),
        table="\n".join(lines),
        listed="\n".join(listed),
        verdict=VERDICT,
    )


VERDICT = ""


def version(runtime: str) -> tuple[object, ...]:
    """Releases in their order; `tflite-runtime` came before LiteRT."""
    name, _, number = runtime.rpartition(" ")
    return name != "tflite-runtime", *(int(x) for x in number.split("."))


def write(results: pathlib.Path) -> None:
    """Writes the page.

    Args:
        results: The folder of the pages.
    """
    rows = read(results / "arm" / "networks.csv")
    (cpu,) = {row["cpu"] for row in rows if row["instructions"]}
    text = PAGE.format(
        cpu=cpu,
        networks=table(rows),
        endings=endings(results),
    )
    (results / "arm.md").write_text(text)
