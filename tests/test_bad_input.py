"""Each mistake is an error that says what to do, before anything is trained."""

import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from fixtures.backends import needs_graph
from keras import layers

import tfticket
from tfticket import data, lottery, models


def fit(model, data, callback, epochs=4, **kwargs):
    """Fits with a callback that fails the test if a step is trained."""

    class NoTraining(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            pytest.fail("a step was trained before the error")

    if not model.compiled:
        model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    model.fit(
        *data, epochs=epochs, batch_size=8, verbose=0,
        callbacks=[callback, NoTraining()], **kwargs,
    )  # fmt: skip


def test_nothing_to_prune():
    model = keras.Sequential([keras.Input((4, 4, 1)), layers.Flatten()])
    with pytest.raises(ValueError, match=r"nothing to prune.*'Flatten'"):
        tfticket.prune(model)
    with pytest.raises(ValueError, match="nothing to prune"):
        tfticket.prune(layers.Flatten())
    with pytest.raises(ValueError, match="no prunable weight"):
        tfticket.Prune(layers.Dropout(0.5)).build((None, 4))


def test_everything_excluded(mlp):
    with pytest.raises(ValueError, match=r"nothing to prune.*excluded"):
        tfticket.prune(mlp, exclude=["hidden", "out"])
    with pytest.raises(ValueError, match=r"\['typo'\].*'hidden'"):
        tfticket.prune(mlp, exclude=["typo"])
    with pytest.raises(TypeError, match="collection"):
        tfticket.prune(mlp, exclude="out")


def test_model_not_built():
    with pytest.raises(ValueError, match=r"not built.*keras\.Input"):
        tfticket.prune(keras.Sequential([layers.Dense(3)]))


def test_wrapped_twice(mlp):
    with pytest.raises(ValueError, match="wrapped already"):
        tfticket.prune(tfticket.prune(mlp))
    with pytest.raises(ValueError, match="wrapped already"):
        tfticket.prune(tfticket.prune(layers.Dense(3)))


def test_subclassed_model():
    class Mine(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = layers.Dense(3)

        def call(self, x):
            return self.dense(x)

    with pytest.raises(ValueError, match="not built"):
        tfticket.prune(Mine())

    class TrainsItsOwnWay(Mine):
        def train_step(self, data):
            return {}

    model = TrainsItsOwnWay()
    model(np.zeros((1, 2)))
    with pytest.raises(TypeError, match=r"own train_step.*__init__"):
        tfticket.prune(model)


def test_not_a_model():
    with pytest.raises(TypeError, match="model must be a keras"):
        tfticket.prune([1, 2])


def imitation(module, **attributes):
    """An object whose class says it comes from another package."""
    cls = type("Sequential", (), {"__module__": module, **attributes})
    return cls()


def test_tf_keras_model():
    with pytest.raises(TypeError, match=r"tf_keras.*import keras"):
        tfticket.prune(imitation("tf_keras.src.engine.sequential"))


def test_tfmot_wrapped_model():
    wrapper = imitation("tensorflow_model_optimization.python.core.sparsity.keras")
    model = imitation("tf_keras.src.engine.sequential", layers=[wrapper], name="m")
    for thing in (model, wrapper):
        with pytest.raises(TypeError, match=r"TF-MOT.*strip_pruning"):
            tfticket.prune(thing)


def test_real_tf_keras_and_tfmot_models():
    pytest.importorskip("tf_keras")
    has_tfmot = "import tensorflow_model_optimization as tfmot" if _has_tfmot() else ""
    code = f"""
        import tf_keras, keras, tfticket
        {has_tfmot}
        model = tf_keras.Sequential([tf_keras.layers.Dense(2, input_shape=(4,))])
        try:
            tfticket.prune(model)
        except TypeError as error:
            assert "import keras" in str(error), error
        else:
            raise SystemExit("not refused")
        if {_has_tfmot()}:
            try:
                tfticket.prune(tfmot.sparsity.keras.prune_low_magnitude(model))
            except TypeError as error:
                assert "strip_pruning" in str(error), error
            else:
                raise SystemExit("not refused")
    """
    env = {**os.environ, "TF_USE_LEGACY_KERAS": "1"}
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, env=env)


def _has_tfmot():
    from importlib.util import find_spec

    return find_spec("tensorflow_model_optimization") is not None


@pytest.mark.parametrize("value", [0.0, 1.0, -0.1, 1.5, float("nan")])
@pytest.mark.parametrize("name", ["rate", "output_rate"])
def test_rate_out_of_range(name, value):
    with pytest.raises(
        ValueError, match=rf"{name} must be above 0 and below 1.*{name}="
    ):
        tfticket.IterativeMagnitudePruning(rounds=1, **{name: value})


@pytest.mark.parametrize(
    ("kwargs", "error", "match"),
    [
        ({"rounds": 0}, ValueError, "rounds must be at least 1"),
        ({"rounds": 1.5}, TypeError, "rounds must be an integer"),
        ({"rounds": 1, "rate": "0.2"}, TypeError, "rate must be a number"),
        ({"rounds": 1, "scope": "local"}, ValueError, "scope must be one of.*'local'"),
        ({"rounds": 1, "rewind_to": -1}, ValueError, "rewind_to must be at least 0"),
        ({"rounds": 1, "rewind_to": "init"}, TypeError, "rewind_to must be an integer"),
        ({"rounds": 1, "rewind_unit": "day"}, ValueError, "rewind_unit.*'day'"),
        (
            {"rounds": 1, "criterion": "size"},
            ValueError,
            "criterion.*magnitude.*'size'",
        ),
        (
            {"rounds": 1, "scope": "global", "output_rate": 0.1},
            ValueError,
            "output_rate has no meaning",
        ),
    ],
)
def test_callback_arguments(kwargs, error, match):
    with pytest.raises(error, match=match):
        tfticket.IterativeMagnitudePruning(**kwargs)


def test_callback_on_a_model_that_was_never_wrapped(mlp, data):
    callback = tfticket.IterativeMagnitudePruning(rounds=1)
    with pytest.raises(ValueError, match=r"tfticket\.prune\(model\)"):
        fit(mlp, data, callback)


def test_rounds_that_do_not_divide_the_fit(mlp, data):
    callback = tfticket.IterativeMagnitudePruning(rounds=2)
    with pytest.raises(ValueError, match=r"rounds=2.*epochs=4.*epochs=6"):
        fit(tfticket.prune(mlp), data, callback)


@pytest.mark.parametrize("scope", ["layerwise", "global"])
def test_rates_that_leave_nothing(scope, mlp, data):
    callback = tfticket.IterativeMagnitudePruning(rounds=3, rate=0.99, scope=scope)
    with pytest.raises(ValueError, match=r"rate=0\.99 leaves no weight of.*rounds=3"):
        fit(tfticket.prune(mlp), data, callback)


def test_a_seed_that_is_no_integer():
    with pytest.raises(TypeError, match=r"seed must be an integer.*1\.5"):
        tfticket.IterativeMagnitudePruning(rounds=1, seed=1.5)


@pytest.mark.parametrize("rewind", [(12, "step"), (13, "step"), (2, "epoch")])
def test_rewind_point_after_the_rounds_end(rewind, mlp, data):
    callback = tfticket.IterativeMagnitudePruning(
        rounds=1, rewind_to=rewind[0], rewind_unit=rewind[1]
    )
    with pytest.raises(ValueError, match=r"not before the end.*2 epochs of 6 steps"):
        fit(tfticket.prune(mlp), data, callback)


@needs_graph
def test_rewind_point_inside_an_execution(mlp, data):
    model = tfticket.prune(mlp)
    loss = keras.losses.SparseCategoricalCrossentropy(True)
    model.compile("sgd", loss, steps_per_execution=3)
    callback = tfticket.IterativeMagnitudePruning(rounds=1, rewind_to=4)
    with pytest.raises(ValueError, match="inside one execution of 3 steps"):
        fit(model, data, callback)


def test_rewind_point_with_an_unknown_number_of_steps(mlp, data):
    unknown = tf.data.Dataset.from_tensor_slices(data).batch(8)
    unknown = unknown.filter(lambda x, y: True)
    callback = tfticket.IterativeMagnitudePruning(rounds=1, rewind_to=2)
    model = tfticket.prune(mlp)
    model.compile("sgd", keras.losses.SparseCategoricalCrossentropy(True))
    with pytest.raises(ValueError, match="steps_per_epoch"):
        model.fit(unknown, epochs=2, callbacks=[callback], verbose=0)


def test_fit_that_does_not_start_at_the_first_epoch(mlp, data):
    callback = tfticket.IterativeMagnitudePruning(rounds=1)
    with pytest.raises(ValueError, match="initial_epoch=2"):
        fit(tfticket.prune(mlp), data, callback, initial_epoch=2)


def test_nan_weights_before_training(mlp, data):
    model = tfticket.prune(mlp)
    kernel = model.get_layer("out").layer.kernel
    kernel.assign(np.full(kernel.shape, np.nan))
    callback = tfticket.IterativeMagnitudePruning(rounds=1)
    with pytest.raises(ValueError, match=r"'out/kernel'.*NaN"):
        fit(model, data, callback)


def test_nan_weights_when_masks_are_computed(mlp, data):
    model = tfticket.prune(mlp)
    model.compile(
        keras.optimizers.SGD(1e30), keras.losses.SparseCategoricalCrossentropy(True)
    )
    callback = tfticket.IterativeMagnitudePruning(rounds=1)
    with pytest.raises(ValueError, match=r"weight '.*/kernel'.*finite"):
        model.fit(*data, epochs=2, callbacks=[callback], verbose=0)


def test_masks_of_another_model(mlp):
    wrapped = tfticket.prune(mlp)
    with pytest.raises(ValueError, match=r"named 'typo/kernel'.*'out/kernel'"):
        tfticket.set_masks(wrapped, {"typo/kernel": np.ones((8, 3), bool)})
    with pytest.raises(ValueError, match=r"'out/kernel'.*\(8, 3\).*\(3, 8\)"):
        tfticket.set_masks(wrapped, {"out/kernel": np.ones((3, 8), bool)})
    with pytest.raises(ValueError, match="has no masks"):
        tfticket.Ticket.from_model(mlp)


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (2, r"2, 2, 2, \.\.\. \(24 of 24 values, dtype int64\)"),
        (0.5, r"0\.5.*float64"),
        (np.float32("nan"), r"nan.*float32"),
        (-1, "-1"),
        ("no", "'no'"),
        (None, "None"),
        (1j, "complex"),
    ],
)
def test_masks_that_are_neither_kept_nor_pruned(mlp, value, says):
    wrapped = tfticket.prune(mlp)
    first = {"hidden/kernel": np.zeros((6, 8), bool)}  # right, and not set either
    before = wrapped.get_weights()
    with pytest.raises(ValueError, match=f"'out/kernel'.*booleans.*{says}"):
        tfticket.set_masks(wrapped, {**first, "out/kernel": np.full((8, 3), value)})
    for now, old in zip(wrapped.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, old)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int64", "float16", "float32"])
