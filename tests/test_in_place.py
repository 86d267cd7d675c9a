"""Masks on a model as it is: what stays, what is zero, what files hold."""

import keras
import numpy as np
import pytest

import tfticket
from tfticket.keras_models.masked_layer import carrier
from tfticket.pruning.masks import get_pruned_weights

pytestmark = pytest.mark.usefixtures("quick_collection")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(32, 8, 6)).astype(np.float32)
Y = RNG.integers(0, 3, 32)


class Block(keras.layers.Layer):
    """Attention and a feed-forward part, without a configuration of its own."""

    def __init__(self, odd, **kwargs):
        super().__init__(**kwargs)
        self._self_attention_layer = keras.layers.MultiHeadAttention(2, 3)
        self.norm = keras.layers.LayerNormalization()
        self.parts = {"up": keras.layers.Dense(12, activation="gelu"), "drop": odd}
        self.down = keras.layers.EinsumDense("abc,cd->abd", (None, 6), bias_axes="d")

    def call(self, x, training=None):
        x = x + self._self_attention_layer(x, x)
        hidden = self.parts["drop"](self.parts["up"](self.norm(x)), training=training)
        return x + self.down(hidden)


class Net(keras.Model):
    """A subclassed model that can't be copied by its configuration."""

    def __init__(self):
        super().__init__(name="net")
        self.blocks = [
            Block(keras.layers.Dropout(0.1, seed=1)),
            Block(lambda x, training: x),
        ]
        self.memory = keras.layers.Bidirectional(keras.layers.LSTM(4))
        self.head = keras.layers.Dense(3, name="head")

    def call(self, x, training=None):
        for block in self.blocks:
            x = block(x, training=training)
        return self.head(self.memory(x))

    def answer(self, x):
        """A method of the user's own."""
        return np.argmax(self.predict(x, verbose=0), -1)


def net():
    keras.utils.set_random_seed(0)
    model = Net()
    model(X)
    return model


def compiled(model, optimizer="adam"):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    # On TensorFlow a graph is enough for these few steps; JAX has no other way.
    xla = keras.backend.backend() == "jax"
    model.compile(optimizer, loss, jit_compile=xla)
    return model


def assert_zeros(model):
    for name, mask in tfticket.get_masks(model).items():
        value = get_pruned_weights(model)[name]
        assert np.all(value[~mask] == 0), name


def assert_sparse(model, sparsity):
    masks = tfticket.get_masks(model)
    found = 1 - sum(m.sum() for m in masks.values()) / sum(
        m.size for m in masks.values()
    )
    assert abs(found - sparsity) < 0.02, found


NAMES = [
    *(
        f"blocks/{i}/{name}/kernel"
        for i in (0, 1)
        for name in (
            "self_attention_layer/query_dense",
            "self_attention_layer/key_dense",
            "self_attention_layer/value_dense",
            "self_attention_layer/output_dense",
            "parts/up",
            "down",
        )
    ),
    *(
        f"memory/{way}_layer/cell/{kernel}"
        for way in ("forward", "backward")
        for kernel in ("kernel", "recurrent_kernel")
    ),
    "head/kernel",
]


def test_the_model_is_what_it_was():
    model = compiled(net())
    before = {id(v) for v in model.weights}
    optimizer, outputs = model.optimizer, model.predict(X, verbose=0)
    assert tfticket.prune(model, in_place=True) is model
    assert type(model) is Net
    assert {id(v) for v in model.weights} == before
    assert model.optimizer is optimizer
    assert sorted(tfticket.get_masks(model)) == sorted(NAMES)
    np.testing.assert_array_equal(model.predict(X, verbose=0), outputs)
    assert model.answer(X).shape == (32,)


