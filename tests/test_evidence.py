import contextlib

import keras
import numpy as np
import pytest
from fixtures.backends import needs_float64

import tfticket
from tfticket import criteria
from tfticket.pruning.evidence import ChangeTracker, gather
from tfticket.pruning.masks import masked_weights

KERNEL = "dense/kernel"
RANDOM = np.random.default_rng(0)
X = RANDOM.standard_normal((5, 3))
Y = RANDOM.standard_normal((5, 2))
MASK = np.array([[True, False], [True, True], [False, True]])


@pytest.fixture
def float64():
    # Losses are taken in floatx, and finite differences need the digits.
    keras.config.set_floatx("float64")
    yield
    keras.config.set_floatx("float32")


@pytest.fixture
def linear():
    """One masked float64 layer without bias, and its weight."""
    model = tfticket.prune(
        keras.Sequential(
            [
                keras.Input((3,)),
                keras.layers.Dense(2, use_bias=False, name="dense", dtype="float64"),
            ]
        )
    )
    tfticket.set_masks(model, {KERNEL: MASK})
    return model, weight_of(model)


def weight_of(model, name=KERNEL):
    return tfticket.pruning.masks.get_pruned_weights(model)[name].astype("float64")


def variables_of(model):
    variables = list(model.variables)
    if getattr(model, "optimizer", None) is not None:
        variables += model.optimizer.variables
    return [np.array(keras.ops.convert_to_numpy(v)) for v in variables]


@contextlib.contextmanager
def untouched(model):
    before = variables_of(model)
    yield
    after = variables_of(model)
    assert len(before) == len(after)
    for old, new in zip(before, after, strict=True):
        np.testing.assert_array_equal(old, new)


def by_hand(weight, x=X, y=Y):
    """Gradient of Keras's mse of a linear layer, and H g, both masked."""
    scale = 2 / y.size
    gradient = np.where(MASK, scale * x.T @ (x @ weight - y), 0)
    return gradient, np.where(MASK, scale * x.T @ x @ gradient, 0)


def test_gradient_and_hessian_of_a_linear_model(linear):
    model, weight = linear
    kinds = ("hessian_gradient", "gradient")
    with untouched(model):
        found = gather(model, kinds, (X, Y), "mse")
    gradient, product = by_hand(weight)
    assert list(found) == list(kinds)
    np.testing.assert_allclose(found["gradient"][KERNEL], gradient, rtol=5e-5)
    np.testing.assert_allclose(found["hessian_gradient"][KERNEL], product, rtol=5e-5)
    assert not found["hessian_gradient"][KERNEL][~MASK].any()
    assert not found["gradient"][KERNEL][~MASK].any()


class Batches(keras.utils.PyDataset):
    @property
    def num_batches(self):
        return 3

    def __getitem__(self, i):
        return X[2 * i : 2 * i + 2], Y[2 * i : 2 * i + 2]


def sources():
    import tensorflow as tf

    slices = [(X[i : i + 2], Y[i : i + 2]) for i in (0, 2, 4)]
    return {
        "arrays": (X, Y),
        "list": slices,
        "generator": (batch for batch in slices),
        "PyDataset": Batches(),
        "tf.data": tf.data.Dataset.from_tensor_slices((X, Y)).batch(2),
        "shuffled": tf.data.Dataset.from_tensor_slices((X, Y)).shuffle(5).batch(2),
    }


@pytest.mark.parametrize("source", list(sources()))
def test_batches_count_by_their_samples(linear, source):
    # 2, 2 and 1 samples: a plain mean of batches would be another number.
    model, weight = linear
    kinds = ["gradient", "hessian_gradient"] if source != "shuffled" else ["gradient"]
    found = gather(model, kinds, sources()[source], "mse", batch_size=2)
    for kind, expected in zip(kinds, by_hand(weight), strict=False):
        np.testing.assert_allclose(found[kind][KERNEL], expected, rtol=1e-5)


def test_batches_limits_them(linear):
    model, weight = linear
    found = gather(model, ["gradient"], (X, Y), "mse", batches=2, batch_size=2)
    expected, _ = by_hand(weight, X[:4], Y[:4])
    np.testing.assert_allclose(found["gradient"][KERNEL], expected, rtol=1e-5)


