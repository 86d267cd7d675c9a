"""The protocol of masked layers: a kind unknown to tfticket works throughout."""

import pathlib
import re

import keras
import numpy as np
import pytest

import tfticket
from tfticket.keras_models.copies import copy_state
from tfticket.keras_models.kernels import MaskedWeight, apply_mask, prunable_weights
from tfticket.keras_models.masked_layer import MaskedLayer


@keras.saving.register_keras_serializable(package="tests")
class ProductDense(MaskedLayer, keras.layers.Dense):
    """A Dense masked by a product in the forward pass: one class, as the docs say."""

    def build(self, input_shape):
        super().build(input_shape)
        shape = self.kernel.shape
        self.kept = self.add_weight(
            name="kept", shape=shape, dtype="bool", initializer="ones", trainable=False
        )

    def call(self, inputs, training=None):
        masked = apply_mask(self.kernel, self.kept)
        return keras.ops.matmul(inputs, masked) + self.bias

    def masked_weights(self):
        if not self.built:
            return []
        (kernel,) = prunable_weights(self)
        return [MaskedWeight(**vars(kernel), mask=self.kept)]

    def lasting_weights(self):
        return [self.kernel, self.bias]

    def plain(self):
        return keras.layers.Dense.from_config(self.get_config())

    def copy_to(self, plain):
        plain.kernel.assign(apply_mask(self.kernel, self.kept))
        plain.bias.assign(self.bias)

    def copy_from(self, plain):
        copy_state(plain, self)


@pytest.fixture
def model():
    return keras.Sequential(
        [
            keras.Input((6,)),
            ProductDense(8, name="hidden"),
            keras.layers.Dense(3, name="out"),
        ]
    )


def test_masks_are_read_set_and_cut(model):
    assert set(tfticket.get_masks(model)) == {"hidden/kernel"}
    tfticket.sparsify(model, 0.75)
    mask = tfticket.get_masks(model)["hidden/kernel"]
    assert mask.sum() == 12
    kernel = keras.ops.convert_to_numpy(model.get_layer("hidden").kernel)
    np.testing.assert_array_equal(kernel != 0, mask)


def test_callbacks_prune_it(model):
    model.compile("adam", "mse")
    x, y = np.ones((8, 6)), np.ones((8, 3))
    schedule = tfticket.schedules.ConstantSparsity(0.5, 0, frequency=1)
    callbacks = [tfticket.GradualPruning(schedule)]
    model.fit(x, y, verbose=0, callbacks=callbacks)
    assert tfticket.get_masks(model)["hidden/kernel"].sum() == 24
    finder = tfticket.IterativeMagnitudePruning(1, 0.5)
    model.fit(x, y, epochs=2, verbose=0, callbacks=[finder])
    assert finder.ticket.masks["hidden/kernel"].sum() == 12


def test_it_is_stripped_and_summed_up(model):
    tfticket.sparsify(model, 0.75)
    plain = tfticket.strip(model)
    assert type(plain.get_layer("hidden")) is keras.layers.Dense
    x = np.random.default_rng(0).random((4, 6))
    np.testing.assert_allclose(
        plain.predict(x, verbose=0), model.predict(x, verbose=0), rtol=1e-5
    )
    row = tfticket.summary_rows(model)[0]
    assert (row.name, row.kept, row.masked) == ("hidden/kernel", 12, True)
    assert row.flops_sparse == 24
    assert row.other_parameters == 8


def test_it_is_not_wrapped_again(model):
    with pytest.raises(ValueError, match="wrapped already"):
        tfticket.prune(model)


def test_only_their_own_packages_ask_for_the_types():
    """Everybody else asks the protocol: a new kind needs no change elsewhere."""
    asks = re.compile(r"isinstance\([^)]*\b(Prune|Popup|PopupModel)\b")
    root = pathlib.Path(tfticket.__file__).parent
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if asks.search(path.read_text())
    }
    assert {name for name in found if not name.startswith("edge_popup/")} <= set()


class Product(keras.layers.Layer):
    """A layer whose shapes Keras finds by a call, with the arguments it is given."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 2), name="kernel")

    def call(self, inputs):
        return keras.ops.matmul(inputs, self.kernel)

    def get_prunable_weights(self):
        return [self.kernel]


@pytest.mark.parametrize("layer", [keras.layers.Dense(2), Product()])
def test_training_is_no_argument_of_a_layer_without_it(layer):
    wrapped = tfticket.Prune(layer)
    assert wrapped(keras.Input((3,)), training=True).shape == (None, 2)
    outputs = wrapped.compute_output_spec(keras.KerasTensor((None, 3)), training=True)
    assert outputs.shape == (None, 2)


class Cast(Product):
    def call(self, inputs, kind):
        return keras.ops.cast(super().call(inputs), kind.name)


def test_an_argument_that_is_no_tensor_reaches_the_layer():
    """NumPy's dtypes have a shape, and no dtype."""
    found = tfticket.Prune(Cast())(np.ones((4, 3)), kind=np.dtype("float16"))
    assert keras.backend.standardize_dtype(found.dtype) == "float16"
