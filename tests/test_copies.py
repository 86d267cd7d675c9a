"""Copies of models that no configuration can make: pruned, stripped, compacted."""

import functools

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND

import tfticket
from tfticket import export
from tfticket.keras_models.names import every_layer
from tfticket.keras_models.twins import copy_layer

if BACKEND == "torch":
    pytest.skip("torch keeps layers where copies don't look", allow_module_level=True)

layers = keras.layers
X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.ones((16, 2), "float32")


class Scale(layers.Layer):
    """No configuration, since its `__init__` takes no keyword arguments."""

    def __init__(self, factor):
        super().__init__()
        self.factor = factor

    def call(self, x):
        return x * self.factor


class Nameless(layers.Layer):
    """A configuration without a name."""

    def __init__(self, units=4):
        super().__init__()
        self.dense = layers.Dense(units)

    def build(self, shape):
        self.dense.build(shape)

    def call(self, x):
        return self.dense(x)

    def get_config(self):
        return {"units": self.dense.units}


class Composite(layers.Layer):
    """Parts in lists and dicts, one of them twice, a seed, a method, a weight."""

    def __init__(self, table):
        super().__init__()
        self.parts = [layers.Dense(4, name="a"), {"b": layers.Dense(4, name="b")}]
        self.again = self.parts[0]
        self.norm = layers.BatchNormalization()
        self.drop = layers.Dropout(0.5)
        self.table = np.asarray(table)
        self.way = self.through

    def build(self, shape):
        self.gain = self.add_weight(shape=(4,), name="gain", initializer="ones")
        for part in (self.again, self.parts[1]["b"], self.norm):
            part.build(shape)

    def through(self, x):
        return self.parts[1]["b"](self.parts[0](self.again(x)))

    def call(self, x, training=False):
        return self.drop(self.norm(self.way(x) * self.gain), training=training)


def act(x):
    return keras.ops.relu(x) * 2


def ones(shape, dtype=None):
    return keras.ops.ones(shape, dtype)


LAYERS = {
    "no configuration": lambda: Scale(2.0),
    "no name": Nameless,
    "composite": lambda: Composite([1, 2]),
    "Lambda": lambda: layers.Lambda(lambda x: x * 2),
    "Lambda of a name": lambda: layers.Lambda(act),
    "activation": lambda: layers.Dense(4, activation=act),
    "lambda activation": lambda: layers.Dense(4, activation=lambda x: x * 2),
    "partial": lambda: layers.Activation(functools.partial(keras.ops.multiply, 2.0)),
    "initializer": lambda: layers.Dense(4, kernel_initializer=lambda *a, **k: ones(*a)),
    "constraint": lambda: layers.Dense(4, kernel_constraint=lambda w: w),
    "regularizer": lambda: layers.Dense(
        4, kernel_regularizer=lambda w: keras.ops.sum(w * w)
    ),
    "wrapped": lambda: keras.Sequential(
        [
            layers.Reshape((2, 2)),
            layers.TimeDistributed(layers.Dense(3, activation=act)),
            layers.Bidirectional(layers.LSTM(2)),
        ]
    ),
}


def model_with(layer):
    inputs = keras.Input((4,))
    x = layers.Dense(4, name="first")(inputs)
    model = keras.Model(inputs, layers.Dense(2, name="last")(layer(x)))
    for i, weight in enumerate(model.weights):
        if "seed" not in weight.path:
            values = np.random.default_rng(i).uniform(0.1, 1, weight.shape)
            weight.assign(values)
    return model


def answers(model):
    return keras.ops.convert_to_numpy(model(X))


def shares(one, other):
    """Names of variables that both have."""
    theirs = {id(w) for _, x in every_layer(other) for w in x.variables}
    return {w.name for _, x in every_layer(one) for w in x.variables if id(w) in theirs}


@pytest.mark.parametrize("kind", LAYERS)
def test_every_layer_is_pruned_stripped_compacted_and_made_a_ticket(kind):
    model = model_with(LAYERS[kind]())
    wrapped = tfticket.prune(model)
    # Keras names inputs anew in a clone.
    assert [x.name for x in wrapped.layers[1:]] == [x.name for x in model.layers[1:]]
    np.testing.assert_allclose(answers(wrapped), answers(model), rtol=1e-6)
    assert not shares(model, wrapped)
    wrapped.compile("adam", "mse")
    schedule = tfticket.schedules.ConstantSparsity(0.5, 0, frequency=1)
    callbacks = [tfticket.GradualPruning(schedule)]
    wrapped.fit(X, Y, epochs=1, verbose=0, callbacks=callbacks)
    plain = tfticket.strip(wrapped)
    np.testing.assert_allclose(answers(plain), answers(wrapped), rtol=1e-5)
    assert not shares(wrapped, plain)
    for name, mask in tfticket.get_masks(wrapped).items():
        assert mask.mean() == 0.5, name
    assert not any("Prune" in type(x).__name__ for _, x in every_layer(plain))
    small = export.compact(plain).model
    np.testing.assert_allclose(answers(small), answers(plain), rtol=1e-5)
    ticket = tfticket.Ticket.from_model(wrapped)
    applied = ticket.apply(model)
    np.testing.assert_allclose(answers(applied), answers(wrapped), rtol=1e-6)