def test_sample_weights_and_loss_functions_count(linear):
    model, weight = linear
    sample_weight = np.array([0.0, 2.0, 0.0, 0.0, 1.0])

    def halved(y, prediction):
        return keras.ops.mean(keras.ops.square(y - prediction), axis=-1) / 2

    found = gather(model, ["gradient"], (X, Y, sample_weight), halved)
    residual = (X @ weight - Y) * sample_weight[:, None] / 2
    expected = np.where(MASK, 2 / Y.size * X.T @ residual, 0)
    np.testing.assert_allclose(found["gradient"][KERNEL], expected, rtol=1e-5)


def smooth_model():
    layers = keras.layers
    inputs = keras.Input((6, 6, 2))
    x = layers.Conv2D(3, 3, activation="tanh", name="conv")(inputs)
    x = layers.AveragePooling2D(2)(x)
    x = layers.Flatten()(x)
    x = layers.Dropout(0.3, seed=1)(x)
    x = layers.Dense(4, activation="softplus", name="hidden")(x)
    x = layers.Dense(3, activation="softmax", name="out")(x)
    return keras.Model(inputs, x)


@needs_float64
@pytest.mark.parametrize("density", [1.0, 0.6])
def test_hessian_gradient_is_the_slope_of_the_gradient(float64, density):
    model = tfticket.prune(smooth_model())
    masks = {
        name: RANDOM.random(mask.shape) < density
        for name, mask in tfticket.get_masks(model).items()
    }
    tfticket.set_masks(model, masks)
    x = RANDOM.standard_normal((12, 6, 6, 2))
    data = (x, RANDOM.integers(0, 3, 12))
    loss = "sparse_categorical_crossentropy"
    with untouched(model):
        found = gather(model, ["gradient", "hessian_gradient"], data, loss)
    weights = {n: x.variable for n, x in masked_weights(model).items()}
    start = {name: np.array(w) for name, w in weights.items()}
    step, sides = 1e-4, []
    for sign in (1, -1):
        for name, weight in weights.items():
            weight.assign(start[name] + sign * step * found["gradient"][name])
        sides.append(gather(model, ["gradient"], data, loss)["gradient"])
    for name, mask in masks.items():
        slope = (sides[0][name] - sides[1][name]) / (2 * step)
        scale = np.abs(slope).max()
        assert scale > 1e-4
        np.testing.assert_allclose(
            found["hessian_gradient"][name], slope, atol=1e-5 * scale
        )
        assert not found["hessian_gradient"][name][~mask].any()


