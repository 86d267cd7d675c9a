"""The page of `benchmarks/channels.py`, and its picture."""

import csv
import pathlib
import statistics

FORMATS = {"litert": "LiteRT float32", "saved_model": "SavedModel"}
PARTS = ("lower quartile", "ratio", "upper quartile")
PAGE = """# Pruning whole channels

`benchmarks/channels.py` prunes whole channels of well-known networks and removes them
with `tfticket.export.compact`. Weights, biases, betas and moving means are random, so
that, as after training, nothing is constant by chance. All figures are in
`docs/results/channels/figures.csv`.

## Half of the channels

The calls are `tfticket.prune(model, structure=Channel())`, `sparsify(model, 0.5)` and
`compact(model)`. Inputs have 224 x 224 pixels; ViT, BERT and GPT are small versions
made of Keras layers (4 blocks of width 192). Operations are two for each weight and
position, and include the products inside attention. If two successive layers lose half
of their channels, a quarter of the operations is left; in first layers, whose inputs
are the model's, and in last layers half is left.

For comparison, the table has Torch-Pruning 1.6.1 at `pruning_ratio=0.5` on
torchvision's model of the same name, run on the same machine. Torchvision does not have
EfficientNetV2B0, so V2-S takes its place. The text models are made of torchvision's
`EncoderBlock`. A cell is empty if torchvision has no such model. "Difference" is the
largest difference between outputs before and after `compact`, relative to the largest
output. "Seconds" is the time of all three calls, which create the wrapped and the
smaller model, and of Torch-Pruning's count, graph and step. The machine had two cores
that were also used for other work, so these times are only a rough indication.

{rows}

![Operations left](channels/operations.png)

## Half of the operations

`tfticket.channel_plan(model, flops=0.5)` finds the sparsity that leaves at most half of
the operations, before anything is pruned. "Predicted" is its prediction; "left" is what
`sparsify(model, flops=0.5)` and `compact` actually leave.

| model | sparsity | predicted | left | seconds |
| --- | --- | --- | --- | --- |
{targets}

## Latency

The table shows the latency of one sample on one thread, dense and with half of the
channels. The files are called alternately, and ratios are taken between neighbouring
calls; the last column has their quartiles. Milliseconds depend on the machine and on
what else runs on it, so compare the ratios.

| model | format | dense ms | compact ms | ratio | quartiles |
| --- | --- | --- | --- | --- | --- |
{timed}

`tfticket.export.latency_plan(model, 0.5, format="litert")` measures in the same way,
and finds the sparsity that halves the latency on your machine.

## Regularizers that prepare channels

Does pruning channels cost less accuracy if a regularizer pushes some of them to zero
during training? It does not on the small residual network of
`benchmarks/channel_regularizers.py`, which is pruned in one step to 0.2 of its
operations (scikit-learn's digits, five seeds, means with the standard deviation over
seeds). The effect of the regularizers is within the noise of the seeds, so tfticket has
no regularizer for channels. If you want to try the method of arXiv 1708.06519, combine
Keras's `gamma_regularizer` with `Channel(score="scale")`.

| regularizer, score | trained | right after pruning | fine-tuned |
| --- | --- | --- | --- |
{regularizers}

## Reproduce

```sh
python benchmarks/channels.py
```

Torch-Pruning needs a separate environment with `torch`, `torchvision`,
`torch-pruning==1.6.1` and `absl-py`. Regenerate the page in the environment where
tfticket is installed:

```sh
python benchmarks/channels.py --what=torch
python benchmarks/channel_regularizers.py --out=docs/results/channels/regularizers.csv
python benchmarks/channels.py --what=page
```
"""

HEADER = (
    *("model", "operations", "left", "Torch-Pruning", "ratio", "weights left"),
    *("difference", "seconds", "Torch-Pruning's"),
)
# Figures that each model has a row of, and how the table shows them.
COLUMNS = (
    ("operations", lambda x: f"{x / 1e9:.2f} G"),
    ("left", "{:.3f}".format),
    ("parameters left", "{:.3f}".format),
    ("difference", "{:.0e}".format),
    ("seconds", "{:.0f}".format),
)


