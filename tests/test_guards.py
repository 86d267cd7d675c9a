"""What would train for nothing is refused before it does, or warned of when it has."""

import functools

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND

import tfticket
from tfticket import schedules

IMP = tfticket.IterativeMagnitudePruning
SCHEDULE = schedules.PolynomialDecay(0.0, 0.5, 0, 8, frequency=1)
X = np.random.default_rng(0).normal(size=(32, 4)).astype("float32")
Y = np.ones((32, 2), "float32")


def wrapped(schedule=None, **kwargs):
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(2, name="out"),
        ]
    )
    model = tfticket.prune(model, schedule=schedule)
    model.compile("adam", "mse", **kwargs)
    return model


class Raises(keras.callbacks.Callback):
    """Ends a fit as a user or a fault does, at one moment of its second batch."""

    def __init__(self, error, moment):
        super().__init__()
        setattr(self, moment, self.end)
        self.error = error

    def end(self, batch, logs=None):
        if batch == 1:
            raise self.error


class Epochs(keras.callbacks.Callback):
    count = 0

    def on_epoch_end(self, epoch, logs=None):
        self.count += 1


def weights(model):
    return np.concatenate([np.ravel(x) for x in model.get_weights()])


ENDS = {
    "well": None,
    "an error": Raises(RuntimeError("a"), "on_train_batch_end"),
    "Ctrl-C": Raises(KeyboardInterrupt(), "on_train_batch_end"),
    "before a step": Raises(KeyboardInterrupt(), "on_train_batch_begin"),
}


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("after", ["fit", "train_on_batch", "compile"])
def test_a_schedule_is_guarded_after_any_fit(end, after):
    model = wrapped(SCHEDULE)
    last = [ENDS[end]] if ENDS[end] else []
    gradual = tfticket.GradualPruning()

    def fit(*callbacks):
        model.fit(X, Y, batch_size=8, epochs=2, verbose=0, callbacks=[*callbacks])

    if last:
        with pytest.raises(type(last[0].error)):
            fit(gradual, *last)
    else:
        fit(gradual)
    if after == "compile":
        model.compile("adam", "mse")
    before = weights(model)
    again = fit
    if after == "train_on_batch" and end != "before a step":
        again = functools.partial(model.train_on_batch, X, Y)
    with pytest.raises(ValueError, match=r"'hidden' has a pruning schedule.*nothing"):
        again()
    if BACKEND == "jax" and again is fit:
        return  # Keras loses the weights of a fit whose first step fails
    np.testing.assert_array_equal(weights(model), before)
    model.evaluate(X, Y, verbose=0)  # trains nothing
    fit(gradual)  # and followed again it trains
    for _, layer in tfticket.pruning.masks.masked_layers(model):
        layer.schedule = None
    fit()


def test_an_epoch_of_unknown_length_ends_and_goes_on():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_generator(
        lambda: ((X[i : i + 8], Y[i : i + 8]) for i in range(0, 32, 8)),
        output_signature=(
            tf.TensorSpec((None, 4), tf.float32),
            tf.TensorSpec((None, 2), tf.float32),
        ),
    )
    model = wrapped(SCHEDULE)

    class AsksTheModel(keras.callbacks.Callback):
        """As Monte Carlo dropout does."""

        def on_epoch_end(self, epoch, logs=None):
            self.model(X, training=True)

    gradual = tfticket.GradualPruning()
    model.fit(data, epochs=3, verbose=0, callbacks=[gradual, AsksTheModel()])
    assert tfticket.get_masks(model)["hidden/kernel"].mean() == 0.5


def refused(callbacks, match, epochs=6, **kwargs):
    model, counted = wrapped(), Epochs()
    before = weights(model)
    with pytest.raises(ValueError, match=match):
        model.fit(
            *(X, Y),
            epochs=epochs,
            verbose=0,
            callbacks=[*callbacks, counted],
            **kwargs,
        )
    assert counted.count == 0
    return np.array_equal(before, weights(model))


