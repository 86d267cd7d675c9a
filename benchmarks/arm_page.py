"""The page of `benchmarks/arm_emulated.py`, and the rows behind it."""

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

In QEMU's emulation of a {cpu}, LiteRT for ARM (aarch64) runs the files of
`tfticket.export.litert(model, path, sparse=True, target="arm")` sparse and computes the
right outputs. We used no ARM processor: the outputs are those that ARM computes, but
there are **no times** on this page.

## Correctness and number of instructions

{networks}

The networks of `keras.applications` were run with {runtime} on one image of 96x96
pixels, with random weights and zeros in the 1x1 kernels. "Dense" holds the same zeros.
"As it was" is the sparse file written without `target="arm"`, for which ARM runs
exactly the dense instructions; "by the rules" is the file written with it. "Difference"
is the difference from Keras's outputs, relative to the largest one.

Instructions are those that one call executes in LiteRT's own code, after a warm-up
call; another call has the same number. "Fewer" is the ratio of dense to sparse. The
figures include the whole network: the first convolution, the depthwise convolutions and
the Dense head are dense in every file. "Multiplying" counts instructions that multiply
floats, most of them four at once. Work in the C library, such as copies, is not
counted. All of this is a **proxy for work, not for time**: sparse kernels access memory
irregularly and dense ones do not, and instructions differ in cost.

{endings}## Reproduce

The commands are at the top of `benchmarks/arm_emulated.py`. You need `qemu-user-static`
10 (Debian 13, or the backports of 12), a Python for arm64 unpacked into a folder, and
LiteRT's wheel for it. In QEMU 7.2, which Debian 12 has, LiteRT 2.1 runs, but 2.2 and
2.3 crash when they create an interpreter.
"""

ENDINGS = """## Networks that LiteRT.js computes wrongly

This table has small networks of [LiteRT.js, after a cluster](after_cluster.md): all
{bad} that LiteRT.js does not compute correctly, and {good} that it does. They were
converted without the rewriting and the checks of `tfticket.export.litert`. All dense
files are right; the table shows the sparse ones:

{listed}

"fails" means an error when the file is loaded or called; "wrong" means wrong outputs
without an error. `target="arm"` never writes such a file: `sparse_ready` rewrites the
affected layers, and `sparse_plan(model, "arm").wrong` names them. A sparse file written
without a target is checked on the machine that writes it; on x86 these errors do not
occur, so `litert` warns.

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
    found = {(row["network"], row["file"]): row for row in rows}
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
    networks.sort(key=lambda name: (browser[name] == RIGHT, list(browser).index(name)))
    lines = [
        f"| network | LiteRT.js | {' | '.join(runtimes)} |",
        "| --- | --- |" + " --- |" * len(runtimes),
    ]
    for name in networks:
        answers = [browser[name], *(found[runtime, name] for runtime in runtimes)]
        words = [x if x == RIGHT else f"**{x}**" for x in answers]
        lines.append(f"| `{name}` | {' | '.join(words)} |")
    good = sum(browser[name] == RIGHT for name in networks)
    return ENDINGS.format(bad=len(networks) - good, good=good, listed="\n".join(lines))


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
    ((cpu, runtime),) = {(row["cpu"], row["runtime"]) for row in rows}
    text = PAGE.format(
        cpu=cpu,
        runtime=runtime,
        networks=table(rows),
        endings=endings(results),
    )
    (results / "arm.md").write_text(text)
