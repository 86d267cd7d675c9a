"""What is read of Keras's private side: each function by itself, nothing elsewhere."""

import pathlib
import re

import keras
import numpy as np
import pytest

import tfticket
from tfticket.keras_models import internals
from tfticket.keras_models.names import every_layer, sublayers

layers = keras.layers

# Names of Keras's private side.
PRIVATE = (
    *("_flatten_layers", "_nodes_by_depth", "_keras_history", "_inbound_nodes"),
    *("_functional", "_inputs_struct", "_outputs_struct", "_clear_losses"),
    *("_call_has_", "_call_signature", "call_signature_parameters"),
    *("_get_call_context", "_trainable_variables", "_non_trainable_variables"),
    *(
        "_accumulators",
        "_inner_optimizers",
        "_input_shape_arg",
        "_use_weight_decay",
        "_exclude_from_weight_decay",
        "_auto_config",
        "_update_model_variables_moving_average",
        "_model_variables_moving_average",
        "jax_state_sync",
    ),
    *("_value", "_layers", "_modules", "keras.src"),
)
# Modules that still read some of them: nothing is to be added here.
STILL_TO_DO = {
    "export/compaction/liveness.py",
}


def private_names_in(source):
    """Names of Keras's private side that a program reads, as attributes or strings."""
    names = "|".join(re.escape(name) for name in PRIVATE)
    found = re.findall(rf"(?:\.|[\"'])((?:{names})\w*)\b", source)
    # A class of our own may have methods of these names.
    return found + re.findall(r"(?:(?<!self)\.|[\"'])(_kernel|_embeddings)\b", source)


def test_the_search_finds_private_names():
    for line in ("layer._flatten_layers()", 'getattr(x, "_kernel", None)', "x._layers"):
        assert private_names_in(line)
    for line in ("layer.layers", "self._kernel(call)", "x.value", "keras.ops"):
        assert not private_names_in(line)


def test_private_names_are_read_behind_one_door_only():
    root = pathlib.Path(tfticket.__file__).parent
    found = {
        path.relative_to(root).as_posix(): private_names_in(path.read_text())
        for path in root.rglob("*.py")
    }
    assert found.pop("keras_models/internals.py")
    assert {path for path, names in found.items() if names} <= STILL_TO_DO


@keras.saving.register_keras_serializable(package="tests_internals")
class Blocks(layers.Layer):
    """Holds layers under names that begin like those of Keras's own lists."""

    def __init__(self):
        super().__init__()
        self._self_attention_layer = layers.Dense(2)
        self._layers_out = [layers.Dense(3)]
        self._functional_head = layers.Dense(4)
        self.named = {"a": (layers.Dense(5),)}

    def call(self, x):
        x = self._layers_out[0](self._self_attention_layer(x))
        return self.named["a"][0](self._functional_head(x))


