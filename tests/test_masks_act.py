"""How masks act on one layer: its values, gradients, constraints, losses, config."""

import keras
import numpy as np
import pytest
from fixtures.backends import array
from keras import layers, ops

import tfticket
from tfticket import schedules, structures
from tfticket.keras_models.kernels import apply_mask
from tfticket.pruning import masking
from tfticket.pruning.masks import (
    ModelMasks,
    boolean_mask,
    get_pruned_weights,
    masked_layers,
    masked_names,
    masked_weights,
)

tf = pytest.importorskip("tensorflow")

X = np.random.default_rng(0).standard_normal((5, 4)).astype("float32")
KEPT = np.array([[1, 0, 1], [0, 1, 1], [1, 1, 0], [0, 0, 1]], bool)
VALUES = np.arange(1, 13, dtype="float32").reshape(4, 3)


def dense(**kwargs):
    """A wrapped Dense of known values and mask."""
    layer = tfticket.Prune(layers.Dense(3, name="d", **kwargs))
    layer.build((None, 4))
    layer.layer.kernel.assign(VALUES)
    layer.masks[0].assign(KEPT)
    return layer


def two():
    model = keras.Sequential(
        [keras.Input((4,)), layers.Dense(3, name="a"), layers.Dense(2, name="b")]
    )
    return tfticket.prune(model)


# Values and gradients


def test_the_gradient_is_masked_and_the_forward_pass_is_not():
    layer = dense()
    x = tf.constant(X)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x)
        loss = tf.reduce_sum(y * y)
    np.testing.assert_allclose(array(y), X @ VALUES, rtol=1e-5)
    kernel, bias, before = tape.gradient(
        loss, [layer.layer.kernel.value, layer.layer.bias.value, x]
    )
    np.testing.assert_allclose(kernel, np.where(KEPT, X.T @ (2 * y), 0), rtol=1e-4)
    np.testing.assert_allclose(bias, 2 * array(y).sum(0), rtol=1e-4)
    np.testing.assert_allclose(before, 2 * array(y) @ VALUES.T, rtol=1e-4)


def test_apply_masks_zeroes_the_variable():
    layer = dense()
    layer.layer.kernel.assign(np.where(KEPT, VALUES, np.nan))
    layer.apply_masks()
    np.testing.assert_array_equal(array(layer.layer.kernel), np.where(KEPT, VALUES, 0))


def test_losses_inside_are_added_once():
    layer = dense(activity_regularizer="l2", kernel_regularizer="l1")
    y = layer(X)
    assert len(layer.losses) == 2
    expected = [np.mean(np.sum(0.01 * np.square(y), -1)), 0.01 * VALUES.sum()]
    np.testing.assert_allclose(sorted(map(float, layer.losses)), sorted(expected), 1e-4)


