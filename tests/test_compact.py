"""`export.compact`: by hand, layer by layer, then over random graphs and masks."""

import zipfile

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers

import tfticket
from tfticket.export import compact

RANDOM = np.random.default_rng(7)


def dense(units, **kwargs):
    return layers.Dense(units, **kwargs)


def fill(model, seed=0):
    """Every weight random, variances positive, no zeros."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        value = random.uniform(0.5, 1.5, weight.shape)
        if "variance" not in weight.name:
            value *= random.choice([-1, 1], weight.shape)
        weight.assign(value)
    return model


def zero(layer, weight, index):
    """Puts zeros at an index of a weight, by its name."""
    variable = next(x for x in layer.weights if x.name == weight)
    value = np.array(variable)
    value[index] = 0
    variable.assign(value)


def units(model):
    """Output channels of the layers that have weights, by name."""
    return {x.name: x.output.shape[-1] for x in model.layers if x.weights}


def assert_same(model, smaller, tolerance=1e-5):
    for one, other in zip(model.inputs, smaller.inputs, strict=True):
        assert (one.name, one.shape) == (other.name, other.shape)
    inputs = [
        RANDOM.normal(size=(3, *[4 if n is None else n for n in x.shape[1:]]))
        for x in model.inputs
    ]
    feed = inputs if len(inputs) > 1 else inputs[0]
    expected = keras.tree.flatten(model(feed, training=False))
    actual = keras.tree.flatten(smaller(feed, training=False))
    for one, other in zip(expected, actual, strict=True):
        one, other = np.array(one), np.array(other)
        assert one.dtype == other.dtype
        scale = max(1.0, np.abs(one).max())
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance * scale)


def chain(*parts, shape=(4,)):
    return fill(keras.Sequential([keras.Input(shape, name="x"), *parts]))


# What is known by hand.


@pytest.mark.parametrize("activation", ["relu", "tanh"])
def test_a_constant_unit_goes_into_the_next_bias(activation):
    model = chain(dense(3, activation=activation, name="a"), dense(2, name="b"))
    a, b = model.layers
    a.set_weights([np.array([[1, 0, 1]] * 4), np.array([0.1, 0.5, -1])])
    b.set_weights([np.array([[1, 2], [4, -6], [5, 6]]), np.array([10, 20])])
    smaller = compact(model).model
    constant = 0.5 if activation == "relu" else np.tanh(0.5)
    kernel, bias = smaller.get_layer("b").get_weights()
    np.testing.assert_array_equal(kernel, [[1, 2], [5, 6]])
    np.testing.assert_allclose(bias, [10 + 4 * constant, 20 - 6 * constant])
    np.testing.assert_allclose(
        smaller.get_layer("a").get_weights()[1], [0.1, -1], rtol=1e-6
    )
    assert_same(model, smaller)


def test_constants_travel_and_a_layer_without_bias_gets_one_only_if_it_must():
    model = chain(
        dense(3, name="a"), dense(3, use_bias=False, name="b"), dense(2, name="c")
    )
    zero(model.layers[0], "kernel", (slice(None), 0))
    # Unit 1 of b sees nothing but the constant unit of a.
    zero(model.layers[1], "kernel", (slice(1, 3), 1))
    result = compact(model)
    assert units(result.model) == {"a": 2, "b": 2, "c": 2}
    assert result.model.get_layer("b").use_bias
    assert_same(model, result.model)
    zero(model.layers[0], "bias", 0)
    smaller = compact(model).model
    assert not smaller.get_layer("b").use_bias
    assert_same(model, smaller)


def test_a_unit_with_no_way_out_takes_those_before_it_along():
    model = chain(dense(3, name="a"), dense(3, name="b"), dense(2, name="c"))
    zero(model.layers[2], "kernel", 1)
    zero(model.layers[1], "kernel", (2, [0, 2]))
    result = compact(model)
    # Unit 2 of a led to unit 1 of b only.
    assert units(result.model) == {"a": 2, "b": 2, "c": 2}
    assert_same(model, result.model)
    assert [(x.layer, x.axis, x.before, x.after) for x in result.removed] == [
        ("a", "outputs", 3, 2),
        ("b", "inputs", 3, 2),
        ("b", "outputs", 3, 2),
        ("c", "inputs", 3, 2),
    ]
    assert result.parameters_before == 15 + 12 + 8
    assert result.parameters_after == 10 + 6 + 6
    assert result.flops_before == 2 * (12 + 9 + 6)
    assert result.flops_after == 2 * (8 + 4 + 4)


def test_a_pointwise_kernel_reads_for_needed_outputs_only():
    model = chain(
        layers.Conv1D(3, 1, name="a"),
        layers.SeparableConv1D(3, 1, name="b"),
        layers.Conv1D(2, 1, name="c"),
        shape=(4, 2),
    )
    zero(model.layers[2], "kernel", (0, 1))
    zero(model.layers[1], "pointwise_kernel", (0, 2, [0, 2]))
    smaller = compact(model).model
    assert units(smaller) == {"a": 2, "b": 2, "c": 2}
    assert_same(model, smaller)


def test_a_constant_passes_a_valid_convolution_and_stays_before_a_padded_one():
    for padding, kept in (("valid", 2), ("same", 3)):
        model = chain(
            layers.Conv2D(3, 3, activation="relu", name="a"),
            layers.Conv2D(2, 3, padding=padding, name="b"),
            shape=(6, 6, 2),
        )
        zero(model.layers[0], "kernel", (..., 1))
        model.layers[0].bias.assign([0.3, 0.7, 0.2])
        result = compact(model)
        smaller = result.model
        assert units(smaller) == {"a": kept, "b": 2}
        # What stands in the way is named.
        why = "reads 1 channels that are constant, and can't fold"
        assert [x.left for x in result.layers] == ["", why if kept == 3 else ""]
        assert_same(model, smaller)
        # After relu a constant of zero is no different from the padding.
        model.layers[0].bias.assign([0.3, -0.7, 0.2])
        smaller = compact(model).model
        assert units(smaller) == {"a": 2, "b": 2}
        assert_same(model, smaller)


@pytest.mark.parametrize(
    ("options", "size", "kept"),
    [
        ({"kernel_size": 1, "strides": 2}, 5, 2),  # reads no padding
        ({"kernel_size": 2, "strides": 2}, 6, 2),  # divides the size
        ({"kernel_size": 2, "strides": 2}, 5, 3),  # one row is padded
        ({"kernel_size": 3, "dilation_rate": 2}, 6, 3),
    ],
)
def test_same_padding_counts_only_where_there_is_some(options, size, kept):
    model = chain(
        layers.Conv2D(3, 1, name="a"),
        layers.Conv2D(2, padding="same", name="b", **options),
        shape=(size, size, 2),
    )
    zero(model.layers[0], "kernel", (..., 1))
    smaller = compact(model).model
    assert units(smaller)["a"] == kept
    assert_same(model, smaller)


def test_causal_padding_is_padding():
    model = chain(
        layers.Conv1D(3, 1, name="a"),
        layers.Conv1D(2, 2, padding="causal", name="b"),
        shape=(5, 2),
    )
    zero(model.layers[0], "kernel", (..., 1))
    smaller = compact(model).model
    assert units(smaller)["a"] == 3
    assert_same(model, smaller)


def test_zero_through_batch_normalization_is_a_constant_and_not_zero():
    model = chain(
        layers.Conv2D(3, 3, use_bias=False, name="a"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.Conv2D(2, 3, name="b"),
        shape=(7, 7, 2),
    )
    zero(model.layers[0], "kernel", (..., 1))
    # gamma, beta, mean and variance
    norm = np.array([[1, 2, 1], [0, 3, 0], [0, -4, 0], [1, 9, 1]])
    model.layers[1].set_weights(list(norm))
    before = model.get_layer("b").get_weights()
    smaller = compact(model).model
    assert units(smaller) == {"a": 2, "norm": 2, "b": 2}
    constant = 2 * 4 / np.sqrt(9 + 1e-3) + 3
    bias = before[1] + constant * before[0][:, :, 1].sum((0, 1))
    np.testing.assert_allclose(smaller.get_layer("b").get_weights()[1], bias, 1e-5)
    assert_same(model, smaller)


def test_gamma_zero_makes_a_channel_dead_on_both_sides():
    model = chain(
        dense(3, name="a"), layers.BatchNormalization(name="norm"), dense(2, name="b")
    )
    zero(model.layers[1], "gamma", 0)
    result = compact(model)
    assert units(result.model) == {"a": 2, "norm": 2, "b": 2}
    assert_same(model, result.model)


def test_what_only_a_gamma_of_zero_sees_is_not_needed():
    model = chain(
        dense(3, name="a"),
        dense(3, name="b"),
        layers.BatchNormalization(name="norm"),
        layers.Softmax(),
    )
    zero(model.layers[2], "gamma", 0)
    zero(model.layers[1], "kernel", (1, [1, 2]))
    result = compact(model)
    # Softmax needs three channels; unit 1 of a led to the one without gamma only.
    assert units(result.model) == {"a": 2, "b": 3, "norm": 3}
    assert_same(model, result.model)


def residual():
    x = keras.Input((4,), name="x")
    y = dense(4, name="a")(x)
    z = dense(4, name="b")(y)
    y = layers.Add()([y, z])
    return fill(keras.Model(x, dense(2, name="c")(y)))


def test_a_channel_leaves_a_sum_if_dead_in_all_branches():
    model = residual()
    # Constant in both, 1; in the branch only, 2; read from nowhere after, 3.
    zero(model.get_layer("a"), "kernel", (slice(None), 1))
    zero(model.get_layer("b"), "kernel", (slice(None), [1, 2]))
    zero(model.get_layer("c"), "kernel", 3)
    result = compact(model)
    # Channel 3 is still what b computes from.
    assert units(result.model) == {"a": 3, "b": 3, "c": 2}
    assert_same(model, result.model)
    zero(model.get_layer("b"), "kernel", 3)
    smaller = compact(model).model
    assert units(smaller) == {"a": 2, "b": 2, "c": 2}
    assert_same(model, smaller)


@pytest.mark.parametrize("layer", [layers.Conv1D, layers.SeparableConv1D])
def test_a_constant_that_stays_for_a_sum_counts_once_where_it_is_folded(layer):
    x = keras.Input((5, 2), name="x")
    y = layers.Conv1D(3, 1, name="a")(x)
    z = layer(3, 1, name="b")(y)
    y = layers.Conv1D(2, 1, name="c")(layers.Add()([y, z]))
    model = fill(keras.Model(x, y))
    zero(model.get_layer("a"), "kernel", (..., 1))
    smaller = compact(model).model
    assert units(smaller) == {"a": 3, "b": 3, "c": 2}
    assert_same(model, smaller)


def test_a_channel_kept_for_another_branch_needs_no_inputs():
    x = keras.Input((4,), name="x")
    y = dense(2, name="a")(x)
    z = dense(3, name="inner")(x)
    z = dense(2, name="b")(z)
    model = keras.Model(
        x, [dense(2, name="c")(layers.Add()([y, z])), dense(1, name="d")(y)]
    )
    fill(model)
    # The sum's channel 0 is not read, but a's is; inner's unit 2 leads only there.
    zero(model.get_layer("c"), "kernel", 0)
    zero(model.get_layer("b"), "kernel", (2, 1))
    result = compact(model)
    assert units(result.model) == {"inner": 2, "a": 2, "b": 2, "c": 2, "d": 1}
    np.testing.assert_array_equal(result.model.get_layer("b").kernel[:, 0], 0)
    assert_same(model, result.model)


@pytest.mark.parametrize(
    "merge", [layers.Subtract, layers.Multiply, layers.Maximum, layers.Average]
)
def test_merges_of_constants(merge):
    x = keras.Input((4,), name="x")
    y, z = dense(3, name="a")(x), dense(3, name="b")(x)
    model = fill(keras.Model(x, dense(2, name="c")(merge()([y, z]))))
    zero(model.get_layer("a"), "kernel", (slice(None), 1))
    zero(model.get_layer("b"), "kernel", (slice(None), 1))
    smaller = compact(model).model
    assert units(smaller) == {"a": 2, "b": 2, "c": 2}
    assert_same(model, smaller)


def test_a_product_with_zero_is_zero():
    x = keras.Input((4,), name="x")
    y, z = dense(3, name="a")(x), dense(3, name="b")(x)
    model = fill(keras.Model(x, dense(2, name="c")(y * z)))
    zero(model.get_layer("b"), "kernel", (slice(None), 1))
    zero(model.get_layer("b"), "bias", 1)
    smaller = compact(model).model
    assert units(smaller) == {"a": 2, "b": 2, "c": 2}
    assert_same(model, smaller)


def test_a_gate_of_one_channel_is_not_tied():
    x = keras.Input((5, 5, 2), name="x")
    y = layers.Conv2D(3, 1, name="a")(x)
    gate = layers.Conv2D(1, 1, activation="sigmoid", name="gate")(x)
    y = layers.Conv2D(2, 3, name="b")(layers.Multiply()([y, gate]))
    model = fill(keras.Model(x, y))
    zero(model.get_layer("b"), "kernel", (slice(None), slice(None), 0))
    smaller = compact(model).model
    assert units(smaller) == {"a": 2, "gate": 1, "b": 2}
    assert_same(model, smaller)


def test_concatenate_knows_whose_channel_is_whose():
    x = keras.Input((4,), name="x")
    y, z = dense(2, name="a")(x), dense(3, name="b")(x)
    model = keras.Model(x, dense(2, name="c")(layers.Concatenate()([y, z])))
    fill(model)
    zero(model.get_layer("c"), "kernel", 3)  # of b, 1
    zero(model.get_layer("a"), "kernel", (slice(None), 0))
    before = model.get_layer("b").get_weights()[0]
    smaller = compact(model).model
    assert units(smaller) == {"a": 1, "b": 2, "c": 2}
    np.testing.assert_array_equal(smaller.get_layer("b").kernel, before[:, [0, 2]])
    assert_same(model, smaller)


def test_concatenate_of_positions_ties_channels():
    x = keras.Input((4, 2), name="x")
    y, z = layers.Conv1D(3, 1, name="a")(x), layers.Conv1D(3, 1, name="b")(x)
    y = layers.Conv1D(2, 1, name="c")(layers.Concatenate(axis=1)([y, z]))
    model = fill(keras.Model(x, y))
    zero(model.get_layer("c"), "kernel", (0, 2))
    zero(model.get_layer("a"), "kernel", (..., 0))  # a constant in one half only
    smaller = compact(model).model
    assert units(smaller) == {"a": 2, "b": 2, "c": 2}
    assert_same(model, smaller)


def test_flatten_forwards_and_backwards():
    model = chain(
        layers.Conv2D(3, 1, name="a"),
        layers.Flatten(),
        dense(2, name="b"),
        shape=(2, 2, 1),
    )
    # Channel 0 is constant; channel 2 is not read from any of the four positions.
    zero(model.get_layer("a"), "kernel", (..., 0))
    zero(model.get_layer("b"), "kernel", [2, 5, 8, 11])
    before = model.get_layer("b").get_weights()
    constant = model.get_layer("a").get_weights()[1][0]
    smaller = compact(model).model
    kernel, bias = smaller.get_layer("b").get_weights()
    np.testing.assert_array_equal(kernel, before[0][[1, 4, 7, 10]])
    expected = before[1] + constant * before[0][[0, 3, 6, 9]].sum(0)
    np.testing.assert_allclose(bias, expected, rtol=1e-5)
    assert_same(model, smaller)


def test_a_channel_read_at_one_position_stays():
    model = chain(
        layers.Conv2D(3, 1, name="a"),
        layers.Flatten(),
        dense(2, name="b"),
        shape=(2, 2, 1),
    )
    zero(model.get_layer("b"), "kernel", [2, 5, 8])
    assert units(compact(model).model) == {"a": 3, "b": 2}


def test_reshape_into_channels():
    model = chain(
        dense(12, name="a"),
        layers.Reshape((2, 2, 3)),
        layers.Conv2D(2, 2, name="b"),
        layers.Reshape((-1,)),
        dense(2, name="c"),
    )
    # Of channel 1, all four features are constant, to one value; of channel 0, to two.
    zero(model.get_layer("a"), "kernel", (slice(None), [0, 3, 6, 9, 1, 4, 7, 10]))
    bias = np.arange(12.0)
    bias[[1, 4, 7, 10]] = 0.5
    model.get_layer("a").bias.assign(bias)
    smaller = compact(model).model
    assert units(smaller) == {"a": 8, "b": 2, "c": 2}
    assert_same(model, smaller)


@pytest.mark.parametrize(
    ("between", "kept"),
    [
        (layers.MaxPooling2D(2, padding="same"), 2),
        (layers.AveragePooling2D(2), 2),
        (layers.AveragePooling2D(2, padding="same"), 3),
        (layers.ZeroPadding2D(1), 3),
        (layers.Cropping2D(1), 2),
        (layers.UpSampling2D(2, interpolation="bilinear"), 2),
        (layers.Dropout(0.5), 2),
        (layers.Dropout(0.5, noise_shape=(None, 1, 1, 3)), 2),
        (layers.Rescaling(2.0, offset=[1.0, -1.0, 3.0]), 2),
        (layers.Normalization(mean=[1.0, 2.0, 3.0], variance=[1.0, 2.0, 3.0]), 2),
        (layers.LeakyReLU(0.3), 2),
        (layers.Activation("gelu"), 2),
        (layers.Softmax(), 3),
        (layers.Activation("softmax"), 3),
        (layers.LayerNormalization(), 3),
        (layers.Permute((2, 1, 3)), 2),
        (layers.Permute((3, 1, 2)), 3),
        (layers.PReLU(shared_axes=[1, 2]), 2),
        (layers.PReLU(shared_axes=[1, 2, 3]), 2),
        (layers.Conv2DTranspose(2, 2, name="t"), 3),
    ],
)
def test_a_constant_on_its_way(between, kept):
    model = chain(
        layers.Conv2D(3, 1, name="a"),
        between,
        layers.Conv2D(2, 1, name="b"),
        shape=(5, 5, 2),
    )
    zero(model.get_layer("a"), "kernel", (..., 1))
    smaller = compact(model).model
    assert units(smaller)["a"] == kept
    assert_same(model, smaller)


def test_slopes_by_position_make_a_negative_constant_vary():
    model = chain(
        layers.Conv1D(2, 1, name="a"),
        layers.PReLU(name="slopes"),
        layers.Conv1D(2, 1, name="b"),
        shape=(3, 2),
    )
    zero(model.get_layer("a"), "kernel", (..., 1))
    for bias, kept in ((-1.0, 2), (1.0, 1)):
        model.get_layer("a").bias.assign([0.1, bias])
        smaller = compact(model).model
        assert units(smaller) == {"a": kept, "slopes": kept, "b": 2}
        assert_same(model, smaller)


@pytest.mark.parametrize("padding", ["valid", "same"])
def test_depthwise_and_separable(padding):
    model = chain(
        layers.Conv2D(4, 1, name="a"),
        layers.DepthwiseConv2D(2, depth_multiplier=2, padding=padding, name="depth"),
        layers.SeparableConv2D(3, 2, depth_multiplier=2, name="sep"),
        layers.Conv2D(2, 1, name="b"),
        shape=(5, 5, 2),
    )
    zero(model.get_layer("a"), "kernel", (..., 0))  # constant
    zero(model.get_layer("depth"), "kernel", (..., 1, slice(None)))  # both outputs
    zero(model.get_layer("depth"), "kernel", (..., 2, 0))  # one of the two
    zero(model.get_layer("sep"), "pointwise_kernel", (..., 1))
    result = compact(model)
    kept = 2 if padding == "valid" else 3
    assert units(result.model) == {"a": kept, "depth": 2 * kept, "sep": 2, "b": 2}
    assert_same(model, result.model)


def test_transposed_convolution_without_outputs():
    model = chain(
        layers.Conv1D(3, 1, name="a"),
        layers.Conv1DTranspose(4, 3, strides=2, name="t"),
        layers.Conv1D(2, 1, name="b"),
        shape=(5, 2),
    )
    zero(model.get_layer("t"), "kernel", (slice(None), [1, 2], slice(None)))
    zero(model.get_layer("t"), "kernel", (..., 2))
    result = compact(model)
    assert units(result.model) == {"a": 2, "t": 2, "b": 2}
    # Counted at every position of the input.
    assert result.flops_after == 2 * (5 * 2 * 2 + 5 * 3 * 2 * 2 + 11 * 2 * 2)
    assert_same(model, result.model)


def test_dead_throughout_keeps_one_unit_and_the_constant():
    model = chain(dense(3, name="a"), dense(2, name="b"))
    zero(model.layers[0], "kernel", slice(None))
    result = compact(model)
    assert units(result.model) == {"a": 1, "b": 2}
    assert_same(model, result.model)
    assert units(compact(result.model).model) == {"a": 1, "b": 2}


# What is left alone.


def test_a_unit_leaves_a_shared_layer_if_no_call_needs_it():
    x = keras.Input((4,), name="x")
    shared = dense(4, name="shared")
    y = dense(4, name="a")(x)
    y = shared(shared(y))
    model = fill(keras.Model(x, dense(2, name="b")(y)))
    zero(shared, "kernel", (slice(None), 1))
    zero(shared, "kernel", 2)
    # Unit 1 is a constant of each call's own, and unit 2 is read by b.
    assert compact(model).removed == ()
    zero(shared, "kernel", 1)
    zero(model.get_layer("b"), "kernel", [1, 2])
    result = compact(model)
    assert units(result.model) == {"a": 2, "shared": 2, "b": 2}
    assert len(result.model.get_layer("shared")._inbound_nodes) == 2
    assert_same(model, result.model)


def test_a_shared_activation_holds_nothing_up():
    relu = layers.ReLU()
    x = keras.Input((4,), name="x")
    y = relu(dense(3, name="b")(relu(dense(3, name="a")(x))))
    model = fill(keras.Model(x, dense(2, name="c")(y)))
    zero(model.get_layer("b"), "kernel", 1)
    smaller = compact(model).model
    assert units(smaller) == {"a": 2, "b": 3, "c": 2}
    assert_same(model, smaller)


class Reversed(layers.Dense):
    """A Dense that does something else than Dense."""

    def call(self, inputs):
        return super().call(keras.ops.flip(inputs, axis=-1))


def test_a_subclass_of_a_known_layer_is_unknown():
    model = chain(dense(3, name="a"), Reversed(3, name="r"), dense(2, name="b"))
    zero(model.get_layer("r"), "kernel", 0)
    zero(model.get_layer("a"), "kernel", (slice(None), 1))
    result = compact(model)
    assert units(result.model) == {"a": 3, "r": 3, "b": 2}
    assert_same(model, result.model)


def test_operations_training_and_groups_are_barriers():
    x = keras.Input((6, 6, 4), name="x")
    y = layers.Conv2D(4, 1, name="a")(x)
    y = layers.Conv2D(4, 3, groups=2, name="grouped")(y)
    y = layers.Conv2D(4, 1, name="b")(y)
    y = keras.ops.sort(y, axis=-1) + 1.0
    y = layers.Conv2D(4, 1, name="c")(y)
    y = layers.BatchNormalization(name="norm")(y, training=True)
    model = fill(keras.Model(x, layers.Conv2D(2, 1, name="d")(y)))
    for name in "abc":
        zero(model.get_layer(name), "kernel", (..., 1))
    result = compact(model)
    assert units(result.model) == units(model)
    assert_same(model, result.model)


@pytest.mark.parametrize(
    ("layer", "reason"),
    [
        (layers.BatchNormalization(axis=1), "does not normalize the last axis"),
        (layers.MaxPooling1D(1, data_format="channels_first"), "channels first"),
        (layers.Activation("log_softmax"), "may mix channels"),
    ],
)
def test_what_a_rule_refuses(layer, reason):
    model = chain(dense(3, name="a"), layer, dense(2, name="b"), shape=(4, 2))
    zero(model.get_layer("a"), "kernel", (slice(None), 1))
    result = compact(model)
    assert result.removed == ()
    assert reason in str(result)
    assert_same(model, result.model)


def test_inputs_of_several_ranks_are_left_alone():
    x = keras.Input((3, 2), name="x")
    y, z = dense(3, name="a")(x), dense(3, name="b")(layers.Flatten()(x))
    model = fill(keras.Model(x, dense(2, name="c")(layers.Multiply()([y, z]))))
    zero(model.get_layer("c"), "kernel", 1)
    result = compact(model)
    assert result.removed == ()
    assert_same(model, result.model)


def test_an_activation_over_all_channels_keeps_them():
    model = chain(dense(3, activation="softmax", name="a"), dense(2, name="b"))
    zero(model.layers[0], "kernel", (slice(None), 1))
    zero(model.layers[1], "kernel", 2)
    assert units(compact(model).model) == {"a": 3, "b": 2}


def test_output_units_stay_and_input_features_are_counted():
    model = chain(dense(3, name="a"), dense(2, name="b"))
    zero(model.layers[0], "kernel", [0, 2])
    zero(model.layers[1], "kernel", (slice(None), 1))
    result = compact(model)
    assert units(result.model) == {"a": 3, "b": 2}
    assert result.unread == {"x": 2}
    assert "input 'x': 2 features" in str(result)
    assert result.model.input_shape == (None, 4)


# The graph around.


def nested():
    inner_input = keras.Input((3,))
    inner = keras.Model(
        inner_input, dense(2, name="out")(dense(4, name="a")(inner_input)), name="head"
    )
    x = keras.Input((4,), name="x")
    return fill(keras.Model(x, inner(dense(3, name="a")(x)), name="outer"))


def test_nested_models_are_inlined_and_outputs_keep_their_names():
    model = nested()
    zero(model.get_layer("head").get_layer("a"), "kernel", (slice(None), 1))
    zero(model.get_layer("head").get_layer("a"), "kernel", 2)
    result = compact(model)
    assert units(result.model) == {"a": 2, "head_a": 3, "out": 2}
    assert result.model.output_names == model.output_names == ["head"]
    assert result.model.name == "outer"
    assert_same(model, result.model)


def test_a_nested_model_of_two_outputs_stays_whole():
    z = keras.Input((3,))
    inner = keras.Model(z, [dense(2, name="p")(z), dense(1, name="q")(z)], name="two")
    x = keras.Input((4,), name="x")
    model = fill(keras.Model(x, inner(dense(3, name="a")(x))))
    zero(model.get_layer("a"), "kernel", (slice(None), 1))
    result = compact(model)
    assert result.model.output_names == model.output_names
    assert result.model.get_layer("a").units == 3
    assert_same(model, result.model)


def test_a_nested_model_called_twice_has_shared_layers():
    z = keras.Input((3,))
    inner = keras.Sequential([z, dense(3, name="p"), layers.ReLU()], name="twice")
    x = keras.Input((4,), name="x")
    y = inner(inner(dense(3, name="a")(x)))
    model = fill(keras.Model(x, dense(2, name="b")(y)))
    zero(inner.get_layer("p"), "kernel", 1)
    result = compact(model)
    assert result.removed == ()
    assert_same(model, result.model)


def test_several_inputs_and_outputs_by_name():
    one, two = keras.Input((3,), name="one"), keras.Input((2,), name="two")
    y = layers.Concatenate()([dense(4, name="a")(one), two])
    model = keras.Model(
        {"one": one, "two": two},
        {"p": dense(2, name="p")(y), "q": dense(1, name="q")(y)},
    )
    fill(model)
    zero(model.get_layer("a"), "kernel", (slice(None), 1))
    smaller = compact(model).model
    assert units(smaller) == {"a": 3, "p": 2, "q": 1}
    feed = {"one": RANDOM.normal(size=(3, 3)), "two": RANDOM.normal(size=(3, 2))}
    expected, actual = model(feed), smaller(feed)
    assert list(actual) == list(expected)
    for name in expected:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-5, atol=1e-5)


def test_a_minimal_model_comes_back_equal(mlp):
    result = compact(mlp)
    assert isinstance(result.model, keras.Sequential)
    assert result.removed == ()
    assert "nothing removed" in str(result)
    assert result.model.get_config() == mlp.get_config()
    for one, other in zip(mlp.weights, result.model.weights, strict=True):
        np.testing.assert_array_equal(one, other)
        assert one is not other
    mlp.layers[0].trainable = False
    assert not compact(mlp).model.layers[0].trainable


def test_a_model_built_by_data():
    model = keras.Sequential([dense(3, name="a"), dense(2, name="b")])
    model(np.ones((3, 4)))
    fill(model)
    zero(model.layers[0], "kernel", (slice(None), 1))
    smaller = compact(model).model
    assert units(smaller) == {"a": 2, "b": 2}
    x = RANDOM.normal(size=(3, 4))
    np.testing.assert_allclose(smaller(x), model(x), rtol=1e-4, atol=1e-5)


def test_weights_inside_an_activation_or_beside_the_kernel_are_left_alone():
    model = chain(
        dense(3, activation=layers.PReLU(), name="a"),
        dense(3, name="b"),
        dense(2, name="c"),
    )
    model.get_layer("b").enable_lora(1)
    zero(model.get_layer("a"), "kernel", (slice(None), 1))
    zero(model.get_layer("c"), "kernel", 1)
    result = compact(model)
    assert result.removed == ()
    assert_same(model, result.model)


def test_policies_and_trainable_flags_stay():
    model = chain(
        dense(3, dtype="mixed_float16", name="a"),
        dense(2, dtype="float64", use_bias=False, name="b"),
    )
    zero(model.layers[0], "kernel", (slice(None), 1))
    model.layers[1].trainable = False
    smaller = compact(model).model
    a, b = smaller.layers
    assert units(smaller) == {"a": 2, "b": 2}
    assert (a.dtype_policy.name, b.dtype_policy.name) == ("mixed_float16", "float64")
    assert b.use_bias
    assert b.trainable_weights == []
    assert_same(model, smaller, tolerance=1e-3)


def test_wrapped_and_popup_models_are_stripped():
    model = chain(dense(6, activation="relu", name="a"), dense(2, name="b"))
    wrapped = tfticket.prune(model, structure=tfticket.structures.Channel())
    tfticket.sparsify(wrapped, 0.5)
    result = compact(wrapped)
    assert units(result.model) == {"a": 3, "b": 2}
    assert_same(tfticket.strip(wrapped), result.model)
    assert tfticket.get_masks(wrapped)["a/kernel"].shape == (4, 6)
    popup = tfticket.popup(model, density=0.5)
    assert_same(tfticket.strip(popup), compact(popup).model)


def test_saves_and_loads_without_tfticket(tmp_path):
    model = nested()
    zero(model.get_layer("a"), "kernel", (slice(None), 1))
    smaller = compact(model).model
    smaller.save(tmp_path / "small.keras")
    with zipfile.ZipFile(tmp_path / "small.keras") as file:
        assert b"tfticket" not in file.read("config.json")
    assert_same(model, keras.models.load_model(tmp_path / "small.keras"))


class OwnStep(keras.Model):
    """A Functional model with a method of its own."""

    def doubled(self, x):
        return 2 * self(x)


class OwnSizes(keras.Model):
    """A Functional model that makes its layers itself."""

    def __init__(self, units=3, **kwargs):
        x = keras.Input((4,), name="x")
        y = dense(2, name="b")(dense(units, name="a")(x))
        super().__init__(x, y, **kwargs)


def test_a_functional_subclass_keeps_its_class_where_it_can():
    x = keras.Input((4,), name="x")
    model = fill(OwnStep(x, dense(2, name="b")(dense(3, name="a")(x))))
    zero(model.get_layer("b"), "kernel", 1)
    result = compact(model)
    assert units(result.model) == {"a": 2, "b": 2}
    assert type(result.model) is OwnStep
    assert result.note == ""
    assert_same(model, result.model)
    model = fill(OwnSizes())
    zero(model.get_layer("b"), "kernel", 1)
    result = compact(model)
    assert units(result.model) == {"a": 2, "b": 2}
    assert "OwnSizes has an __init__ of its own" in str(result)
    assert_same(model, result.model)


def test_unknown_image_size():
    model = chain(
        layers.Conv2D(3, 3, name="a"),
        layers.GlobalAveragePooling2D(),
        dense(2, name="b"),
        shape=(None, None, 1),
    )
    zero(model.get_layer("a"), "kernel", (..., 1))
    result = compact(model)
    assert units(result.model) == {"a": 2, "b": 2}
    assert result.flops_before is None
    assert "FLOPs: not known" in str(result)
    assert_same(model, result.model)


@pytest.mark.parametrize("nested", [False, True])
def test_the_mean_of_what_a_mask_leaves_may_be_of_nothing(nested):
    a, pool, b = dense(3, name="a"), layers.GlobalAveragePooling1D(), dense(2, name="b")
    words = keras.Input((3,), name="words", dtype="int32")
    y = layers.Embedding(5, 4, mask_zero=True)(words)
    if nested:
        y = keras.Sequential([keras.Input((3, 4)), a, pool, b])(y)
    else:
        y = b(pool(a(y)))
    model = fill(keras.Model(words, y))
    zero(a, "kernel", (slice(None), 1))
    result = compact(model)
    assert result.removed == ()
    x = np.array([[1, 2, 0], [3, 0, 0]])
    np.testing.assert_allclose(result.model(x), model(x), rtol=1e-5)


def test_table():
    model = chain(dense(300, name="a"), dense(2, name="b"))
    zero(model.layers[0], "kernel", (slice(None), slice(100, 300)))
    lines = str(compact(model)).splitlines()
    assert lines[0].split() == ["layer", "kind", "inputs", "outputs", "parameters"]
    assert " ".join(lines[2].split()) == "a Dense 4 300 -> 100 1,500 -> 500"
    assert " ".join(lines[3].split()) == "b Dense 300 -> 100 2 602 -> 202"
    assert lines[5] == "parameters: 2,102 -> 702 (33.4%)"
    assert lines[6] == "FLOPs: 3,600 -> 1,200 (33.3%)"


# Bad input.


@pytest.mark.parametrize(
    ("model", "error", "mend"),
    [
        (lambda: 3, TypeError, "model must be a keras.Model"),
        (lambda: dense(3), TypeError, "Put the layer into one"),
        (lambda: keras.Sequential([dense(3)]), ValueError, "Start it with keras.Input"),
    ],
)
def test_bad_models(model, error, mend):
    with pytest.raises(error, match=mend):
        compact(model())


def test_subclassed_models_and_nan():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="Rebuild it as a Functional model"):
        compact(Own())
    model = chain(dense(2, name="a"))
    model.layers[0].bias.assign([1.0, np.nan])
    with pytest.raises(ValueError, match="a/bias' has NaN"):
        compact(model)


# Random graphs and masks, in float64: what differs is no rounding.


def activation(draw):
    return draw(st.sampled_from([None, "relu", "tanh", "sigmoid", "softmax"]))


def image_step(draw, tensors):
    """Adds the output of one more layer to the images that there are."""
    x = draw(st.sampled_from(tensors))
    others = [y for y in tensors if y.shape[1:3] == x.shape[1:3]]
    kind = draw(st.integers(0, 11))
    padding = draw(st.sampled_from(["valid", "same"]))
    size = draw(st.integers(1, min(3, x.shape[1])))
    few = draw(st.integers(1, 4))
    options = {"padding": padding, "activation": activation(draw)}
    if kind <= 2:
        strides = draw(st.integers(1, 2))
        bias = draw(st.booleans())
        return layers.Conv2D(few, size, strides=strides, use_bias=bias, **options)(x)
    if kind == 3:
        return layers.DepthwiseConv2D(size, depth_multiplier=1 + few % 2, **options)(x)
    if kind == 4:
        return layers.SeparableConv2D(few, size, depth_multiplier=2, **options)(x)
    if kind == 5:
        return layers.BatchNormalization()(x)
    if kind == 6:
        pool = draw(st.sampled_from([layers.MaxPooling2D, layers.AveragePooling2D]))
        return pool(size, strides=1, padding=padding)(x)
    if kind == 7:
        return draw(
            st.sampled_from(
                [
                    layers.ReLU(),
                    layers.LeakyReLU(),
                    layers.PReLU(shared_axes=[1]),
                    layers.ZeroPadding2D(1),
                    layers.UpSampling2D(2),
                    layers.Dropout(0.5),
                    layers.LayerNormalization(),
                    layers.Conv2DTranspose(few, size, padding=padding),
                    layers.Conv2D(x.shape[-1], 1, groups=x.shape[-1]),
                ]
            )
        )(x)
    if kind <= 9:
        return layers.Concatenate()([x, draw(st.sampled_from(others))])
    same = [y for y in others if y.shape[-1] in (1, x.shape[-1])]
    merge = draw(
        st.sampled_from([layers.Add, layers.Multiply, layers.Maximum, layers.Subtract])
    )
    return merge()([x, draw(st.sampled_from(same))])


def random_model(draw):
    x = keras.Input((4, 4, 2), name="x")
    images = [x]
    for _ in range(draw(st.integers(1, 7))):
        images.append(image_step(draw, images))
    outputs = []
    for y in (images[-1], *draw(st.lists(st.sampled_from(images), max_size=1))):
        if draw(st.booleans()):
            y = layers.GlobalAveragePooling2D()(y)
        elif draw(st.booleans()):
            y = layers.Reshape((-1,))(y)
        else:
            y = layers.Flatten()(y)
        y = layers.Dense(4, activation=activation(draw))(y)
        if draw(st.booleans()):
            y = layers.Reshape((2, 2, 1))(y)
            y = layers.Flatten()(layers.Conv2D(2, 2)(y))
        outputs.append(layers.Dense(2)(y))
    model = keras.Model(x, outputs)
    mask_at_random(model, draw(st.integers(0, 2**20)))
    return model


def mask_at_random(model, seed):
    """Random weights with zeros: single ones, whole rows, whole columns."""
    random = np.random.default_rng(seed)
    for weight in fill(model, seed).weights:
        value = np.array(weight)
        if "variance" in weight.name:
            continue
        if value.ndim == 1 or weight.name == "alpha":
            value *= random.random(value.shape) < 0.6
        else:
            value *= random.random(value.shape) < random.choice([0.3, 0.8, 1.0])
            value *= random.random(value.shape[-1]) < 0.6
            value *= random.random((value.shape[-2], 1)) < 0.6
        weight.assign(value)


@pytest.fixture
def float64():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


def check_random_graph(data):
    model = random_model(data.draw)
    result = compact(model)
    assert_same(model, result.model, tolerance=1e-9)
    # A layer may get a bias for constants, one number a unit.
    biases = [x.units for x in model.layers if isinstance(x, layers.Dense)]
    biases += [x.filters for x in model.layers if hasattr(x, "filters")]
    assert result.parameters_after <= result.parameters_before + sum(biases)
    again = compact(result.model)
    assert units(again.model) == units(result.model)


def examples(count):
    return settings(
        max_examples=count,
        deadline=None,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )


@pytest.mark.usefixtures("float64")
@examples(12)
@given(data=st.data())
def test_random_graphs_compute_the_same(data):
    check_random_graph(data)


@pytest.mark.slow
@pytest.mark.usefixtures("float64")
@examples(300)
@given(data=st.data())
def test_many_random_graphs_compute_the_same(data):
    check_random_graph(data)


# The optimizer's state.

OPTIMIZERS = {
    "sgd": lambda: keras.optimizers.SGD(0.05, momentum=0.9, nesterov=True),
    "adam": lambda: keras.optimizers.Adam(0.01, amsgrad=True),
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "rmsprop": lambda: keras.optimizers.RMSprop(0.01, momentum=0.5, centered=True),
    "nadam": lambda: keras.optimizers.Nadam(0.01),
    "scaled": lambda: keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(0.01)),
}


def trained(optimizer, wrapped=True):
    """A convolutional network pruned by channels, after three steps."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential(
        [
            keras.Input((6, 6, 3)),
            layers.Conv2D(8, 3, activation="relu"),
            layers.DepthwiseConv2D(3, activation="relu"),
            layers.Conv2D(6, 1),
            layers.PReLU(shared_axes=[1, 2]),
            layers.Flatten(),
            layers.Dense(10, activation="relu"),
            layers.Dense(4),
        ]
    )
    if wrapped:
        model = tfticket.prune(model, structure=tfticket.structures.Channel())
        tfticket.sparsify(model, 0.5)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # Eagerly: tracing takes longer than the few steps.
    model.compile(optimizer, loss, metrics=["accuracy"], run_eagerly=True)
    step(model, 3)
    return model