@pytest.mark.parametrize(
    "optimizer",
    ["adam", *(pytest.param(x, marks=pytest.mark.slow) for x in ("sgd", "muon"))],
)
def test_zero_after_every_step(optimizer):
    class Zero(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            assert_zeros(self.model)

    rule = (
        keras.optimizers.Muon(0.01, weight_decay=0.1)
        if optimizer == "muon"
        else keras.optimizers.get(
            {"class_name": optimizer, "config": {"weight_decay": 0.01}}
        )
    )
    model = tfticket.prune(compiled(net(), rule), in_place=True)
    tfticket.sparsify(model, 0.7)
    before = get_pruned_weights(model)
    model.fit(X, Y, epochs=2, batch_size=8, verbose=0, callbacks=[Zero()])
    after = get_pruned_weights(model)
    assert all(np.any(before[name] != after[name]) for name in before)
    assert_sparse(model, 0.7)


def test_it_trains_as_the_wrapped_copy_does():
    def graph():
        keras.utils.set_random_seed(3)
        inputs = keras.Input((8, 6))
        x = keras.layers.Conv1D(
            5, 3, activation="relu", kernel_regularizer="l2", name="conv"
        )(inputs)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.GRU(4, name="gru")(x)
        return keras.Model(inputs, keras.layers.Dense(3, name="head")(x))

    made = []
    for in_place in (False, True):
        model = compiled(tfticket.prune(graph(), in_place=in_place), "adam")
        schedule = tfticket.schedules.PolynomialDecay(0.0, 0.8, 0, 6, frequency=2)
        pruning = tfticket.GradualPruning(schedule)
        model.fit(
            X, Y, epochs=3, batch_size=8, shuffle=False, verbose=0, callbacks=[pruning]
        )
        made.append((tfticket.get_masks(model), get_pruned_weights(model)))
    assert list(made[0][0]) == list(made[1][0])
    for name in made[0][0]:
        np.testing.assert_array_equal(made[0][0][name], made[1][0][name])
        np.testing.assert_allclose(made[0][1][name], made[1][1][name], atol=1e-6)


def test_gradients_are_masked():
    # Without that, Adam's slots of what is pruned would not be zero.
    model = tfticket.prune(compiled(net()), in_place=True)
    tfticket.sparsify(model, 0.5)
    model.fit(X, Y, epochs=1, verbose=0)
    masks = tfticket.get_masks(model)
    head = next(
        v for v in model.optimizer.variables if "head_kernel_momentum" in v.path
    )
    slot = keras.ops.convert_to_numpy(head)
    assert np.any(slot)
    assert not np.any(slot[~masks["head/kernel"]])


def test_files_hold_no_masks(tmp_path):
    plain = net()
    model = tfticket.prune(net(), in_place=True)
    tfticket.sparsify(model, 0.5)
    model.save_weights(tmp_path / "a.weights.h5")
    plain.load_weights(tmp_path / "a.weights.h5")
    for one, other in zip(plain.weights, model.weights, strict=True):
        np.testing.assert_array_equal(one, other)
    # And back: what is pruned stays pruned.
    net().save_weights(tmp_path / "b.weights.h5")
    model.load_weights(tmp_path / "b.weights.h5")
    tfticket.set_masks(model, tfticket.get_masks(model))
    assert_zeros(model)


def test_a_keras_file_is_of_the_plain_class(tmp_path):
    keras.utils.set_random_seed(0)
    inputs = keras.Input((6,))
    model = keras.Model(inputs, keras.layers.Dense(4, name="d")(inputs))
    tfticket.prune(model, in_place=True)
    tfticket.sparsify(model, 0.5)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert carrier(loaded.get_layer("d")) is None
    np.testing.assert_array_equal(
        loaded.get_layer("d").kernel, model.get_layer("d").kernel
    )


def test_strip_leaves_no_trace():
    model = compiled(net())
    layers = [x for x in model._flatten_layers() if x.built]
    before = [set(vars(x)) for x in layers]
    constraints = [getattr(v, "constraint", None) for v in model.weights]
    tfticket.prune(model, in_place=True)
    tfticket.sparsify(model, 0.5)
    model.fit(X, Y, epochs=1, verbose=0)
    masks = tfticket.get_masks(model)
    values = get_pruned_weights(model)
    assert tfticket.strip(model, in_place=True) is model
    assert tfticket.get_masks(model) == {}
    assert [getattr(v, "constraint", None) for v in model.weights] == constraints
    variables = {v.path for v in model.variables}
    assert not any("mask" in path for path in variables)
    for layer, names in zip(layers, before, strict=True):
        left = (
            set(vars(layer))
            - names
            - {*("history", "_eval_epoch_iterator", "_jax_state")}
        )
        assert not left & {"call", "mask_states", "masks_on_layer"}, layer.name
        assert left <= {"_losses", "_loss_ids"}, layer.name
    head = keras.ops.convert_to_numpy(model.head.kernel)
    np.testing.assert_array_equal(head, values["head/kernel"])
    assert not np.any(head[~masks["head/kernel"]])
    # It is free again.
    model.fit(X, Y, epochs=1, verbose=0)
    assert np.any(keras.ops.convert_to_numpy(model.head.kernel)[~masks["head/kernel"]])


def test_mixed_precision():
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = compiled(net())
    finally:
        keras.config.set_dtype_policy("float32")
    tfticket.prune(model, in_place=True)
    tfticket.sparsify(model, 0.5)
    model.fit(X, Y, epochs=1, verbose=0)
    assert_zeros(model)


def test_lora():
    model = compiled(net())
    tfticket.prune(model, in_place=True)
    tfticket.sparsify(model, 0.5)
    model.head.enable_lora(2)
    compiled(model)
    model.fit(X, Y, epochs=1, verbose=0)
    assert_zeros(model)


def test_a_stripped_copy_has_lora_merged():
    model = _graph()
    tfticket.prune(model, in_place=True)
    tfticket.sparsify(model, 0.5)
    layer = model.layers[1]
    layer.enable_lora(1)
    layer.lora_kernel_b.assign(np.ones((1, 2)))
    x = np.eye(4, dtype=np.float32)
    plain = tfticket.strip(model)
    assert [weight.name for weight in plain.layers[1].weights] == ["kernel", "bias"]
    assert plain.layers[1].lora_rank is plain.layers[1].lora_alpha is None
    np.testing.assert_allclose(plain(x), model(x), atol=1e-6)


def test_what_is_chosen():
    model = net()
    tfticket.prune(model, exclude=["head", keras.layers.LSTM], in_place=True)
    assert sorted(tfticket.get_masks(model)) == sorted(
        x for x in NAMES if not x.startswith(("head", "memory"))
    )
    inputs = keras.Input((4,), dtype="int32")
    x = keras.layers.Embedding(5, 3, name="table")(inputs)
    model = keras.Model(inputs, keras.layers.Dense(2, name="d")(x))
    tfticket.prune(model, include=["table"], in_place=True)
    assert sorted(tfticket.get_masks(model)) == ["d/kernel", "table/embeddings"]


def test_a_layer():
    layer = keras.layers.Dense(3)
    layer.build((None, 4))
    assert tfticket.prune(layer, in_place=True) is layer
    assert carrier(layer) is not None
    assert tfticket.strip(layer, in_place=True) is layer
    assert carrier(layer) is None


def wrapped():
    return tfticket.prune(keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)]))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: tfticket.prune(net(), in_place=1), TypeError, "in_place=1"),
        (lambda: tfticket.prune(None, in_place=True), TypeError, "None"),
        (lambda: tfticket.prune(Net(), in_place=True), ValueError, "not built"),
        (
            lambda: tfticket.prune(wrapped(), in_place=True),
            ValueError,
            "wrapped already",
        ),
        (
            lambda: tfticket.prune(tfticket.prune(net(), in_place=True), in_place=True),
            ValueError,
            "wrapped already",
        ),
        (
            lambda: tfticket.prune(tfticket.prune(_graph(), in_place=True)),
            ValueError,
            "wrapped already",
        ),
        (
            lambda: tfticket.prune(net(), exclude=["none"], in_place=True),
            ValueError,
            "none",
        ),
        (
            lambda: tfticket.prune(
                net(), structure=tfticket.structures.Channel(), in_place=True
            ),
            ValueError,
            "leave in_place out",
        ),
        (lambda: tfticket.strip(net(), in_place=True), ValueError, "no masks that"),
        (lambda: tfticket.strip(wrapped(), in_place=True), ValueError, "a copy"),
    ],
)
def test_what_is_refused(call, error, message):
    with pytest.raises(error, match=message):
        call()


