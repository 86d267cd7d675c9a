"""`channel_groups`: by hand, then over many topologies: what is cut goes whole."""

import keras
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from keras import layers, ops

import tfticket
from tfticket.export import compact
from tfticket.inspection.costs import total

RANDOM = np.random.default_rng(3)


def fill(model, seed=0):
    """Every weight random, variances positive, no zeros."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        value = random.uniform(0.2, 1.0, weight.shape)
        if "variance" not in weight.name:
            value *= random.choice([-1, 1], weight.shape)
        weight.assign(value)
    return model


def cut(model, share=0.5, seed=0):
    """Zeroes a share of every free group; the groups, and how many units are left."""
    random = np.random.default_rng(seed)
    groups = tfticket.channel_groups(model)
    kept = {}
    for name, group in groups.free.items():
        flags = np.ones(group.size, bool)
        flags[random.permutation(group.size)[: int(group.size * share)]] = False
        kept[name] = flags
    variables = {x.path: x.variable for g in groups.values() for x in g.members}
    for path, mask in groups.masks(kept).items():
        value = np.array(variables[path])
        variables[path].assign(np.where(mask, value, 0))
    return groups, {name: int(flags.sum()) for name, flags in kept.items()}


def feed(model):
    values = []
    for x in model.inputs:
        shape = (2, *(4 if n is None else n for n in x.shape[1:]))
        whole = "int" in x.dtype
        values.append(
            RANDOM.integers(0, 5, shape) if whole else RANDOM.normal(size=shape)
        )
    return values if len(values) > 1 else values[0]


def assert_same(model, smaller, tolerance):
    if keras.backend.backend() == "jax":
        tolerance = max(tolerance, 1e-5)  # it has no float64 unless it is told to
    x = feed(model)
    pairs = zip(
        keras.tree.flatten(model(x, training=False)),
        keras.tree.flatten(smaller(x, training=False)),
        strict=True,
    )
    for one, other in pairs:
        one, other = np.array(one), np.array(other)
        assert np.isfinite(one).all()
        scale = max(1.0, np.abs(one).max())
        np.testing.assert_allclose(other, one, rtol=0, atol=tolerance * scale)


def check_consistent(groups):
    """Units lie within the axes, and no index of an axis is in two units."""
    taken = {}
    for group in groups.values():
        for member in group.members:
            size = member.variable.shape[member.axis]
            assert member.indices.shape[0] == group.size
            assert member.indices.min() >= 0
            assert member.indices.max() < size
            key = member.path, member.axis
            seen = taken.setdefault(key, np.zeros(size, int))
            np.add.at(seen, member.indices.ravel(), 1)
    for key, seen in taken.items():
        assert seen.max() <= 1, key


def check(model, tolerance=1e-10):
    """Half of every group is cut; compact removes all of it and computes the same."""
    fill(model)
    groups, left = cut(model)
    check_consistent(groups)
    result = compact(model)
    assert_same(model, result.model, tolerance)
    after = tfticket.channel_groups(result.model)
    assert {name: after[name].size for name in left if name in after} == left
    assert sorted(after) == sorted(groups)
    if result.flops_after is not None:
        assert result.flops_after == counted(result.model)
    assert groups.flops(left) == after.flops()
    # Layers that count removed channels in their statistics keep those weights.
    if not any(isinstance(x, layers.LayerNormalization) for x in model.layers):
        assert groups.parameters(left) == result.parameters_after
    return groups, result


def counted(model):
    return total(tfticket.summary_rows(model)).flops_dense


@pytest.fixture(autouse=True)
def float64():
    before = keras.config.floatx()
    keras.config.set_floatx("float64")
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_floatx(before)
    keras.config.set_dtype_policy(before)


def sizes(groups):
    return {name: group.size for name, group in groups.free.items()}


def conv(filters, size=3, **kwargs):
    return layers.Conv2D(filters, size, padding="same", **kwargs)


# What is known by hand.


def test_a_residual_sum_is_one_group():
    x = keras.Input((6, 6, 3), name="x")
    y = layers.ReLU()(layers.BatchNormalization(name="bn")(conv(8, name="a")(x)))
    z = conv(6, name="b")(y)
    y = layers.Add()([y, conv(8, name="c")(z)])
    model = keras.Model(x, layers.Dense(2, name="d")(layers.Flatten()(y)))
    groups = tfticket.channel_groups(model)
    assert sizes(groups) == {"a": 8, "b": 6}
    assert [repr(x) for x in groups["a"].members] == [
        *("a/kernel[3]", "a/bias[0]", "bn/gamma[0]", "bn/beta[0]"),
        *("bn/moving_mean[0]", "bn/moving_variance[0]", "b/kernel[2]"),
        *("c/kernel[3]", "c/bias[0]", "d/kernel[0] x36"),
    ]
    assert groups["x"].pinned == "an input of the model"
    assert groups["d"].pinned == "an output of the model"
    # Of the residual stream: a's filter, two rows of b, of c a filter; d's rows.
    assert groups["a"].flops == 2 * (36 * 9 * (3 + 6 + 6) + 36 * 2)
    assert groups["a"].parameters == 28 + 4 + 54 + 55 + 72
    check(model)


def test_a_dense_after_flatten_has_a_row_for_each_position():
    model = keras.Sequential(
        [
            keras.Input((2, 2, 1)),
            conv(3, name="a"),
            layers.Flatten(),
            layers.Dense(2, name="b"),
        ]
    )
    group = tfticket.channel_groups(model)["a"]
    np.testing.assert_array_equal(group.members[-1].indices[1], [1, 4, 7, 10])
    check(model)


def test_heads_and_what_they_compare_and_pass_are_units_of_their_own():
    x = keras.Input((5, 8), name="x")
    y = layers.Dense(12, name="in")(x)
    y = layers.MultiHeadAttention(4, 6, value_dim=2, name="mha")(y, y)
    model = keras.Model(x, layers.Dense(2, name="out")(y))
    groups = tfticket.channel_groups(model)
    assert {n: (g.size, g.kind) for n, g in groups.free.items()} == {
        "in": (12, "channels"),
        "mha": (12, "channels"),
        "mha/heads": (4, "heads"),
        "mha/key_dim": (6, "key_dim"),
        "mha/value_dim": (2, "value_dim"),
    }
    # A head: its columns in q, k and v, its rows in the output, 5 x 5 products twice.
    columns = 12 * (6 + 6 + 2) + 2 * 12
    assert groups["mha/heads"].flops == 2 * (5 * columns + 25 * (6 + 2))
    # Keras computes the scores in float32.
    check(model, tolerance=1e-6)


def test_flops_of_widths_are_those_of_a_model_of_these_widths():
    def model(a, b):
        return keras.Sequential(
            [
                keras.Input((8, 8, 3)),
                conv(a, name="a"),
                layers.DepthwiseConv2D(3, depth_multiplier=2, name="depth"),
                conv(b, 1, name="b"),
                layers.GlobalMaxPooling2D(),
                layers.Dense(3, name="c"),
            ]
        )

    groups = tfticket.channel_groups(model(8, 10))
    other = tfticket.channel_groups(model(5, 4))
    assert groups.flops({"a": 5, "b": 4}) == other.flops()
    assert groups.parameters({"a": 5, "b": 4}) == other.parameters()
    assert groups.flops() == counted(model(8, 10))


def test_names_are_those_of_masks_when_wrapped():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(6, name="a"),
            layers.Dense(3, name="b"),
        ]
    )
    groups = tfticket.channel_groups(tfticket.prune(model))
    assert [repr(x) for x in groups["a"].members] == [
        *("a/kernel[1]", "a/bias[0]", "b/kernel[0]"),
    ]
    assert set(tfticket.get_masks(tfticket.prune(model))) == {"a/kernel", "b/kernel"}


def test_table():
    x = keras.Input((4,), name="x")
    y = layers.Dense(6, name="a")(x)
    y = layers.Lambda(lambda y: y, name="odd")(y)
    text = str(tfticket.channel_groups(keras.Model(x, layers.Dense(3, name="b")(y))))
    lines = text.splitlines()
    assert lines[0].split()[:3] == ["group", "kind", "units"]
    assert lines[3].split()[:5] == ["a", "channels", "6", "5", "8"]
    assert "'a' stays: 'odd' (Lambda) has no channel rule" in text
    assert "'b' stays: an output of the model" in text


# Topologies.


def gated(x):
    y = conv(8, name="a")(x)
    z = layers.GlobalAveragePooling2D(keepdims=True)(y)
    z = conv(4, 1, activation="relu", name="squeeze")(z)
    z = conv(8, 1, activation="sigmoid", name="excite")(z)
    return conv(2, name="b")(layers.Multiply()([y, z]))


def hard_swish(x):
    y = conv(8, name="a")(x)
    y = y * (ops.relu6(y + 3.0) * (1 / 6))
    return conv(2, name="b")(ops.multiply(2.0, 1.0 - y) - y / 3.0)


def per_channel_arrays(x):
    y = conv(6, name="a")(x)
    y = (y - np.arange(6.0)) * np.arange(1.0, 7.0).reshape(1, 1, 1, 6)
    return conv(2, name="b")(y)


def arrays_by_position(x):
    y = conv(6, name="a")(x)
    y = y + np.arange(216.0).reshape(6, 6, 6) / 100
    return conv(2, name="b")(ops.multiply(y, np.linspace(0.5, 1, 36).reshape(6, 6, 1)))


def constants_in_statistics(x):
    y = conv(6, activation="sigmoid", name="a")(x)
    y = layers.LayerNormalization()(y + 1.0)
    y = ops.cos(conv(8, name="b")(y))
    y = layers.RMSNormalization()(y) if hasattr(layers, "RMSNormalization") else y
    same = layers.LayerNormalization()
    one, two = conv(4, name="one")(y), conv(4, name="two")(y) + 0.5
    return conv(2, name="d")(same(one) * same(two))


def dense_block(x):
    y = conv(6, name="stem")(x)
    for i in range(3):
        z = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Concatenate()([y, conv(4, name=f"grow{i}")(z)])
    return conv(2, 1, name="b")(layers.AveragePooling2D(2)(y))


def split(x):
    y = conv(8, name="a")(x)
    one, two = ops.split(y, 2, axis=-1)
    one, two = conv(4, name="one")(one), conv(6, name="two")(two)
    return conv(2, name="b")(ops.concatenate([one, two], axis=-1))


def split_unevenly(x):
    y = conv(9, name="a")(x)
    parts = ops.split(y, [2, 6], axis=-1)
    return [conv(2, name=f"out{i}")(part) for i, part in enumerate(parts)]


def gate_halves(x):
    one, two = ops.split(conv(8, name="a")(x), 2, axis=3)
    return conv(2, name="b")(one * ops.sigmoid(two))


def slices(x):
    y = conv(8, name="a")(x)
    return conv(2, name="b")(y[..., :5]) + conv(2, name="c")(y[:, :, :, 3:])


def strided_slices(x):
    y = conv(8, name="a")(x)
    return conv(2, name="b")(y[..., ::2] * y[..., 1::2])


def positions(x):
    y = conv(8, name="a")(x)
    y = y[:, 1:, ::2]
    return layers.Dense(2, name="b")(y[:, 0, -1])


def grouped(x):
    y = conv(16, name="a")(x)
    y = conv(12, groups=4, name="groups")(y)
    return conv(2, name="b")(y)


def grouped_as_depthwise(x):
    y = conv(6, name="a")(x)
    y = conv(12, groups=6, name="groups")(y)
    return conv(2, name="b")(y)


def inverted_residual(x):
    y = conv(4, name="stem")(x)
    z = layers.BatchNormalization()(conv(12, 1, name="expand")(y))
    z = layers.DepthwiseConv2D(3, padding="same", name="depth")(layers.ReLU(6.0)(z))
    z = conv(4, 1, name="project")(layers.BatchNormalization()(z))
    return conv(2, name="b")(layers.Add()([y, z]))


def depthwise_multiplied(x):
    y = conv(4, name="a")(x)
    y = layers.DepthwiseConv2D(3, depth_multiplier=3, name="depth")(y)
    return layers.SeparableConv2D(2, 3, depth_multiplier=2, name="b")(y)


def shared(x):
    same = conv(6, name="same")
    y = conv(6, name="a")(x)
    return conv(2, name="b")(same(layers.ReLU()(same(y))))


def shared_between_branches(x):
    same, norm = conv(6, name="same"), layers.BatchNormalization()
    one, two = conv(4, name="one")(x), conv(4, name="two")(x)
    return conv(2, name="b")(layers.Add()([norm(same(one)), norm(same(two))]))


def nested(x):
    z = keras.Input((6, 6, 4))
    inner = keras.Model(z, conv(4, name="q")(conv(6, name="p")(z)), name="inner")
    y = conv(4, name="a")(x)
    return conv(2, name="b")(layers.Add()([y, inner(inner(y))]))


def pixel_shuffle(x):
    y = conv(12, name="a")(x)
    y = layers.Reshape((6, 6, 2, 2, 3))(y)
    y = layers.Permute((1, 3, 2, 4, 5))(y)
    return conv(2, name="b")(layers.Reshape((12, 12, 3))(y))


def channel_shuffle(x):
    y = conv(16, name="a")(x)
    y = conv(16, groups=2, name="groups")(y)
    y = ops.reshape(y, (-1, 6, 6, 2, 8))
    y = ops.transpose(y, (0, 1, 2, 4, 3))
    y = ops.reshape(y, (-1, 6, 6, 16))
    return conv(2, name="b")(conv(8, groups=2, name="again")(y))


def flattened_and_back(x):
    y = layers.Flatten()(conv(4, name="a")(x))
    y = layers.Dense(36, name="b")(y)
    return conv(2, name="c")(layers.Reshape((3, 3, 4))(y))


def u_net(x):
    one = conv(4, name="one")(x)
    two = conv(8, name="two")(layers.MaxPooling2D(2)(one))
    up = layers.UpSampling2D(2, interpolation="bilinear")(two)
    other = layers.Conv2DTranspose(6, 2, strides=2, name="up")(two)
    return conv(2, name="b")(layers.Concatenate()([one, up, other]))


def normalized(x):
    y = conv(8, name="a")(x)
    y = layers.GroupNormalization(4)(y)
    y = layers.PReLU(shared_axes=[1, 2])(conv(6, name="b")(y))
    y = layers.LayerNormalization()(y)
    y = conv(6, name="c")(layers.UnitNormalization()(y))
    y = layers.RMSNormalization()(y) if hasattr(layers, "RMSNormalization") else y
    y = layers.Rescaling(2.0, offset=1.0)(y)
    return conv(2, name="d")(layers.Dropout(0.5, noise_shape=(None, 1, 1, 6))(y))


def normalized_over_positions_too(x):
    y = conv(6, name="a")(x)
    y = layers.LayerNormalization(axis=[1, 2, 3])(y)
    return conv(2, name="b")(y)


def instance_norm(x):
    y = layers.GroupNormalization(groups=-1)(conv(6, name="a")(x))
    return conv(2, name="b")(ops.gelu(y))


def merges(x):
    y = [conv(6, name=name)(x) for name in "abcd"]
    y = layers.Subtract()([layers.Maximum()(y[:2]), layers.Average()(y[2:])])
    y = ops.minimum(y, ops.abs(y)) + ops.square(y) - ops.cast(y > 0.5, y.dtype)
    return conv(2, name="e")(layers.Minimum()([y, ops.tanh(y)]))


def pooled_by_operations(x):
    y = conv(6, name="a")(x)
    y = ops.pad(y, [[0, 0], [1, 1], [0, 0], [0, 0]])
    z = ops.mean(y, axis=(1, 2), keepdims=True)
    w = ops.max(ops.sum(y, axis=1), axis=1)
    w = ops.expand_dims(ops.expand_dims(w, 1), 1)
    w = ops.squeeze(ops.squeeze(w, 1), 1)
    y = layers.GlobalMaxPooling2D()(y * z) + w
    return layers.Dense(2, name="b")(y)


def bottleneck_of_one_channel(x):
    y = conv(6, name="a")(x)
    gate = conv(1, activation="sigmoid", name="gate")(y)
    return conv(2, name="b")(y * gate)


IMAGES = [
    *(
        gated,
        hard_swish,
        per_channel_arrays,
        dense_block,
        arrays_by_position,
        constants_in_statistics,
        split,
        split_unevenly,
    ),
    *(gate_halves, slices, strided_slices, positions, grouped, grouped_as_depthwise),
    *(inverted_residual, depthwise_multiplied, shared, shared_between_branches),
    *(nested, pixel_shuffle, channel_shuffle, flattened_and_back, u_net, normalized),
    *(normalized_over_positions_too, instance_norm, merges, pooled_by_operations),
    bottleneck_of_one_channel,
]


@pytest.mark.parametrize("network", IMAGES, ids=lambda x: x.__name__)
def test_images(network):
    x = keras.Input((6, 6, 3), name="x")
    groups, _ = check(keras.Model(x, network(x)))
    assert not groups.without_rule
    unpinned = [g for g in groups.values() if g.pinned]
    # Nothing but the ends of the model stays.
    assert {g.pinned.split(" of the")[0] for g in unpinned} <= {"an input", "an output"}
    assert groups.free


# Sequences.


def attends(x, y=None, **kwargs):
    return layers.MultiHeadAttention(4, 6, **kwargs)(x, x if y is None else y)


def transformer_block(x):
    y = layers.Dense(8, name="in")(x)
    for _ in range(2):
        y = layers.Add()([y, attends(layers.LayerNormalization()(y))])
        z = layers.Dense(16, activation="gelu")(layers.LayerNormalization()(y))
        y = layers.Add()([y, layers.Dense(8)(z)])
    return layers.Dense(2, name="out")(layers.LayerNormalization()(y)[:, 0])


def cross_attention(x):
    y, z = layers.Dense(8, name="y")(x), layers.Dense(6, name="z")(x)
    y = layers.MultiHeadAttention(2, 4, value_dim=6, output_shape=10)(y, z, y)
    return layers.Dense(2, name="out")(y)


def grouped_queries(x):
    y = layers.Dense(8, name="in")(x)
    z = layers.GroupQueryAttention(4, 6, 2)(y, y, use_causal_mask=True)
    z = layers.RMSNormalization()(layers.Add()([y, z]))
    gate = layers.Dense(12, activation="silu", name="gate")(z)
    up = layers.Dense(12, name="up")(z)
    return layers.Dense(2, name="out")(layers.Dense(8, name="down")(gate * up) + y)


def attention_by_operations(x):
    q, k, v = (layers.Dense(12, name=name)(x) for name in "qkv")
    q, k, v = (ops.reshape(y, (-1, 5, 2, 6)) for y in (q, k, v))
    q, k, v = (ops.transpose(y, (0, 2, 1, 3)) for y in (q, k, v))
    scores = ops.softmax(ops.matmul(q, ops.swapaxes(k, -1, -2)) / 2.5, axis=-1)
    y = ops.transpose(ops.matmul(scores, v), (0, 2, 1, 3))
    return layers.Dense(2, name="out")(ops.reshape(y, (-1, 5, 12)))


def attention_layers(x):
    q, k, v = (layers.Dense(6, name=name)(x) for name in "qkv")
    y = layers.Attention(use_scale=True)([q, v, k])
    z = layers.AdditiveAttention()([q, k])
    return layers.Dense(2, name="out")(layers.Concatenate()([y, z]))


def einsum_heads(x):
    y = layers.EinsumDense("abc,cde->abde", (5, 3, 4), bias_axes="de", name="a")(x)
    y = layers.EinsumDense("abde,def->abf", (5, 6), bias_axes="f", name="b")(y)
    return layers.EinsumDense("abc,cd->abd", (None, 2), name="c")(y)


def mixer(x):
    y = layers.Dense(8, name="in")(x)
    z = layers.Dense(10, activation="gelu", name="tokens")(layers.Permute((2, 1))(y))
    z = layers.Permute((2, 1))(layers.Dense(5, name="back")(z))
    y = layers.Add()([y, z])
    return layers.Dense(2, name="out")(layers.Dense(12, name="channels")(y))


def recurrent(x):
    y = layers.LSTM(8, return_sequences=True, name="lstm")(x)
    y = layers.Bidirectional(layers.GRU(6, return_sequences=True), name="both")(y)
    y = layers.Conv1D(4, 3, padding="causal", name="conv")(y)
    y = layers.SimpleRNN(6, name="simple")(layers.LayerNormalization()(y))
    return layers.Dense(2, name="out")(y)


def states(x):
    y, h, c = layers.LSTM(6, return_state=True, name="encoder")(x)
    z = layers.LSTM(6, return_sequences=True, name="decoder")(x, initial_state=[h, c])
    return layers.Dense(2, name="out")(z), layers.Dense(1, name="other")(y)


def cells(x):
    y = layers.RNN(layers.GRUCell(6), return_sequences=True, name="gru")(x)
    y = layers.Softmax(axis=1)(ops.flip(y, axis=1))
    y = layers.RNN(layers.LSTMCell(4), name="lstm")(ops.cumsum(y, axis=1))
    return layers.Dense(2, name="out")(y)


def both_directions_added(x):
    y = layers.Bidirectional(layers.LSTM(6), merge_mode="sum", name="both")(x)
    return layers.Dense(2, name="out")(y)


def steps(x):
    y = layers.Reshape((5, 3, 1))(x)
    y = layers.TimeDistributed(layers.Conv1D(6, 2, name="inner"), name="a")(y)
    y = layers.TimeDistributed(layers.Flatten())(y)
    y = layers.TimeDistributed(layers.Dense(4, name="dense"), name="b")(y)
    return layers.Dense(2, name="out")(y)


def images_over_time(x):
    y = layers.Reshape((5, 3, 1, 1))(x)
    y = layers.ConvLSTM2D(6, (2, 1), return_sequences=True, name="a")(y)
    return layers.Conv3D(2, 1, name="out")(y)


SEQUENCES = [
    *(transformer_block, cross_attention, attention_by_operations, attention_layers),
    *(einsum_heads, mixer, recurrent, states, cells, both_directions_added, steps),
    images_over_time,
]
if hasattr(layers, "GroupQueryAttention") and hasattr(layers, "RMSNormalization"):
    SEQUENCES.append(grouped_queries)


@pytest.mark.parametrize("network", SEQUENCES, ids=lambda x: x.__name__)
def test_sequences(network):
    if network is cross_attention and keras.backend.backend() == "jax":
        pytest.skip("Keras's attention on JAX takes no value_dim but key_dim")
    x = keras.Input((5, 3), name="x")
    groups, _ = check(keras.Model(x, network(x)), tolerance=1e-6)
    assert not groups.without_rule
    assert len(groups.free) > 0


def test_a_unit_that_another_one_remembers_stays():
    x = keras.Input((5, 3), name="x")
    y = layers.LSTM(3, name="lstm")(x)
    model = fill(keras.Model(x, layers.Dense(2, name="out")(y)))
    kernel, recurrent, bias = model.get_layer("lstm").get_weights()
    # Unit 0 is read by nothing, unit 1 by unit 2 only, in one of its gates.
    recurrent[:] = 0
    recurrent[1, 5] = 1.0
    recurrent[2, [2, 5, 8, 11]] = 0.5
    model.get_layer("lstm").set_weights([kernel, recurrent, bias])
    weights = model.get_layer("out").get_weights()
    weights[0][:2] = 0
    model.get_layer("out").set_weights(weights)
    result = compact(model)
    assert result.model.get_layer("lstm").units == 2
    assert_same(model, result.model, 1e-10)


def test_mixed_tokens_pin_the_width_and_nothing_else():
    x = keras.Input((5, 3), name="x")
    groups = tfticket.channel_groups(keras.Model(x, mixer(x)))
    assert set(groups.free) == {"tokens", "channels"}
    assert "'tokens' takes them for positions" in groups["in"].pinned


def test_a_shared_layer_without_weights_may_differ_from_call_to_call():
    x = keras.Input((6, 6, 3), name="x")
    rows = layers.Reshape((36, 4), name="rows")
    one, two = rows(conv(4, name="one")(x)), rows(conv(4, name="two")(x))
    y = [layers.Dense(2, name=f"out{i}")(y) for i, y in enumerate((one, two))]
    model = fill(keras.Model(x, y))
    for name, kept in (("out0", 3), ("out1", 2)):
        kernel, bias = model.get_layer(name).get_weights()
        kernel[kept:] = 0
        model.get_layer(name).set_weights([kernel, bias])
    result = compact(model)
    shapes = {x.name: x.output.shape[-1] for x in result.model.layers}
    assert (shapes["one"], shapes["two"]) == (3, 2)
    assert {shapes["rows"], shapes["rows_1"]} == {3, 2}
    assert_same(model, result.model, 1e-10)


def test_sizes_that_are_open():
    x = keras.Input((None, None, 3), name="x")
    y = layers.LayerNormalization()(conv(6, name="a")(x))
    y = layers.GlobalAveragePooling2D()(conv(4, name="b")(y))
    groups, _ = check(keras.Model(x, layers.Dense(2, name="c")(y)))
    assert sizes(groups) == {"a": 6, "b": 4}
    assert groups.flops() is None
    assert "FLOPs: not known" in str(groups)
    y = ops.reshape(conv(6, name="a")(x), (-1, 4))
    model = keras.Model(x, layers.Dense(2, name="b")(y))
    assert "reshapes an unknown size" in tfticket.channel_groups(model)["a"].pinned


def test_a_wrapped_model_is_cut_by_its_groups():
    x = keras.Input((6, 6, 3), name="x")
    model = tfticket.prune(fill(keras.Model(x, inverted_residual(x))))
    groups, left = cut(model)
    assert sizes(groups) == {"stem": 4, "expand": 12}
    result = compact(model)
    assert_same(tfticket.strip(model), result.model, 1e-10)
    after = tfticket.channel_groups(result.model)
    assert {name: after[name].size for name in left} == left


# Words.


def words(mask_zero=False):
    x = keras.Input((6,), dtype="int32", name="words")
    y = layers.Embedding(5, 8, mask_zero=mask_zero, name="tokens")(x)
    places = ops.cumsum(ops.ones_like(x), axis=1) - 1
    return x, layers.Add()([y, layers.Embedding(6, 8, name="places")(places)])


@pytest.mark.parametrize("mask_zero", [False, True])
def test_embeddings_and_the_residual_width_are_one_group(mask_zero):
    x, y = words(mask_zero)
    y = layers.LayerNormalization(name="norm")(y)
    z = layers.MultiHeadAttention(2, 4, name="mha")(y, y)
    y = layers.LSTM(4, name="lstm")(layers.Add()([y, z]))
    groups, _ = check(keras.Model(x, layers.Dense(2, name="out")(y)), tolerance=1e-6)
    where = {x.path for x in groups["tokens"].members}
    assert {"tokens/embeddings", "places/embeddings", "norm/gamma"} <= where
    assert "lstm/cell/kernel" in where


def test_tied_embeddings():
    if not hasattr(layers, "ReversibleEmbedding"):
        pytest.skip("this Keras has no ReversibleEmbedding")
    x = keras.Input((6,), dtype="int32", name="words")
    table = layers.ReversibleEmbedding(5, 8, name="table")
    y = layers.Dense(8, name="a")(table(x))
    groups, result = check(keras.Model(x, table(y, reverse=True)))
    assert sizes(groups) == {"table": 8}
    assert result.model.get_layer("table").output_dim == 4


def test_a_model_that_was_loaded_and_a_smaller_one_saved_again(tmp_path):
    x = keras.Input((6, 6, 4), name="x")
    y = layers.LayerNormalization(name="one")(conv(8, name="a")(x))
    y = y[:, 1:] + 2.0
    y = layers.LayerNormalization(name="two")(conv(8, name="b")(y))
    fill(keras.Model(x, conv(2, name="c")(y))).save(tmp_path / "model.keras")
    # Keras counts the names of operations from the start, as in a process of its own.
    for size in (4, 2):
        keras.utils.clear_session()
        model = keras.models.load_model(tmp_path / "model.keras")
        _, left = cut(model)
        assert left == {"a": size, "b": size}
        result = compact(model)
        assert_same(model, result.model, 1e-10)
        result.model.save(tmp_path / "model.keras")
        assert_same(model, keras.models.load_model(tmp_path / "model.keras"), 1e-10)
    # As many operations as after the first time: one padding for each.
    kinds = [type(x).__name__ for x in result.model.operations]
    assert kinds.count("Pad") == 2


# Layers of one's own.


@keras.saving.register_keras_serializable("test_channel_groups")
class Gated(layers.Layer):
    """A gate of its own for each channel, and a projection in one."""

    def __init__(self, units, **kwargs):
        super().__init__(**kwargs)
        self.units = units

    def build(self, shape):
        self.gate = self.add_weight(shape=(shape[-1],), name="gate")
        self.kernel = self.add_weight(shape=(shape[-1], self.units), name="kernel")

    def call(self, x):
        return ops.matmul(x * self.gate, self.kernel)

    def get_config(self):
        return {**super().get_config(), "units": self.units}


@keras.saving.register_keras_serializable("test_channel_groups")
class Tied(layers.Layer):
    """An embedding that is its own output layer, by the same table."""

    def __init__(self, words, size, **kwargs):
        super().__init__(**kwargs)
        self.words, self.size = words, size

    def build(self, shape):
        self.table = self.add_weight(shape=(self.words, self.size), name="table")

    def call(self, inputs, reverse=False):
        if reverse:
            return ops.matmul(inputs, ops.transpose(self.table))
        return ops.take(self.table, ops.cast(inputs, "int32"), axis=0)

    def get_config(self):
        return {**super().get_config(), "words": self.words, "size": self.size}


@pytest.fixture
def own_rules():
    from tfticket.keras_models.channels import registry

    before = dict(registry._RULES)

    @tfticket.channel_rule(Gated)
    class GatedRule(tfticket.ChannelRule):
        keeps_zero = True

        def outputs(self, node, labels):
            return [tfticket.Channels(labels.fresh(node.layer.units, node.layer.name))]

        def members(self, node):
            given, made = node.inputs[0].labels, node.outputs[0].labels
            return [
                tfticket.Member(node.layer.gate, 0, given),
                tfticket.Member(node.layer.kernel, 0, given, reads=0),
                tfticket.Member(node.layer.kernel, 1, made),
            ]

        def config(self, node, inputs, outputs):
            return {"units": outputs[0]}

    @tfticket.channel_rule(Tied)
    class TiedRule(tfticket.ChannelRule):
        any_arguments = any_width = True

        def outputs(self, node, labels):
            layer = node.layer
            if "reverse" in node.kwargs:
                return [tfticket.Channels(labels.fresh(layer.words, layer.name))]
            return [tfticket.Channels(labels.fresh(layer.size, layer.name))]

        def members(self, node):
            reverse = "reverse" in node.kwargs
            width = node.inputs[0] if reverse else node.outputs[0]
            reads = 0 if reverse else None
            return [tfticket.Member(node.layer.table, 1, width.labels, reads)]

        def config(self, node, inputs, outputs):
            reverse = "reverse" in node.kwargs
            return {"size": (inputs if reverse else outputs)[0]}

    yield
    registry._RULES.clear()
    registry._RULES.update(before)


@pytest.mark.usefixtures("own_rules")
def test_a_rule_for_a_layer_of_ones_own():
    x = keras.Input((5, 3), name="x")
    y = layers.Dense(8, name="a")(x)
    y = layers.LayerNormalization(name="norm")(Gated(6, name="own")(y))
    groups, _ = check(keras.Model(x, layers.Dense(2, name="b")(y)))
    assert sizes(groups) == {"a": 8, "own": 6}


@pytest.mark.usefixtures("own_rules")
def test_a_rule_for_a_table_used_twice():
    x = keras.Input((6,), dtype="int32", name="words")
    table = Tied(5, 8, name="table")
    y = layers.Dense(8, name="a")(table(x))
    groups, _ = check(keras.Model(x, table(y, reverse=True)))
    assert sizes(groups) == {"table": 8}


def test_without_a_rule_a_layer_is_pinned_and_listed():
    x = keras.Input((5, 3), name="x")
    y = Gated(6, name="own")(layers.Dense(8, name="a")(x))
    groups = tfticket.channel_groups(keras.Model(x, layers.Dense(2, name="b")(y)))
    assert not groups.free
    assert groups.without_rule == {"own": "has no channel rule"}
    assert "'own' (Gated) has no channel rule" in groups["a"].pinned


def test_a_slice_without_channels():
    x = keras.Input((4, 4, 3), name="x")
    empty, all_of_it = ops.split(conv(1)(x), [0], -1)
    y = layers.Concatenate()([empty, all_of_it])
    y = layers.Concatenate()([conv(4, name="a")(x), y])
    model = fill(keras.Model(x, layers.Dense(2)(y)))
    _, left = cut(model)
    assert left == {"a": 2}
    assert_same(model, compact(model).model, 1e-5)


@pytest.mark.parametrize("norm", ["LayerNormalization", "RMSNormalization"])
def test_a_norm_that_nothing_reads(norm):
    if not hasattr(layers, norm):
        pytest.skip("Keras before 3.9")
    x = keras.Input((4, 4, 3), name="x")
    y = getattr(layers, norm)()(conv(4)(x))
    model = fill(keras.Model(x, layers.Dense(2, name="b")(y)))
    kernel = model.get_layer("b").kernel
    kernel.assign(ops.zeros_like(kernel))
    assert_same(model, compact(model).model, 1e-5)


# Random graphs over the rules.

UNARY = [
    layers.ReLU,
    layers.BatchNormalization,
    layers.LayerNormalization,
    layers.UnitNormalization,
    layers.PReLU,
    lambda: layers.Activation("sigmoid"),
    lambda: layers.Dropout(0.5),
    lambda: layers.Rescaling(0.5, offset=0.25),
    lambda: layers.GroupNormalization(1),
    lambda: layers.GroupNormalization(-1),
    lambda: lambda x: ops.gelu(x) + 0.5,
    lambda: lambda x: 1.0 - x / 2.0,
    lambda: lambda x: ops.softmax(x, axis=1),
    lambda: lambda x: layers.Multiply()([x, ops.mean(x, axis=(1, 2), keepdims=True)]),
    lambda: lambda x: ops.concatenate(ops.split(x, [x.shape[-1] // 2], -1)[::-1], -1),
    lambda: lambda x: x[..., ::-1],
    lambda: lambda x: ops.concatenate([x[..., 1:], x[..., :1]], axis=-1),
    lambda: lambda x: ops.transpose(x, (0, 2, 1, 3)),
]
BINARY = [
    layers.Add,
    layers.Multiply,
    layers.Maximum,
    layers.Average,
    lambda: lambda x: x[0] - 2.0 * x[1],
]


def random_step(draw, tensors):
    """One more image of 4 x 4, of one or two of those there are."""
    x = draw(st.sampled_from(tensors))
    width = x.shape[-1]
    kind = draw(st.integers(0, 9))
    if kind <= 2:
        size = draw(st.integers(1, 3))
        return conv(draw(st.integers(2, 5)), size, use_bias=draw(st.booleans()))(x)
    if kind == 3:
        groups = draw(
            st.sampled_from([n for n in range(1, width + 1) if width % n == 0])
        )
        return conv(groups * draw(st.integers(1, 2)), 3, groups=groups)(x)
    if kind == 4:
        return layers.DepthwiseConv2D(
            2, padding="same", depth_multiplier=draw(st.integers(1, 2))
        )(x)
    if kind == 5:
        return layers.Concatenate()([x, draw(st.sampled_from(tensors))])
    if kind == 6:
        flat = layers.Reshape((16, width))(x)
        flat = layers.MultiHeadAttention(2, 3)(flat, flat)
        return layers.Reshape((4, 4, width))(flat)
    if kind == 7:
        rows = layers.Reshape((4, 4 * width))(x)
        rows = layers.GRU(8, return_sequences=True)(rows)
        return layers.Reshape((4, 4, 2))(rows)
    if kind == 8:
        others = [y for y in tensors if y.shape[-1] in (1, width)]
        return draw(st.sampled_from(BINARY))()([x, draw(st.sampled_from(others))])
    return draw(st.sampled_from(UNARY))()(x)


def random_model(draw):
    x = keras.Input((4, 4, 3), name="x")
    tensors = [conv(4)(x), conv(3)(x)]
    for _ in range(draw(st.integers(2, 8))):
        tensors.append(random_step(draw, tensors))
    y = layers.Concatenate()([tensors[-1], draw(st.sampled_from(tensors))])
    if draw(st.booleans()):
        y = layers.Flatten()(y)
    return keras.Model(x, layers.Dense(2)(y))


def check_random_groups(data):
    model = fill(random_model(data.draw))
    groups, left = cut(
        model, share=data.draw(st.floats(0.2, 0.9)), seed=data.draw(st.integers(0, 99))
    )
    check_consistent(groups)
    assert all(left.values())
    for group in groups.values():
        # Each unit loses as much of each axis as every other does.
        assert all(x.indices.shape[0] == group.size for x in group.members)
        assert bool(group.pinned) or group.parameters > 0
    result = compact(model)
    assert_same(model, result.model, tolerance=1e-5)
    after = tfticket.channel_groups(result.model)
    if {"GetItem", "Split"} & {type(x).__name__ for x in model.operations}:
        # A slice of which no channel is left keeps one.
        assert groups.flops(left) <= after.flops()
    else:
        assert groups.flops(left) == after.flops()
    assert min(x.size for x in after.values()) > 0


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


@examples(6)
@given(data=st.data())
def test_random_graphs(data):
    check_random_groups(data)


@pytest.mark.slow
@examples(300)
@given(data=st.data())
def test_many_random_graphs(data):
    check_random_groups(data)


def mask_at_random(model, seed):
    """Zeros of no group's: single weights, rows, columns, scales and statistics."""
    random = np.random.default_rng(seed)
    for weight in model.weights:
        value = np.array(weight)
        if "variance" in weight.name:
            continue
        value *= random.random(value.shape) < random.choice([0.4, 0.9, 1.0])
        for axis in range(value.ndim):
            flags = random.random(value.shape[axis]) < random.choice([0.5, 1.0])
            value = (value.swapaxes(axis, -1) * flags).swapaxes(axis, -1)
        weight.assign(value)


