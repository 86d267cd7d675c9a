"""Wrapping and stripping: nothing shared, nothing lost, nothing left behind."""

import subprocess
import sys
import textwrap
import warnings

import keras
import numpy as np
import pytest
from fixtures.backends import array
from keras import layers

import tfticket
from tfticket.keras_models.names import named_weights
from tfticket.pruning.masks import get_pruned_weights


def branching():
    """Two inputs, a shared layer, a nested model, two outputs, convolutions."""
    image = keras.Input((8, 8, 2), name="image")
    vector = keras.Input((5,), name="vector")
    nested = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.Conv2D(3, 3, name="conv"), layers.Flatten()],
        name="nested",
    )
    shared = layers.Dense(4, activation="relu", name="shared")
    x = layers.SeparableConv2D(4, 3, padding="same", name="separable")(image)
    x = layers.Dense(5, name="to_vector")(nested(x))
    joined = layers.Add(name="add")([shared(x), shared(vector)])
    a = layers.Dense(2, name="a")(joined)
    b = layers.Dense(1, name="b")(layers.Dropout(0.5)(joined))
    return keras.Model({"image": image, "vector": vector}, {"a": a, "b": b})


def inputs_of(model, n=4):
    random = np.random.default_rng(0)
    arrays = {
        t.name: random.standard_normal((n, *t.shape[1:])).astype("float32")
        for t in model.inputs
    }
    return arrays if len(arrays) > 1 else next(iter(arrays.values()))


def assert_same_outputs(model, other):
    x = inputs_of(model)
    for got, want in zip(
        keras.tree.flatten(other.predict(x, verbose=0)),
        keras.tree.flatten(model.predict(x, verbose=0)),
        strict=True,
    ):
        np.testing.assert_array_equal(got, want)


def half(model):
    random = np.random.default_rng(2)
    return {
        k: random.random(m.shape) < 0.5 for k, m in tfticket.get_masks(model).items()
    }


@pytest.mark.parametrize("make", [branching, None], ids=["functional", "sequential"])
def test_wrapping_carries_weights_over_and_leaves_the_original(make, mlp):
    model = make() if make else mlp
    before = [np.array(w) for w in model.get_weights()]
    wrapped = tfticket.prune(model)
    assert_same_outputs(model, wrapped)
    assert type(wrapped) is type(model)
    assert [x.name for x in wrapped.layers] == [x.name for x in model.layers]

    tfticket.set_masks(wrapped, half(wrapped))
    for variable in wrapped.variables:
        variable.assign(np.zeros(variable.shape))
    for weight, value in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(weight, value)
    assert not {id(v) for v in wrapped.variables} & {id(v) for v in model.variables}


def test_what_is_wrapped():
    wrapped = tfticket.prune(branching())
    assert {name: mask.shape for name, mask in tfticket.get_masks(wrapped).items()} == {
        "separable/pointwise_kernel": (1, 1, 2, 4),
        "nested/conv/kernel": (3, 3, 4, 3),
        "to_vector/kernel": (108, 5),
        "shared/kernel": (5, 4),
        "a/kernel": (4, 2),
        "b/kernel": (4, 1),
    }


def test_masks_are_one_byte_a_weight_and_not_trainable(mlp):
    wrapped = tfticket.prune(mlp)
    assert len(wrapped.trainable_variables) == len(mlp.trainable_variables)
    masks = wrapped.get_layer("hidden").masks
    assert [np.array(m).dtype for m in masks] == [np.dtype(bool)]


def test_set_masks_zeroes_and_get_masks_gives_back(mlp):
    wrapped = tfticket.prune(mlp)
    masks = half(wrapped)
    tfticket.set_masks(wrapped, masks)
    for name, mask in tfticket.get_masks(wrapped).items():
        np.testing.assert_array_equal(mask, masks[name])
        assert np.all(get_pruned_weights(wrapped)[name][~mask] == 0)


@pytest.mark.parametrize("make", [branching, None], ids=["functional", "sequential"])
def test_keras_file_restores_masks_without_custom_objects(make, mlp, tmp_path):
    wrapped = tfticket.prune(make() if make else mlp)
    tfticket.set_masks(wrapped, half(wrapped))
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_same_outputs(wrapped, loaded)
    for name, mask in tfticket.get_masks(loaded).items():
        np.testing.assert_array_equal(mask, tfticket.get_masks(wrapped)[name])