class Model(keras.Model):
    """The same, one level up."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self._layers_out = Blocks()
        self._functional = keras.Sequential([layers.Dense(1)])

    def call(self, x):
        return self._functional(self._layers_out(x))


def test_layers_are_found_under_names_like_those_of_keras():
    blocks = Blocks()
    blocks(np.ones((1, 2)))
    found = {name: layer.units for name, layer in sublayers(blocks)}
    assert found == {
        "self_attention_layer": 2,
        "layers_out/0": 3,
        "functional_head": 4,
        "named/a/0": 5,
    }


def test_every_layer_of_a_subclassed_model_is_found_once():
    model = Model()
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0)
    found = [layer for _, layer in every_layer(model)]
    # What Keras itself finds, save the input that it puts into a Sequential model.
    wanted = {
        id(layer)
        for layer in model._flatten_layers()
        if not isinstance(layer, layers.InputLayer)
    }
    assert {id(layer) for layer in found} == wanted
    assert len(found) == len({id(layer) for layer in found})


def test_what_prune_finds_under_such_names():
    model = Model()
    model(np.ones((1, 2)))
    assert len(tfticket.get_masks(tfticket.prune(model))) == 5


@pytest.mark.parametrize(
    "layer",
    [
        layers.LSTM(2),
        layers.Bidirectional(layers.GRU(2)),
        layers.MultiHeadAttention(2, 2),
        layers.TimeDistributed(layers.Dense(2)),
        layers.RNN([layers.LSTMCell(2), layers.GRUCell(2)]),
    ],
    ids=lambda layer: layer.name,
)
def test_every_layer_inside_keras_layers_is_found(layer):
    x = keras.Input((3, 4))
    layer(x, x) if isinstance(layer, layers.MultiHeadAttention) else layer(x)
    found = {id(part) for _, part in every_layer(layer)}
    assert found == {id(part) for part in layer._flatten_layers()}


def test_clear_losses():
    layer = layers.Dense(2, activity_regularizer="l2")
    layer(np.ones((1, 2)))
    assert len(layer.losses) == 1
    internals.clear_losses(layer)
    assert not layer.losses


OPTIMIZERS = sorted(
    name
    for name, kind in vars(keras.optimizers).items()
    if isinstance(kind, type)
    and issubclass(kind, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_slots_by_variable(name):
    # As many as SGD has variables of its own, one of them a scalar as those are.
    variables = [keras.Variable(np.ones((3, 2)), name="w"), keras.Variable(1.0)]
    optimizer = getattr(keras.optimizers, name)()
    assert not list(internals.slots_by_variable(optimizer))
    optimizer.build(variables)
    assert internals.trainable_variables(optimizer) == variables
    found = list(internals.slots_by_variable(optimizer))
    slots = {id(slot) for _, slot, _ in found}
    assert len(slots) == len(found)
    assert slots <= {id(x) for x in optimizer.variables}
    own = (optimizer.iterations, optimizer.learning_rate)
    assert not slots & {id(x) for x in own}
    # All that is as large as a weight, save what is kept for the rows or columns.
    assert {id(x) for x in optimizer.variables if x.shape == (3, 2)} <= slots
    for variable, slot, rest in found:
        assert variable.shape == slot.shape
        start = getattr(optimizer, "initial_accumulator_value", 0.0)
        assert rest == (start if slot.name.endswith("accumulator") else 0.0)


def test_slots_of_wrapped_optimizers():
    variables = [keras.Variable(np.ones((3, 2)), name="w") for _ in range(3)]
    adam = keras.optimizers.Adam()
    optimizer = keras.optimizers.LossScaleOptimizer(adam)
    optimizer.build(variables)
    assert list(internals.inner_optimizers(optimizer)) == [optimizer, adam]
    assert len(list(internals.slots_by_variable(optimizer))) == 6


def test_slots_of_several_optimizers():
    if not hasattr(keras.optimizers, "MultiOptimizer"):
        pytest.skip("this Keras has no MultiOptimizer")
    variables = [keras.Variable(np.ones((3, 2)), name=f"w{i}") for i in range(3)]
    adam, momentum = keras.optimizers.Adam(), keras.optimizers.SGD(momentum=0.9)
    optimizer = keras.optimizers.MultiOptimizer(
        lambda variable: adam if variable.name == "w0" else momentum
    )
    optimizer.build(variables)
    found = list(internals.slots_by_variable(optimizer))
    counts = [sum(v is variable for v, _, _ in found) for variable in variables]
    assert counts == [2, 1, 1]


def test_uses_weight_decay():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    kernel, bias = model.weights
    optimizer = keras.optimizers.AdamW()
    assert internals.uses_weight_decay(optimizer, kernel)
    optimizer.exclude_from_weight_decay(var_names=["bias"])
    optimizer.build([kernel, bias])
    assert internals.uses_weight_decay(optimizer, kernel)
    assert not internals.uses_weight_decay(optimizer, bias)
    again = keras.optimizers.AdamW()
    again.exclude_from_weight_decay(var_list=[kernel])
    assert not internals.uses_weight_decay(again, kernel)


def test_has_undecayed_variables():
    kernel = keras.Variable([1.0])
    for told in ({"var_names": ["bias"]}, {"var_list": [kernel]}):
        optimizer = keras.optimizers.AdamW()
        assert not internals.has_undecayed_variables(optimizer)
        optimizer.exclude_from_weight_decay(**told)
        assert internals.has_undecayed_variables(optimizer)


def test_value_is_there():
    assert internals.value_is_there(keras.Variable([1.0]))


def test_value_is_there_while_jax_trains():
    if keras.backend.backend() != "jax":
        pytest.skip("on JAX only")
    seen = []

    class Looks(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            # Not `self.model`, which puts the values back by itself.
            seen.append(internals.value_is_there(model.weights[0]))
            internals.jax_state_sync(model)
            seen.append(internals.value_is_there(model.weights[0]))

    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((2, 2)), np.ones((2, 1)), verbose=0, callbacks=[Looks()])
    assert seen == [False, True]


def test_jax_state_sync_of_a_model_that_does_not_train():
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    before = model.get_weights()
    internals.jax_state_sync(model)
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_tracked_parts_in_keras_order():
    blocks = Blocks()
    blocks(np.ones((1, 2)))
    own, inside = internals.tracked(blocks)
    assert own == []
    assert {x.units for x in inside} == {2, 3, 4, 5}
    dense = inside[0]
    assert internals.tracked(dense) == ([dense.kernel, dense.bias], [])
    assert internals.tracked(keras.layers.Activation("relu")) == ([], [])


def test_a_bare_twin_runs_no_code_of_its_class():
    class Loud(layers.Layer):
        def __init__(self, number):
            super().__init__(name="loud", dtype="bfloat16", trainable=False)
            raise AssertionError("was called")

    source = layers.Layer.__new__(Loud)
    layers.Layer.__init__(source, name="quiet", dtype="bfloat16", trainable=False)
    made = internals.bare_twin(source)
    assert type(made) is Loud
    assert (made.name, made.trainable) == ("quiet", False)
    assert made.compute_dtype == "bfloat16"


def test_what_is_carried_over_to_a_bare_twin():
    source = layers.Dense(3)
    source.build((None, 2))
    source.supports_masking = False
    made = internals.bare_twin(source)
    kernel, bias = keras.Variable(np.ones((2, 3))), keras.Variable(np.ones(3))
    internals.carry_over(made, [kernel, bias])
    internals.carry_over(made, like=source)
    assert made.built
    assert not made.supports_masking
    assert made.weights == [kernel, bias]
    assert made.get_build_config() == source.get_build_config()


def test_the_entry_layer_is_the_outermost():
    seen = []

    class Asks(layers.Layer):
        def call(self, x):
            seen.append(internals.entry_layer(self))
            return x

    model = keras.Sequential([keras.Input((2,)), Asks()])
    seen.clear()
    model(np.ones((1, 2)))
    assert seen == [model]


@pytest.mark.parametrize("training", [True, False, None])
def test_whether_a_layer_is_called_to_train(training):
    seen = []

    class Asks(layers.Layer):
        def call(self, x):
            seen.append(internals.is_training(self))
            return x

    model = keras.Sequential([keras.Input((2,)), Asks()])
    seen.clear()
    model(np.ones((1, 2)), training=training)
    assert set(seen) == {bool(training)}


def test_a_built_layer_takes_state_while_it_is_open():
    layer = layers.Dense(2)
    layer.build((None, 3))
    with internals.open_to_state(layer):
        layer.seed = keras.random.SeedGenerator(1)
    assert any(v is layer.seed.state for v in layer.variables)
    with pytest.raises(ValueError, match="already built"):
        layer.other = keras.random.SeedGenerator(1)
    fresh = layers.Dense(2)
    with internals.open_to_state(fresh):
        pass
    fresh.seed = keras.random.SeedGenerator(1)  # was open before


@pytest.mark.parametrize("wrapped", [False, True])
def test_averages_are_masked_when_they_are_updated(wrapped):
    inner = keras.optimizers.SGD(0.1, use_ema=True, ema_momentum=0.5)
    optimizer = keras.optimizers.LossScaleOptimizer(inner) if wrapped else inner
    weight = keras.Variable(np.ones(4, "float32"))
    optimizer.build([weight])
    keep = np.array([1, 0, 1, 0], "float32")
    internals.mask_averages(inner, lambda variable, value: value * keep)
    optimizer.apply([keras.ops.ones(4)], [weight])
    optimizer.finalize_variable_values([weight])
    weight = keras.ops.convert_to_numpy(weight)
    assert (weight != 0).tolist() == [True, False, True, False]