def step(model, count=1):
    random = np.random.default_rng(count)
    for _ in range(count):
        x = random.normal(size=(16, 6, 6, 3)).astype("float32")
        model.train_on_batch(x, random.integers(0, 4, 16))


@pytest.mark.parametrize(
    "name",
    [
        name
        if name in ("sgd", "scaled")
        else pytest.param(name, marks=pytest.mark.slow)
        for name in OPTIMIZERS
    ],
)
def test_training_goes_on_as_before_with_the_state_of_the_optimizer(name):
    model = trained(OPTIMIZERS[name]())
    smaller = compact(model, optimizer=True).model
    assert smaller.count_params() < model.count_params() / 2
    assert int(smaller.optimizer.iterations) == 3
    assert type(smaller.optimizer) is type(model.optimizer)
    for one in (model, smaller):
        step(one, 2)
    expected = compact(model).model
    for one, other in zip(expected.weights, smaller.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)
    # Without the state it would not.
    anew = compact(trained(OPTIMIZERS[name]())).model
    anew.compile(OPTIMIZERS[name](), model.loss, run_eagerly=True)
    step(anew, 2)
    apart = [
        np.abs(a - b).max()
        for a, b in zip(anew.get_weights(), expected.get_weights(), strict=True)
    ]
    assert max(apart) > 1e-4