def test_loaded_model_goes_on_masking(mlp, data, tmp_path):
    wrapped = tfticket.prune(mlp)
    tfticket.set_masks(wrapped, half(wrapped))
    wrapped.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    wrapped.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    loaded.fit(*data, verbose=0)
    for name, mask in tfticket.get_masks(loaded).items():
        weight = get_pruned_weights(loaded)[name]
        assert np.all(weight[~mask] == 0)
        assert np.any(weight != get_pruned_weights(wrapped)[name])


def test_weights_file_restores_masks(tmp_path):
    model = branching()
    wrapped = tfticket.prune(model)
    tfticket.set_masks(wrapped, half(wrapped))
    wrapped.save_weights(tmp_path / "model.weights.h5")
    other = tfticket.prune(branching())
    other.load_weights(tmp_path / "model.weights.h5")
    assert_same_outputs(wrapped, other)
    for name, mask in tfticket.get_masks(other).items():
        np.testing.assert_array_equal(mask, tfticket.get_masks(wrapped)[name])


@pytest.mark.parametrize("make", [branching, None], ids=["functional", "sequential"])
def test_strip_is_plain_and_remasks(make, mlp):
    wrapped = tfticket.prune(make() if make else mlp)
    masks = half(wrapped)
    tfticket.set_masks(wrapped, masks)
    plain = tfticket.strip(wrapped)
    assert_same_outputs(wrapped, plain)

    for variable in named_weights(wrapped).values():
        variable.assign(np.ones(variable.shape))
    plain = tfticket.strip(wrapped)
    weights = named_weights(plain)
    assert "tfticket" not in plain.to_json()
    for name, mask in masks.items():
        np.testing.assert_array_equal(np.array(weights[name]), mask.astype("float32"))
    # The model that trains on is not what strip works on.
    assert all(np.all(w == 1) for w in get_pruned_weights(wrapped).values())


def test_stripped_model_lives_where_tfticket_is_not_installed(tmp_path):
    wrapped = tfticket.prune(branching())
    tfticket.set_masks(wrapped, half(wrapped))
    plain = tfticket.strip(wrapped)
    plain.save(tmp_path / "plain.keras")
    x = inputs_of(plain)
    np.savez(tmp_path / "x.npz", **x)
    np.savez(tmp_path / "y.npz", **plain.predict(x, verbose=0))
    code = f"""
        import sys
        sys.modules["tfticket"] = None
        import keras, numpy as np
        model = keras.models.load_model(r"{tmp_path}/plain.keras")
        x, y = (dict(np.load(rf"{tmp_path}/{{n}}.npz")) for n in "xy")
        for name, value in model.predict(x, verbose=0).items():
            np.testing.assert_allclose(value, y[name], rtol=1e-5, atol=1e-6)
        clone = keras.models.clone_model(model)
        clone.set_weights(model.get_weights())
        clone.save(r"{tmp_path}/again.keras")
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


def test_losses_by_output_name_and_training_of_many_outputs():
    model = branching()
    wrapped = tfticket.prune(model)
    wrapped.compile("adam", {"a": "mse", "b": "mae"})
    x = inputs_of(model)
    y = {"a": np.ones((4, 2)), "b": np.ones((4, 1))}
    history = wrapped.fit(x, y, verbose=0)
    assert {"a_loss", "b_loss"} <= set(history.history)


def test_excluded_layers_stay_dense():
    wrapped = tfticket.prune(branching(), exclude=["a", "nested/conv"])
    names = set(tfticket.get_masks(wrapped))
    assert not names & {"a/kernel", "nested/conv/kernel"}
    assert "b/kernel" in names


def test_single_layers():
    dense = layers.Dense(3)
    wrapped = tfticket.prune(dense)
    assert not dense.built
    assert wrapped(np.ones((2, 4))).shape == (2, 3)

    dense.build((None, 4))
    wrapped = tfticket.prune(dense)
    x = np.random.default_rng(0).standard_normal((2, 4)).astype("float32")
    np.testing.assert_array_equal(array(wrapped(x)), array(dense(x)))
    assert wrapped.layer is not dense
    plain = tfticket.strip(wrapped)
    np.testing.assert_array_equal(array(plain.kernel), array(dense.kernel))


@keras.saving.register_keras_serializable(package="tests")
class Stateful(layers.Layer):
    """A layer of a user's own: a kernel, a counter, noise, and a loss."""

    def build(self, input_shape):
        self.matrix = self.add_weight(shape=(input_shape[-1], 3), name="matrix")
        self.calls = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="calls"
        )
        self.noise = layers.GaussianNoise(0.1, seed=1)

    def call(self, x, training=False):
        self.calls.assign_add(1.0)
        self.add_loss(keras.ops.sum(self.matrix**2))
        return self.noise(x @ self.matrix, training=training)

    def get_prunable_weights(self):
        return [self.matrix]