def test_masks_of_zeros_and_ones(mlp, dtype):
    wrapped = tfticket.prune(mlp)
    mask = np.arange(24).reshape(8, 3) % 2 == 0
    tfticket.set_masks(wrapped, {"out/kernel": mask.astype(dtype)})
    np.testing.assert_array_equal(tfticket.get_masks(wrapped)["out/kernel"], mask)
    values = keras.ops.cast(~mask, "bfloat16")
    tfticket.set_masks(wrapped, {"out/kernel": values})
    np.testing.assert_array_equal(tfticket.get_masks(wrapped)["out/kernel"], ~mask)


def test_get_prunable_weights_of_the_wrong_kind():
    class Mine(layers.Dense):
        def get_prunable_weights(self):
            return ["kernel"]

    with pytest.raises(TypeError, match=r"keras\.Variable.*'kernel'"):
        tfticket.Prune(Mine(3)).build((None, 4))


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"model": "resnet"}, "model must be one of.*'resnet'"),
        ({"rate": 1.0}, "rate must be above 0 and below 1"),
        ({"rounds": 0}, "rounds must be at least 1"),
        ({"iterations": 0}, "iterations must be at least 1"),
        ({"batch_size": -1}, "batch_size must be"),
        (
            {"iterations": 100, "evaluate_every": 30},
            "evaluate_every=30 does not divide",
        ),
        ({"iterations": 100, "rewind_to": 100}, "rewind_to=100 is not before"),
        ({"iterations": 100, "epochs": 1}, "not both"),
        ({"learning_rate": 0.0}, "learning_rate must be above 0"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_experiments_that_make_no_sense(kwargs, match):
    with pytest.raises(ValueError, match=match):
        lottery.Experiment(**kwargs)


def test_unknown_data_set():
    with pytest.raises(
        ValueError, match=r"No data set is named 'no_such_set'.*'digits'"
    ):
        data_load("no_such_set")


def data_load(name, **kwargs):
    return data.load(name, download=False, **kwargs)


def test_data_that_is_not_prepared(tmp_path):
    with pytest.raises(ValueError, match=r"not prepared.*downloading is off"):
        data_load("mnist", data_dir=tmp_path)


def test_data_that_is_no_image_classification(tmp_path):
    with pytest.raises(ValueError, match="not an image classification set"):
        data_load("iris", data_dir=tmp_path)


def test_validation_and_batch_sizes_out_of_range():
    with pytest.raises(ValueError, match="validation_size=1497"):
        data.load("digits", validation_size=1497)
    digits = data.load("digits")
    with pytest.raises(ValueError, match="batch_size=5000"):
        digits.training_pipeline(5000, seed=0)


def test_images_too_small_for_the_network():
    with pytest.raises(ValueError, match=r"lenet_5.*16x16.*\(8, 8, 1\)"):
        models.build("lenet_5", (8, 8, 1), 10)
    with pytest.raises(ValueError, match=r"conv_6.*8x8"):
        models.build("conv_6", (4, 4, 1), 10)
    with pytest.raises(ValueError, match="'resnet'"):
        models.build("resnet", (8, 8, 1), 10)
