"""The page of `benchmarks/dynamic.py`, and its picture."""

import collections
import csv
import pathlib
import statistics
from collections.abc import Sequence

from tfticket.lottery.measures.intervals import difference, mean_interval

COLUMNS = ("method", "sparsity", "seed", "accuracy", "flops", "seconds")
TIMES = ("method", "steps", "fits", "ms per step", "low", "ratio", "high")
# In the order of the tables.
METHODS = (
    *("dense", "static", "Sign-In", "SET", "RigL", "STE", "Top-KAST", "AC/DC"),
    *("gradual", "gradual to half", "ticket", "small dense"),
)
CIFAR10_METHODS = ("dense", "static", "SET", "RigL", "gradual")
# Pairs whose differences the page gives.
PAIRS = (
    *(("Sign-In", "static"), ("SET", "static"), ("RigL", "SET"), ("STE", "RigL")),
    *(("Top-KAST", "RigL"), ("AC/DC", "RigL"), ("gradual", "RigL")),
    *(("gradual", "AC/DC"), ("gradual", "STE"), ("gradual to half", "gradual")),
    *(("gradual to half", "ticket"), ("RigL", "small dense"), ("dense", "ticket")),
)
PAGE = """# Dynamic sparse training

Which way of training ends with the most accurate sparse network, and what does it
cost? `benchmarks/dynamic.py` trains LeNet-300-100 on MNIST and ResNet-8 on CIFAR-10 in
these ways, all with the densities of ERK. The only setting that we tuned is the end
of gradual pruning; the table has two values of it.

- **static, SET, RigL**: `DynamicSparseTraining`. Every 100 steps, 30 % of the weights
  are exchanged, decaying along a cosine to zero after 75 % of the training. RigL takes
  its gradient of four batches of images.
- **STE, Top-KAST**: `TopKTraining`, which chooses the largest weights again every 100
  steps. Top-KAST gives five times as many weights a gradient as it keeps, and its
  exploration factor is 1e-5.
- **AC/DC**: `TopKTraining` with phases of a twelfth of the training, sparse from 75 %
  of the training on.
- **gradual**: `GradualPruning` with `PolynomialDecay` from 0, every 100 steps, up to
  75 % of the training; **gradual to half**: up to 50 %.
- **ticket**: iterative magnitude pruning with rewinding to the initial weights. Each
  round halves the weights, so it takes six trainings to find the ticket of 98 %
  sparsity, which is trained once more; the next two sparsities take one training more
  each.
- **Sign-In** (arXiv 2504.12801): static masks, each weight the product of two factors,
  which are balanced again twelve times, up to half of the training. It is not part of
  tfticket; `benchmarks/product_layers.py` computes it.
- **small dense**: a dense network with narrower layers, and as many weights.

Accuracies are those on the test images, in percent, after the last step: the mean over
seeds, and its 95 % interval by Student's t. Differences are in percentage points, with
95 % intervals: paired by seed if both have the same seeds, else Welch's. If an interval
includes 0, these seeds don't decide which method is better.

Operations are those of the whole training, as a fraction of dense training's, as
`training_flops` counts them. A step takes three passes: forward and backward to the
inputs with the kept weights, and backward to the weights that get a gradient. RigL's
gradients are included, and so are all trainings of a ticket. Fewer operations are not
faster here, because Keras computes with the zeros too.

## LeNet-300-100 on MNIST

There are 55,000 training images. A training takes 12,000 steps of 60 images, with Adam
at 1.2e-3 and cosine decay. {mnist}

![Accuracy against the operations of the training](dynamic.png)

The picture leaves out the small dense networks, which have hidden layers of 7 and 2, 3
and 1, and 2 and 1 units.

## ResNet-8 on CIFAR-10

There are 45,000 training images. A training takes 1,400 steps of 64 images, which are
2 epochs, with SGD (Nesterov momentum of 0.9) at 0.1 and cosine decay, and no
augmentation. Together, the trainings take about an hour on one core. The networks would
learn more in a longer training, and the methods may then compare differently. {cifar10}

## Time
{times}
## Reproduce

```sh
python benchmarks/dynamic.py --data_dir=DIR
python benchmarks/dynamic.py --data_dir=DIR --task=cifar10
python benchmarks/dynamic.py --what=time
python benchmarks/dynamic.py --what=page
```

The first two commands add one row per training to the tables and leave out the
trainings that are there, so you can stop them at any time.
"""
SECTION = """{seeds}{missing} All figures are in [the table of trainings]({name}).

{accuracies}

{differences}

{operations}

{best}"""


