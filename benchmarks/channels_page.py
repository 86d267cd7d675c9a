"""The page of `benchmarks/channels.py`, and its picture."""

import csv
import pathlib
import statistics

FORMATS = {"litert": "LiteRT float32", "saved_model": "SavedModel"}
PARTS = ("lower quartile", "ratio", "upper quartile")
PAGE = """# Whole channels, what is left

`benchmarks/channels.py` prunes known networks by whole channels and removes those
with `tfticket.export.compact`. Weights are random, and so are biases, betas and
moving means, as after training, so that nothing is constant by luck. All figures are
in `docs/results/channels/figures.csv`.

## Half of the channels

`tfticket.prune(model, structure=Channel())`, `sparsify(model, 0.5)`,
`compact(model)`. Inputs have 224 x 224 pixels; ViT, BERT and GPT are small ones of
Keras layers (4 blocks of width 192). Operations count two for each weight and place,
and the products inside attention. Half of the channels of two layers in a row leave a
quarter of the operations; first layers, whose inputs are the model's, and last ones
leave a half.

Beside it is Torch-Pruning 1.6.1 at `pruning_ratio=0.5` on torchvision's model of the
same name, run on the same machine; of EfficientNetV2B0, which torchvision does not
have, V2-S. The text models are made of torchvision's `EncoderBlock`. Where a cell is
empty, torchvision has no such model. "Difference" is the largest one between outputs
before and after `compact`, over the largest output. "Seconds" are those of all three
calls, which make the wrapped and the smaller model, and of Torch-Pruning's count, graph
and step, on a machine of two cores that others used meanwhile: they say little.

{rows}

![Operations left](channels/operations.png)

## Half of the operations

`tfticket.channel_plan(model, flops=0.5)` finds the sparsity that leaves at most half
of the operations, before anything is cut. "Left" is what `sparsify(model, flops=0.5)`
and `compact` leave.

| model | sparsity | foretold | left | seconds |
| --- | --- | --- | --- | --- |
{targets}

## Latency

A sample at a time on one thread, dense and with half of the channels, files called in
turns. Ratios are taken turn by turn; the last column has their quartiles.

| model | format | dense ms | compact ms | ratio | quartiles |
| --- | --- | --- | --- | --- | --- |
{timed}

`tfticket.export.latency_plan(model, 0.5, format="litert")` measures in the same way,
and finds the sparsity that leaves half of the time on this machine.

## Regularizers that prepare channels

Do channels go with less loss if the training before pushes some of them to zero? Not
on the small residual network of `benchmarks/channel_regularizers.py`, whose channels
are cut at once to 0.2 of the operations (scikit-learn's digits, five seeds, means with
the standard deviation of a seed). What the regularizers change is within the noise of
the seeds, so tfticket has none of its own. Keras's `gamma_regularizer` with
`Channel(score="scale")` is the way of arXiv 1708.06519 for whoever wants to try.

| regularizer, score | trained | right after the cut | trained on |
| --- | --- | --- | --- |
{regularizers}

## Again

```sh
python benchmarks/channels.py
```

Torch-Pruning needs an environment of its own, with `torch`, `torchvision`,
`torch-pruning==1.6.1` and `absl-py`. The page is made again where tfticket is
installed:

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
    axes.set_ylabel("operations left")
    axes.set_title("Half of the channels")
    axes.set_ylim(0, 0.4)
    axes.legend(loc="upper left", ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)
