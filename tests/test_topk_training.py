"""The largest weights of dense ones: what trains, what comes back, what is saved."""

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND
from hypothesis import given, settings
from hypothesis import strategies as st

import tfticket
from tfticket.keras_models.internals import slots_by_variable
from tfticket.keras_models.variables import State
from tfticket.pruning.masking import mask_gradient
from tfticket.pruning.masks import ModelMasks, get_pruned_weights, masked_weights
from tfticket.sparsity.structures import NM, Block, Channel

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
X = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]], "float32")
Y = np.array([[2.0, -1.0], [0.5, 4.0]], "float32")
KERNEL = np.array([[0.5, 0.05], [-0.1, 0.2], [0.3, -0.02]], "float32")
# The three and the four largest of six.
TOP_3 = np.array([[1, 0], [0, 1], [1, 0]], bool)
TOP_4 = np.array([[1, 0], [1, 1], [1, 0]], bool)


def compiled(model, optimizer="adam", loss=LOSS):
    if BACKEND == "tensorflow":  # where XLA compiles longer than these fits last
        model.compile(optimizer, loss, jit_compile=False)
    else:
        model.compile(optimizer, loss)
    model.optimizer.build(model.trainable_variables)
    return model


def one_layer(rate, keep_dense=True, **arguments):
    layer = keras.layers.Dense(2, use_bias=False, name="dense", **arguments)
    model = keras.Sequential([keras.Input((3,)), layer])
    model = tfticket.prune(model, keep_dense=keep_dense)
    compiled(model, keras.optimizers.SGD(rate), "mse")
    dense_values(model, KERNEL)
    return model


def dense_values(model, *values):
    """The values of the weights, those behind masks too; assigned if given."""
    variables = [weight.variable for weight in masked_weights(model).values()]
    for variable, value in zip(variables, values, strict=False):
        variable.assign(value)
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


def fit(model, samples, callback, epochs=1, **kwargs):
    return model.fit(
        *samples,
        **{"batch_size": 4, "epochs": epochs, "verbose": 0, "shuffle": False},
        callbacks=[callback],
        **kwargs,
    ).history


def gradient_of(kernel):
    """Of the mean squared error over both samples."""
    return 2 * X.T @ (X @ kernel - Y) / 4