def check_random_masks(data):
    model = fill(random_model(data.draw))
    mask_at_random(model, data.draw(st.integers(0, 2**20)))
    result = compact(model)
    assert_same(model, result.model, tolerance=1e-5)


@examples(6)
@given(data=st.data())
def test_random_masks(data):
    check_random_masks(data)


@pytest.mark.slow
@examples(300)
@given(data=st.data())
def test_many_random_masks(data):
    check_random_masks(data)


# Bad input.


def test_channel_rule_says_what_it_takes():
    with pytest.raises(TypeError, match="takes classes of layers"):
        tfticket.channel_rule("Dense")
    with pytest.raises(TypeError, match="at least one class"):
        tfticket.channel_rule()
    with pytest.raises(TypeError, match=r"subclass of tfticket\.ChannelRule"):
        tfticket.channel_rule(Gated)(3)


def test_models_without_a_graph():
    class Own(keras.Model):
        def call(self, x):
            return x

    with pytest.raises(TypeError, match="Rebuild it as a Functional model"):
        tfticket.channel_groups(Own())
    with pytest.raises(TypeError, match=r"model must be a keras\.Model"):
        tfticket.channel_groups(3)
    with pytest.raises(ValueError, match=r"Start it with keras\.Input"):
        tfticket.channel_groups(keras.Sequential([layers.Dense(2)]))


def test_masks_refuse_what_is_not_a_groups():
    model = keras.Sequential([keras.Input((3,)), layers.Dense(4), layers.Dense(2)])
    groups = tfticket.channel_groups(model)
    first, last = model.layers[0].name, model.layers[1].name
    with pytest.raises(ValueError, match="has 4 units"):
        groups.masks({first: np.ones(3, bool)})
    with pytest.raises(ValueError, match="an output of the model"):
        groups.masks({last: np.zeros(2, bool)})
    with pytest.raises(KeyError):
        groups.masks({"other": np.ones(3, bool)})
    with pytest.raises(KeyError, match="no group is named 'other'"):
        groups.flops({"other": 1})
    with pytest.raises(ValueError, match=r"must be at most 4\. Received: left.*=5"):
        groups.parameters({first: 5})