@pytest.mark.parametrize("kind", ["no configuration", "composite", "Lambda"])
def test_a_layer_that_is_excluded_is_copied_too(kind):
    model = model_with(LAYERS[kind]())
    odd = model.layers[2]
    wrapped = tfticket.prune(model, exclude=[odd.name])
    assert set(tfticket.get_masks(wrapped)) == {"first/kernel", "last/kernel"}
    np.testing.assert_allclose(answers(wrapped), answers(model), rtol=1e-6)
    twin = tfticket.popup(model, density=0.5, exclude=[odd.name])
    assert not shares(model, twin)
    assert tfticket.strip(twin).get_layer(odd.name) is not odd


class Network(keras.Model):
    """No configuration: its argument is none that Keras writes down."""

    def __init__(self, activation):
        super().__init__()
        self.hidden = layers.Dense(6, activation=activation)
        self.last = layers.Dense(2)

    def call(self, x):
        return self.last(self.hidden(x))


class NetworkWithoutName(Network):
    def get_config(self):
        return {"activation": act}


class Plain(keras.Model):
    """An `__init__` that takes an argument and no name."""

    def __init__(self, units):
        super().__init__()
        self.last = layers.Dense(units)

    def call(self, x):
        return self.last(x)


@pytest.mark.parametrize("kind", [Network, NetworkWithoutName, Plain])
def test_subclassed_models(kind):
    model = kind(2 if kind is Plain else act)
    before = answers(model)
    wrapped = tfticket.prune(model)
    wrapped.compile("adam", "mse")
    imp = tfticket.IterativeMagnitudePruning(rounds=1, rate=0.5, output_rate=0.5)
    wrapped.fit(X, Y, epochs=2, verbose=0, callbacks=[imp])
    plain = tfticket.strip(wrapped)
    np.testing.assert_allclose(answers(plain), answers(wrapped), rtol=1e-5)
    assert np.count_nonzero(plain.layers[-1].last.kernel) == (4 if kind is Plain else 6)
    np.testing.assert_array_equal(answers(model), before)
    assert not shares(model, wrapped) | shares(wrapped, plain)
    applied = imp.ticket.apply(model)
    masks = tfticket.get_masks(wrapped)
    for name, mask in tfticket.get_masks(applied).items():
        np.testing.assert_array_equal(mask, masks[name])


def test_a_copy_is_one_of_its_own():
    source = Composite([1, 2])
    source(X)
    copy = copy_layer(source)
    copy.set_weights(
        [w * 2 for w in source.get_weights()[:-1]] + [source.get_weights()[-1]]
    )
    assert copy.again is copy.parts[0]
    assert copy.way.__self__ is copy
    assert copy.table is not source.table
    assert not shares(source, copy)
    assert [w.name for w in copy.weights] == [w.name for w in source.weights]
    assert [w.trainable for w in copy.weights] == [w.trainable for w in source.weights]
    gain = keras.ops.convert_to_numpy(source.gain)
    np.testing.assert_array_equal(copy.gain, 2 * gain)


def test_what_a_copy_would_share_is_refused_by_name():
    dense = layers.Dense(4, name="outside")
    dense.build((None, 4))

    class Holder:
        def __init__(self, layer):
            self.layer = layer

    for shared in (
        lambda: layers.Lambda(lambda x: dense(x)),
        lambda: layers.Lambda(functools.partial(lambda x, y: y(x), y=dense)),
        lambda: Scale(Holder(dense)),
    ):
        layer = shared()
        model = keras.Sequential([keras.Input((4,)), layers.Dense(4), layers.Dense(2)])
        if isinstance(layer, layers.Lambda):
            model = model_with(layer)
            with pytest.raises(TypeError, match=r"'lambda.*'outside' that both"):
                tfticket.prune(model)
        else:
            with pytest.raises(TypeError, match=r"'scale.*'factor'.*'outside'"):
                copy_layer(layer)
