"""Masked weights are exactly 0.0 after every optimizer step, whatever the optimizer."""

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND, MOST_STEPS, gradients, numpy_gradients

import tfticket
from tfticket.keras_models.internals import slots_by_variable
from tfticket.pruning.masks import get_pruned_weights, masked_layers

OPTIMIZERS = {
    name: cls
    for name in dir(keras.optimizers)
    if isinstance(cls := getattr(keras.optimizers, name), type)
    and issubclass(cls, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
}


class ZeroCheck(keras.callbacks.Callback):
    """Looks at the weights after every execution of training steps."""

    checks = 0

    def on_train_batch_end(self, batch, logs=None):
        assert_zeros(self.model)
        self.checks += 1


def assert_zeros(model):
    masks = tfticket.get_masks(model)
    for name, weight in get_pruned_weights(model).items():
        assert np.all(weight[~masks[name]] == 0.0), name
        assert np.all(np.isfinite(weight)), name
        assert np.any(weight[masks[name]] != 0.0), name


def random_masks(model, density=0.3):
    random = np.random.default_rng(1)
    masks = tfticket.get_masks(model)
    return {name: random.random(mask.shape) < density for name, mask in masks.items()}


def fit_masked(model, data, optimizer, **compiled):
    """Trains a while dense, then masked, and checks after each execution."""
    wrapped = tfticket.prune(model)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wrapped.compile(optimizer, loss, **compiled)
    # Else the first step of `fit` does, and is traced twice.
    wrapped.optimizer.build(wrapped.trainable_variables)
    wrapped.fit(*data, batch_size=8, verbose=0)
    # With `use_ema` on JAX, weights and averages share memory after a `fit`, which the
    # next one refuses (Keras 3.15, with plain models too).
    wrapped.set_weights(wrapped.get_weights())
    tfticket.set_masks(wrapped, random_masks(wrapped))
    before = get_pruned_weights(wrapped)
    check = ZeroCheck()
    wrapped.fit(*data, batch_size=8, epochs=2, verbose=0, callbacks=[check])
    assert check.checks > 0
    after = get_pruned_weights(wrapped)
    assert any(np.any(after[name] != before[name]) for name in before), "not trained"
    return wrapped


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
def test_every_optimizer(name, mlp, data):
    wrapped = fit_masked(mlp, data, OPTIMIZERS[name](learning_rate=0.01))
    assert_zeros(wrapped)


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [
        *((name, False) for name in ("SGD", "AdamW", "Muon")),
        ("Adam", True),
        *(
            pytest.param(name, jit, marks=pytest.mark.slow)
            for name, jit in (("Adam", False), ("Ftrl", False), ("Lamb", False))
        ),
        *(pytest.param(name, True, marks=pytest.mark.slow) for name in ("SGD", "Muon")),
    ],
)
def test_every_option_at_once(name, jit_compile, mlp, data):
    if name not in OPTIMIZERS:
        pytest.skip(f"this Keras has no {name}")
    if BACKEND == "torch" and jit_compile:
        pytest.skip("PyTorch is not asked to compile")
    optimizer = OPTIMIZERS[name](
        learning_rate=0.01,
        weight_decay=0.01,
        global_clipnorm=0.1,
        use_ema=True,
        ema_overwrite_frequency=3,
        gradient_accumulation_steps=2,
    )
    steps = min(2, MOST_STEPS)
    fit_masked(mlp, data, optimizer, jit_compile=jit_compile, steps_per_execution=steps)


def test_momentum_of_what_is_pruned_is_gone_and_does_not_come_back(mlp, data):
    wrapped = fit_masked(mlp, data, keras.optimizers.Adam(0.01, use_ema=True))
    masks = {
        id(layer.pruned_weights[0]): keras.ops.convert_to_numpy(layer.masks[0])
        for _, layer in masked_layers(wrapped)
    }
    found = 0
    for variable, slot, rest in slots_by_variable(wrapped.optimizer):
        if id(variable) in masks:
            value = keras.ops.convert_to_numpy(slot)
            assert np.all(value[~masks[id(variable)]] == rest)
            found += 1
    assert found == 2 * 3  # kernels x (momentum, velocity, average)


def test_clipping_counts_survivors_only(mlp, data):
    """The global norm is that of the masked gradients, worked out with NumPy."""
    wrapped = tfticket.prune(mlp)
    tfticket.set_masks(wrapped, random_masks(wrapped, 0.2))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)

    def of(model):
        return numpy_gradients(
            lambda: loss(data[1], model(data[0], training=False)), model
        )

    expected = of(tfticket.strip(wrapped))
    masks = tfticket.get_masks(wrapped)
    for i, variable in enumerate(wrapped.trainable_variables):
        for name, layer in masked_layers(wrapped):
            if variable is layer.pruned_weights[0]:
                expected[i] = expected[i] * masks[f"{name}/kernel"]
    for got, want in zip(of(wrapped), expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-7)