def test_what_a_wrapped_layer_updates_and_adds_is_carried_out(data):
    model = keras.Sequential([keras.Input((6,)), Stateful(name="mine")])
    wrapped = tfticket.prune(model)
    layer = wrapped.get_layer("mine")
    assert list(tfticket.get_masks(wrapped)) == ["mine/matrix"]
    start = float(layer.layer.calls)
    wrapped(data[0])
    assert float(layer.layer.calls) == start + 1
    assert np.isclose(
        float(sum(wrapped.losses)), np.square(array(layer.layer.matrix)).sum()
    )
    first, second = (array(wrapped(data[0], training=True)) for _ in range(2))
    assert np.any(first != second), "the state of the seed was lost"

    wrapped.compile("sgd", "mse")
    calls = float(layer.layer.calls)
    logs = wrapped.fit(
        data[0], np.zeros((48, 3)), batch_size=16, epochs=2, verbose=0
    ).history
    assert float(layer.layer.calls) == calls + 6
    assert logs["loss"][0] > 0.1  # the added loss is part of it


def test_regularizers_count_as_in_the_plain_model(data):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(4, kernel_regularizer="l2", activity_regularizer="l1"),
        ]
    )
    wrapped = tfticket.prune(model)
    for m in (model, wrapped):
        m.compile("sgd", "mse")
    y = np.zeros((48, 4))
    assert wrapped.evaluate(data[0], y, verbose=0) == pytest.approx(
        model.evaluate(data[0], y, verbose=0), rel=1e-6
    )
    np.testing.assert_allclose(
        wrapped.fit(data[0], y, shuffle=False, verbose=0).history["loss"],
        model.fit(data[0], y, shuffle=False, verbose=0).history["loss"],
        rtol=1e-5,
    )


def test_unmasked_training_is_the_plain_models_training(mlp, data):
    """All-True masks change nothing: same weights after the same steps."""
    wrapped = tfticket.prune(mlp)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for model in (mlp, wrapped):
        model.compile(keras.optimizers.Adam(0.01), loss)
        model.fit(*data, batch_size=8, epochs=3, shuffle=False, verbose=0)
    theirs = named_weights(mlp)
    for name, weight in named_weights(wrapped).items():
        np.testing.assert_allclose(
            np.array(weight), np.array(theirs[name]), rtol=2e-4, atol=1e-6
        )


def test_copies_are_not_compiled_whatever_the_loss(mlp, data):
    def my_loss(y_true, y_pred):  # not registered: its name is all a config could hold
        return keras.ops.mean(keras.ops.square(y_pred), axis=-1)

    mlp.compile("adam", my_loss)
    wrapped = tfticket.prune(mlp)
    assert mlp.compiled
    assert not wrapped.compiled
    wrapped.compile("adam", my_loss)
    imp = tfticket.IterativeMagnitudePruning(rounds=1, rate=0.5)
    wrapped.fit(*data, epochs=2, verbose=0, callbacks=[imp])
    assert not tfticket.strip(wrapped).compiled
    assert wrapped.compiled