def write(path: pathlib.Path) -> None:
    """Writes the page and the picture beside a table of trainings.

    Args:
        path: The table.
    """
    found = read(path)
    draw(found, path.with_suffix(".png"))
    timed = path.with_name(f"{path.stem}_time.csv")
    images = read(path.with_name(f"{path.stem}_cifar10.csv"))
    path.with_suffix(".md").write_text(page(found, images, timed))


def read(path: pathlib.Path) -> dict[tuple[str, float], dict[int, tuple[float, float]]]:
    """(method, sparsity) to seed to (accuracy in percent, operations)."""
    found: dict = collections.defaultdict(dict)
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            of = found[row["method"], float(row["sparsity"])]
            values = 100 * float(row["accuracy"]), float(row["flops"])
            of[int(row["seed"])] = values
    return dict(found)


def page(found: dict, images: dict, timed: pathlib.Path) -> str:
    """The text of the page.

    Args:
        found: What `read` returned of LeNet.
        images: What `read` returned of ResNet-8.
        timed: The table of times, which may not be there.
    """
    return PAGE.format(
        mnist=section(found, METHODS, "dynamic.csv"),
        cifar10=section(images, CIFAR10_METHODS, "dynamic_cifar10.csv"),
        times=_times(timed),
    )


def section(found: dict, wanted: Sequence[str], name: str) -> str:
    """Tables of one network, and what is best in them.

    Args:
        found: What `read` returned.
        wanted: Methods that are to be there.
        name: File name of the table of trainings.
    """
    sparsities = sorted({sparsity for _, sparsity in found} - {0.0})
    methods = [name for name in METHODS if any(name == x for x, _ in found)]
    accuracies, operations = [], []
    for method in methods:
        of = [found.get((method, s), found.get((method, 0.0), {})) for s in sparsities]
        accuracies.append([method, *map(_accuracy, of)])
        operations.append([method, *map(_operations, of)])
    differences = [
        [f"{one} - {other}", *(_difference(found, one, other, s) for s in sparsities)]
        for one, other in PAIRS
        if one in methods and other in methods
    ]
    counts = sorted({len(of) for of in found.values()})
    several = f"{counts[0]} to {counts[-1]} seeds" if counts[1:] else _seeds(counts[0])

    def table(title, rows):
        return _table([title, *(f"{100 * s:g} % sparse" for s in sparsities)], rows)

    return SECTION.format(
        seeds=f"There are {several} per cell."
        if counts[-1] > 1
        else "There is one seed.",
        missing=_missing([name for name in wanted if name not in methods]),
        name=name,
        accuracies=table("accuracy", accuracies),
        differences=table("difference", differences),
        operations=table("operations", operations),
        best="\n".join(_best(found, s) for s in sparsities),
    )


def _missing(names):
    return f" We have not run {_list(names)} yet." if names else ""


def _seeds(count):
    return f"{count} seed{'s' if count > 1 else ''}"


def _accuracy(of):
    if not of:
        return ""
    interval = mean_interval([accuracy for accuracy, _ in of.values()])
    if interval.n < 2:
        return f"{interval.mean:.2f} (one seed)"
    return (
        f"{interval.mean:.2f} ({interval.low:.2f} to {interval.high:.2f}; {interval.n})"
    )


def _operations(of):
    return f"{statistics.mean(flops for _, flops in of.values()):.4f}" if of else ""


