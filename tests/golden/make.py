"""Makes the golden files beside it, which tests/test_golden.py compares with.

    python tests/golden/make.py

Masks and bytes are made by the functions here, in the test too. The saved models and
the ticket were written by tfticket 0.1.0 before its modules moved: they must go on
loading, so make them again only when a format changes on purpose.
"""

import hashlib
import pathlib
import tempfile

import keras
import numpy as np

import tfticket

FOLDER = pathlib.Path(__file__).parent


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(8, 3, activation="relu", name="conv"),
            keras.layers.Flatten(name="flat"),
            keras.layers.Dense(16, activation="relu", name="hidden"),
            keras.layers.Dense(10, name="out"),
        ]
    )


def compiled(model):
    model.compile(
        keras.optimizers.Adam(1e-2),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    return model


def images():
    digits = tfticket.data.load("digits")
    return digits.train[0][:512], digits.train[1][:512]


def found_masks():
    """Masks of `find`, of gradual pruning and of popup layers, by name."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = tfticket.lottery.Experiment(
            rounds=2, iterations=60, rewind_to=4, rewind_clock="restart"
        )
        ticket = tfticket.lottery.find_ticket(recipe, f"{folder}/run").ticket
    made = {"find": ticket.masks}
    x, y = images()
    model = compiled(tfticket.prune(network()))
    schedule = tfticket.schedules.PolynomialDecay(0.2, 0.8, 0, 30, frequency=5)
    model.fit(x, y, 32, 3, 0, callbacks=[tfticket.GradualPruning(schedule)])
    made["gradual"] = tfticket.get_masks(model)
    popup = compiled(tfticket.popup(network(), density=0.3))
    popup.fit(x, y, 32, 2, 0)
    made["popup"] = tfticket.get_masks(popup)
    return {f"{way}:{k}": m for way, masks in made.items() for k, m in masks.items()}


def fixed_network():
    """Wrapped, with weights and masks from a generator: no arithmetic in it."""
    random = np.random.default_rng(0)
    model = tfticket.prune(network())
    for variable in model.trainable_variables:
        variable.assign(random.standard_normal(variable.shape, np.float32))
    masks = tfticket.get_masks(model)
    tfticket.set_masks(
        model, {name: random.random(mask.shape) < 0.1 for name, mask in masks.items()}
    )
    return model


def encoded_digest():
    """SHA-256 of the variables that an encoded SavedModel stores."""
    from tfticket.export import saved_model

    with tempfile.TemporaryDirectory() as folder:
        path = saved_model(fixed_network(), f"{folder}/m", format="encoded").path
        (data,) = pathlib.Path(path).glob("variables/variables.data*")
        return hashlib.sha256(data.read_bytes()).hexdigest()


if __name__ == "__main__":
    masks = found_masks()
    np.savez_compressed(
        FOLDER / "masks.npz",
        encoded=encoded_digest(),
        **{name: np.packbits(mask) for name, mask in masks.items()},
    )
    wrapped = fixed_network()
    wrapped.save(FOLDER / "wrapped.keras")
    tfticket.Ticket.from_model(wrapped, seed=0).save(FOLDER / "ticket.npz")
    x = np.random.default_rng(1).random((4, 8, 8, 1), np.float32)
    keras.utils.set_random_seed(0)
    popup = tfticket.popup(network(), density=0.3, score_scope="global")
    popup.save(FOLDER / "popup.keras")
    np.savez_compressed(
        FOLDER / "outputs.npz", x=x, wrapped=wrapped.predict(x, verbose=0),
        popup=popup.predict(x, verbose=0),
    )  # fmt: skip
