"""The table of a model: counts by hand, by NumPy and by gradients, and its looks."""

import io
import math

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from keras import layers
from rich.console import Console

import tfticket
from tfticket.export.storage.encoded import store
from tfticket.inspection.costs import total
from tfticket.inspection.summary import _short
from tfticket.keras_models import calls
from tfticket.keras_models.calls import kernels


def chain(*parts, shape):
    return keras.Sequential([keras.Input(shape), *parts])


def rows(model):
    return {row.name: row for row in tfticket.summary_rows(model)}


def flops(model):
    """Dense operations by weight or layer, those that are none left out."""
    return {k: row.flops_dense for k, row in rows(model).items() if row.flops_dense}


def printed(model, width=120):
    file = io.StringIO()
    tfticket.summary(model, Console(file=file, width=width))
    return file.getvalue()


# A layer, the shape of its input, and how often it uses each value of its kernels.
USES = {
    "dense": (layers.Dense(3), (4,), 1),
    "dense on a sequence": (layers.Dense(3), (5, 4), 5),
    "dense on a picture": (layers.Dense(3), (5, 6, 4), 5 * 6),
    "same padding": (layers.Conv2D(3, 3, padding="same"), (5, 6, 2), 5 * 6),
    "causal": (layers.Conv1D(3, 3, padding="causal"), (5, 2), 5),
    "grouped": (layers.Conv2D(6, 3, groups=2), (5, 6, 4), 3 * 4),
    "3d": (layers.Conv3D(2, 2), (3, 4, 5, 1), 2 * 3 * 4),
    "depthwise": (
        layers.DepthwiseConv2D(3, depth_multiplier=2, strides=2),
        (7, 9, 3),
        3 * 4,
    ),
    "separable": (layers.SeparableConv2D(5, 3, strides=2), (7, 9, 3), 3 * 4),
    "separable 1d": (layers.SeparableConv1D(5, 3), (7, 3), 5),
    "transposed": (layers.Conv2DTranspose(3, 3, strides=2), (4, 5, 2), 4 * 5),
    "einsum": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 3)),
        (5, 4),
        5,
    ),
    "einsum over two": (layers.EinsumDense("abcd,cde->abe", (None, 3)), (5, 2, 4), 5),
    "einsum with an ellipsis": (
        layers.EinsumDense("...x,xy->...y", 7),
        (3, 5, 4),
        3 * 5,
    ),
    "einsum with one behind": (
        layers.EinsumDense("ab...,bc->ac...", (7, None, None)),
        (4, 3, 5),
        3 * 5,
    ),
    "lstm": (layers.LSTM(3), (5, 4), 5),
    "gru, unrolled": (layers.GRU(3, unroll=True), (5, 4), 5),
    "both ways": (layers.Bidirectional(layers.SimpleRNN(3)), (5, 4), 5),
    "stacked cells": (
        layers.RNN([layers.LSTMCell(3), layers.GRUCell(2)]),
        (5, 4),
        5,
    ),
    "conv lstm": (layers.ConvLSTM2D(2, 3, strides=2), (5, 9, 7, 1), 5 * 4 * 3),
    "each step": (layers.TimeDistributed(layers.Conv1D(3, 2)), (5, 4, 2), 5 * 3),
    "steps of steps": (
        layers.TimeDistributed(layers.TimeDistributed(layers.Dense(3))),
        (5, 6, 4),
        5 * 6,
    ),
    "spectral": (layers.SpectralNormalization(layers.Dense(3)), (5, 4), 5),
}


@pytest.mark.parametrize("kind", USES)
def test_each_kind_of_layer(kind):
    layer, shape, uses = USES[kind]
    model = chain(layer, shape=shape)
    held = [w for w in model.weights if w.name.endswith("kernel")]
    assert held
    want = sorted(2 * uses * math.prod(w.shape) for w in held)
    assert sorted(flops(model).values()) == want
    assert sorted(flops(tfticket.prune(model)).values()) == want


