"""The page of `benchmarks/resnet8.py` and `resnet8_small.py`, and its picture."""

import collections
import csv
import pathlib
import re
import statistics

PAGE = """# A smaller trained network

The ResNet-8 of [MLPerf Tiny](https://github.com/mlcommons/tiny), with its trained
weights, classifies {dense} of CIFAR-10's test images correctly. The benchmark requires
85 %. `benchmarks/resnet8.py` prunes whole channels step by step until the requested
fraction of the operations is left.
It does so in the first 40 % of {epochs} epochs, with the dense network as the teacher
({recipe}).
We did not select epochs or seeds: all figures are those of the weights after the last
epoch.

{table}

Accuracies are means over seeds, with the standard deviation and, in brackets, the
number of seeds. "Fine-tuned" is the same network after `export.compact`, trained with
SGD on the labels alone for {tuned_epochs} more epochs (`benchmarks/resnet8_small.py`).
"Dense" was trained in the same way without pruning.{stepped}

![Accuracy against the operations left](resnet8/accuracy.png)

With 80 % of the single weights pruned instead, the accuracy is {weights}, and
{weights_later} after fine-tuning for {weights_epochs} epochs. Runtimes without sparse
kernels still execute all operations of such a network.{alone}

## Served

The table describes the LiteRT files of the networks of seed 0: their size, the time of
a call with one image on one thread, relative to the dense file of the same type, and
the accuracy of the file itself on all 10,000 test images.

{files}

## Reproduce

The training needs Keras with JAX. We trained on a GPU, where all {runs} runs took
{minutes:.0f} minutes, and did everything else on a CPU. `cifar10.npz` holds `x_train`,
`y_train`, `x_test` and `y_test`.

```sh
python benchmarks/resnet8.py --all --epochs={epochs} --save=students \\
    --optimizer={optimizer} --rate={rate} --decay={decay} --label_weight={labels} \\
    --model=pretrainedResnet.h5 --images=cifar10.npz \\
    --out=docs/results/resnet8/trained.csv
python benchmarks/resnet8_small.py --what=tune --student=channels-0.5-0 \\
    --model=pretrainedResnet.h5 --images=cifar10.npz
python benchmarks/resnet8_small.py --what=steps --seed=0 \\
    {steps_flags} \\
    --model=pretrainedResnet.h5 --images=cifar10.npz
python benchmarks/resnet8_small.py --what=weights --seed=0 --epochs=20 \\
    --model=pretrainedResnet.h5 --images=cifar10.npz
python benchmarks/resnet8_small.py --what=files \\
    --model=pretrainedResnet.h5 --images=cifar10.npz
python benchmarks/resnet8_small.py --what=page
```
"""


def read(path: pathlib.Path) -> list[dict[str, str]]:
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def shown(values: list[float]) -> str:
    """Mean, standard deviation and number of some accuracies."""
    if not values:
        return ""
    if len(values) == 1:
        return f"{values[0]:.2%} (one seed)"
    spread = statistics.stdev(values)
    return f"{statistics.mean(values):.2%} ± {100 * spread:.2f} ({len(values)})"


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def write(results: pathlib.Path) -> None:
    """Writes the page and its picture.

    Args:
        results: The folder of the pages.
    """
    folder = results / "resnet8"
    trained, tuned = read(folder / "trained.csv"), read(folder / "tuned.csv")
    after = {row["student"]: float(row["test_accuracy"]) for row in tuned}
    groups = collections.defaultdict(list)
    for row in trained:
        groups[row["structure"], float(row["target"])].append(row)
    rows, points = [], {}
    for (structure, target), runs in sorted(groups.items(), key=lambda x: -x[0][1]):
        if structure == "weights":
            continue
        first = [float(x["test_accuracy"]) for x in runs]
        names = [f"{structure}-{target:g}-{x['seed']}" for x in runs]
        later = [after[name] for name in names if name in after]
        left = statistics.mean(float(x["operations_left"]) for x in runs)
        kept = statistics.mean(float(x["weights_left"]) for x in runs)
        points[left] = (first, later, [])
        name = "dense" if structure == "none" else f"{target:g}"
        rows.append([name, f"{left:.3f}", f"{kept:.3f}", shown(first), shown(later)])
    stepped = read(folder / "stepped.csv")
    if stepped:
        cuts = stepped[0]["steps"].split()
        after_steps = [float(x["test_accuracy"]) for x in stepped]
        left = statistics.mean(float(x["operations_left"]) for x in stepped)
        kept = statistics.mean(float(x["weights_left"]) for x in stepped)
        points[left] = ([], [], after_steps)
        name = f"{cuts[-1]}, in steps"
        rows.append([name, f"{left:.3f}", f"{kept:.3f}", "", shown(after_steps)])
    of_weights = groups["weights", 0.2]
    weights = [float(x["test_accuracy"]) for x in of_weights]
    names = [f"weights-0.2-{x['seed']}" for x in of_weights]
    later = [after[name] for name in names if name in after]
    one = trained[0]
    (results / "resnet8.md").write_text(
        PAGE.format(
            dense=f"{float(one['start_accuracy']):.2%}",
            epochs=one["epochs"],
            optimizer=one["optimizer"],
            rate=one["rate"],
            decay=one["decay"],
            labels=one["label_weight"],
            recipe=f"{one['optimizer']}, rate {one['rate']}, decay {one['decay']}, "
            f"batch {one['batch']}, temperature {one['temperature']}, "
            f"label weight {one['label_weight']}",
            table=table(
                ("target", "operations", "parameters", "accuracy", "fine-tuned"), rows
            ),
            stepped=of_steps(stepped),
            alone=without_teacher(read(folder / "weights.csv")),
            steps_flags="--flops=0.5,0.25 --between=3 --epochs=30",
            tuned_epochs=epochs_of(tuned, "channels"),
            weights_epochs=epochs_of(tuned, "weights"),
            weights=shown(weights),
            weights_later=shown(later) or "not done",
            files=served(read(folder / "files.csv")),
            runs=len(trained),
            # Four at a time.
            minutes=sum(float(x["seconds"]) for x in trained) / 60 / 4,
        )
    )
    draw(points, float(one["start_accuracy"]), folder / "accuracy.png")