def _difference(found, one, other, sparsity):
    of = [found.get((m, sparsity), found.get((m, 0.0))) for m in (one, other)]
    if not all(of):
        return ""
    arms = [{seed: accuracy for seed, (accuracy, _) in x.items()} for x in of]
    interval = difference(*arms)
    if interval.n < 2:
        return f"{interval.mean:+.2f} (one seed)"
    return f"{interval.mean:+.2f} ({interval.low:+.2f} to {interval.high:+.2f})"


def _table(head, rows):
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def points(found: dict, sparsity: float) -> dict[str, tuple[float, float]]:
    """Method to its mean operations and accuracy, of those that end at a sparsity."""
    means = {}
    for (method, at), of in found.items():
        if at == sparsity:
            accuracies, flops = ([x[i] for x in of.values()] for i in (0, 1))
            means[method] = statistics.mean(flops), statistics.mean(accuracies)
    return means


def front(means: dict[str, tuple[float, float]]) -> list[str]:
    """Methods that none is better than with as few operations, the cheapest first."""
    best, found = -1.0, []
    for method, (_, accuracy) in sorted(
        means.items(), key=lambda x: (x[1][0], -x[1][1])
    ):
        if accuracy > best:
            best = accuracy
            found.append(method)
    return found


def _best(found, sparsity):
    means = points(found, sparsity)
    best = front(means)
    listed = ", ".join(
        f"{name} ({means[name][1]:.2f} for {means[name][0]:.4f})" for name in best
    )
    text = (
        f"- At {100 * sparsity:g} % sparsity, more operations buy more accuracy in "
        f"this order, by the means of the table: {listed}."
    )
    if others := [name for name in means if name not in best]:
        text += (
            f" {_list(others)} {'are' if others[1:] else 'is'} no more accurate than "
            "a method of this list that takes as many operations or fewer."
        )
    return text


def _list(names):
    return " and ".join([", ".join(names[:-1]), names[-1]] if names[1:] else names)


def _times(path):
    if not path.exists():
        return "\nNot measured.\n"
    with path.open(newline="") as file:
        rows = {row["method"]: row for row in csv.DictReader(file)}
    one = rows["RigL"]
    shown = [
        [
            method,
            row["ms per step"],
            f"{row['ratio']} ({row['low']} to {row['high']})",
        ]
        for method, row in rows.items()
    ]
    return f"""
The table shows the processor time of a whole `fit` of {int(one["steps"]):,} steps with
updates every 100 steps, and its ratio to a fit with static masks: the median and the
quartiles of {one["fits"]} fits of each kind, which take turns. RigL takes its gradient
of a batch of 60 images, as in its paper.

{_table(["", "ms per step", "ratio"], shown)}
"""


def draw(found: dict, path: pathlib.Path) -> None:
    """Accuracy against operations, one panel per sparsity."""
    import matplotlib.pyplot as plt

    sparsities = sorted({sparsity for _, sparsity in found} - {0.0})
    methods = METHODS[1:-1]  # the small dense networks would squeeze all others
    figure, panels = plt.subplots(
        1, len(sparsities), figsize=(10, 3.6), layout="constrained", squeeze=False
    )
    for panel, sparsity in zip(panels[0], sparsities, strict=True):
        means = points(found, sparsity)
        for number, method in enumerate(methods):
            if method not in means:
                continue
            flops, accuracy = means[method]
            every = [x for x, _ in found[method, sparsity].values()]
            below, above = accuracy - min(every), max(every) - accuracy
            panel.errorbar(
                *(flops, accuracy, [[below], [above]]),
                **{"fmt": "osD^v<>*"[number % 8], "color": f"C{number}", "capsize": 3},
                label=method,
            )
        panel.set_xscale("log")
        panel.set_title(f"{100 * sparsity:g} % sparse")
        panel.set_xlabel("operations, of dense training")
    panels[0][0].set_ylabel("test accuracy in %")
    shown = {}
    for panel in panels[0]:
        handles, labels = panel.get_legend_handles_labels()
        shown |= dict(zip(labels, handles, strict=True))
    figure.legend(shown.values(), shown.keys(), loc="outside right")
    figure.savefig(path, dpi=120, metadata={"Software": None})
    plt.close(figure)
