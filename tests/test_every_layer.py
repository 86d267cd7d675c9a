"""Every kind of layer: wrapped, trained, saved, stripped, with its zeros."""

import keras
import numpy as np
import pytest
from fixtures.backends import needs_float64
from keras import layers

import tfticket
from tfticket.keras_models.names import named_weights
from tfticket.pruning.masks import get_pruned_weights

pytestmark = pytest.mark.usefixtures("quick_collection")


def tokens():
    return keras.Input((6,), dtype="int32"), np.random.default_rng(0).integers(
        0, 9, (4, 6)
    )


def sequence(*shape):
    shape = shape or (5, 8)
    x = np.random.default_rng(0).standard_normal((3, *shape))
    return keras.Input(shape), x.astype("float32")


@keras.saving.register_keras_serializable(package="tests")
class Twice(layers.Layer):
    """A layer of layers, one of them used twice, in a list and a dict."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.blocks = [layers.Dense(8), layers.Dense(8)]
        self.heads = {"main": layers.Dense(3)}

    def build(self, shape):
        self.scale = self.add_weight(shape=(shape[-1],), name="scale")
        for block in self.blocks:
            block.build(shape)
        self.heads["main"].build(shape)

    def call(self, x):
        x = self.blocks[0](self.blocks[1](self.blocks[0](x * self.scale)))
        return self.heads["main"](x)


MHA, GQA = layers.MultiHeadAttention, layers.GroupQueryAttention
CASES = {
    "dense": (sequence, lambda x: layers.Dense(3)(x), ["kernel"]),
    "einsum": (
        sequence,
        lambda x: layers.EinsumDense("abc,cde->abde", (None, 2, 3))(x),
        ["kernel"],
    ),
    "attention": (
        sequence,
        lambda x: MHA(2, 4, dropout=0.1)(x, value=x, use_causal_mask=True),
        [f"{part}_dense/kernel" for part in ("query", "key", "value", "output")],
    ),
    "grouped": (
        sequence,
        lambda x: GQA(4, 4, 2)(x, x),
        [f"{part}_dense/kernel" for part in ("query", "key", "value", "output")],
    ),
    "masked lstm": (
        tokens,
        lambda x: layers.LSTM(3, dropout=0.2)(
            layers.Embedding(10, 4, mask_zero=True)(x)
        ),
        ["cell/kernel", "cell/recurrent_kernel"],
    ),
    "gru": (
        sequence,
        lambda x: layers.GRU(3, return_sequences=True)(layers.Masking()(x)),
        ["cell/kernel", "cell/recurrent_kernel"],
    ),
    "cells": (
        sequence,
        lambda x: layers.RNN([layers.LSTMCell(3), layers.SimpleRNNCell(2)])(x),
        [f"cell/cells/{i}/{k}kernel" for i in (0, 1) for k in ("", "recurrent_")],
    ),
    "bidirectional": (
        sequence,
        lambda x: layers.Bidirectional(layers.SimpleRNN(3))(x),
        [
            f"{way}_layer/cell/{k}kernel"
            for way in ("forward", "backward")
            for k in ("", "recurrent_")
        ],
    ),
    "time distributed": (
        sequence,
        lambda x: layers.TimeDistributed(layers.Dense(3))(x),
        ["layer/kernel"],
    ),
    "conv lstm": (
        lambda: sequence(4, 6, 6, 2),
        lambda x: layers.ConvLSTM2D(3, 3)(x),
        ["cell/kernel", "cell/recurrent_kernel"],
    ),
    "conv1d": (sequence, lambda x: layers.Conv1D(3, 3)(x), ["kernel"]),
    "conv1d transpose": (
        sequence,
        lambda x: layers.Conv1DTranspose(3, 3)(x),
        ["kernel"],
    ),
    "depthwise1d": (sequence, lambda x: layers.DepthwiseConv1D(3)(x), ["kernel"]),
    "separable1d": (
        sequence,
        lambda x: layers.SeparableConv1D(3, 3)(x),
        ["pointwise_kernel"],
    ),
    "conv2d": (lambda: sequence(8, 8, 2), lambda x: layers.Conv2D(3, 3)(x), ["kernel"]),
    "conv2d transpose": (
        lambda: sequence(8, 8, 2),
        lambda x: layers.Conv2DTranspose(3, 3)(x),
        ["kernel"],
    ),
    "depthwise2d": (
        lambda: sequence(8, 8, 2),
        lambda x: layers.DepthwiseConv2D(3)(x),
        ["kernel"],
    ),
    "conv3d": (
        lambda: sequence(4, 6, 6, 2),
        lambda x: layers.Conv3D(3, 3)(x),
        ["kernel"],
    ),
    "layer of layers": (
        sequence,
        lambda x: Twice()(x),
        ["blocks/0/kernel", "blocks/1/kernel", "heads/main/kernel"],
    ),
    "operations between": (
        sequence,
        lambda x: keras.ops.add(layers.Dense(8)(x), x) * 2,
        ["kernel"],
    ),
}


def half(model, seed=0):
    random = np.random.default_rng(seed)
    return {
        k: random.random(m.shape) < 0.5 for k, m in tfticket.get_masks(model).items()
    }


def values(model, x):
    return keras.ops.convert_to_numpy(model(x))


def assert_zeros(model, masks):
    for name, weight in get_pruned_weights(model).items():
        assert not weight[~masks[name]].any(), name
        assert weight[masks[name]].all(), name


@pytest.mark.parametrize("case", CASES)
def test_wrapped_trained_saved_stripped(case, tmp_path):
    make, build, expected = CASES[case]
    inputs, x = make()
    model = keras.Model(inputs, build(inputs))
    wrapped = tfticket.prune(model)
    names = [name.partition("/")[2] for name in tfticket.get_masks(wrapped)]
    assert names == expected
    np.testing.assert_array_equal(values(model, x), values(wrapped, x))

    masks = half(wrapped)
    tfticket.set_masks(wrapped, masks)
    wrapped.compile(keras.optimizers.Adam(0.1), "mse", run_eagerly=True)
    y = np.ones_like(values(model, x))
    before = get_pruned_weights(wrapped)
    wrapped.train_on_batch(x, y)
    wrapped.train_on_batch(x, y)
    assert_zeros(wrapped, masks)
    after = get_pruned_weights(wrapped)
    assert all(np.any(before[name] != after[name]) for name in before)

    plain = tfticket.strip(wrapped)
    assert "tfticket" not in plain.to_json()
    np.testing.assert_allclose(values(plain, x), values(wrapped, x), atol=1e-6)
    assert set(named_weights(plain)) == set(named_weights(wrapped))
    assert set(named_weights(plain)) == set(named_weights(model))

    wrapped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(values(loaded, x), values(wrapped, x), atol=1e-6)
    for name, mask in tfticket.get_masks(loaded).items():
        np.testing.assert_array_equal(mask, masks[name])

    ticket = tfticket.Ticket.from_model(wrapped)
    again = ticket.apply(keras.models.clone_model(model))
    np.testing.assert_allclose(values(again, x), values(wrapped, x), atol=1e-6)


def test_masks_pass_through_wrappers():
    """What comes after an Embedding that masks zeros sees the mask."""
    inputs, x = tokens()
    x[:, 3:] = 0
    hidden = layers.Embedding(10, 4, mask_zero=True, name="table")(inputs)
    outputs = layers.LSTM(3)(layers.TimeDistributed(layers.Dense(4))(hidden))
    model = keras.Model(inputs, outputs)
    wrapped = tfticket.prune(model, include=["table"])
    assert "table/embeddings" in tfticket.get_masks(wrapped)
    np.testing.assert_array_equal(values(wrapped, x), values(model, x))
    changed = x.copy()
    changed[:, 3:] = 0
    changed[0, 2] = 0
    assert np.any(values(wrapped, changed)[0] != values(wrapped, x)[0])


def test_an_embedding_is_pruned_only_where_asked():
    inputs, _ = tokens()
    table = layers.Embedding(10, 4, name="table")(inputs)
    model = keras.Model(inputs, layers.Dense(3, name="out")(table))
    assert list(tfticket.get_masks(tfticket.prune(model))) == ["out/kernel"]
    both = tfticket.prune(model, include=[layers.Embedding])
    assert list(tfticket.get_masks(both)) == ["table/embeddings", "out/kernel"]
    with pytest.raises(ValueError, match=r"include.*nowhere"):
        tfticket.prune(model, include=["nowhere"])


def test_a_stateful_layer_keeps_its_state():
    inputs = keras.Input(batch_shape=(2, 5, 3))
    model = keras.Model(inputs, layers.LSTM(4, stateful=True)(inputs))
    wrapped = tfticket.prune(model)
    x = np.ones((2, 5, 3), "float32")
    for _ in range(3):
        np.testing.assert_array_equal(values(wrapped, x), values(model, x))
    assert np.any(values(wrapped, x) != values(wrapped, x))


@keras.saving.register_keras_serializable(package="tests")
class Unnamed(layers.Layer):
    """Its weights have no names, so Keras numbers them through the process."""

    def build(self, shape):
        self.w = self.add_weight(shape=(shape[-1], 3))
        self.rest = [self.add_weight(shape=(3,))]

    def call(self, x):
        return x @ self.w + self.rest[0]

    def get_prunable_weights(self):
        return [self.w]


def test_weights_without_a_name(tmp_path):
    inputs, x = sequence()
    model = keras.Model(inputs, Unnamed(name="mine")(inputs))
    wrapped = tfticket.prune(model)
    assert list(tfticket.get_masks(wrapped)) == ["mine/w"]
    tfticket.set_masks(wrapped, half(wrapped))
    plain = tfticket.strip(wrapped)
    np.testing.assert_array_equal(values(plain, x), values(wrapped, x))
    again = tfticket.Ticket.from_model(wrapped).apply(model)
    np.testing.assert_array_equal(values(again, x), values(wrapped, x))


def test_a_wrapped_layer_is_not_quantized(mlp, data):
    wrapped = tfticket.prune(mlp)
    wrapped.quantize("int8")
    with pytest.raises(ValueError, match=r"quantized.*strip"):
        wrapped.predict(data[0], verbose=0)


def test_lora_is_masked_with_its_kernel():
    x = np.random.default_rng(0).standard_normal((8, 6)).astype("float32")
    dense = layers.Dense(5, name="adapted")
    inputs = keras.Input((6,))
    model = keras.Model(inputs, layers.Dense(2)(dense(inputs)))
    dense.enable_lora(2)
    dense.lora_kernel_b.assign(keras.random.normal((2, 5)))
    wrapped = tfticket.prune(model)
    np.testing.assert_array_equal(values(model, x), values(wrapped, x))
    masks = half(wrapped)
    tfticket.set_masks(wrapped, masks)
    for jit in (False, True):
        wrapped.compile(keras.optimizers.Adam(0.1), "mse", jit_compile=jit)
        wrapped.fit(x, np.ones((8, 2)), verbose=0)
    assert_zeros(wrapped, masks)
    plain = tfticket.strip(wrapped)
    assert "lora" not in str(named_weights(plain))
    kernel = keras.ops.convert_to_numpy(plain.get_layer("adapted").kernel)
    assert not kernel[~masks["adapted/kernel"]].any()
    assert plain.get_layer("adapted").kernel.trainable
    np.testing.assert_allclose(values(plain, x), values(wrapped, x), atol=1e-5)


def test_a_layer_shared_by_two_nested_models_has_one_mask():
    shared = layers.Dense(4, name="shared")
    first, second = (
        keras.Sequential([keras.Input((4,)), shared], name=name) for name in "ab"
    )
    inputs = keras.Input((4,))
    model = keras.Model(inputs, second(first(inputs)))
    wrapped = tfticket.prune(model)
    assert len(tfticket.get_masks(wrapped)) == 1
    a, b = wrapped.get_layer("a"), wrapped.get_layer("b")
    assert a.get_layer("shared") is b.get_layer("shared")
    plain = tfticket.strip(wrapped)
    assert plain.get_layer("a").get_layer("shared") is plain.get_layer("b").layers[-1]


@keras.saving.register_keras_serializable(package="tests")
class Subclassed(keras.Model):
    def __init__(self, wrap=False, **kwargs):
        super().__init__(**kwargs)
        one = tfticket.prune if wrap else lambda layer: layer
        self.wrap = wrap
        self.blocks = [one(layers.Dense(8)), layers.Dropout(0.5)]
        self.head = one(layers.Dense(3))

    def call(self, x, training=False):
        for block in self.blocks:
            x = block(x, training=training) if block is self.blocks[1] else block(x)
        return self.head(x)


def test_subclassed_model_wrapped_whole(data, tmp_path):
    x, y = data
    model = Subclassed()
    model(x)
    wrapped = tfticket.prune(model)
    np.testing.assert_array_equal(values(model, x), values(wrapped, x))
    wrapped.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    imp = tfticket.IterativeMagnitudePruning(rounds=1, rate=0.5)
    wrapped.fit(x, y, epochs=2, callbacks=[imp], verbose=0)
    kept = {name: int(m.sum()) for name, m in tfticket.get_masks(wrapped).items()}
    assert list(kept.values()) == [24, 12]  # the last layer is not known: no half rate
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(values(loaded, x), values(wrapped, x), atol=1e-6)
    plain = tfticket.strip(wrapped)
    np.testing.assert_allclose(values(plain, x), values(wrapped, x), atol=1e-6)
    assert "Prune" not in plain.to_json()
    # Names are those of the model by itself, so a ticket goes back and forth.
    other = Subclassed()
    other(x)
    again = tfticket.Ticket.from_model(wrapped).apply(other)
    np.testing.assert_array_equal(values(again, x), values(wrapped, x))


def test_subclassed_model_that_no_configuration_remakes(data):
    class Bare(keras.Model):
        def __init__(self):
            super().__init__()
            self.head = layers.Dense(3)

        def call(self, x):
            return self.head(x)

    model = Bare()
    wanted = model(data[0])
    wrapped = tfticket.prune(model)
    assert list(tfticket.get_masks(wrapped)) == ["head/kernel"]
    np.testing.assert_array_equal(wrapped(data[0]), wanted)


def test_subclassed_model_that_wraps_its_layers(data):
    x, y = data
    model = Subclassed(wrap=True)
    model(x)
    assert list(tfticket.get_masks(model)) == ["blocks/0/kernel", "head/kernel"]
    tfticket.set_masks(model, half(model))
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(x, y, verbose=0)
    assert_zeros(model, tfticket.get_masks(model))
    plain = tfticket.strip(model)
    assert not tfticket.get_masks(plain)
    assert not any(isinstance(x, tfticket.Prune) for x in plain._flatten_layers())
    np.testing.assert_allclose(values(plain, x), values(model, x), atol=1e-6)
    other = Subclassed(wrap=True)
    other(x)
    tfticket.Ticket.from_model(model).apply(other)
    np.testing.assert_array_equal(values(other, x), values(model, x))


@pytest.mark.parametrize(
    "policy",
    [
        "mixed_float16",
        "mixed_bfloat16",
        pytest.param("float64", marks=needs_float64),
    ],
)
def test_dtype_policies(policy, data):
    x, y = data
    dtype = keras.dtype_policies.get(policy)
    inputs = keras.Input((6,), dtype="float64" if policy == "float64" else "float32")
    hidden = layers.Dense(8, activation="relu", dtype=dtype)(inputs)
    outputs = layers.Dense(3, dtype=dtype)(hidden)
    wrapped = tfticket.prune(keras.Model(inputs, outputs))
    wrapped.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    tfticket.sparsify(wrapped, 0.5)
    masks = tfticket.get_masks(wrapped)
    wrapped.fit(x, y, verbose=0)
    for name, weight in get_pruned_weights(wrapped).items():
        assert weight.dtype == dtype.variable_dtype
        assert not weight[~masks[name]].any()
    plain = tfticket.strip(wrapped)
    np.testing.assert_array_equal(values(plain, x), values(wrapped, x))


def test_int8_quantization_keeps_zeros(mlp, data):
    wrapped = tfticket.prune(mlp)
    tfticket.sparsify(wrapped, 0.5)
    masks = tfticket.get_masks(wrapped)
    plain = tfticket.strip(wrapped)
    plain.quantize("int8")
    for name in ("hidden", "out"):
        kernel = keras.ops.convert_to_numpy(plain.get_layer(name)._kernel)
        assert kernel.dtype == "int8"
        assert not kernel[~masks[f"{name}/kernel"]].any()
        assert kernel.any()
    with pytest.raises(ValueError, match=r"'hidden' \(int8\).*quantize last"):
        tfticket.prune(plain)
    reasons = {row.name: row.why_dense for row in tfticket.summary_rows(plain)}
    assert "quantized" in reasons["hidden/kernel"]


APPLICATIONS = {
    "mobilenet": lambda: keras.applications.MobileNetV3Small(
        (64, 64, 3), weights=None, classes=5
    ),
    "efficientnet": lambda: keras.applications.EfficientNetV2B0(
        input_shape=(64, 64, 3), weights=None, classes=5
    ),
    "resnet": lambda: keras.applications.ResNet50(
        input_shape=(64, 64, 3), weights=None, classes=5
    ),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", APPLICATIONS)
def test_applications(name, tmp_path):
    """Pruned, trained a step, stripped and exported, each checked by the exporter."""
    model = APPLICATIONS[name]()
    wrapped = tfticket.prune(model)
    x = np.random.default_rng(0).random((2, 64, 64, 3)).astype("float32")
    np.testing.assert_array_equal(values(wrapped, x), values(model, x))
    wrapped.compile("sgd", "sparse_categorical_crossentropy", jit_compile=False)
    tfticket.sparsify(wrapped, 0.8)
    wrapped.train_on_batch(x, np.array([0, 1]))
    masks = tfticket.get_masks(wrapped)
    for key, weight in get_pruned_weights(wrapped).items():
        assert not weight[~masks[key]].any()
        assert (~masks[key]).sum() == round(masks[key].size * 0.8)
    plain = tfticket.strip(wrapped)
    np.testing.assert_allclose(values(plain, x), values(wrapped, x), atol=1e-5)
    tfticket.export.saved_model(plain, tmp_path / "saved_model")
    tfticket.export.litert(plain, tmp_path / "model.tflite")