@settings(max_examples=25, deadline=None)
@given(
    sizes=st.lists(st.integers(5, 9), min_size=2, max_size=2),
    window=st.integers(1, 3),
    stride=st.integers(1, 3),
    dilation=st.integers(1, 2),
    groups=st.sampled_from([1, 2]),
    kind=st.sampled_from(["conv", "depthwise", "transposed"]),
)
def test_uses_are_what_gradients_say(sizes, window, stride, dilation, groups, kind):
    """Of a sum over outputs, by a weight, where all inputs are one: its uses."""
    assume(stride == 1 or dilation == 1)
    if kind == "conv":
        layer = layers.Conv2D(4, window, stride, groups=groups, dilation_rate=dilation)
    elif kind == "depthwise":
        layer = layers.DepthwiseConv2D(
            window, stride, depth_multiplier=groups, dilation_rate=dilation
        )
    else:
        layer = layers.Conv2DTranspose(3, window, stride)
    model = chain(layer, shape=(*sizes, 2))
    with tf.GradientTape() as tape:
        total = tf.reduce_sum(model(tf.ones((1, *sizes, 2))))
    (kernel,) = kernels(layer)
    uses = tape.gradient(total, kernel.value).numpy()
    random = np.random.default_rng(sum(sizes))
    wrapped = tfticket.prune(model)
    mask = random.random(uses.shape) < 0.4
    tfticket.set_masks(wrapped, {f"{layer.name}/kernel": mask})
    (row,) = tfticket.summary_rows(wrapped)
    assert row.flops_dense == 2 * uses.sum()
    assert row.flops_sparse == 2 * uses[mask].sum()


def test_as_the_profiler_of_tensorflow_counts(tmp_path):
    model = chain(
        layers.Conv2D(8, 3, padding="same", use_bias=False),
        layers.DepthwiseConv2D(3, use_bias=False),
        layers.Flatten(),
        layers.Dense(5, use_bias=False),
        shape=(12, 12, 2),
    )
    graph = tf.function(model).get_concrete_function(tf.TensorSpec((1, 12, 12, 2)))
    profiler = tf.compat.v1.profiler
    options = profiler.ProfileOptionBuilder(
        profiler.ProfileOptionBuilder.float_operation()
    )
    options = options.with_file_output(str(tmp_path / "profile")).build()
    counted = profiler.profile(graph.graph, options=options).total_float_ops
    assert sum(flops(model).values()) == counted


def test_attention():
    x, memory = keras.Input((5, 8)), keras.Input((7, 6))
    y = layers.MultiHeadAttention(2, 3, name="a")(x, memory)
    y = layers.GroupQueryAttention(4, 4, 2, name="b")(y, y)
    model = tfticket.prune(keras.Model([x, memory], y))
    assert flops(model) == {
        "a/query_dense/kernel": 2 * 5 * 8 * 2 * 3,
        "a/key_dense/kernel": 2 * 7 * 6 * 2 * 3,
        "a/value_dense/kernel": 2 * 7 * 6 * 2 * 3,
        "a/output_dense/kernel": 2 * 5 * 2 * 3 * 8,
        "b/query_dense/kernel": 2 * 5 * 8 * 4 * 4,
        "b/key_dense/kernel": 2 * 5 * 8 * 2 * 4,
        "b/value_dense/kernel": 2 * 5 * 8 * 2 * 4,
        "b/output_dense/kernel": 2 * 5 * 4 * 4 * 8,
        "a": 2 * 2 * 5 * 7 * (3 + 3),
        "b": 2 * 4 * 5 * 5 * (4 + 4),
    }
    assert sum(row.flops_sparse for row in tfticket.summary_rows(model)) == sum(
        flops(model).values()
    )
    text = printed(model)
    assert "products between activations" in text
    assert "attention" not in text  # nothing of it is left out


