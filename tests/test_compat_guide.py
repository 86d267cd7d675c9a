"""TF-MOT's guide as its reader would run it, with another import."""

import importlib.util

import keras
import numpy as np
import pytest
from fixtures.tfmot_cases import guide

import tfticket
import tfticket.compat.tfmot as tfmot
from tfticket import schedules

sparsity = tfmot.sparsity.keras
EVERY_STEP = sparsity.ConstantSparsity(0.5, 0, frequency=1)


@keras.saving.register_keras_serializable(package="tests")
class Own(keras.layers.Dense, sparsity.PrunableLayer):
    def get_prunable_weights(self):
        return [self.kernel, self.bias]


@keras.saving.register_keras_serializable(package="tests")
class Silent(keras.layers.Dense):
    pass


def fit(model, data, **kwargs):
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    model.fit(
        *data,
        batch_size=8,
        verbose=0,
        callbacks=[sparsity.UpdatePruningStep()],
        **kwargs,
    )


def test_all_names_are_where_tfmot_has_them():
    for name in tfmot.__all__:
        if name != "sparsity":
            assert getattr(sparsity, name) is getattr(tfmot, name)
    assert sparsity.pruning_schedule.ConstantSparsity is tfmot.ConstantSparsity
    assert sparsity.pruning_schedule.PolynomialDecay is tfmot.PolynomialDecay
    assert issubclass(tfmot.UpdatePruningStep, tfticket.UpdatePruningStep)
    assert tfmot.PruningSummaries is tfticket.PruningSummaries


def test_recipes():
    # What real TF-MOT does; test_compat_conformance asks it for these and more.
    found = guide(keras, tfmot, ["polynomial", "groups"])
    after = found.pop("polynomial: step by step")
    # Pruned in the batches 2, 5, ... of 20, the first being 1; 600 weights.
    pruned = [0, 120, 305, 413, 464, 479]
    times = [1, 3, 3, 3, 3, 7]
    assert after == [round(n / 600, 6) for n in np.repeat(pruned, times)]
    assert found.pop("groups: step by step") == [0.75] * 20
    assert found == pytest.approx(
        {
            "polynomial: first, weight 0": 479 / 600,
            "polynomial: second, weight 0": 0.8,
            "groups: first, weight 0": 0.75,
            "groups: second, weight 0": 22 / 30,
        }
    )


def test_some_layers_by_clone_function(mlp, data):
    def wrap(layer):
        if isinstance(layer, keras.layers.Dense):
            return sparsity.prune_low_magnitude(layer, EVERY_STEP)
        return layer

    pruned = keras.models.clone_model(mlp, clone_function=wrap)
    np.testing.assert_array_equal(
        pruned.predict(data[0], verbose=0), mlp.predict(data[0], verbose=0)
    )
    fit(pruned, data)
    assert [np.mean(~m) for m in tfticket.get_masks(pruned).values()] == [0.5, 0.5]