def write(
    found: dict[tuple[str, str, str], float], names: tuple[str, ...], out: pathlib.Path
) -> None:
    """Writes the page and its picture.

    Args:
        found: Figures by model, tool and name.
        names: Models in the order of the tables.
        out: Folder of the page.
    """

    def of(model, figure, tool="tfticket"):
        return found.get((model, tool, figure))

    def shown(model, figure, show, tool="tfticket"):
        value = of(model, figure, tool)
        return "" if value is None else show(value)

    rows = [f"| {' | '.join(HEADER)} |", f"|{' --- |' * len(HEADER)}"]
    targets, timed = [], []
    for name in names:
        if of(name, "left") is None:
            continue
        mine, theirs = of(name, "left"), of(name, "left", "Torch-Pruning")
        other = f"{theirs:.3f} | {mine / theirs:.2f}x" if theirs else " | "
        if theirs and name == "EfficientNetV2B0":
            other = f"{theirs:.3f} (V2-S) | {mine / theirs:.2f}x"
        cells = [shown(name, figure, show) for figure, show in COLUMNS]
        spent = shown(name, "seconds", "{:.0f}".format, "Torch-Pruning")
        cells = [*cells[:2], other, *cells[2:], spent]
        rows.append(f"| {name} | {' | '.join(cells)} |")
        cells = [
            shown(name, "target sparsity", "{:.3f}".format),
            shown(name, "target foretold", "{:.3f}".format),
            shown(name, "target left", "{:.3f}".format),
            shown(name, "target seconds", "{:.1f}".format),
        ]
        targets.append(f"| {name} | {' | '.join(cells)} |")
    for name in names:
        for form in FORMATS:
            if of(name, f"{form} ratio") is None:
                continue
            low, middle, high = (of(name, f"{form} {part}") for part in PARTS)
            dense, small = (of(name, f"{form} {x} ms") for x in ("dense", "compact"))
            timed.append(
                f"| {name} | {FORMATS[form]} | {dense:.2f} | {small:.2f} | {middle:.3f}"
                f" | {low:.3f} to {high:.3f} |"
            )
    draw(of, names, out / "channels" / "operations.png")
    (out / "channels.md").write_text(
        PAGE.format(
            rows="\n".join(rows),
            targets="\n".join(targets),
            timed="\n".join(timed),
            regularizers=regularizers(out / "channels" / "regularizers.csv"),
        )
    )


def regularizers(path: pathlib.Path) -> str:
    """Rows of the table of `channel_regularizers.py`."""
    if not path.exists():
        return ""
    with path.open(newline="") as file:
        found = list(csv.DictReader(file))
    rows = []
    for way in dict.fromkeys(row["way"] for row in found):
        cells = [way]
        for moment in ("trained", "cut", "trained on"):
            values = [100 * float(row[moment]) for row in found if row["way"] == way]
            spread = statistics.stdev(values)
            cells.append(f"{statistics.mean(values):.2f} % ± {spread:.2f}")
        rows.append(f"| {' | '.join(cells)} |")
    return "\n".join(rows)


def draw(of, names, path) -> None:
    """Operations left, of both tools, and the latency beside them."""
    import matplotlib.pyplot as plt

    names = [x for x in names if of(x, "left") is not None]
    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    places = range(len(names))
    axes.bar(
        [x - 0.2 for x in places],
        [of(x, "left") for x in names],
        0.4,
        label="tfticket, then compact",
    )
    theirs = [(i, of(x, "left", "Torch-Pruning")) for i, x in enumerate(names)]
    theirs = [(i, value) for i, value in theirs if value is not None]
    axes.bar(
        [i + 0.2 for i, _ in theirs],
        [value for _, value in theirs],
        0.4,
        label="Torch-Pruning 1.6.1",
    )
    axes.axhline(0.25, color="black", linewidth=0.8, linestyle=":")
    axes.set_xticks(places, names, rotation=45, ha="right")
    axes.set_ylabel("Fraction of the operations left")
    axes.set_title("Operations left after half of the channels were pruned")
    axes.set_ylim(0, 0.4)
    axes.legend(loc="upper left", ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)
