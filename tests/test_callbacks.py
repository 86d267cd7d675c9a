"""Iterative magnitude pruning in one fit."""

import functools
import json

import keras
import numpy as np
import pytest
from fixtures.backends import MOST_STEPS, needs_graph
from keras import layers

import tfticket
from tfticket.keras_models.internals import slots_by_variable
from tfticket.keras_models.names import named_weights
from tfticket.pruning.masks import get_pruned_weights


class Spy(keras.callbacks.Callback):
    """Notes weights and optimizer state at the start of every epoch and step."""

    def __init__(self):
        super().__init__()
        self.epochs, self.steps = [], []

    def snapshot(self):
        weights = {k: np.array(v) for k, v in named_weights(self.model).items()}
        optimizer = [np.array(v) for v in self.model.optimizer.variables]
        return weights, optimizer, tfticket.get_masks(self.model)

    def on_epoch_begin(self, epoch, logs=None):
        self.epochs.append(self.snapshot())

    def on_train_batch_end(self, batch, logs=None):
        self.steps.append(self.snapshot())


def compiled(model, optimizer=None, **kwargs):
    wrapped = tfticket.prune(model)
    wrapped.compile(
        optimizer or keras.optimizers.Adam(0.01),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **kwargs,
    )
    return wrapped


def run(wrapped, data, epochs, **kwargs):
    """6 steps an epoch; the spy sees the state after the callback's work."""
    imp = tfticket.IterativeMagnitudePruning(**kwargs)
    spy = Spy()
    history = wrapped.fit(
        *data, batch_size=8, epochs=epochs, verbose=0, validation_data=data,
        callbacks=[imp, spy],
    )  # fmt: skip
    return imp, spy, history


def assert_rewound(now, then):
    """Weights and slots are those of then, bit for bit, where the mask keeps."""
    for name, value in now[0].items():
        mask = now[2].get(name, np.True_)
        np.testing.assert_array_equal(value, np.where(mask, then[0][name], 0))
    kept = [m for m in now[2].values() if not m.all()]
    assert kept, "nothing was pruned"
    for value, old in zip(now[1], then[1], strict=True):
        zeroed = [m for m in now[2].values() if m.shape == old.shape]
        want = np.where(zeroed[0], old, 0) if zeroed else old
        np.testing.assert_array_equal(value, want)


def test_counts_are_exact_and_the_output_layer_goes_at_half(mlp, data):
    imp, _, _ = run(compiled(mlp), data, epochs=4, rounds=3, rate=0.3)
    masks = imp.ticket.masks
    hidden, out = 48, 24
    for _ in range(3):
        hidden -= round(hidden * 0.3)
        out -= round(out * 0.15)
    assert masks["hidden/kernel"].sum() == hidden
    assert masks["out/kernel"].sum() == out
    assert imp.records[-1].parameters == hidden + out
    assert imp.records[-1].density == pytest.approx((hidden + out) / 72)
    assert imp.ticket.density == imp.records[-1].density


