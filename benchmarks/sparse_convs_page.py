"""The page of `benchmarks/sparse_convs.py` and `sparse_trained.py`, and its picture."""

import csv
import pathlib

PAGE = """# Sparse convolutions, in a browser

LiteRT can skip zeros of 1x1 convolutions wherever they lie, if the network follows the
rules of XNNPACK, its engine. Keras's own networks do not follow them and gain nothing.
`tfticket.export.litert(model, path, sparse=True, target="web")` rewrites them by the
rules, with the same outputs. They then run up to three times as fast as the original
network with the same weights:

![Speed-up against sparsity](sparse_convs/speedup.png)

{table}

The networks have random weights and were run on one image of {size}x{size} pixels with
{engine}, {threads} hardware threads, {browser}. "Dense" is the file that
`tfticket.export.litert` writes for Keras's own network with the same zeros. The two
files are called alternately, and "faster" is the median ratio of neighbouring calls.
"1x1 kernels" gives the number of kernels that run sparse according to the plan.
"Difference" is the difference between the outputs of the sparse file in the browser and
those of the Keras model, relative to the largest output. The time depends only on the
zeros, not on the values of the weights. On x86 outside a browser XNNPACK disables the
sparse path, and all of these ratios are 1.0x: see [LiteRT, what runs
right](litert_matrix.md). ARM was [emulated](arm.md), so outputs and instructions are
known there, but times are not.

## What limits it

Depthwise convolutions, the first convolution and the head stay dense. A straight line
through the ratios at 80 and 90 % zeros gives their part of the dense time: it is what
would be left at 100 %, if the 1x1 convolutions took no time. Its inverse is a speed-up
that no sparsity can exceed on this machine.

{limits}

{trained}## Reproduce

You need Chromium, and LiteRT.js from `npm install @litertjs/core`.

```sh
python benchmarks/sparse_convs.py --litertjs=node_modules/@litertjs/core
```

To compare files on your phone or in your own browser, run `tfticket try dense.tflite
sparse.tflite`.
"""


def read(path: pathlib.Path) -> list[dict[str, str]]:
    """Rows of a CSV; none where there is no file.

    Args:
        path: The file.
    """
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(results: pathlib.Path) -> None:
    """Writes the page and its picture.

    Args:
        results: The folder of the pages.
    """
    folder = results / "sparse_convs"
    figures = read(folder / "figures.csv")
    rows = sorted(
        figures,
        key=lambda row: (order(figures, row["network"]), float(row["sparsity"])),
    )
    lines = [
        "| network | zeros of the 1x1 kernels | 1x1 kernels | dense ms | sparse ms "
        "| faster | dense kB | sparse kB | difference |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = (
            row["network"],
            f"{float(row['sparsity']):.0%}",
            f"{row['sparse_kernels']} of {row['kernels']}",
            f"{float(row['dense_ms']):.1f}",
            f"{float(row['sparse_ms']):.1f}",
            f"**{float(row['speedup']):.1f}x**",
            f"{int(row['dense_bytes']) / 1000:,.0f}",
            f"{int(row['sparse_bytes']) / 1000:,.0f}",
            f"{float(row['difference']):.0e}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    one = rows[-1]
    text = PAGE.format(
        table="\n".join(lines),
        size=one["size"],
        engine=f"LiteRT.js {one['litertjs']}",
        threads=one["threads"],
        browser=chromium(one["browser"]),
        limits=limits(rows),
        trained=trained(read(folder / "trained.csv")),
    )
    (results / "sparse_convs.md").write_text(text)
    draw(rows, folder / "speedup.png")


def order(rows: list[dict[str, str]], network: str) -> float:
    """Networks by what they gain most, the best first."""
    return -max(float(row["speedup"]) for row in rows if row["network"] == network)


def limits(rows: list[dict[str, str]]) -> str:
    """What is not a 1x1 convolution, by network, and the speed-up it allows."""
    ratios = {
        (row["network"], float(row["sparsity"])): 1 / float(row["speedup"])
        for row in rows
    }
    lines = ["| network | stays dense | at most |", "| --- | --- | --- |"]
    for network in dict.fromkeys(row["network"] for row in rows):
        near, far = ratios.get((network, 0.9)), ratios.get((network, 0.8))
        if near is None or far is None or not 2 * near > far:
            continue
        rest = 2 * near - far
        lines.append(f"| {network} | {rest:.0%} of the time | {1 / rest:.1f}x |")
    return "\n".join(lines)


def chromium(agent: str) -> str:
    """Name and version of a browser in its user agent."""
    found = [part for part in agent.split() if "Chrome/" in part]
    return found[0].replace("Headless", "").replace("/", " ") if found else agent


def trained(rows: list[dict[str, str]]) -> str:
    """The section of the network that was trained; nothing without its rows."""
    if not rows:
        return ""
    lines = [
        "| zeros of the 1x1 kernels | test accuracy | ms | faster | kB |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        cells = (
            f"{float(row['sparsity']):.0%}",
            f"{float(row['accuracy']):.2%}",
            f"{float(row['ms']):.2f}",
            f"{float(row['speedup']):.1f}x",
            f"{int(row['bytes']) / 1000:,.0f}",
        )
        lines.append(f"| {' | '.join(cells)} |")
    return TRAINED.format(table="\n".join(lines), **rows[0])


TRAINED = """## A trained network

`benchmarks/sparse_trained.py` trained {network} for {epochs} epochs on CIFAR-10, with
images enlarged to {size}x{size}, and pruned it step by step while training continued:

{table}

Training continued for {more} epochs at each sparsity, which the dense network did not
have: part of the sparse accuracies is owed to them.

"""


def draw(rows: list[dict[str, str]], path: pathlib.Path) -> None:
    """Speed-up against the share of zeros, with a line per network."""
    import matplotlib.pyplot as plt

    from tfticket.tickets.pictures import DENSE

    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    for network in dict.fromkeys(row["network"] for row in rows):
        points = [
            (100 * float(row["sparsity"]), float(row["speedup"]))
            for row in rows
            if row["network"] == network
        ]
        axes.plot(*zip(*points, strict=True), ".-", label=network)
    axes.axhline(1, label="dense", **DENSE)
    axes.set_xlabel("Zeros in the 1x1 kernels, %", fontsize=12)
    axes.set_ylabel("Speed-up against dense", fontsize=12)
    axes.set_title("Sparse networks in a browser (LiteRT.js)", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.set_ylim(0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=11, loc="lower center", ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)