def test_what_no_weight_decay_applied_to_stays_so():
    optimizer = keras.optimizers.AdamW(0.01, weight_decay=0.5)
    optimizer.exclude_from_weight_decay(var_names=["kernel"])
    model = trained(optimizer)
    smaller = compact(model, optimizer=True).model
    for one in (model, smaller):
        step(one)
    for one, other in zip(compact(model).model.weights, smaller.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-5)


def test_the_smaller_model_is_compiled_like_the_given_one():
    smaller = compact(trained("adam"), optimizer=True).model
    assert [x.name for x in smaller.metrics] == ["loss", "compile_metrics"]
    assert smaller.evaluate(np.zeros((2, 6, 6, 3)), np.zeros(2), verbose=0)
    assert not compact(trained("adam")).model.compiled


def test_a_plain_model_with_an_optimizer():
    model = trained("adam", wrapped=False)
    smaller = compact(model, optimizer=True).model
    for one in (model, smaller):
        step(one)
    for one, other in zip(model.weights, smaller.weights, strict=True):
        np.testing.assert_allclose(other, one, rtol=0, atol=1e-6)


def test_optimizers_that_cannot_be_carried_over():
    model = trained("adafactor")
    with pytest.raises(ValueError, match=r"Adafactor keeps .* rows and columns"):
        compact(model, optimizer=True)
    plain = chain(dense(3), dense(2))
    with pytest.raises(ValueError, match="not compiled"):
        compact(plain, optimizer=True)
    plain.compile("adam", "mse")
    with pytest.raises(ValueError, match="Train first"):
        compact(plain, optimizer=True)
    with pytest.raises(TypeError, match="optimizer must be True or False"):
        compact(plain, optimizer="adam")