def test_custom_training_loop(mlp, data):
    wrapped = tfticket.prune(mlp)
    tfticket.set_masks(wrapped, random_masks(wrapped))
    optimizer = keras.optimizers.Adam(0.01)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    for _ in range(5):
        found = gradients(
            lambda: loss(data[1], wrapped(data[0], training=True)), wrapped
        )
        optimizer.apply(found, wrapped.trainable_variables)
        assert_zeros(wrapped)


def test_overwritten_weights_are_masked_by_the_next_step(mlp, data):
    wrapped = fit_masked(mlp, data, keras.optimizers.SGD(0.01))
    for _, layer in masked_layers(wrapped):
        layer.pruned_weights[0].assign(np.ones(layer.pruned_weights[0].shape))
    wrapped.train_on_batch(*data)
    assert_zeros(wrapped)


@pytest.mark.parametrize(
    ("constraint", "holds"),
    [
        (keras.constraints.NonNeg(), lambda w: np.all(w >= 0)),
        (
            keras.constraints.MaxNorm(0.3),
            lambda w: np.all(np.linalg.norm(w, axis=0) < 0.3 + 1e-6),
        ),
        (
            keras.constraints.UnitNorm(),
            lambda w: np.allclose(np.linalg.norm(w, axis=0), 1, atol=1e-5),
        ),
    ],
    ids=["NonNeg", "MaxNorm", "UnitNorm"],
)
def test_a_users_constraint_still_holds(constraint, holds, data):
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(3, kernel_constraint=constraint)]
    )
    wrapped = tfticket.prune(model)
    mask = np.ones((6, 3), bool)
    mask[::2] = False
    tfticket.set_masks(wrapped, {"dense/kernel": mask})
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wrapped.compile("adam", loss)
    wrapped.fit(*data, epochs=3, verbose=0)
    assert_zeros(wrapped)
    assert holds(get_pruned_weights(wrapped)["dense/kernel"])
    # It is the layer's own again after stripping.
    plain = tfticket.strip(wrapped).layers[0]
    assert type(plain.kernel.constraint) is type(constraint)


def test_a_users_constraint_does_not_see_what_is_pruned():
    # A step leaves zeros there, which a norm would not notice; an assignment may not.
    kernel = keras.layers.Dense(1, kernel_constraint=keras.constraints.UnitNorm())
    wrapped = tfticket.prune(keras.Sequential([keras.Input((3,)), kernel]))
    mask = np.array([[True], [True], [False]])
    tfticket.set_masks(wrapped, dict.fromkeys(tfticket.get_masks(wrapped), mask))
    (constraint,) = [
        v.constraint for v in wrapped.trainable_variables if v.constraint is not None
    ]
    found = keras.ops.convert_to_numpy(constraint(np.array([[3.0], [4.0], [12.0]])))
    np.testing.assert_allclose(found, [[0.6], [0.8], [0.0]], atol=1e-6)


def test_mixed_precision(data):
    with_policy = keras.layers.Dense(8, dtype="mixed_bfloat16", name="hidden")
    model = keras.Sequential(
        [keras.Input((6,)), with_policy, keras.layers.Dense(3, dtype="mixed_bfloat16")]
    )
    wrapped = fit_masked(model, data, keras.optimizers.Adam(0.01))
    assert wrapped.layers[0].layer.kernel.dtype == "float32"
    assert keras.backend.standardize_dtype(wrapped(data[0]).dtype) == "bfloat16"


@keras.saving.register_keras_serializable(package="tests")
class TowardsOne(keras.regularizers.Regularizer):
    def __call__(self, x):
        return keras.ops.sum(keras.ops.square(x - 1))

    def get_config(self):
        return {}


def test_a_regularizer_does_not_reach_pruned_weights(data):
    """Its gradient goes past the layer, and would fill momentum and averages."""
    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(3, kernel_regularizer=TowardsOne())]
    )
    optimizer = keras.optimizers.SGD(0.01, momentum=0.9, use_ema=True)
    wrapped = fit_masked(model, data, optimizer)
    assert_zeros(wrapped)  # after fit, where the average is written over the weights
    masks = [mask for _, layer in masked_layers(wrapped) for mask in layer.masks]
    momenta = [s for v, s, _ in slots_by_variable(optimizer) if v.name == "kernel"]
    assert momenta
    for slot in momenta:
        slot = keras.ops.convert_to_numpy(slot)
        assert np.all(slot[~keras.ops.convert_to_numpy(masks[0])] == 0)
        assert np.any(slot != 0)


@pytest.mark.skipif(
    not hasattr(keras.optimizers, "MultiOptimizer"), reason="Keras has none yet"
)
def test_slots_of_several_optimizers(mlp, data):
    def choose(variable):
        return sgd if "hidden" in variable.path else adam

    sgd = keras.optimizers.SGD(0.1, momentum=0.9)
    adam = keras.optimizers.Adam(use_ema=True)
    optimizer = keras.optimizers.MultiOptimizer(choose)
    wrapped = fit_masked(mlp, data, optimizer)
    assert_zeros(wrapped)
    kernels = {v.path for v, _, _ in slots_by_variable(optimizer) if v.name == "kernel"}
    assert len(kernels) == 2