def test_adapted_layers_keep_what_they_learned():
    numbers, words = keras.Input((3,)), keras.Input((1,), dtype="int64")
    norm, lookup = layers.Normalization(), layers.IntegerLookup(output_mode="one_hot")
    x = np.random.default_rng(0).normal(3, 5, (20, 3)).astype("float32")
    w = np.arange(20)[:, None] % 4
    norm.adapt(x)
    lookup.adapt(w)
    joined = layers.Concatenate()([norm(numbers), lookup(words)])
    model = keras.Model([numbers, words], layers.Dense(2)(joined))
    want = model.predict([x, w], verbose=0)
    wrapped = tfticket.prune(model)
    for copy in (wrapped, tfticket.strip(wrapped)):
        np.testing.assert_array_equal(copy.predict([x, w], verbose=0), want)


def test_a_class_of_its_own_is_refused():
    class WithTrainStep(keras.Model):
        def train_step(self, data):
            raise NotImplementedError

    class Stack(keras.Sequential):
        pass

    x = keras.Input((4,))
    for model in (
        WithTrainStep(x, layers.Dense(2)(x)),
        Stack([keras.Input((4,)), layers.Dense(2)]),
        keras.Sequential([x, Stack([keras.Input((4,)), layers.Dense(2)])]),
    ):
        with pytest.raises(TypeError, match="a custom class"):
            tfticket.prune(model)


def test_what_is_frozen_stays_frozen():
    model = keras.Sequential(
        [
            keras.Input((4,)),
            layers.Dense(3, name="a", trainable=False),
            layers.Dense(3, name="b"),
            layers.Dense(2, name="c"),
        ]
    )
    model.get_layer("b").kernel.trainable = False
    wrapped = tfticket.prune(model)
    assert [layer.trainable for layer in wrapped.layers] == [False, True, True]
    for copy in (wrapped, tfticket.strip(wrapped)):
        paths = [v.path.split("/")[-2:] for v in copy.trainable_variables]
        assert paths == [["b", "bias"], ["c", "kernel"], ["c", "bias"]]


def test_a_layer_inside_and_outside_of_a_nested_model_counts_once():
    dense = layers.Dense(4, name="dense")
    inner = keras.Sequential([keras.Input((4,)), dense], name="inner")
    x = keras.Input((4,))
    wrapped = tfticket.prune(
        keras.Model(x, layers.Dense(2, name="out")(dense(inner(x))))
    )
    masks = tfticket.get_masks(wrapped)
    assert sorted(mask.size for mask in masks.values()) == [8, 16]


@keras.saving.register_keras_serializable(package="tests")
class TwoKernels(layers.Layer):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.a, self.b = layers.Dense(4), layers.Dense(4)

    def build(self, shape):
        self.a.build(shape)
        self.b.build(shape)

    def call(self, x):
        return self.a(x) + self.b(x)

    def get_prunable_weights(self):
        return [self.a.kernel, self.b.kernel]


def test_two_weights_of_one_name_have_a_mask_each(data):
    model = keras.Sequential([keras.Input((6,)), TwoKernels(), layers.Dense(3)])
    wrapped = tfticket.prune(model)
    wrapped.compile("adam", keras.losses.SparseCategoricalCrossentropy(True))
    imp = tfticket.IterativeMagnitudePruning(rounds=1, rate=0.5)
    wrapped.fit(*data, epochs=2, verbose=0, callbacks=[imp])
    masks = tfticket.get_masks(wrapped)
    assert [mask.sum() for mask in masks.values()] == [12, 12, 9]
    assert imp.records[1].parameters == 33
    again = imp.ticket.apply(model)
    for name, mask in tfticket.get_masks(again).items():
        np.testing.assert_array_equal(mask, masks[name])
        np.testing.assert_array_equal(
            get_pruned_weights(again)[name], imp.ticket.weights[name]
        )


def told(model, data, **kwargs):
    """How often a fit says that nothing prunes the model."""
    x, y = data
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model.fit(x, y, verbose=0, **kwargs)
    return sum("nothing prunes it" in str(x.message) for x in caught)


def compiled(model):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


@pytest.mark.parametrize("steps", [{"batch_size": 12}, {"batch_size": 48}])
@pytest.mark.parametrize("in_place", [False, True])
def test_a_fit_that_nothing_prunes_says_so_once(mlp, data, steps, in_place):
    model = compiled(tfticket.prune(mlp, in_place=in_place))
    assert [told(model, data, **steps), told(model, data, **steps)] == [1, 0]