# A layer, the shapes of its inputs, and its products: scores, then sums of values.
PRODUCTS = {
    "attention": (
        layers.Attention(),
        [(5, 4), (7, 3), (7, 4)],
        2 * 5 * 7 * 4 + 2 * 5 * 7 * 3,
    ),
    "scaled": (layers.Attention(use_scale=True), [(5, 4), (7, 4)], 4 * 5 * 7 * 4),
    "additive": (layers.AdditiveAttention(), [(5, 4), (7, 4)], 4 * 5 * 7 * 4),
    "a causal mask saves nothing": (
        layers.MultiHeadAttention(2, 3, value_dim=5),
        [(6, 4), (6, 4)],
        2 * 2 * 6 * 6 * (3 + 5),
    ),
    "over two axes": (
        layers.MultiHeadAttention(2, 3),
        [(5, 6, 4), (5, 6, 4)],
        2 * 2 * 30 * 30 * (3 + 3),
    ),
    "over one of two axes": (
        layers.MultiHeadAttention(2, 3, attention_axes=2),
        [(5, 6, 4), (5, 6, 4)],
        2 * 5 * 2 * 6 * 6 * (3 + 3),
    ),
}


@pytest.mark.parametrize("kind", PRODUCTS)
def test_products_inside_attention(kind):
    layer, shapes, want = PRODUCTS[kind]
    inputs = [keras.Input(shape) for shape in shapes]
    if isinstance(layer, layers.MultiHeadAttention):
        made = layer(*inputs, use_causal_mask="causal" in kind)
    else:
        made = layer(inputs)
    model = keras.Model(inputs, made)
    found = rows(model)[layer.name]
    assert (found.flops_dense, found.flops_sparse) == (want, want)