@pytest.mark.parametrize("own", [None, "l2"])
def test_ste_computes_with_the_kept_and_trains_all(own):
    """w - rate * g(mask * w): the gradient is that of the sparse network."""
    model = one_layer(0.1, kernel_regularizer=own)
    fit(model, (X, Y), tfticket.TopKTraining(0.5, "ste"))
    expected = KERNEL - 0.1 * gradient_of(KERNEL * TOP_3)
    if own:  # it sees the dense weights: 0.01 w^2
        expected -= 0.1 * 2 * 0.01 * KERNEL
    np.testing.assert_allclose(dense_values(model)[0], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(
        model.predict(X, verbose=0), X @ (expected * TOP_3), rtol=1e-5
    )
    for found in (
        get_pruned_weights(model)["dense/kernel"],
        keras.ops.convert_to_numpy(tfticket.strip(model).layers[0].kernel),
    ):
        np.testing.assert_allclose(found, expected * TOP_3, rtol=1e-5)
        assert not found[~TOP_3].any()


def test_top_kast_trains_the_next_largest_too():
    """The four largest of six; 1e-2 w^2 of the kept, twice as much of the fourth."""
    model = one_layer(0.1)
    callback = tfticket.TopKTraining(
        0.5, "top_kast", backward_sparsity=1 / 3, exploration=1e-2
    )
    fit(model, (X, Y), callback)
    gradient = gradient_of(KERNEL * TOP_3)
    gradient += 2e-2 * KERNEL * np.where(TOP_3, 1, 2)
    expected = np.where(TOP_4, KERNEL - 0.1 * gradient, KERNEL)
    np.testing.assert_allclose(dense_values(model)[0], expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(dense_values(model)[0][~TOP_4], KERNEL[~TOP_4])
    # Forward and backward to the inputs 3 of 6, backward to the weights 4 of 6.
    assert callback.training_flops(2).relative == pytest.approx((3 + 3 + 4) / 18)


def test_what_gets_no_gradient_is_at_rest(mlp, data):
    model = compiled(tfticket.prune(mlp, keep_dense=True))
    fit(model, data, tfticket.TopKTraining(0.75, "top_kast", frequency=1), epochs=2)
    masks = ModelMasks.of(model)
    trained = masks.gradient_masks()
    names = {id(w.variable): name for name, w in masks.weights.items()}
    found = 0
    for variable, slot, rest in slots_by_variable(model.optimizer):
        if id(variable) in names:
            name = names[id(variable)]
            out = keras.ops.convert_to_numpy(slot)[~trained[name]]
            found += out.size
            assert (out == rest).all()
    assert found == 2 * (24 + 12)
    assert {n: int(m.sum()) for n, m in trained.items()} == {
        "hidden/kernel": 24,
        "out/kernel": 12,
    }


class Masks(keras.callbacks.Callback):
    """Masks after every step."""

    def on_train_begin(self, logs=None):
        self.kept = []

    def on_train_batch_end(self, batch, logs=None):
        masks = tfticket.get_masks(self.model)
        self.kept.append(int(masks["hidden/kernel"].sum()))
        for name, weight in get_pruned_weights(self.model).items():
            assert not weight[~masks[name]].any()


def test_ac_dc_takes_turns(mlp, data):
    """Dense for 2 steps, then 2 by 2, sparse from step 9: 12 and 48 weights of 48."""
    model, seen = compiled(tfticket.prune(mlp)), Masks()
    callback = tfticket.TopKTraining(
        0.75, "ac_dc", begin_step=2, end_step=9, frequency=2
    )
    model.fit(*data, batch_size=4, verbose=0, callbacks=[callback, seen])
    kept = [48, 48, 12, 12, 48, 48, 12, 12, 48, 12, 12, 12]
    assert seen.kept == kept
    assert [record.step for record in callback.records] == [2, 4, 6, 8, 9]
    assert [x.grown["hidden/kernel"] for x in callback.records] == [0, 36, 0, 36, 0]
    assert callback.records[2].dropped["hidden/kernel"] == 36
    assert callback.training_flops(4).relative == pytest.approx(
        sum(kept) / (12 * 48), rel=0.02
    )


@settings(max_examples=15, deadline=None)
@given(
    sparsity=st.sampled_from([0.25, 0.5, 0.75]),
    structure=st.sampled_from([None, Block((2, 1)), NM(2, 4), Channel(grouped=False)]),
    seed=st.integers(0, 99),
)
def test_masks_are_of_the_largest(shared, sparsity, structure, seed):
    """As `sparsify` of the dense values, at every choice."""
    model, state = shared
    state.restore()
    random = np.random.default_rng(seed)
    values = [random.standard_normal(x.shape) for x in dense_values(model)]
    dense_values(model, *values)
    callback = tfticket.TopKTraining(sparsity, structure=structure, end_step=1)
    x, y = np.zeros((4, 6), "float32"), np.zeros(4, int)
    fit(model, (x, y), callback)
    other = tfticket.prune(tfticket.strip(model))
    dense_values(other, *values)
    tfticket.sparsify(other, sparsity, structure=structure)
    for name, mask in tfticket.get_masks(other).items():
        np.testing.assert_array_equal(tfticket.get_masks(model)[name], mask)


@pytest.fixture(scope="module")
def shared():
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.Dense(3, name="out"),
        ]
    )
    model = compiled(tfticket.prune(model, keep_dense=True), "sgd")
    return model, State.of(model)


@pytest.mark.parametrize(
    ("method", "structure"),
    [("ste", None), ("top_kast", None), ("ac_dc", None), ("ste", NM(2, 4))],
)
def test_a_resumed_fit_goes_on(method, structure, mlp, data, tmp_path):
    """Through a saved file, bit for bit, what is behind the masks too."""

    def callback():
        # Of 2:4, which prunes no more than a half.
        return tfticket.TopKTraining(
            0.75, method, frequency=5, end_step=21, structure=structure
        )

    model = compiled(
        tfticket.prune(mlp, keep_dense=method != "ac_dc"),
        keras.optimizers.Adam(0.1),  # so that masks change
    )
    begin, first = State.of(model), callback()
    fit(model, data, first, epochs=2)
    assert any(record.grown["hidden/kernel"] for record in first.records[1:])
    whole = State.of(model).values
    begin.restore()
    fit(model, data, callback())
    model.save(tmp_path / "half.keras")
    half = keras.models.load_model(tmp_path / "half.keras")
    fit(half, data, callback(), epochs=2, initial_epoch=1)
    now = State.of(half).values
    assert now.keys() == whole.keys()
    for name, value in whole.items():
        np.testing.assert_array_equal(now[name], value)