def test_whole_model_from_base_to_export(mlp, data, tmp_path):
    pruned = sparsity.prune_low_magnitude(mlp, EVERY_STEP)
    np.testing.assert_array_equal(
        pruned.predict(data[0], verbose=0), mlp.predict(data[0], verbose=0)
    )
    before = mlp.get_weights()
    fit(pruned, data)
    for old, new in zip(before, mlp.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    exported = sparsity.strip_pruning(pruned)
    assert [type(x).__name__ for x in exported.layers] == [
        type(x).__name__ for x in mlp.layers
    ]
    kernel = exported.get_layer("hidden").get_weights()[0]
    assert np.mean(kernel == 0.0) == 0.5
    exported.save(tmp_path / "exported.keras")
    again = keras.models.load_model(tmp_path / "exported.keras")
    np.testing.assert_array_equal(
        again.predict(data[0], verbose=0), pruned.predict(data[0], verbose=0)
    )


def test_checkpoint_and_restore(mlp, data, tmp_path):
    pruned = sparsity.prune_low_magnitude(mlp, EVERY_STEP)
    fit(pruned, data)
    pruned.save(tmp_path / "checkpoint.keras")
    with sparsity.prune_scope():
        again = keras.models.load_model(tmp_path / "checkpoint.keras")
    for name, mask in tfticket.get_masks(pruned).items():
        np.testing.assert_array_equal(tfticket.get_masks(again)[name], mask)
    again.fit(*data, verbose=0, callbacks=[sparsity.UpdatePruningStep()])
    assert np.mean(~tfticket.get_masks(again)["hidden/kernel"]) == 0.5
    other = sparsity.prune_low_magnitude(mlp, EVERY_STEP)
    pruned.save_weights(tmp_path / "checkpoint.weights.h5")
    other.load_weights(tmp_path / "checkpoint.weights.h5")
    np.testing.assert_array_equal(
        other.predict(data[0], verbose=0), pruned.predict(data[0], verbose=0)
    )


def test_missing_callback_is_an_error(mlp, data):
    pruned = sparsity.prune_low_magnitude(mlp, EVERY_STEP)
    pruned.compile("adam", "sparse_categorical_crossentropy")
    with pytest.raises(ValueError, match="nothing follows"):
        pruned.fit(*data, verbose=0)
    pruned.evaluate(*data, verbose=0)


def test_own_layers_say_what_to_prune(data, tmp_path):
    model = keras.Sequential(
        [
            sparsity.prune_low_magnitude(Own(4, name="own"), EVERY_STEP),
            sparsity.prune_low_magnitude(keras.layers.Dropout(0.1)),
            keras.layers.Dense(3),
        ]
    )
    model.build((None, 6))
    fit(model, data)
    assert {k: np.mean(~v) for k, v in tfticket.get_masks(model).items()} == {
        "own/kernel": 0.5,
        "own/bias": 0.5,
    }
    model.save(tmp_path / "own.keras")
    assert len(tfticket.get_masks(keras.models.load_model(tmp_path / "own.keras"))) == 2
    with pytest.raises(ValueError, match=r"'silent' .*get_prunable_weights"):
        sparsity.prune_low_magnitude(Silent(4, name="silent"))
    with pytest.raises(ValueError, match="'silent'"):
        sparsity.prune_low_magnitude(
            keras.Sequential([keras.Input((6,)), Silent(4, name="silent")])
        )


def test_a_loop_of_ones_own(mlp, data):
    pruned = sparsity.prune_low_magnitude(mlp, EVERY_STEP)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    pruned.compile("adam", loss)
    callback = sparsity.UpdatePruningStep()
    callback.set_model(pruned)
    callback.on_train_begin()
    for epoch in range(2):
        for step in range(3):
            callback.on_train_batch_begin(step)
            pruned.train_on_batch(*data)
        callback.on_epoch_end(epoch)
    assert np.mean(~tfticket.get_masks(pruned)["hidden/kernel"]) == 0.5


def test_kinds_of_layers():
    def wrapped(layer):
        return isinstance(sparsity.prune_low_magnitude(layer), tfticket.Prune)

    layers = keras.layers
    for layer in (
        layers.Dense(2),
        layers.Embedding(5, 2),
        layers.SeparableConv2D(2, 2),
        layers.LSTM(2),
        layers.MultiHeadAttention(2, 2),
        layers.Bidirectional(layers.GRU(2)),
        layers.TimeDistributed(layers.Dense(2)),
    ):
        assert wrapped(layer), layer
    for layer in (
        layers.DepthwiseConv2D(2),
        layers.BatchNormalization(),
        layers.MaxPooling2D(),
        layers.Rescaling(0.5),
        layers.TimeDistributed(layers.Flatten()),
    ):
        assert not wrapped(layer), layer


def test_models_with_wrapped_layers_keep_them(mlp):
    inner = keras.Sequential([keras.Input((6,)), keras.layers.Dense(6, name="inside")])
    table = keras.layers.Embedding(5, 6, name="table")
    first = sparsity.prune_low_magnitude(
        keras.layers.Dense(6, name="first"), sparsity.ConstantSparsity(0.9, 3)
    )
    model = keras.Sequential(
        [keras.Input(()), table, first, inner, keras.layers.DepthwiseConv1D(2)][:-1]
    )
    pruned = sparsity.prune_low_magnitude(model, EVERY_STEP)
    wrappers = {layer.name: layer for layer in pruned.layers if hasattr(layer, "masks")}
    assert wrappers["first"].schedule == first.schedule
    assert wrappers["table"].schedule != first.schedule
    assert len(tfticket.get_masks(pruned)) == 3


def test_lists_of_layers(data):
    layers = sparsity.prune_low_magnitude(
        [
            keras.layers.InputLayer(shape=(6,)),
            keras.layers.Dense(4),
            keras.layers.ReLU(),
            sparsity.prune_low_magnitude(keras.layers.Dense(3), EVERY_STEP),
        ],
        EVERY_STEP,
    )
    model = keras.Sequential(layers)
    fit(model, data)
    assert [np.mean(~m) for m in tfticket.get_masks(model).values()] == [0.5, 0.5]


@pytest.mark.parametrize("where", ["layer", "wrapper"])
def test_shape_of_the_first_layer(where):
    shape = {"input_shape": (6,)}
    layer = keras.layers.Dense(2, **(shape if where == "layer" else {}))
    first = sparsity.prune_low_magnitude(layer, **(shape if where == "wrapper" else {}))
    assert isinstance(first, tfticket.Prune)
    assert not layer.built
    model = keras.Sequential([first, keras.layers.ReLU()])
    assert model.built
    assert model.input_shape == (None, 6)


def test_shape_of_a_first_layer_with_nothing_to_prune():
    first = sparsity.prune_low_magnitude(keras.layers.Flatten(), input_shape=(2, 3))
    model = keras.Sequential([first, keras.layers.ReLU()])
    assert model.output_shape == (None, 6)


def test_unbuilt_models_are_wrapped_and_built_later(data):
    model = sparsity.prune_low_magnitude(
        keras.Sequential([keras.layers.Dense(4), keras.layers.Dense(3)]), EVERY_STEP
    )
    assert not model.built
    model.build((None, 6))
    fit(model, data)
    assert [np.mean(~m) for m in tfticket.get_masks(model).values()] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"block_pooling_type": "MEAN"}, ValueError, "'AVG', 'MAX'"),
        ({"block_pooling_type": 1}, TypeError, "'AVG', 'MAX'"),
        ({"block_size": 2}, TypeError, "block_size must be a pair"),
        ({"block_size": (2, 2, 1)}, ValueError, "block_size must be a pair"),
        ({"block_size": (2, 0)}, ValueError, r"block_size\[1\] must be at least 1"),
        ({"sparsity_m_by_n": 2}, TypeError, "sparsity_m_by_n must be a pair"),
        ({"sparsity_m_by_n": (2.0, 4)}, TypeError, r"m_by_n\[0\] must be an integer"),
        ({"sparsity_m_by_n": (4, 4)}, ValueError, "0 < m < n"),
        (
            {"sparsity_m_by_n": (2, 4), "block_size": (2, 2)},
            ValueError,
            "can't be combined",
        ),
    ],
)
def test_arguments_that_are_wrong(arguments, error, message):
    with pytest.raises(error, match=message):
        sparsity.prune_low_magnitude(keras.layers.Dense(2), **arguments)