class AddsLoss(layers.Layer):
    """Updates itself from the value that it has."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
        self.calls = self.add_weight(
            shape=(), initializer="zeros", trainable=False, name="calls"
        )

    def call(self, x, scale=1.0, training=False):
        self.calls.assign_add(1.0)
        self.calls.assign_add(1.0)
        self.add_loss(ops.sum(self.kernel))
        self.kernel.assign(ops.ones_like(self.kernel))
        return scale * ops.matmul(x, self.kernel)

    def get_prunable_weights(self):
        return [self.kernel]


def test_what_a_layer_assigns_is_carried_out_and_masked():
    layer = tfticket.Prune(AddsLoss())
    layer(X)
    layer.masks[0].assign(KEPT)
    before = float(layer.layer.calls)
    first = float(ops.sum(layer.layer.kernel))
    y = layer(X, scale=2.0)
    assert float(layer.layer.calls) == before + 2
    np.testing.assert_array_equal(array(layer.layer.kernel), KEPT.astype("float32"))
    np.testing.assert_allclose(array(y), 2 * X @ np.ones((4, 3)), rtol=1e-5)
    (loss,) = layer.losses
    assert float(loss) == pytest.approx(first)


def test_training_is_passed_on_where_it_is_asked_for():
    seen = []

    class Asks(layers.Dense):
        def call(self, x, training=None):
            seen.append(training)
            return super().call(x)

    layer = tfticket.Prune(Asks(3))
    for training in (True, False):
        layer(X, training=training)
    assert seen[-2:] == [True, False]
    plain = dense()
    assert plain(X, training=True).shape == (5, 3)
    assert plain.compute_output_spec(keras.KerasTensor((5, 4))).shape == (5, 3)
    spec = plain.compute_output_spec(keras.KerasTensor((5, 4)), training=True)
    assert spec.shape == (5, 3)
    assert plain.compute_output_shape((7, 4)) == (7, 3)


def test_masks_of_sequences_pass():
    layer = tfticket.Prune(layers.LSTM(3, return_sequences=True))
    assert layer.supports_masking
    table = layers.Embedding(5, 4, mask_zero=True)
    ids = np.array([[1, 2, 0, 0]])
    embedded = table(ids)
    short = layer(embedded)
    np.testing.assert_array_equal(array(short)[0, 1], array(short)[0, 3])
    mask = table.compute_mask(ids)
    np.testing.assert_array_equal(
        array(layer.compute_mask(embedded, mask)), array(mask)
    )


def test_a_layer_of_other_weights_is_refused():
    layer = dense()
    layer.layer.quantize("int8")
    with pytest.raises(ValueError, match="'d' has other weights than when"):
        layer(X)


def test_lora_is_masked_with_its_kernel():
    layer = dense(use_bias=False)
    layer.layer.enable_lora(2)
    layer.layer.lora_kernel_b.assign(np.ones((2, 3)))
    full = VALUES + array(layer.layer.lora_kernel_a) @ np.ones((2, 3))
    np.testing.assert_allclose(array(layer(X)), X @ np.where(KEPT, full, 0), rtol=1e-4)
    assert layer.layer.lora_enabled
    plain = layer.plain()
    assert "lora_rank" not in plain.get_config()
    assert "lora_alpha" not in plain.get_config()
    plain.build((None, 4))
    layer.copy_to(plain)
    np.testing.assert_allclose(array(plain.kernel), np.where(KEPT, full, 0), rtol=1e-5)
    assert plain.kernel.trainable
    assert not plain.lora_enabled


def test_lora_is_on_again_after_an_error():
    class Fails(layers.Dense):
        def call(self, x, training=None):
            if self.lora_enabled:
                return super().call(x)
            raise ZeroDivisionError

    layer = tfticket.Prune(Fails(3))
    layer.layer.build((None, 4))
    layer.layer.enable_lora(1)
    with pytest.raises(ZeroDivisionError):
        layer(X)
    assert layer.layer.lora_enabled


# Constraints and regularizers


def unit_norm(weight):
    return weight / ops.sqrt(ops.sum(ops.square(weight)))


def test_the_users_constraint_is_between_two_masks():
    seen = []

    def plus_one(weight):
        seen.append(array(weight))
        return weight + 1

    layer = dense(kernel_constraint=plus_one)
    found = array(layer.layer.kernel.constraint(layer.layer.kernel))
    np.testing.assert_array_equal(seen[0], np.where(KEPT, VALUES, 0))
    np.testing.assert_array_equal(found, np.where(KEPT, VALUES + 1, 0))
    plain = dense().layer.kernel.constraint
    np.testing.assert_array_equal(array(plain(VALUES)), np.where(KEPT, VALUES, 0))
    for constraint in (plain, layer.layer.kernel.constraint):
        value = array(constraint.mask_value(VALUES))
        np.testing.assert_array_equal(value, np.where(KEPT, VALUES, 0))
    assert dense().layer.bias.constraint is None


def test_a_regularizer_has_a_masked_gradient_and_its_value():
    layer = dense(kernel_regularizer=keras.regularizers.L2(0.5))
    kernel = layer.layer.kernel
    with tf.GradientTape() as tape:
        loss = kernel.regularizer(kernel)
    assert float(loss) == pytest.approx(0.5 * np.square(VALUES).sum())
    gradient = tape.gradient(loss, kernel.value)
    np.testing.assert_allclose(gradient, np.where(KEPT, VALUES, 0))
    assert layer.layer.bias.regularizer is None


def test_what_no_optimizer_sees_has_no_constraint():
    norm = tfticket.Prune(
        layers.BatchNormalization(), weights=["gamma", "moving_mean", "moving_variance"]
    )
    norm.build((None, 4))
    assert type(norm.layer.gamma.constraint) is masking.MaskConstraint
    assert norm.layer.moving_mean.constraint is None
    frozen = tfticket.Prune(layers.Dense(3, trainable=False))
    frozen.build((None, 4))
    assert type(frozen.layer.kernel.constraint) is masking.MaskConstraint


def test_without_masks_a_layer_has_its_own_constraints():
    constraint = keras.constraints.NonNeg()
    regularizer = keras.regularizers.L2(0.5)
    layer = dense(kernel_constraint=constraint, kernel_regularizer=regularizer)
    plain = layer.plain()
    assert type(plain) is layers.Dense
    assert plain.name == "d"
    assert not plain.built
    inner = masking.without_masking(layer.layer)
    assert inner is layer.layer
    assert inner.kernel.constraint is constraint
    assert inner.kernel.regularizer is regularizer


def test_statistics_of_a_pruned_channel_stay_zero():
    norm = tfticket.Prune(layers.BatchNormalization(), weights=["gamma", "moving_mean"])
    norm.build((None, 4))
    kept = np.array([True, False, True, True])
    for mask in norm.masks:
        mask.assign(kept)
    norm.apply_masks()
    norm(X + 3, training=True)
    mean = array(norm.layer.moving_mean)
    assert ((mean != 0) == kept).all()
    assert array(norm.layer.moving_variance).all()


class WithoutConfig(layers.Dense):
    def __init__(self, factor, units):
        super().__init__(units)
        self.factor = factor


def test_a_plain_layer_needs_no_configuration():
    layer = tfticket.Prune(WithoutConfig(2, 3))
    layer.build((None, 4))
    assert layer.plain().factor == 2

    class Bare(layers.Layer):  # which knows no LoRA
        def __init__(self, factor):
            super().__init__()
            self.factor = factor

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")

        def get_prunable_weights(self):
            return [self.kernel]

    layer = tfticket.Prune(Bare(2))
    layer.build((None, 4))
    assert layer.plain().factor == 2


# The wrapper


def test_arguments_of_a_wrapper():
    layer = tfticket.Prune(
        layers.Dense(3, name="d", trainable=False),
        schedules.OneShot(0.5),
        structures.Block((2, 1)),
        ["kernel"],
    )
    assert (layer.name, layer.dtype, layer.trainable) == ("d", "float32", False)
    assert layer.masked_names == ("kernel",)
    assert tfticket.Prune(layers.Dense(3), name="other").name == "other"
    assert tfticket.Prune(layers.Dense(3)).trainable
    assert tfticket.Prune(layers.Dense(3, dtype="float16")).dtype == "float32"
    for wrong, error, says in (
        ({"layer": "d"}, TypeError, "a keras.layers.Layer"),
        ({"weights": "kernel"}, TypeError, "a list of names"),
        ({"weights": [3]}, TypeError, "a list of names"),
        ({"schedule": 0.5}, TypeError, "schedule"),
        ({"structure": "blocks"}, TypeError, "structure"),
    ):
        with pytest.raises(error, match=says):
            tfticket.Prune(**{"layer": layers.Dense(3), **wrong})


def test_a_wrapper_is_made_again_of_its_config():
    schedule, structure = schedules.OneShot(0.5), structures.Block((2, 1))
    full = tfticket.Prune(layers.Dense(3), schedule, structure, ["kernel"], name="n")
    config = keras.saving.serialize_keras_object(full)
    again = keras.saving.deserialize_keras_object(config)
    assert (again.schedule, again.structure) == (schedule, structure)
    assert (again.masked_names, again.name) == (("kernel",), "n")
    assert again.layer.units == 3
    bare = tfticket.Prune(layers.Dense(3))
    assert not {"weights", "schedule", "structure"} & set(bare.get_config())
    again = tfticket.Prune.from_config(bare.get_config())
    assert (again.schedule, again.structure, again.masked_names) == (None, None, None)


def test_objects_of_the_users_own_are_found_by_name():
    class Mine(schedules.OneShot):
        pass

    config = tfticket.Prune(layers.Dense(3), Mine(0.5)).get_config()
    again = tfticket.Prune.from_config(config, custom_objects={"Mine": Mine})
    assert type(again.schedule) is Mine
    with pytest.raises(TypeError, match="Mine"):
        tfticket.Prune.from_config(config)


def test_a_wrapper_builds_as_it_was_built():
    layer = dense()
    config = layer.get_build_config()
    assert config == {"layer": layer.layer.get_build_config()}
    other = tfticket.Prune(layers.Dense(3))
    other.build_from_config(config)
    assert other.layer.kernel.shape == (4, 3)
    assert [mask.shape for mask in other.masks] == [(4, 3)]
    nothing = tfticket.Prune(layers.Dense(3))
    nothing.build_from_config({})
    assert not nothing.layer.built
    built = layers.Dense(3)
    built.build((None, 4))
    wrapper = tfticket.Prune(built)
    wrapper.build_from_config({})
    assert len(wrapper.masks) == 1


def test_masks_have_names_shapes_and_start_true():
    layer = tfticket.Prune(layers.LSTM(2), name="l")
    layer.build((None, 5, 4))
    assert [mask.name for mask in layer.masks] == [
        "cell_kernel_mask",
        "cell_recurrent_kernel_mask",
    ]
    assert [array(mask).all() for mask in layer.masks] == [True, True]
    assert {mask.dtype for mask in layer.masks} == {"bool"}
    assert not any(mask.trainable for mask in layer.masks)
    kernel, recurrent = layer.masked_weights()
    assert kernel.variable is layer.layer.cell.kernel
    assert kernel.mask is layer.masks[0]
    assert layer.pruned_weights == [kernel.variable, recurrent.variable]
    assert layer.inner_layer() is layer.layer
    one = tfticket.Prune(layers.LSTM(2), weights=["cell/recurrent_kernel"])
    one.build((None, 5, 4))
    assert [x.name for x in one.masked_weights()] == ["cell/recurrent_kernel"]
    with pytest.raises(ValueError, match=r"'r' \(ReLU\) has no prunable weight"):
        tfticket.Prune(layers.ReLU(name="r")).build((None, 4))


def test_a_layer_of_several_inputs_is_built_by_its_call():
    class Two(layers.Layer):
        def build(self, a_shape, b_shape):
            shape = (a_shape[-1], b_shape[-1])
            self.kernel = self.add_weight(shape=shape, name="kernel")

        def call(self, a, b):
            return ops.matmul(a, self.kernel) + b

        def get_prunable_weights(self):
            return [self.kernel]

    layer = tfticket.Prune(Two())
    y = layer(X, b=ops.ones((5, 2)))
    assert y.shape == (5, 2)
    assert layer.masks[0].shape == (4, 2)


def test_a_twin_is_a_wrapper_of_its_own():
    schedule, structure = schedules.OneShot(0.5), structures.Block((2, 1))
    layer = tfticket.Prune(
        *(layers.Dense(3, name="d"), schedule, structure, ["kernel"]),
        name="n",
        trainable=False,
    )
    made = []

    def copy(inner):
        made.append(layers.Dense.from_config(inner.get_config()))
        return made[-1]

    twin = layer.twin(copy)
    assert twin.layer is made[0]
    assert (twin.schedule, twin.structure) == (schedule, structure)
    assert (twin.masked_names, twin.name, twin.trainable) == (("kernel",), "n", False)
    assert not twin.masks
    made.clear()

    def copy_built(inner):
        made.append(layers.Dense(3, name="d"))
        made[-1].build((None, 4))
        return made[-1]

    assert len(dense().twin(copy_built).masks) == 1


def test_values_are_copied_both_ways():
    layer, plain = dense(), layers.Dense(3)
    plain.build((None, 4))
    layer.layer.bias.assign([1, 2, 3])
    layer.copy_to(plain)
    np.testing.assert_array_equal(array(plain.kernel), np.where(KEPT, VALUES, 0))
    np.testing.assert_array_equal(array(plain.bias), [1, 2, 3])
    plain.kernel.assign(2 * VALUES)
    layer.copy_from(plain)
    np.testing.assert_array_equal(array(layer.layer.kernel), 2 * VALUES)
    np.testing.assert_array_equal(array(layer.masks[0]), KEPT)


def test_lora_without_a_mask_is_named():
    inner = keras.Sequential(
        [keras.Input((4,)), layers.Dense(4, name="a"), layers.Dense(3, name="b")]
    )
    layer = tfticket.Prune(inner, weights=["a/kernel"], name="both")
    layer.build((None, 4))
    inner.layers[1].enable_lora(1)
    with pytest.raises(ValueError, match=r"Layer 'b' in 'both' has LoRA"):
        layer.copy_to(keras.models.clone_model(inner))


# Masks by name


def test_masks_are_copies():
    model = two()
    masks = tfticket.get_masks(model)
    masks["a/kernel"][:] = False
    assert tfticket.get_masks(model)["a/kernel"].all()
    values = get_pruned_weights(model)
    values["a/kernel"][:] = 0
    assert get_pruned_weights(model)["a/kernel"].any()
    assert list(masks) == list(values) == ["a/kernel", "b/kernel"]


def test_what_is_masked_in_a_model():
    model = two()
    found = dict(masked_layers(model))
    assert list(found) == ["a", "b"]
    assert list(masked_weights(model)) == ["a/kernel", "b/kernel"]
    assert masked_names(model, [found["b"]]) == {"b/kernel"}
    popup = tfticket.popup(tfticket.strip(model), density=0.5)
    assert dict(masked_layers(popup)) == {}
    assert list(dict(masked_layers(popup, settable=False))) == ["a", "b"]
    masks = tfticket.get_masks(popup)
    assert {name: int(mask.sum()) for name, mask in masks.items()} == {
        "a/kernel": 6,
        "b/kernel": 3,
    }
    with pytest.raises(ValueError, match="no settable mask is named 'a/kernel'"):
        tfticket.set_masks(popup, {"a/kernel": masks["a/kernel"]})


def test_a_ticket_of_a_popup_model_has_its_edges():
    plain = tfticket.strip(two())
    popup = tfticket.popup(plain, density=0.5)
    ticket = tfticket.Ticket.from_popup(popup, note="mine")
    for name, mask in tfticket.get_masks(popup).items():
        np.testing.assert_array_equal(ticket.masks[name], mask)
        assert not ticket.weights[name][~mask].any()
    assert ticket.provenance["note"] == "mine"
    wrapped = ticket.apply(plain)
    np.testing.assert_allclose(array(wrapped(X)), array(popup(X)), rtol=1e-5)
    with pytest.raises(ValueError, match=r"has no popup layers\. Make it with"):
        tfticket.Ticket.from_popup(plain)


def test_the_masks_of_a_model_are_found_once_and_again_where_they_change():
    model = two()
    found = ModelMasks.of(model)
    assert ModelMasks.of(model) is found
    assert ModelMasks.of(two()) is not found
    assert list(found.layers) == list(found.weights)
    assert found.layers["b/kernel"] is model.get_layer("b")
    model.add(tfticket.Prune(layers.Dense(2, name="c")))
    assert list(tfticket.get_masks(model)) == ["a/kernel", "b/kernel", "c/kernel"]
    for wrong in (None, "model", 3):
        with pytest.raises(TypeError, match=r"model must be a keras\.Model"):
            tfticket.get_masks(wrong)


def test_masks_are_set_again_and_again_with_the_optimizers_slots():
    model = two()
    model.compile(keras.optimizers.SGD(0.1, momentum=0.5), "mse", jit_compile=False)
    y = np.ones((5, 2))
    for _ in range(2):  # traced before there are slots
        tfticket.set_masks(model, {"a/kernel": np.ones((4, 3), bool)})
    for seed in range(3):  # the second is traced, the third is not
        model.fit(X, y, verbose=0)
        kept = np.random.default_rng(seed).random((4, 3)) < 0.5
        tfticket.set_masks(model, {"a/kernel": kept})
        assert (tfticket.get_masks(model)["a/kernel"] == kept).all()
        assert tfticket.get_masks(model)["b/kernel"].all()
        assert not get_pruned_weights(model)["a/kernel"][~kept].any()
        slots = {v.name: array(v) for v in model.optimizer.variables}
        (name,) = (x for x in slots if "a_kernel" in x)
        assert not slots[name][~kept].any()
        assert slots[name][kept].any()
        (name,) = (x for x in slots if "b_kernel" in x)
        assert slots[name].any()


def test_masks_of_scores_stand_beside_those_that_are_set():
    chosen = tfticket.PopupDense(3, density=0.5, name="a")
    wrapped = tfticket.Prune(layers.Dense(2), name="b")
    model = keras.Sequential([keras.Input((4,)), chosen, wrapped])
    kept = np.eye(3, 2, dtype=bool)
    tfticket.set_masks(model, {"b/kernel": kept})
    masks = tfticket.get_masks(model)
    assert sorted(masks) == ["a/kernel", "b/kernel"]
    assert masks["a/kernel"].sum() == 6
    np.testing.assert_array_equal(masks["b/kernel"], kept)


def test_a_model_without_masks_has_none():
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    assert tfticket.get_masks(model) == {}
    tfticket.set_masks(model, {})
    with pytest.raises(ValueError, match=r"no settable mask.*The model's: \[\]"):
        tfticket.set_masks(model, {"dense/kernel": np.ones((4, 2))})


def test_wrong_masks_change_nothing_and_are_named():
    model = two()
    good = np.zeros((4, 3), bool)
    for wrong, says in (
        (
            {"b/kernel": np.ones((2, 3))},
            r"'b/kernel' must have shape \(3, 2\).*\(2, 3\)",
        ),
        ({"c/kernel": good}, r"'c/kernel'. The model's: \['a/kernel', 'b/kernel'\]"),
        ({"b/kernel": np.full((3, 2), 0.5)}, "0.5, 0.5, 0.5, ... .6 of 6 values"),
    ):
        with pytest.raises(ValueError, match=says):
            tfticket.set_masks(model, {"a/kernel": good, **wrong})
        assert tfticket.get_masks(model)["a/kernel"].all()
    with pytest.raises(TypeError, match="masks must be"):
        tfticket.set_masks(model, [good])


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "float16", "float64"])
def test_zeros_and_ones_of_all_types_are_masks(dtype):
    values = np.array([[0, 1], [1, 0]], dtype)
    found = boolean_mask("k", values)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, [[False, True], [True, False]])
    bfloat = ops.cast(np.array([0, 1]), "bfloat16")
    assert boolean_mask("k", np.asarray(bfloat)).tolist() == [False, True]


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (
            [2, 0, 1],
            r"'k' must be of booleans.*Received in masks: 2 \(1 of 3",
        ),
        ([0.5, 0.25], r"masks: 0.5, 0.25 \(2 of 2 values, dtype float64"),
        ([-1, 2, 3], r"masks: -1, 2, 3 \(3 of 3"),
        ([5, 2, 3, 4, 1], r"masks: 5, 2, 3, ... \(4 of 5"),
        ([float("nan")], "masks: nan"),
        (["no"], r"masks: 'no' \(1 of 1"),
        ([1j], "dtype complex128"),
        ([None], "dtype object"),
    ],
)
def test_what_is_no_mask_is_shown(values, says):
    with pytest.raises(ValueError, match=says):
        boolean_mask("k", values)


def test_apply_mask_drops_what_is_not_a_number():
    found = apply_mask(np.array([np.nan, np.inf, 2]), np.array([False, False, True]))
    np.testing.assert_array_equal(array(found), [0, 0, 2])