def sparsify_at_once(model):
    tfticket.sparsify(model, 0.5)


def set_the_same(model):
    tfticket.set_masks(model, tfticket.get_masks(model))


def apply_a_dense_ticket(model):
    tfticket.Ticket.from_model(model).apply(model)


@pytest.mark.parametrize(
    "before", [sparsify_at_once, set_the_same, apply_a_dense_ticket]
)
def test_a_fit_after_masks_were_set_is_no_mistake(mlp, data, before):
    model = compiled(tfticket.prune(mlp))
    before(model)
    assert told(model, data) == 0


def test_a_loaded_models_masks_are_seen(mlp, data, tmp_path):
    compiled(tfticket.prune(mlp, sparsity=0.5)).save(tmp_path / "m.keras")
    assert told(keras.models.load_model(tmp_path / "m.keras"), data) == 0


class PrunesLater(keras.callbacks.Callback):
    def on_train_batch_begin(self, batch, logs=None):
        if batch == 1:
            tfticket.sparsify(self.model, 0.5)


@pytest.mark.parametrize(
    "callback",
    [
        tfticket.GradualPruning(tfticket.schedules.ConstantSparsity(0.5, 100)),
        tfticket.IterativeMagnitudePruning(1),
        tfticket.DynamicSparseTraining(0.5, method="set"),
        PrunesLater(),
    ],
    ids=lambda x: type(x).__name__,
)
def test_a_callback_that_prunes_is_known(mlp, data, callback):
    model = compiled(tfticket.prune(mlp))
    assert told(model, data, batch_size=12, epochs=2, callbacks=[callback]) == 0


def test_only_training_is_looked_at(mlp, data):
    model = compiled(tfticket.prune(mlp))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        model.evaluate(*data, verbose=0)
        model(data[0], training=True)


def test_prune_at_once_is_wrap_and_sparsify(mlp, data):
    for target in (
        {"sparsity": 0.5, "scope": "global"},
        {"flops": 0.5},
        {"sparsity": 0.5, "structure": tfticket.structures.Block((2, 1))},
    ):
        structure = target.pop("structure", None)
        at_once = tfticket.prune(mlp, structure=structure, **target)
        if "flops" in target:
            structure = tfticket.structures.Channel()
        want = tfticket.prune(mlp, structure=structure)
        tfticket.sparsify(want, **target)
        found = tfticket.get_masks(at_once)
        assert not all(mask.all() for mask in found.values())
        for name, mask in tfticket.get_masks(want).items():
            np.testing.assert_array_equal(found[name], mask)
    assert not tfticket.get_masks(mlp)
    with pytest.raises(ValueError, match="pass loss="):
        tfticket.prune(mlp, sparsity=0.5, criterion="snip", data=data)
    compiled(mlp)  # whose loss the copy is then scored by
    tfticket.prune(mlp, sparsity=0.5, criterion="snip", data=data)


@pytest.mark.parametrize(
    ("args", "kwargs", "match"),
    [
        ([0.5], {}, r"pass the sparsity by name: prune\(model, sparsity=0.5\)"),
        ([], {"criterion": "lamp"}, "criterion says how to prune at once"),
        ([], {"data": np.ones(3)}, "data says how to prune at once"),
        ([], {"sparsity": 1.5}, "sparsity must be"),
        ([], {"sparsity": 0.5, "flops": 0.5}, "exactly one of sparsity"),
        (
            [],
            {"sparsity": 0.5, "schedule": tfticket.schedules.ConstantSparsity(0.5, 0)},
            "Pass one of them",
        ),
        ([], {"sparsity": 0.999, "in_place": True}, "without a single weight"),
    ],
)
def test_what_prune_at_once_refuses(mlp, args, kwargs, match):
    before = dict(vars(mlp.get_layer("hidden")))
    with pytest.raises((TypeError, ValueError), match=match):
        tfticket.prune(mlp, *args, **kwargs)
    assert not tfticket.get_masks(mlp)
    assert vars(mlp.get_layer("hidden")).keys() == before.keys()


def test_a_layer_has_no_target():
    with pytest.raises(TypeError, match="this is a layer"):
        tfticket.prune(layers.Dense(2), sparsity=0.5)