@pytest.mark.parametrize(
    "arguments", [{"block_size": (2, 3)}, {"sparsity_m_by_n": (1, 4)}, {}]
)
def test_wrappers_keep_their_arguments_when_saved(arguments):
    layer = sparsity.prune_low_magnitude(
        keras.layers.Dense(2), EVERY_STEP, block_pooling_type="MAX", **arguments
    )
    again = keras.saving.deserialize_keras_object(
        keras.saving.serialize_keras_object(layer)
    )
    assert again.schedule == layer.schedule
    assert again.structure == layer.structure
    assert (again.structure is None) == (not arguments)


def test_what_cannot_be_pruned(mlp):
    class Subclassed(keras.Model):
        pass

    with pytest.raises(TypeError, match="to_prune must be"):
        sparsity.prune_low_magnitude("model")
    with pytest.raises(ValueError, match="subclassed"):
        sparsity.prune_low_magnitude(Subclassed())
    with pytest.raises(TypeError, match="pruning_policy must be"):
        sparsity.prune_low_magnitude(mlp, pruning_policy="all")
    with pytest.raises(TypeError, match="takes keras"):
        sparsity.prune_low_magnitude([keras.layers.Dense(2), 3])
    with pytest.raises(TypeError, match=r"must be a keras\.Model"):
        sparsity.strip_pruning(keras.layers.Dense(2))
    with pytest.raises(ValueError, match="wrapped already"):
        sparsity.prune_low_magnitude(
            sparsity.prune_low_magnitude(keras.layers.Dense(2))
        )
    with pytest.raises(TypeError, match="abstract"):
        sparsity.PrunableLayer()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"block_size": (2, 2)}, "block_size is for weights of rank 2"),
        ({"sparsity_m_by_n": (2, 4)}, "sparsity_m_by_n is for weights of rank 2 and 4"),
    ],
)
def test_patterns_of_other_ranks_are_refused(arguments, message):
    model = keras.Sequential([keras.Input((8, 4)), keras.layers.Conv1D(2, 3)])
    pruned = sparsity.prune_low_magnitude(model, EVERY_STEP, **arguments)
    pruned.compile("adam", "mse")
    x = np.zeros((4, 8, 4))
    with pytest.raises(ValueError, match=message):
        pruned.fit(
            x,
            np.zeros((4, 6, 2)),
            verbose=0,
            callbacks=[sparsity.UpdatePruningStep()],
        )