def test_the_weights_pruned_are_the_smallest_survivors(mlp, data):
    wrapped = compiled(mlp)
    imp = tfticket.IterativeMagnitudePruning(rounds=1, rate=0.5, output_rate=0.25)
    trained = {}

    class Look(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 0:  # runs before the pruning of this epoch's end
                trained.update(get_pruned_weights(self.model))

    wrapped.fit(*data, epochs=2, verbose=0, callbacks=[Look(), imp])
    for name, keep in (("hidden/kernel", 24), ("out/kernel", 18)):
        order = np.argsort(-np.abs(trained[name]).ravel(), kind="stable")[:keep]
        want = np.zeros(trained[name].size, bool)
        want[order] = True
        np.testing.assert_array_equal(
            imp.ticket.masks[name], want.reshape(trained[name].shape)
        )


def test_global_scope_is_one_exact_cut(mlp, data):
    imp, _, _ = run(compiled(mlp), data, epochs=3, rounds=2, rate=0.4, scope="global")
    total = 72
    for _ in range(2):
        total -= round(total * 0.4)
    assert [r.parameters for r in imp.records][-1] == total


def test_rewinding_to_init_is_bit_equal_optimizer_and_batchnorm_included(mlp, data):
    _, spy, _ = run(compiled(mlp), data, epochs=6, rounds=2, rate=0.5)
    assert_rewound(spy.epochs[2], spy.epochs[0])
    assert_rewound(spy.epochs[4], spy.epochs[0])
    assert np.any(spy.epochs[1][0]["norm/moving_mean"] != 0), "BatchNorm did not move"


@pytest.mark.parametrize(
    ("rewind", "steps_per_execution"),
    [
        ({"rewind_to": 4}, 2),
        ({"rewind_to": 6}, 3),
        ({"rewind_to": 9}, 1),
        ({"rewind_to": 1, "rewind_unit": "epoch"}, 4),
    ],
)
def test_rewinding_to_a_later_point(rewind, steps_per_execution, mlp, data):
    steps_per_execution = min(steps_per_execution, MOST_STEPS)
    wrapped = compiled(mlp, steps_per_execution=steps_per_execution)
    imp, spy, _ = run(wrapped, data, epochs=4, rounds=1, rate=0.5, **rewind)
    step = rewind["rewind_to"] * (6 if "rewind_unit" in rewind else 1)
    executions = -(-6 // steps_per_execution)
    index = step // 6 * executions + -(-(step % 6) // steps_per_execution) - 1
    assert_rewound(spy.epochs[2], spy.steps[index])
    assert imp.ticket.provenance["step"] == step
    assert imp.records[1].iteration == 12 + step
    for name, weight in imp.ticket.weights.items():
        np.testing.assert_array_equal(weight, spy.epochs[2][0][name])


def test_a_learning_rate_schedule_is_rewound(mlp, data):
    schedule = keras.optimizers.schedules.ExponentialDecay(0.1, 1, 0.5)
    wrapped = compiled(mlp, keras.optimizers.SGD(schedule, momentum=0.9))
    seen = []

    class Rate(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            # Of `self.model`: on JAX that brings the variables up to date.
            rate = self.model.optimizer.learning_rate
            seen.append(float(keras.ops.convert_to_numpy(rate)))

    imp = tfticket.IterativeMagnitudePruning(rounds=2, rewind_to=2)
    wrapped.fit(*data, batch_size=8, epochs=3, verbose=0, callbacks=[imp, Rate()])
    want = [0.1 * 0.5**i for i in [*range(6), *range(2, 8), *range(2, 8)]]
    np.testing.assert_allclose(seen, want, rtol=1e-5)


def test_without_rewinding_training_goes_on(mlp, data):
    imp, spy, _ = run(compiled(mlp), data, epochs=4, rounds=1, rate=0.5, rewind_to=None)
    assert_rewound(spy.epochs[2], spy.steps[11])
    assert imp.records[1].iteration == 24
    assert imp.ticket.provenance["step"] is None


@needs_graph
def test_nothing_is_traced_again(mlp, data):
    wrapped = compiled(mlp)
    traces = []

    class Counted(layers.Dense):
        def call(self, x):
            traces.append(1)
            return super().call(x)

    model = keras.Sequential([keras.Input((6,)), Counted(4), layers.Dense(3)])
    wrapped = compiled(model)

    def traced(rounds):
        imp = tfticket.IterativeMagnitudePruning(rounds=rounds, test_data=data)
        traces.clear()
        wrapped.fit(
            *data, batch_size=8, epochs=rounds + 1, verbose=0,
            validation_data=data, callbacks=[imp],
        )  # fmt: skip
        return len(traces)

    traced(1)
    assert traced(5) == 0


def test_records_history_and_logs(mlp, data):
    imp, _, history = run(compiled(mlp), data, epochs=9, rounds=2, test_data=data)
    assert [r.round for r in imp.records] == [0, 1, 2]
    assert history.history["round"] == [0] * 3 + [1] * 3 + [2] * 3
    assert history.history["density"][::3] == [r.density for r in imp.records]
    assert history.history["round_parameters"] == [r.parameters for r in imp.records]
    losses = np.array(history.history["val_loss"]).reshape(3, 3)
    for record, three in zip(imp.records, losses, strict=True):
        assert record.best_iteration == 6 * (three.argmin() + 1)
        assert record.best_logs["val_loss"] == pytest.approx(three.min())
        # Test data is the validation data here, so the two must agree.
        assert record.test["loss"] == pytest.approx(record.logs["val_loss"], rel=1e-4)
        assert record.best_test["loss"] == pytest.approx(three.min(), rel=1e-4)


def test_against_a_numpy_loop():
    """The whole procedure on linear regression, full batch, written out by hand."""
    random = np.random.default_rng(3)
    x = random.standard_normal((20, 5)).astype("float32")
    y = (x @ random.standard_normal((5, 4))).astype("float32")
    model = keras.Sequential([keras.Input((5,)), layers.Dense(4, use_bias=False)])
    wrapped = tfticket.prune(model)
    wrapped.compile(keras.optimizers.SGD(0.1), "mse")
    start = model.get_weights()[0].astype("float64")
    imp = tfticket.IterativeMagnitudePruning(rounds=3, rate=0.4, output_rate=0.25)
    wrapped.fit(
        x, y, batch_size=20, epochs=4 * 7, shuffle=False, verbose=0, callbacks=[imp]
    )

    mask = np.ones((5, 4))
    for round_ in range(4):
        w = start * mask
        for _ in range(7):
            w -= 0.1 * mask * (2 / y.size) * (x.T @ (x @ w - y))
        if round_ < 3:
            keep = int(mask.sum()) - round(mask.sum() * 0.25)
            order = np.argsort(-np.abs(w).ravel())[:keep]
            mask = np.isin(np.arange(w.size), order).reshape(w.shape).astype(float)
    np.testing.assert_array_equal(imp.ticket.masks["dense/kernel"], mask.astype(bool))
    np.testing.assert_allclose(
        get_pruned_weights(wrapped)["dense/kernel"], w, rtol=1e-4, atol=1e-6
    )


def test_output_layers_of_several_heads_and_nested_models(data):
    x = keras.Input((6,))
    body = keras.Sequential(
        [keras.Input((6,)), layers.Dense(5, name="in")], name="body"
    )
    head = keras.Sequential([keras.Input((5,)), layers.Dense(2, name="h")], name="head")
    shared = body(x)
    a = layers.Softmax()(layers.Dense(3, name="a")(shared))
    wrapped = tfticket.prune(keras.Model(x, [a, head(shared)]))
    wrapped.compile("sgd", ["sparse_categorical_crossentropy", "mse"])
    imp = tfticket.IterativeMagnitudePruning(rounds=1, rate=0.4)
    wrapped.fit(
        data[0], [data[1], np.zeros((48, 2))], epochs=2, verbose=0, callbacks=[imp]
    )
    kept = {name: int(m.sum()) for name, m in imp.ticket.masks.items()}
    assert kept == {"body/in/kernel": 30 - 12, "a/kernel": 15 - 3, "head/h/kernel": 8}


@pytest.mark.parametrize("rewind_to", [0, 3, None])
def test_pruned_weights_are_zero_in_every_ticket(rewind_to, mlp, data):
    """Where it rewinds to, nothing is pruned."""
    tickets = []
    wrapped = compiled(mlp)
    imp = tfticket.IterativeMagnitudePruning(
        rounds=2,
        rate=0.5,
        rewind_to=rewind_to,
        on_round_end=lambda _, ticket: tickets.append(ticket),
    )
    wrapped.fit(*data, batch_size=8, epochs=6, verbose=0, callbacks=[imp])
    assert [ticket.density < 1 for ticket in tickets] == [False, True, True]
    for ticket in tickets:
        for name, mask in ticket.masks.items():
            assert np.all(ticket.weights[name][~mask] == 0)


def test_an_excluded_output_layer_leaves_the_others_their_rate(mlp, data):
    wrapped = tfticket.prune(mlp, exclude=["out"])
    wrapped.compile("adam", "sparse_categorical_crossentropy")
    imp = tfticket.IterativeMagnitudePruning(rounds=1, rate=0.5)
    wrapped.fit(*data, epochs=2, verbose=0, callbacks=[imp])
    assert {k: int(m.sum()) for k, m in imp.ticket.masks.items()} == {
        "hidden/kernel": 24
    }


def test_an_average_written_at_the_end_keeps_the_zeros(mlp, data):
    if not hasattr(keras.optimizers, "Muon"):
        pytest.skip("this Keras has no Muon")
    optimizer = keras.optimizers.Muon(0.01, use_ema=True)
    imp, _, _ = run(compiled(mlp, optimizer), data, epochs=2, rounds=1, rate=0.5)
    model = imp.model
    masks = tfticket.get_masks(model)
    for name, weight in get_pruned_weights(model).items():
        assert np.all(weight[~masks[name]] == 0)


def test_slots_found_for_every_trainable_weight(mlp, data):
    wrapped = compiled(mlp)
    wrapped.fit(*data, verbose=0)
    found = [variable.path for variable, _, _ in slots_by_variable(wrapped.optimizer)]
    for variable in wrapped.trainable_variables:
        assert found.count(variable.path) == 2  # Adam's momentum and velocity


def test_other_callbacks_see_the_trained_weights_in_any_order(mlp, data, tmp_path):
    for first in (True, False):
        wrapped = compiled(mlp)
        imp = tfticket.IterativeMagnitudePruning(rounds=1, rate=0.5)
        path = tmp_path / f"{first}.{{epoch}}.weights.h5"
        saver = keras.callbacks.ModelCheckpoint(path, save_weights_only=True)
        history = wrapped.fit(
            *data,
            epochs=4,
            verbose=0,
            validation_data=data,
            callbacks=[imp, saver] if first else [saver, imp],
        )
        for epoch in (2, 4):
            wrapped.load_weights(str(path).format(epoch=epoch))
            loss = wrapped.evaluate(*data, verbose=0)[0]
            assert loss == pytest.approx(history.history["val_loss"][epoch - 1])


def test_stopping_early_is_warned_of(mlp, data):
    class Stop(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            self.model.stop_training = True

    wrapped = compiled(mlp)
    imp = tfticket.IterativeMagnitudePruning(rounds=2, rate=0.5)
    with pytest.warns(UserWarning, match="after 1 of the 3 trainings"):
        wrapped.fit(*data, epochs=3, verbose=0, callbacks=[imp, Stop()])


def test_arguments_in_other_clothes(mlp, data):
    """A criterion without a name, NumPy's integers, test data as a list."""
    wrapped = compiled(mlp)
    imp = tfticket.IterativeMagnitudePruning(
        rounds=np.int64(1),
        rewind_to=np.int64(1),
        seed=np.int64(3),
        criterion=functools.partial(np.abs),
        test_data=list(data),
    )
    wrapped.fit(*data, epochs=2, verbose=0, callbacks=[imp])
    json.dumps(imp.ticket.provenance)
    assert imp.records[1].test["accuracy"] > 0