def of_steps(stepped: list[dict[str, str]]) -> str:
    if not stepped:
        return ""
    first = stepped[0]
    return (
        " The row that is\npruned in steps used no teacher and no GPU. It prunes "
        f"to {first['steps'].replace(' ', ', then to ')}\n"
        "of the operations; after each step `export.compact` removes the pruned "
        "channels and\nthe smaller network is fine-tuned with SGD, for "
        f"{first['epochs']} epochs in all (`--what=steps`)."
    )


def without_teacher(rows: list[dict[str, str]]) -> str:
    if not rows:
        return ""
    found = shown([float(row["test_accuracy"]) for row in rows])
    return (
        f"\nWithout a teacher, with SGD for {rows[0]['epochs']} epochs on a CPU "
        f"(`--what=weights`): {found}."
    )


def epochs_of(tuned: list[dict[str, str]], kind: str) -> str:
    found = {row["epochs"] for row in tuned if row["student"].startswith(kind)}
    return " or ".join(sorted(found)) or "0"


def served(rows: list[dict[str, str]]) -> str:
    forms = ("float32", "int8")
    head = ["network"]
    for form in forms:
        head += [f"{form} kB", "time", "accuracy"]
    lines = []
    for row in sorted(rows, key=lambda row: -int(row["float32_bytes"])):
        cells = [re.sub(r"^(channels|steps)-|-0$", "", row["student"])]
        for form in forms:
            cells += [
                f"{int(row[f'{form}_bytes']) / 1000:.1f}",
                f"{float(row[f'{form}_ms']):.2f} ms"
                if row["student"] == "dense"
                else f"{float(row[f'{form}_ratio']):.2f}x",
                f"{float(row[f'{form}_accuracy']):.2%}",
            ]
        lines.append(cells)
    return table(tuple(head), lines)


def draw(points, dense: float, path: pathlib.Path) -> None:
    """A point per seed, before and after fine-tuning."""
    import matplotlib.pyplot as plt

    from tfticket.tickets.pictures import DENSE

    figure, axes = plt.subplots(figsize=(6, 4.2), layout="constrained")
    kinds = ("pruned with a teacher", "then fine-tuned", "pruned in steps, no teacher")
    for number, (label, color) in enumerate(
        zip(kinds, ("C0", "C1", "C2"), strict=True)
    ):
        of = {left: values[number] for left, values in points.items() if values[number]}
        if not of:
            continue
        lefts = sorted(of)
        means = [statistics.mean(of[left]) for left in lefts]
        axes.plot(lefts, [100 * x for x in means], color=color, label=label)
        for left in lefts:
            axes.plot([left] * len(of[left]), [100 * x for x in of[left]], ".", c=color)
    axes.axhline(100 * dense, label="dense, as published", **DENSE)
    axes.axhline(85, color="gray", linestyle=":", label="required by MLPerf Tiny")
    axes.set_xlabel("Fraction of the operations left", fontsize=12)
    axes.set_ylabel("Test accuracy, %", fontsize=12)
    axes.set_title("ResNet-8 on CIFAR-10 with fewer channels", fontsize=13)
    axes.tick_params(labelsize=12)
    axes.invert_xaxis()
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left", fontsize=11)
    figure.savefig(path, dpi=120)
    plt.close(figure)