@keras.saving.register_keras_serializable(package="tests")
class FromStepTwo(sparsity.PruningSchedule):
    """As a user of TF-MOT writes one, its configuration in TF-MOT's form."""

    def __init__(self, target):
        self.target = target

    def __call__(self, step):
        return self._should_prune_in_step(step, 2, -1, 1), self.target

    def get_config(self):
        return {"class_name": "FromStepTwo", "config": {"target": self.target}}


def test_schedules_of_ones_own(mlp, data, tmp_path):
    pruned = sparsity.prune_low_magnitude(mlp, FromStepTwo(0.25))
    seen = []

    class Look(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            mask = tfticket.get_masks(self.model)["hidden/kernel"]
            seen.append(float(np.mean(~mask)))

    pruned.compile("adam", "sparse_categorical_crossentropy")
    callbacks = [sparsity.UpdatePruningStep(), Look()]
    pruned.fit(*data, batch_size=16, verbose=0, callbacks=callbacks)
    assert seen == [0.0, 0.25, 0.25]
    pruned.save(tmp_path / "own.keras")
    again = keras.models.load_model(tmp_path / "own.keras")
    assert again.get_layer("hidden").schedule(1) == (True, 0.25)


@pytest.mark.skipif(
    not importlib.util.find_spec("tensorboard"), reason="TensorBoard is not installed"
)
def test_summaries(mlp, data, tmp_path):
    pruned = sparsity.prune_low_magnitude(mlp, EVERY_STEP)
    pruned.compile("adam", "sparse_categorical_crossentropy")
    callbacks = [
        sparsity.UpdatePruningStep(),
        sparsity.PruningSummaries(log_dir=str(tmp_path / "logs")),
    ]
    pruned.fit(*data, verbose=0, callbacks=callbacks)
    assert list((tmp_path / "logs").rglob("events*"))


def test_guide_of_two_in_four(data):
    # Patterns differ from layer to layer, and the first one brings the input's shape.
    layers = keras.layers
    model = keras.Sequential(
        [
            sparsity.prune_low_magnitude(
                layers.Conv2D(8, 3, name="half", activation="relu"),
                EVERY_STEP,
                input_shape=(6, 6, 1),
            ),
            sparsity.prune_low_magnitude(
                layers.Conv2D(4, 3, name="pairs"), sparsity_m_by_n=(2, 4)
            ),
            layers.BatchNormalization(),
            layers.Flatten(),
            sparsity.prune_low_magnitude(
                layers.Dense(5, name="hidden"), sparsity_m_by_n=(2, 4)
            ),
            layers.Dense(3),
        ]
    )
    images = np.random.default_rng(0).standard_normal((48, 6, 6, 1))
    fit(model, (images, data[1]))
    masks = tfticket.get_masks(model)
    assert {name: np.mean(~mask) for name, mask in masks.items()} == {
        "half/kernel": 0.5,
        "pairs/kernel": 0.5,
        "hidden/kernel": 0.5,
    }
    kernel = keras.ops.convert_to_numpy(
        sparsity.strip_pruning(model).get_layer("pairs").kernel
    )
    groups = np.moveaxis(kernel, 2, -1).reshape(-1, 4)
    assert np.all(np.count_nonzero(groups, axis=1) == 2)


@pytest.mark.parametrize(("sparsity", "kept"), [(0.99, 1), (0.999, 1), (0.97, 2)])
def test_one_weight_stays_whatever_the_sparsity(sparsity, kept):
    model = keras.Sequential([keras.Input((10,)), keras.layers.Dense(8, name="d")])
    schedule = tfmot.ConstantSparsity(sparsity, 0, frequency=1)
    pruned = tfmot.prune_low_magnitude(model, schedule)
    pruned.compile("adam", "mse")
    callbacks = [tfmot.UpdatePruningStep()]
    pruned.fit(np.ones((8, 10)), np.ones((8, 8)), verbose=0, callbacks=callbacks)
    assert np.count_nonzero(tfmot.strip_pruning(pruned).get_layer("d").kernel) == kept


def test_the_callback_does_nothing_where_there_is_nothing_and_says_so():
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
    model.compile("adam", "mse")
    callbacks = [tfmot.UpdatePruningStep()]
    with pytest.warns(UserWarning, match="no masks, so UpdatePruningStep prunes"):
        model.fit(np.ones((8, 3)), np.ones((8, 2)), verbose=0, callbacks=callbacks)
    # As a callback of tfticket's own it is refused.
    with pytest.raises(ValueError, match="no masks to prune with"):
        model.fit(
            *(np.ones((8, 3)), np.ones((8, 2))),
            verbose=0,
            callbacks=[tfticket.UpdatePruningStep(schedules.OneShot(0.5))],
        )


def test_strip_pruning_of_a_model_that_is_not_built():
    dense = tfmot.prune_low_magnitude(keras.layers.Dense(3, name="a"))
    model = keras.Sequential([dense, keras.layers.Dense(2, name="b")], name="net")
    plain = tfmot.strip_pruning(model)
    assert [type(x) for x in plain.layers] == [keras.layers.Dense] * 2
    assert [x.name for x in plain.layers] == ["a", "b"]
    assert plain.name == "net"
    assert not plain.built
    assert plain(np.ones((1, 4))).shape == (1, 2)


@pytest.mark.parametrize("of_a_generator", [False, True])
def test_a_schedule_of_ones_own_is_not_asked_far_ahead(
    of_a_generator,
):
    import tensorflow as tf

    x, y = np.ones((48, 3), "float32"), np.ones((48, 2), "float32")
    table = [(step % 5 == 0, step / 20) for step in range(12)]
    asked = []

    def schedule(step):
        asked.append(int(step))
        return table[int(step)]

    data = tf.data.Dataset.from_tensor_slices((x, y)).batch(4)
    if of_a_generator:  # its length is not known
        data = data.filter(lambda x, y: True)
    pruned = tfticket.prune(
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="d")])
    )
    pruned.compile("adam", "mse")
    callbacks = [tfticket.GradualPruning(schedule)]
    pruned.fit(data, verbose=0, callbacks=callbacks)
    assert tfticket.get_masks(pruned)["d/kernel"].mean() == 0.5
    # Where the data does not say that it is over, one that never comes is begun.
    assert max(asked) == (12 if of_a_generator else 11)


ALL_SCHEDULES = [
    schedules.ConstantSparsity(0.5, 2, 20, frequency=3),
    schedules.ConstantSparsity(0.5, 0, frequency=2),
    schedules.OneShot(0.9, 5),
    schedules.PolynomialDecay(0.1, 0.8, 3, 20, power=2, frequency=2),
    schedules.PolynomialDecay(0.1, 0.8, 3, 3, frequency=2),
    schedules.CosineDecay(0.0, 0.7, 2, 17, frequency=5),
    schedules.Rounds(0.2, 3, frequency=4),
]


@pytest.mark.parametrize("autograph", [False, True])
@pytest.mark.parametrize("schedule", ALL_SCHEDULES, ids=repr)
def test_schedules_in_a_graph(schedule, autograph):
    import tensorflow as tf

    in_graph = tf.function(lambda step: schedule(step), autograph=autograph)
    for step in range(25):
        due, sparsity = in_graph(tf.constant(step, tf.int64))
        assert bool(due) == schedule(step)[0], step
        assert float(sparsity) == pytest.approx(schedule(step)[1], abs=1e-6)
        # With a value, a tensor is as good as a number.
        assert schedule(tf.constant(step)) == schedule(step)
