"""Whether regularizers that prepare channels pay, on scikit-learn's digits.

    python benchmarks/channel_regularizers.py \
        --out=docs/results/channels/regularizers.csv

A small residual network is trained with a regularizer, cut at once to `--flops` of its
operations, and trained on. BatchNormalization's scales get Keras's own L1
(`gamma_regularizer`) and are what channels are scored by (`Channel(score="scale")`,
arXiv 1708.06519); kernels get the group lasso, the sum of the norms of their output
channels. A row of the CSV is a seed of a way: test accuracy when trained, right after
the cut, and in the end.
"""

import csv
import os
import statistics

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from absl import app, flags

_OUT = flags.DEFINE_string("out", "regularizers.csv", "The rows.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "How many seeds.", 1)
_EPOCHS = flags.DEFINE_integer("epochs", 12, "Epochs before the cut.", 1)
_TUNING = flags.DEFINE_integer("tuning", 4, "Epochs after it.", 0)
_FLOPS = flags.DEFINE_float("flops", 0.2, "Part of the operations left.", 0, 1)

# Name: strength on scales, on kernels, and what scores the channels.
WAYS = {
    "nothing, by magnitude": (0.0, 0.0, None),
    "nothing, by scale": (0.0, 0.0, "scale"),
    "L1 of scales 1e-4, by scale": (1e-4, 0.0, "scale"),
    "L1 of scales 1e-3, by scale": (1e-3, 0.0, "scale"),
    "L1 of scales 1e-2, by scale": (1e-2, 0.0, "scale"),
    "group lasso 1e-4, by magnitude": (0.0, 1e-4, None),
    "group lasso 1e-3, by magnitude": (0.0, 1e-3, None),
}


def group_lasso(strength: float):
    """A Keras regularizer: the norms of output channels, added up."""
    import keras
    from keras import ops

    class GroupLasso(keras.regularizers.Regularizer):
        def __call__(self, kernel):
            squares = ops.sum(ops.square(kernel), axis=tuple(range(kernel.ndim - 1)))
            return strength * ops.sum(ops.sqrt(squares + 1e-12))

    return GroupLasso()


def network(shape, classes: int, scales: float, kernels: float):
    import keras
    from keras import layers

    def conv(x, filters):
        x = layers.Conv2D(
            filters,
            3,
            padding="same",
            use_bias=False,
            kernel_regularizer=group_lasso(kernels) if kernels else None,
        )(x)
        regularizer = keras.regularizers.L1(scales) if scales else None
        # Few steps: Keras's own momentum would not have seen them all.
        return layers.BatchNormalization(momentum=0.9, gamma_regularizer=regularizer)(x)

    image = keras.Input(shape)
    x = stem = layers.ReLU()(conv(image, 32))
    x = layers.ReLU()(conv(x, 64))
    x = layers.ReLU()(layers.Add()([stem, conv(x, 32)]))
    x = layers.ReLU()(conv(layers.MaxPooling2D()(x), 64))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(image, layers.Dense(classes)(x))


def run(way: str, seed: int) -> dict[str, object]:
    import keras

    import tfticket

    scales, kernels, score = WAYS[way]
    keras.utils.set_random_seed(seed)
    digits = tfticket.data.load("digits")
    x, y = digits.train
    structure = tfticket.structures.Channel(min_channels=4)
    if score:
        structure = tfticket.structures.Channel(score=score, min_channels=4)
    model = network(digits.image_shape, digits.classes, scales, kernels)
    model = tfticket.prune(model, structure=structure)

    def train(epochs):
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
        model.fit(x, y, batch_size=60, epochs=epochs, verbose=0)

    def accuracy():
        return model.evaluate(*digits.test, verbose=0, return_dict=True)["accuracy"]

    train(_EPOCHS.value)
    found = {"way": way, "seed": seed, "trained": accuracy()}
    tfticket.sparsify(model, flops=_FLOPS.value, scope="global")
    found["cut"] = accuracy()
    train(_TUNING.value)
    return {**found, "trained on": accuracy()}


def main(_) -> None:
    rows = []
    for way in WAYS:
        rows += [run(way, seed) for seed in range(_SEEDS.value)]
        print(f"{way:32}", end="")
        for moment in ("trained", "cut", "trained on"):
            values = [row[moment] for row in rows if row["way"] == way]
            spread = statistics.stdev(values) if len(values) > 1 else 0.0
            print(f"  {statistics.mean(values):.2%} ± {100 * spread:.2f}", end="")
        print(flush=True)
        with open(_OUT.value, "w", newline="") as file:
            writer = csv.DictWriter(file, rows[0], lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)


if __name__ == "__main__":
    app.run(main)