def test_masks_set_by_hand_leave_the_values(mlp, data):
    """`set_masks` and `GradualPruning` too; a copy and a clone keep the kind."""
    model = compiled(tfticket.prune(mlp, keep_dense=True))
    before = dense_values(model)
    mask = np.arange(48).reshape(6, 8) % 2 == 0
    tfticket.set_masks(model, {"hidden/kernel": mask})
    np.testing.assert_array_equal(dense_values(model)[0], before[0])
    expected = before[0] * mask
    np.testing.assert_array_equal(get_pruned_weights(model)["hidden/kernel"], expected)
    row = tfticket.summary_rows(model)[0]
    assert (row.kept, row.flops_sparse) == (24, 48)
    schedule = tfticket.schedules.ConstantSparsity(0.75, 2)
    fit(model, data, tfticket.GradualPruning(schedule))
    assert tfticket.get_masks(model)["hidden/kernel"].sum() == 12
    assert dense_values(model)[0].all()
    plain = tfticket.strip(model)
    np.testing.assert_allclose(
        plain.predict(data[0], verbose=0),
        model.predict(data[0], verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )
    clone = keras.models.clone_model(model)
    assert all(w.keeps_dense for w in masked_weights(clone).values())


def test_gradients_pass_through_lora(mlp, data):
    """The sum is masked on the way forward, and both of LoRA's weights train."""
    model = tfticket.prune(mlp, keep_dense=True)
    layer = model.get_layer("hidden").layer
    layer.enable_lora(2)
    compiled(model)
    before = keras.ops.convert_to_numpy(layer.lora_kernel_b).copy()
    fit(model, data, tfticket.TopKTraining(0.75))
    assert np.any(keras.ops.convert_to_numpy(layer.lora_kernel_b) != before)
    plain = tfticket.strip(model)
    assert np.count_nonzero(plain.get_layer("hidden").kernel) == 12
    np.testing.assert_allclose(
        plain.predict(data[0], verbose=0),
        model.predict(data[0], verbose=0),
        rtol=1e-5,
        atol=1e-6,
    )


def test_a_forward_mask_and_another_backward():
    """NaN behind the mask does not come through."""
    value = keras.ops.convert_to_tensor(np.array([1.0, np.nan, 3.0], "float32"))
    mask = np.array([True, False, False])
    found = mask_gradient(value, mask, forward=mask)
    assert keras.ops.convert_to_numpy(found).tolist() == [1, 0, 0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity must be"),
        ({"method": "rigl"}, "method must be"),
        ({"begin_step": 3, "end_step": 3}, "end_step must be after begin_step"),
        ({"frequency": 0}, "frequency must be at least 1"),
        ({"exploration": 0.1}, "are for method='top_kast'.*exploration=0.1"),
        ({"backward_sparsity": 0.2}, "are for method='top_kast'"),
        (
            {"method": "top_kast", "backward_sparsity": 0.6},
            "backward_sparsity must be at most sparsity",
        ),
        ({"method": "top_kast", "exploration": -1.0}, "exploration must be"),
    ],
)
def test_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        tfticket.TopKTraining(**{"sparsity": 0.5, **arguments})


def test_models_are_refused(mlp, data):
    ste, ac_dc = (
        tfticket.TopKTraining(0.5, method, end_step=9) for method in ("ste", "ac_dc")
    )
    dense, keeps = (tfticket.prune(mlp, keep_dense=x) for x in (False, True))
    scheduled = tfticket.prune(
        mlp, keep_dense=True, schedule=tfticket.schedules.ConstantSparsity(0.5, 0)
    )
    channels = tfticket.prune(mlp, keep_dense=True, structure=Channel())
    for model, callback, message in (
        (keras.models.clone_model(mlp), ste, "has no masks"),
        (dense, ste, r"'hidden' does not keep.*prune\(model, keep_dense=True\)"),
        (keeps, ac_dc, r"'hidden' keeps.*tfticket\.prune\(model\)"),
        (scheduled, ste, "has a pruning schedule"),
        (channels, ste, r"Channel\(grouped=False\)"),
        (keeps, tfticket.TopKTraining(0.99), "without a single weight"),
    ):
        before = model.get_weights()
        with pytest.raises(ValueError, match=message):
            fit(compiled(model), data, callback)
        for value, now in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(now, value)
    with pytest.raises(ValueError, match="keep_dense=True needs wrappers"):
        tfticket.prune(mlp, in_place=True, keep_dense=True)
    compiled(keeps)
    with pytest.warns(UserWarning, match="No weight is pruned at the end of this fit"):
        fit(keeps, data, tfticket.TopKTraining(0.5, begin_step=100))


def test_nothing_is_explored_unless_asked_for():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    (layer,) = tfticket.prune(model, keep_dense=True).layers
    assert float(layer.exploration) == 0.0
    assert layer.exploration.name == "exploration"