class Block(layers.Layer):
    """Attention, twice, with a layer beside it."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.attention = layers.MultiHeadAttention(1, 2)
        self.dense = layers.Dense(4)

    def build(self, shape):
        self.attention.build(shape, shape)
        self.dense.build(shape)

    def call(self, x):
        return self.attention(x, x) + self.attention(self.dense(x), value=x)


def test_attention_inside_other_layers():
    model = chain(layers.TimeDistributed(Block(name="b")), shape=(3, 5, 4))
    (found,) = (row for row in tfticket.summary_rows(model) if not row.parameters)
    assert found.kind == "MultiHeadAttention"
    assert found.flops_dense == 3 * 2 * 2 * 5 * 5 * (2 + 2)
    found = rows(chain(Block(name="b"), shape=(None, 4)))["b/attention"]
    assert found.flops_dense is None
    assert found.why_no_flops == "the input's size is open"


class WithAWrappedPart(layers.MultiHeadAttention):
    def build(self, query_shape, value_shape, key_shape=None):
        super().build(query_shape, value_shape, key_shape)
        for name, part in list(vars(self).items()):
            if part is self.query_dense:
                setattr(self, name, tfticket.Prune(part))


def test_attention_some_of_whose_parts_are_wrapped():
    x = keras.Input((5, 4))
    model = keras.Model(x, WithAWrappedPart(2, 3, name="a")(x, x))
    found = total(tfticket.summary_rows(model))
    plain = keras.Model(x, layers.MultiHeadAttention(2, 3)(x, x))
    assert list(tfticket.get_masks(model)) == ["a/query_dense/kernel"]
    assert found.flops_dense == total(tfticket.summary_rows(plain)).flops_dense
    assert not found.why_no_flops


def test_attention_of_ones_own_is_not_counted_as_none():
    class Own(layers.MultiHeadAttention):
        def call(self, query, value, key=None):
            return super().call(query, value, key)

    x = keras.Input((5, 4))
    found = rows(keras.Model(x, Own(1, 2, name="a")(x, x)))["a"]
    assert found.flops_dense is None
    assert found.why_no_flops == "it is not known how often the layer uses it"


def test_shared_and_nested_layers_count_each_call():
    shared = layers.Dense(4, name="shared")
    inner = chain(layers.Dense(4, name="deep"), shared, shape=(4,))
    inner.name = "inner"
    one, two = keras.Input((4,), name="one"), keras.Input((6, 4), name="two")
    y = layers.Concatenate(axis=1)(
        [layers.Reshape((1, 4))(inner(shared(one))), shared(two)]
    )
    model = keras.Model({"one": one, "two": two}, y)
    want = {"inner/deep/kernel": 2 * 16, "shared/kernel": 2 * 16 * (1 + 1 + 6)}
    found = {
        name.replace("inner/shared", "shared"): count
        for name, count in flops(model).items()
    }
    assert found == want
    # Another model of the same layers has calls of its own.
    assert flops(keras.Model(one, shared(one))) == {"shared/kernel": 2 * 16}


@keras.saving.register_keras_serializable(package="test")
class Mixer(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = tfticket.prune(layers.Dense(3))

    def call(self, x):
        return self.dense(keras.ops.reshape(self.dense(x), (-1, 3)))


def test_subclassed_model():
    model = Mixer()
    model(np.ones((2, 5, 3), "float32"))
    assert flops(model) == {"dense/kernel": 2 * 9 * 5 * 2}


def test_a_batch_of_fixed_size_is_divided_by():
    x = keras.Input(batch_shape=(4, 5, 3))
    model = keras.Model(x, layers.LSTM(2, stateful=True, name="lstm")(x))
    assert flops(model) == {
        "lstm/cell/kernel": 2 * 5 * 3 * 8,
        "lstm/cell/recurrent_kernel": 2 * 5 * 2 * 8,
    }


class OwnCall(layers.Dense):
    def call(self, x):
        return super().call(x) + keras.ops.matmul(x, self.kernel)


class Looped(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.dense = layers.Dense(3)

    def build(self, shape):
        self.table = self.add_weight(shape=(3, 3), name="table")
        self.dense.build(shape)

    def call(self, x):
        def step(i, x):
            return i + 1, self.dense(x)

        return keras.ops.while_loop(lambda i, x: i < 7, step, (0, x))[1]


class TestNotKnown:
    def test_an_open_size(self):
        model = chain(
            layers.Conv2D(2, 3, name="a"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(3, name="b"),
            shape=(None, None, 1),
        )
        found = rows(model)
        assert found["a/kernel"].flops_dense is None
        assert found["a/kernel"].flops_sparse is None
        assert found["a/kernel"].why_no_flops == "the input's size is open"
        assert found["a/kernel"].output_shape == (None, None, 2)
        assert found["b/kernel"].flops_dense == 2 * 6
        text = printed(model)
        assert "FLOPs: the input's size is open" in text
        assert "≥ 12" in text
        assert "?x?x2" in text

    def test_a_size_that_can_not_be_tried(self):
        model = chain(layers.Reshape((7, 3)), layers.Dense(2), shape=(None, 3))
        assert rows(model)["dense/kernel"].why_no_flops == "the input's size is open"

    @pytest.mark.parametrize("layer", [OwnCall(3, name="a"), Looped(name="a")])
    def test_a_layer_of_ones_own(self, layer):
        model = chain(layer, layers.Dense(3, name="b"), shape=(3,))
        for row in rows(tfticket.prune(model)).values():
            if row.name != "b/kernel":
                assert row.flops_dense is None
                assert row.why_no_flops == "it is not known how often the layer uses it"
        # What is in no mask is not overlooked.
        assert ("a/table" in rows(model)) is isinstance(layer, Looped)

    def test_lora(self):
        model = chain(layers.Dense(3, name="a"), shape=(4,))
        model.layers[0].enable_lora(2)
        assert rows(model)["a/kernel"].flops_dense is None
        # Under a mask, its part is added to the kernel before the product.
        found = rows(tfticket.prune(model))
        assert found["a/kernel"].flops_dense == 2 * 12
        assert found["a/lora_kernel_a"].flops_dense is None

    def test_an_einsum_that_is_no_plain_product(self):
        model = chain(layers.EinsumDense("abc,cd->ad", (2,)), shape=(5, 4))
        assert rows(model)["einsum_dense/kernel"].flops_dense is None

    def test_a_model_that_raises(self):
        class Raising(Mixer):
            def call(self, x):
                if self.built:
                    raise OSError
                return super().call(x)

        model = Raising()
        model.dense.build((None, 3))
        model.built = True
        model._build_shapes_dict = {"input_shape": (None, 3)}
        assert rows(model)["dense/kernel"].why_no_flops == "tracing raised OSError"
        assert not any("call" in vars(x) for x in (model, model.dense))

    def test_a_model_without_shapes(self):
        model = keras.Sequential([layers.Dense(3)])
        assert calls.layer_calls(model).failure == "the model is not built"
        assert "whole model" in printed(model)


def test_the_model_is_left_as_it_was(mlp):
    twin = tfticket.popup(mlp, density=0.5, score_scope="global")
    before = [keras.ops.convert_to_numpy(x) for x in twin.weights]
    calls.layer_calls(twin)
    for old, weight in zip(before, twin.weights, strict=True):
        np.testing.assert_array_equal(old, weight)
    for layer in twin.layers:
        assert "call" not in vars(layer)
        assert len(layer._inbound_nodes) == 1


@settings(max_examples=25, deadline=None)
@given(
    units=st.lists(st.sampled_from([3, 40, 64, 90]), min_size=2, max_size=5),
    densities=st.lists(st.sampled_from([0.0, 0.001, 0.02, 0.3, 1.0]), min_size=5),
    dtype=st.sampled_from(["float32", "float16", "bfloat16"]),
    seed=st.integers(0, 99),
)
def test_bytes_are_those_of_an_encoded_export(units, densities, dtype, seed):
    policy = keras.DTypePolicy(dtype)
    model = chain(*(layers.Dense(n, dtype=policy) for n in units), shape=(90,))
    wrapped, random = tfticket.prune(model), np.random.default_rng(seed)
    masks = {
        name: random.random(mask.shape) < density
        for (name, mask), density in zip(
            tfticket.get_masks(wrapped).items(), densities, strict=False
        )
    }
    tfticket.set_masks(wrapped, masks)
    found, plain = tfticket.summary_rows(wrapped), tfticket.strip(wrapped)
    assert total(found).bytes_dense == sum(
        keras.ops.convert_to_numpy(x).nbytes for x in plain.weights
    )
    assert total(found).bytes_sparse == store(plain.variables).nbytes
    assert total(tfticket.summary_rows(plain)).bytes_sparse == total(found).bytes_sparse
    for row, mask in zip(found, masks.values(), strict=True):
        assert row.kept == mask.sum()
        assert row.density == pytest.approx(mask.mean())


def test_bytes_of_each_weight_by_hand():
    model = chain(layers.Dense(64, name="a"), layers.Dense(30, name="b"), shape=(64,))
    model.layers[0].kernel.assign(np.eye(64))
    kernel = np.zeros((64, 30))
    kernel[20, 5] = kernel[40, 7] = 1.0
    model.layers[1].kernel.assign(kernel)
    found = rows(model)
    # The first value is at place 0, every other 65 places on: a byte and a float each.
    assert found["a/kernel"].bytes_sparse == 64 * 5
    # 605 places lie between the last value before and this one, then 602: two stored
    # zeros before each.
    assert found["b/kernel"].bytes_sparse == 2 * 3 * 5
    assert found["b/kernel"].bytes_dense == 64 * 30 * 4
    assert (found["a/kernel"].other_parameters, found["a/kernel"].other_bytes) == (
        64,
        256,
    )


def test_wrapped_stripped_and_popup_models_agree(mlp):
    wrapped = tfticket.prune(mlp)
    tfticket.sparsify(wrapped, 0.75)
    plain = tfticket.strip(wrapped)
    twin = tfticket.popup(mlp, density=0.25)
    names = ("flops_dense", "flops_sparse", "bytes_dense", "bytes_sparse", "kept")
    for name in ("hidden/kernel", "out/kernel"):
        of_wrapped, of_plain, of_twin = (
            [getattr(rows(model)[name], field) for field in names]
            for model in (wrapped, plain, twin)
        )
        assert of_wrapped == of_plain == of_twin
    assert rows(plain)["hidden/kernel"].why_dense == "not wrapped"
    assert not rows(plain)["hidden/kernel"].masked
    assert rows(wrapped)["hidden/kernel"].masked
    assert rows(plain)["norm"].flops_dense == 0
    total = printed(plain).split("whole model")[1]
    # 48 + 24 in kernels, of which a quarter is left; 11 biases, 32 of normalization.
    assert total.split()[1:4] == ["61", "/", "115"]
    assert printed(tfticket.strip(twin)).count("25.0%") == 2


def test_weights_in_a_separable_convolution():
    model = tfticket.prune(chain(layers.SeparableConv1D(5, 3, name="a"), shape=(7, 2)))
    tfticket.sparsify(model, 0.5)
    found = rows(model)
    assert found["a/depthwise_kernel"].why_dense
    assert found["a/depthwise_kernel"].flops_sparse == 2 * 5 * 3 * 2
    assert found["a/pointwise_kernel"].flops_sparse == 2 * 5 * 5


def test_embeddings_multiply_nothing():
    model = chain(layers.Embedding(9, 4, name="words"), layers.Dense(2), shape=(3,))
    row = rows(model)["words/embeddings"]
    assert row.flops_dense == 0
    assert "include" in row.why_dense
    assert rows(model)["dense/kernel"].output_shape == (3, 2)


def test_table(mlp):
    wrapped = tfticket.prune(mlp)
    tfticket.sparsify(wrapped, 0.75)
    lines = printed(wrapped).splitlines()
    (hidden,) = (line for line in lines if "hidden/kernel" in line)
    cells = "hidden/kernel Dense 8 6x8 25.0% 12 / 48 24 / 96 192"
    assert hidden.split() == cells.split()
    (norm,) = (line for line in lines if line.startswith("norm"))
    assert norm.split()[-1] == "1"
    assert lines[-1].startswith(" 1  no kernel")
    assert max(map(len, lines)) <= 120


@pytest.mark.parametrize("width", [120, 100, 80, 64])
def test_no_number_is_cut(width):
    model = chain(
        layers.SeparableConv2D(64, 3, name="a_rather_long_name_of_a_layer"),
        layers.Conv2D(128, 3),
        shape=(64, 64, 3),
    )
    model = tfticket.prune(model)
    tfticket.sparsify(model, 0.9)
    text = printed(model, width)
    assert max(map(len, text.splitlines())) <= width
    assert "…" not in text
    words = text.split()
    for word in ("7,373", "73,728", "density", "parameters", "53.1M", "531M"):
        assert word in words
    assert ("output" in words) is (width >= 110)


def test_what_fits_is_shown():
    model = chain(layers.Dense(3), shape=(4,))
    assert "output" in printed(model, 100)
    assert "output" not in printed(model, 80)


def test_short_numbers():
    numbers = [0, 7, 999, 1000, 12345, 999_400, 999_600, 2.5e9, 7e13]
    want = ["0", "7", "999", "1k", "12.3k", "999k", "1M", "2.5G", "70T"]
    assert list(map(_short, numbers)) == want


class WithToken(keras.layers.Layer):
    """A layer made of others that has a weight of its own."""

    def build(self, shape):
        self.token = self.add_weight(name="token", shape=(1, shape[-1]))
        self.dense = keras.layers.Dense(3)
        self.dense.build(shape)
        super().build(shape)

    def call(self, x):
        return self.dense(x + self.token)


def test_a_weight_beside_masked_parts_has_a_row_of_its_own():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, WithToken(name="with")(inputs))
    whole = tfticket.summary_rows(model)
    tfticket.prune(model, in_place=True)
    rows = {row.name: row for row in tfticket.summary_rows(model)}
    assert set(rows) == {"with/dense/kernel", "with/token"}
    assert rows["with/token"].why_dense
    assert rows["with/token"].parameters == 4
    assert total(list(rows.values())).parameters == total(whole).parameters == 19
