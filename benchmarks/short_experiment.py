"""Conv-6 through rounds of pruning in minutes, where only Keras may be installed."""

import importlib.util
import time
from typing import Any

import keras
import numpy as np
from keras import ops

import tfticket
from tfticket import models
from tfticket.keras_models.variables import State

# Two of the paper's rounds at a time: 15 % of a convolution, 20 % of a Dense layer.
ROUNDS, RATE, RATES = 6, 1 - 0.8**2, {keras.layers.Conv2D: 1 - 0.85**2}
BATCH_SIZE, VALIDATIONS = 60, 10
SPLIT = (45_000, 5_000, 10_000)
NOISE = 1.5


def run(
    iterations: int, data_dir: str | None, quick: bool
) -> tuple[list[list[Any]], str]:
    """Trains dense, then each ticket and its control that is initialised anew.

    Args:
        iterations: Steps of a round, a multiple of `VALIDATIONS`.
        data_dir: Where TFDS has CIFAR-10.
        quick: Whether to do next to nothing, to see that it runs.

    Returns:
        A row for each round, and a few sentences on what was trained on what.
    """
    (train, validation, test), what = images(data_dir, quick)
    rounds, epochs, steps = ROUNDS, VALIDATIONS, iterations // VALIDATIONS
    if quick:
        rounds, epochs, steps = 1, 2, 3
    settings = {"steps_per_epoch": steps, "verbose": 0, "shuffle": False}
    settings |= {"validation_data": validation, "validation_batch_size": 1000}
    tickets = []
    finder = tfticket.IterativeMagnitudePruning(
        rounds,
        RATE,
        rates=RATES,
        test_data=test,
        on_round_end=lambda record, ticket: tickets.append(ticket),
    )
    clock = Clock(epochs)
    conv_6(0, steps, quick).fit(
        shuffled(train, BATCH_SIZE, 0),
        epochs=epochs * (rounds + 1),
        callbacks=[clock, finder],
        **settings,
    )
    again = conv_6(1, steps, quick)
    variables = [*again.variables, *again.optimizer.variables]
    initial = State({str(i): variable for i, variable in enumerate(variables)})
    rows = []
    for number, (record, ticket) in enumerate(
        zip(finder.records, tickets, strict=True)
    ):
        initial.restore()
        tfticket.set_masks(again, ticket.masks)
        again.fit(shuffled(train, BATCH_SIZE, 1), epochs=epochs, **settings)
        _, control = again.evaluate(*test, batch_size=1000, verbose=0)
        rows.append(
            [
                number,
                f"{record.density:.1%}",
                f"{record.test['accuracy']:.2%}",
                f"{control:.2%}",
                f"{record.best_iteration:,}",
                f"{clock.training[number]:.1f}",
                f"{clock.between[number]:.2f}",
            ]
        )
    return rows, (
        f"Each round has {epochs * steps:,} steps at batch {BATCH_SIZE}, while the "
        "paper has 30,000, and prunes as much as two of its rounds. There is one seed. "
        f"The data are {what}."
    )


def images(data_dir, quick):
    """Training, validation and test part, and what they are."""
    if importlib.util.find_spec("tensorflow") and not quick:
        from tfticket import data

        if keras.backend.backend() != "tensorflow":
            hide_gpus_from_tensorflow()
        try:
            cifar = data.load("cifar10", data_dir, download=False)
            parts = cifar.train, cifar.validation, cifar.test
            return parts, "CIFAR-10"
        except (ImportError, ValueError) as error:
            print(f"No CIFAR-10: {error}")
    sizes = (200, 40, 40) if quick else SPLIT
    random = np.random.default_rng(0)
    patterns = random.standard_normal((10, 4, 8, 8, 3), np.float32)
    patterns = patterns.repeat(4, axis=2).repeat(4, axis=3)
    parts = tuple(made_images(random, patterns, size) for size in sizes)
    return parts, (
        "images made by a generator of seed 0, not CIFAR-10: ten classes of four "
        "coarse patterns each, shifted at random, of random contrast, in noise"
    )


def made_images(random, patterns, count):
    labels, kinds = random.integers(10, size=count), random.integers(4, size=count)
    rows, columns = (random.integers(32, size=(2, count, 1)) + np.arange(32)) % 32
    picked = (labels[:, None, None], kinds[:, None, None])
    made = patterns[(*picked, rows[:, :, None], columns[:, None, :])]
    made *= random.uniform(0.5, 1.5, (count, 1, 1, 1)).astype(np.float32)
    made += NOISE * random.standard_normal(made.shape, np.float32)
    return made, labels.astype(np.int32)


def shuffled(part, batch_size, seed):
    """Endless batches of the training part, every image once an epoch."""
    if keras.backend.backend() == "tensorflow":
        from tfticket import data

        ones = np.ones(1)
        dataset = data.Dataset("images", part, part, part, 10, 0 * ones, ones)
        return dataset.training_pipeline(batch_size, seed)
    return gathered(*map(ops.convert_to_tensor, part), batch_size, seed)


def gathered(x, y, batch_size, seed):
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(len(x)).astype(np.int32)
        for start in range(0, len(x) - batch_size + 1, batch_size):
            rows = order[start : start + batch_size]
            yield ops.take(x, rows, axis=0), ops.take(y, rows, axis=0)


class Clock(keras.callbacks.Callback):
    """Seconds of each round's training, and from there to the next round's."""

    def __init__(self, epochs_per_round):
        super().__init__()
        self.epochs = epochs_per_round
        self.training, self.between = [], []

    def on_epoch_begin(self, epoch, logs=None):
        self.epoch = epoch

    def on_train_batch_begin(self, batch, logs=None):
        if batch == 0 and self.epoch % self.epochs == 0:
            self.started = time.perf_counter()
            self._since_the_end()

    def on_epoch_end(self, epoch, logs=None):
        if (epoch + 1) % self.epochs == 0:
            self.ended = time.perf_counter()
            self.training.append(self.ended - self.started)

    def on_train_end(self, logs=None):
        self._since_the_end()

    def _since_the_end(self):
        if self.training:
            self.between.append(time.perf_counter() - self.ended)


def conv_6(seed, steps, quick):
    keras.utils.set_random_seed(seed)
    width = 0.05 if quick else 1.0
    model = tfticket.prune(models.build("conv_6", (32, 32, 3), 10, width))
    model.compile(
        keras.optimizers.Adam(models.LEARNING_RATES["conv_6"]),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **models.compile_settings(model, steps),
    )
    model.optimizer.build(model.trainable_variables)
    return model


def hide_gpus_from_tensorflow() -> None:
    if importlib.util.find_spec("tensorflow"):
        import tensorflow as tf

        tf.config.set_visible_devices([], "GPU")