def test_callbacks_that_do_not_go_together_are_refused_before_a_step():
    twice, gradual = IMP(2), tfticket.GradualPruning(SCHEDULE)
    assert refused([twice, twice], "same IterativeMagnitudePruning began twice")
    assert refused([gradual, gradual], "same GradualPruning began twice")
    assert refused([IMP(2), IMP(2)], "can't change the masks of one fit")
    assert refused([IMP(2), gradual], "IterativeMagnitudePruning and GradualPruning")
    assert refused([gradual, IMP(2)], "GradualPruning and IterativeMagnitudePruning")
    # None of that is left behind.
    for callback in (twice, gradual):
        wrapped().fit(X, Y, epochs=3, verbose=0, callbacks=[callback])
    assert [record.parameters for record in twice.records] == [48, 40, 34]


def test_two_schedules_in_one_fit_still_go_together():
    model = wrapped()
    pair = [
        tfticket.GradualPruning(SCHEDULE, sparsities={name: 0.0})
        for name in ("hidden", "out")
    ]
    model.fit(X, Y, batch_size=4, epochs=2, verbose=0, callbacks=pair)
    assert {x.mean() for x in tfticket.get_masks(model).values()} == {0.5}


def test_a_monitor_that_no_log_has_is_refused():
    validated = {"validation_data": (X, Y)}
    refused(
        [IMP(2, monitor="val_los")], r"'val_los' is not in.*'val_loss'", **validated
    )
    refused([IMP(2, monitor="acuracy")], r"'acuracy' is not in")
    for monitor in ("loss", "val_mae"):
        model = wrapped(metrics=["mae"])
        imp = IMP(2, monitor=monitor)
        model.fit(
            *(X, Y),
            epochs=6,
            verbose=0,
            callbacks=[imp],
            validation_data=(X, Y),
            validation_freq=2,
        )
        assert all(record.best_iteration for record in imp.records)
    with pytest.warns(UserWarning, match="monitor='val_mae' was in no log"):
        wrapped(metrics=["mae"]).fit(
            X, Y, epochs=3, verbose=0, callbacks=[IMP(2, monitor="val_mae")]
        )


@pytest.mark.parametrize(
    "wrong",
    [3, (X[:, :3], Y), (X, Y[:5]), (X, Y[:, :1].astype(str))],
    ids=["number", "width", "length", "words"],
)
def test_test_data_is_tried_before_a_round_has_trained(wrong):
    assert refused([IMP(2, test_data=wrong)], r"test_data can't be evaluated")


def test_test_data_that_can_not_be_evaluated_each_round():
    tf = pytest.importorskip("tensorflow")
    data = tf.data.Dataset.from_tensor_slices((X, Y)).batch(8)
    for wrong, match in (
        (iter([(X, Y)]), "used up after"),
        (data.repeat(), "repeats for ever"),
        ((X, Y, Y), "tuple of 3"),
    ):
        with pytest.raises(ValueError, match=match):
            IMP(2, test_data=wrong)
    imp = IMP(1, test_data=data)
    wrapped().fit(X, Y, epochs=2, verbose=0, callbacks=[imp])
    assert imp.records[-1].test["loss"] > 0


def test_functions_are_called_as_they_can_be():
    for wrong in (3, lambda record: None, lambda *, record, ticket: None):
        with pytest.raises(TypeError, match="on_round_end"):
            IMP(2, on_round_end=wrong)
    found = {}
    IMP(2, on_round_end=found.__setitem__)
    IMP(2, on_round_end=lambda record, ticket, more=1: None)


def test_strip_warns_of_a_training_that_pruned_nothing():
    model = wrapped()
    tfticket.strip(model)  # not trained yet
    model.fit(X, Y, epochs=1, verbose=0)
    with pytest.warns(UserWarning, match=r"trained 1 steps.*none of its 2 masks"):
        tfticket.strip(model)
    with pytest.warns(UserWarning, match="none of its 2 masks"):
        tfticket.compat.tfmot.strip_pruning(model)
    tfticket.sparsify(model, 0.5)
    tfticket.strip(model)