def _graph():
    inputs = keras.Input((4,))
    return keras.Model(inputs, keras.layers.Dense(2)(inputs))


def test_a_quantized_model_is_refused():
    model = _graph()
    model.quantize("int8")
    with pytest.raises(ValueError, match="quantize"):
        tfticket.prune(model, in_place=True)


def test_a_schedule_that_nothing_follows_is_refused():
    schedule = tfticket.schedules.ConstantSparsity(0.5, 0)
    model = compiled(tfticket.prune(net(), schedule=schedule, in_place=True))
    with pytest.raises(ValueError, match="nothing follows"):
        model.fit(X, Y, epochs=1, verbose=0)
    # Another one: where a step failed, JAX has taken the values with it.
    model = compiled(tfticket.prune(net(), schedule=schedule, in_place=True))
    model.fit(X, Y, epochs=1, verbose=0, callbacks=[tfticket.GradualPruning()])
    assert_sparse(model, 0.5)


def test_a_stripped_copy_is_plain():
    model = _graph()
    tfticket.prune(model, in_place=True)
    tfticket.sparsify(model, 0.5)
    model.layers[1].kernel.assign(np.ones((4, 2)))
    plain = tfticket.strip(model)
    assert plain is not model
    assert carrier(plain.layers[1]) is None
    (mask,) = tfticket.get_masks(model).values()
    np.testing.assert_array_equal(plain.layers[1].kernel, mask)