def test_gradient_is_that_of_a_training_step_and_leaves_no_trace():
    layers = keras.layers
    inputs = keras.Input((6,))
    x = layers.Dense(8, "relu", kernel_regularizer="l2", name="hidden")(inputs)
    x = layers.BatchNormalization()(x)
    x = layers.Dropout(0.5, seed=3)(x)
    outputs = [layers.Dense(3, name="a")(x), layers.Dense(1, name="b")(x)]
    model = tfticket.prune(keras.Model(inputs, outputs))
    losses = [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"]
    model.compile(keras.optimizers.SGD(1.0), losses, metrics=[["accuracy"], ["mae"]])
    random = np.random.default_rng(1)
    masks = {
        k: random.random(m.shape) < 0.7 for k, m in tfticket.get_masks(model).items()
    }
    tfticket.set_masks(model, masks)
    x = random.standard_normal((32, 6)).astype("float32")
    y = [random.integers(0, 3, 32), random.standard_normal((32, 1))]
    with untouched(model):
        found = gather(model, ["gradient", "hessian_gradient"], (x, y))["gradient"]
    before = tfticket.pruning.masks.get_pruned_weights(model)
    model.train_on_batch(x, y)
    after = tfticket.pruning.masks.get_pruned_weights(model)
    for name in masks:
        np.testing.assert_allclose(
            found[name], before[name] - after[name], atol=2e-6, err_msg=name
        )
    # Between metrics and after training, too.
    with untouched(model):
        gather(model, ["gradient", "flow"], (x, y))


def sizes(*kernels):
    """SynFlow's scores of dense layers in a row without biases, by hand."""
    found = []
    for i, kernel in enumerate(kernels):
        into, out = np.ones(len(kernels[0])), np.ones(kernels[-1].shape[1])
        for before in kernels[:i]:
            into = into @ np.abs(before)
        for after in kernels[:i:-1]:
            out = np.abs(after) @ out
        found.append(np.abs(kernel) * np.outer(into, out))
    return found


@needs_float64
def test_flow_of_a_toy_by_hand():
    model = tfticket.prune(
        keras.Sequential(
            [
                keras.Input((2,)),
                keras.layers.Dense(2, "relu", use_bias=False, name="one"),
                keras.layers.Dense(1, "softmax", use_bias=False, name="two"),
            ]
        )
    )
    values = [[1, -2], [3, 4]], [[-5], [6]]
    weights = masked_weights(model).values()
    for weight, value in zip(weights, values, strict=True):
        weight.variable.assign(value)
    with untouched(model):
        flow = gather(model, ["flow"])["flow"]
    np.testing.assert_array_equal(flow["one/kernel"], [[5, 6], [5, 6]])
    np.testing.assert_array_equal(flow["two/kernel"], [[4], [6]])
    assert flow["one/kernel"].dtype == np.float64
    weights = tfticket.pruning.masks.get_pruned_weights(model)
    scores = criteria.score("synflow", weights, {"flow": flow})
    np.testing.assert_array_equal(scores["one/kernel"], [[5, 12], [15, 24]])
    np.testing.assert_array_equal(scores["two/kernel"], [[20], [36]])


@needs_float64
def test_flow_is_conserved_from_layer_to_layer_past_any_activation():
    layers = keras.layers

    def dense(*args, **kwargs):
        return tfticket.Prune(layers.Dense(*args, use_bias=False, **kwargs))

    inputs = keras.Input((5,))
    x = layers.Rescaling(1 / 255, offset=-1)(inputs)
    x = dense(7, "tanh", name="one")(x)
    x = keras.ops.softmax(x)
    x = dense(6, name="two")(x)
    x = layers.LeakyReLU()(layers.PReLU()(layers.Activation("gelu")(x)))
    x = layers.Dropout(0.5)(x)
    x = dense(4, "sigmoid", name="three")(x)
    model = keras.Model(inputs, layers.Softmax()(x))
    tfticket.set_masks(model, {"two/kernel": RANDOM.random((7, 6)) < 0.5})
    with untouched(model):
        flow = gather(model, ["flow"])
    weights = tfticket.pruning.masks.get_pruned_weights(model)
    scores = criteria.score("synflow", weights, flow)
    expected = sizes(*(weight.astype("float64") for weight in weights.values()))
    for score, by_hand in zip(scores.values(), expected, strict=True):
        np.testing.assert_allclose(score, by_hand, rtol=1e-12)
        assert score.sum() == pytest.approx(expected[0].sum())


def test_flow_takes_biases_and_batch_statistics_by_their_size():
    layers = keras.layers
    model = tfticket.prune(
        keras.Sequential(
            [
                keras.Input((2,)),
                layers.Dense(2, name="one"),
                layers.BatchNormalization(epsilon=0.25, name="norm"),
                layers.Dense(1, use_bias=False, name="two"),
            ]
        )
    )
    model.get_layer("one").layer.bias.assign([-1.0, 2.0])
    for name, value in {
        "gamma": [-2.0, 1.0],
        "beta": [-3.0, 0.0],
        "moving_mean": [9.0, 9.0],
        "moving_variance": [0.75, 3.75],
    }.items():
        getattr(model.get_layer("norm"), name).assign(value)
    with untouched(model):
        flow = gather(model, ["flow"])["flow"]
    one, two = (np.abs(weight_of(model, f"{name}/kernel")) for name in ("one", "two"))
    scale = np.array([2.0, 0.5])
    np.testing.assert_allclose(flow["one/kernel"], np.outer([1, 1], two[:, 0] * scale))
    into = (one.sum(0) + np.array([1, 2])) * scale + np.array([3, 0])
    np.testing.assert_allclose(flow["two/kernel"][:, 0], into)


@needs_float64
def test_flow_of_images_nested_models_and_wrapped_layers():
    layers = keras.layers
    inner = keras.Sequential(
        [
            keras.Input((4, 4, 1)),
            layers.Conv2D(2, 3, activation="tanh", use_bias=False, name="conv"),
            layers.MaxPooling2D(),
        ],
        name="inner",
    )
    inputs = keras.Input((4, 4, 1), name="x")
    x = layers.Flatten()(inner(inputs))
    outputs = {"y": layers.Dense(1, use_bias=False, name="out")(x)}
    model = tfticket.prune(keras.Model({"x": inputs}, outputs))
    with untouched(model):
        flow = gather(model, ["flow"])["flow"]
    conv, out = np.abs(weight_of(model, "inner/conv/kernel")), flow["out/kernel"]
    np.testing.assert_allclose(out[:, 0], conv.sum((0, 1, 2)), rtol=1e-12)
    kernel = np.abs(weight_of(model, "out/kernel"))[:, 0]
    expected = np.broadcast_to(kernel, (3, 3, 1, 2))
    np.testing.assert_allclose(flow["inner/conv/kernel"], expected, rtol=1e-12)


@needs_float64
def test_flow_goes_beyond_float32_and_tells_of_none_at_all():
    def deep(size):
        dense = [keras.layers.Dense(2, use_bias=False, name=f"d{i}") for i in range(4)]
        model = tfticket.prune(keras.Sequential([keras.Input((2,)), *dense]))
        for name, weight in masked_weights(model).items():
            weight.variable.assign(np.full((2, 2), size[name[:2]]))
        return model

    large = dict.fromkeys(("d0", "d1", "d2", "d3"), 1e30)
    flow = gather(deep(large), ["flow"])["flow"]["d0/kernel"]
    np.testing.assert_allclose(flow, np.full((2, 2), 8e90), rtol=1e-5)
    with pytest.raises(ValueError, match="zero throughout weight 'd0/kernel'"):
        gather(deep({**large, "d2": 0.0}), ["flow"])
    with pytest.raises(ValueError, match="overflows in weight 'd0/kernel'"):
        gather(deep({**large, "d2": np.inf}), ["flow"])


def test_flow_refuses_what_it_can_not_linearise():
    layers = keras.layers
    normalized = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2), layers.LayerNormalization(name="norm")]
    )
    with pytest.raises(NotImplementedError, match=r"'norm' \(LayerNormalization\)"):
        gather(tfticket.prune(normalized), ["flow"])
    anywhere = keras.Sequential([keras.Input((None, 3)), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"shape \(None, None, 3\)"):
        gather(tfticket.prune(anywhere), ["flow"])


def test_what_is_missing_is_told(linear, mlp):
    model, _ = linear
    with pytest.raises(ValueError, match=r"gradient is taken over data.*data=\(x, y\)"):
        gather(model, ["gradient"], loss="mse")
    with pytest.raises(ValueError, match="'grasp' needs hessian_gradient, which"):
        gather(model, ["hessian_gradient"], loss="mse", criterion="grasp")
    with pytest.raises(ValueError, match=r"of a loss.*Compile model.*loss="):
        gather(model, ["gradient"], (X, Y))
    with pytest.raises(ValueError, match=r"'change'.*sum over the steps"):
        gather(model, ["change"])
    with pytest.raises(ValueError, match="'hessian'"):
        gather(model, ["hessian"])
    with pytest.raises(ValueError, match="loss=3"):
        gather(model, ["gradient"], (X, Y), loss=3)
    with pytest.raises(ValueError, match=r"no masks.*tfticket\.prune"):
        gather(mlp, ["flow"])


def test_data_without_batches_or_end_is_refused(linear):
    import tensorflow as tf

    model, weight = linear
    endless = tf.data.Dataset.from_tensor_slices((X, Y)).batch(5).repeat()
    for data, said in [
        ([], "no batch"),
        (endless, "never ends.*batches="),
        ((X, Y[:3]), r"\[3, 5\] samples"),
    ]:
        with pytest.raises(ValueError, match=said):
            gather(model, ["gradient"], data, "mse")
    with pytest.raises(ValueError, match="batches=0"):
        gather(model, ["gradient"], (X, Y), "mse", batches=0)
    with pytest.raises(ValueError, match="batch_size=0"):
        gather(model, ["gradient"], (X, Y), "mse", batch_size=0)
    found = gather(model, ["gradient"], endless, "mse", batches=2)["gradient"]
    np.testing.assert_allclose(found[KERNEL], by_hand(weight)[0], rtol=5e-5)


def test_an_exception_leaves_the_model_as_it_was(linear):
    model, _ = linear

    def fails(y, prediction):
        raise RuntimeError("no such loss")

    with untouched(model), pytest.raises(RuntimeError, match="no such loss"):
        gather(model, ["gradient"], (X, Y), fails)
    assert not isinstance(keras.ops.convert_to_tensor(1.0), keras.KerasTensor)


def steps_of(model, tracker, steps):
    """Assigns random weights step by step, and returns them all."""
    (weight, *_) = [x.variable for x in masked_weights(model).values()]
    path = [weight_of(model)]
    for _ in range(steps):
        weight.assign(RANDOM.standard_normal(weight.shape))
        path.append(weight_of(model))
        tracker.update()
    return np.abs(np.diff(path, axis=0))


def test_tracker_sums_what_each_step_changes(linear):
    model, _ = linear
    tracker = ChangeTracker(model)
    assert tracker.kind == "change"
    assert not tracker.values()[KERNEL].any()
    changes = steps_of(model, tracker, 4)
    np.testing.assert_allclose(tracker.values()[KERNEL], changes.sum(0))
    tracker.update()  # nothing moved
    np.testing.assert_allclose(tracker.values()[KERNEL], changes.sum(0))


def test_tracker_averages_with_decay(linear):
    model, _ = linear
    tracker = ChangeTracker(model, decay=0.9)
    assert tracker.kind == "recent_change"
    average = 0
    for change in steps_of(model, tracker, 4):
        average = 0.9 * average + 0.1 * change
    np.testing.assert_allclose(tracker.values()[KERNEL], average)
    for decay in (0.0, 1.0, -1):
        with pytest.raises(ValueError, match=f"decay={decay}"):
            ChangeTracker(model, decay=decay)


def test_reset_forgets_and_keeps(linear):
    model, start = linear
    tracker = ChangeTracker(model)
    first = steps_of(model, tracker, 2).sum(0)
    (weight, *_) = [x.variable for x in masked_weights(model).values()]
    weight.assign(start)  # rewound or pruned: no training
    tracker.reset(keep=True)
    second = steps_of(model, tracker, 2).sum(0)
    np.testing.assert_allclose(tracker.values()[KERNEL], first + second)
    weight.assign(start)
    tracker.reset()
    assert not tracker.values()[KERNEL].any()
    third = steps_of(model, tracker, 1).sum(0)
    np.testing.assert_allclose(tracker.values()[KERNEL], third)


def test_tracker_follows_fit(mlp, data):
    model = tfticket.prune(mlp)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("sgd", loss)
    path = []

    class Follow(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.tracker = ChangeTracker(self.model)
            path.append(tfticket.pruning.masks.get_pruned_weights(self.model))

        def on_train_batch_end(self, batch, logs=None):
            self.tracker.update()
            weights = tfticket.pruning.masks.get_pruned_weights(self.model)
            path.append({name: np.array(value) for name, value in weights.items()})

    follow = Follow()
    model.fit(*data, batch_size=16, epochs=2, verbose=0, callbacks=[follow])
    assert len(path) == 7
    for name, total in follow.tracker.values().items():
        changes = np.abs(np.diff([weights[name] for weights in path], axis=0))
        np.testing.assert_allclose(total, changes.sum(0), rtol=1e-5)
        assert np.all(changes.sum(0) > 0) or name == "hidden/kernel"
