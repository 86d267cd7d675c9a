"""`sparse_ready`: the same outputs, by the rules."""

import re

import keras
import numpy as np
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import tfticket
from tfticket.export.tflite import mirror, rewriting
from tfticket.export.tflite.rewriting import Rewriter
from tfticket.keras_models.graph import FlatGraph

layers = keras.layers


def pixels(window):
    first = [i * window.stride - window.before for i in range(window.count)]
    return [
        {x for x in range(start, start + window.size) if 0 <= x < window.length}
        for start in first
    ]


@given(
    st.integers(3, 30),
    st.integers(1, 5),
    st.integers(1, 3),
    st.integers(0, 3),
    st.integers(0, 3),
    st.booleans(),
)
def test_a_mirrored_window_sees_the_same_pixels_in_reverse(
    length, size, stride, before, after, is_same
):
    if length + before + after < size:
        return
    make = mirror.same if is_same else mirror.valid
    window = make(length, size, stride, before, after)
    reverse = [
        {length - 1 - x for x in seen} for seen in reversed(pixels(window.mirrored()))
    ]
    assert pixels(window) == reverse
    if window.is_even:
        half = mirror.valid(length, size, stride, size // 2, size // 2)
        assert pixels(half) == pixels(window)


@pytest.mark.parametrize("length", [6, 7, 8, 9])
@pytest.mark.parametrize(("size", "stride"), [(3, 2), (5, 2), (3, 1), (1, 2), (2, 2)])
def test_windows_are_those_of_keras(length, size, stride):
    x = np.arange(1.0, length + 1).reshape(1, length, 1, 1)
    pool = layers.MaxPooling2D((size, 1), (stride, 1), padding="same")
    window = mirror.same(length, size, stride)
    expected = [max(seen) + 1 for seen in pixels(window)]
    assert np.ravel(pool(x)).tolist() == expected


def randomized(model, seed=0):
    """Weights and statistics as of a trained network; 90 % of 1x1 kernels zero."""
    random = np.random.default_rng(seed)
    for layer in model.layers:
        for weight in layer.weights:
            value = random.normal(0.1, 0.4, weight.shape)
            if "variance" in weight.path:
                value = np.abs(value) + 0.5
            if weight.path.endswith("kernel") and np.prod(weight.shape[:2]) == 1:
                value *= random.random(weight.shape) < 0.1
            weight.assign(value)
    return model


def outputs(model, x):
    return keras.tree.flatten(model.predict(x, batch_size=1, verbose=0))


def check(model, **options):
    """The outputs are those of the model on images of one's own; the plan is there."""
    ready = tfticket.export.sparse_ready(model, **options)
    x = np.random.default_rng(3).normal(size=(3, *model.input_shape[1:]))
    x = x.astype("float32")
    turned = x
    if ready.flipped and not ready.flips_input:
        turned = np.flip(x, [("height", "width").index(a) + 1 for a in ready.flipped])
    for old, new in zip(outputs(model, x), outputs(ready.model, turned), strict=True):
        np.testing.assert_allclose(new, old, atol=3e-6 * np.abs(old).max())
    return ready


def check_rewriting(model):
    """The same of the rewriting alone, whatever the plan says."""
    made = Rewriter(FlatGraph(model), (1, 2), None, False).model()
    x = np.random.default_rng(0).normal(size=(2, *model.input_shape[1:]))
    x = x.astype("float32")
    for old, new in zip(outputs(model, x), outputs(made, x), strict=True):
        np.testing.assert_allclose(new, old, atol=3e-6 * np.abs(old).max())


def squeezed(x, sigmoid, filters=8):
    """Squeeze-and-excite."""
    s = layers.GlobalAveragePooling2D(keepdims=True)(x)
    s = layers.Conv2D(4, 1, activation="relu")(s)
    s = layers.Conv2D(filters, 1)(s)
    return layers.Multiply()([x, sigmoid(s)])


def hard(x):
    return layers.ReLU(6.0)(x + 3.0) * (1.0 / 6.0)


def network(size=16, **kinds):
    """A MobileNet-like network of the kinds asked for."""
    image = keras.Input((*np.broadcast_to(size, 2), 3), name="image")
    x = layers.Rescaling(1 / 127.5, -1.0)(image)
    if kinds.get("explicit"):
        x = layers.ZeroPadding2D(((0, 1), (0, 1)))(x)
    x = layers.Conv2D(
        8, 3, 2, padding="valid" if kinds.get("explicit") else "same", use_bias=False
    )(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    short = x
    width = kinds.get("window", 3)
    if kinds.get("separable"):
        x = layers.SeparableConv2D(8, width, padding="same", depth_multiplier=1)(x)
    else:
        x = layers.DepthwiseConv2D(width, padding="same", use_bias=False)(x)
    x = layers.BatchNormalization(scale=False)(x)
    x = layers.Activation(kinds.get("activation", "relu"))(x)
    sigmoids = {"hard": hard, "hard_sigmoid": keras.activations.hard_sigmoid}
    if name := kinds.get("squeeze"):
        x = squeezed(x, sigmoids.get(name, layers.Activation("sigmoid")))
    x = layers.Conv2D(8, 1, name="mix")(x)
    if kinds.get("add"):
        x = layers.Add()([x, short])
    x = layers.DepthwiseConv2D(width, 2, padding="same")(x)
    x = layers.Conv2D(12, 1, activation="relu", name="last")(x)
    if kinds.get("head"):
        x = layers.GlobalAveragePooling2D(keepdims=True)(x)
        x = layers.Dropout(0.5)(layers.BatchNormalization()(layers.ReLU()(x)))
        x = layers.Conv2D(5, 1, activation=kinds["head"], name="head")(x)
        x = layers.Reshape((5,))(x)
    else:
        x = layers.GlobalAveragePooling2D()(x)
        x = layers.Dense(5, name="head")(x)
    return randomized(keras.Model(image, layers.Softmax(name="classes")(x)))


@settings(max_examples=6, deadline=None, phases=[Phase.generate])  # shrinking is slow
@given(
    st.fixed_dictionaries(
        {
            "size": st.sampled_from([16, 15, (16, 15), 20]),
            "explicit": st.booleans(),
            "separable": st.booleans(),
            "window": st.sampled_from([3, 5]),
            "activation": st.sampled_from(
                ["relu", "hard_silu", "hard_sigmoid", "silu"]
            ),
            "squeeze": st.sampled_from(["", "hard", "hard_sigmoid", "sigmoid"]),
            "add": st.booleans(),
            "head": st.sampled_from([None, "linear", "relu", "hard_silu"]),
        }
    )
)
def test_networks_of_all_kinds_compute_the_same(kinds):
    # Padding that is already there, of an odd size, can't be made even.
    kinds["explicit"] &= kinds["size"] in (16, 20)
    model = network(**kinds)
    ready = check(model)
    assert ready.model.name == model.name
    assert ready.model.output_names == ["classes"]
    before = {row.layer: row.zeros for row in tfticket.export.sparse_plan(model).rows}
    for row in ready.plan.rows:
        assert row.zeros == before.get(row.layer, row.zeros)


@pytest.mark.parametrize(
    "kinds",
    [
        {},
        {"size": 13},
        {"explicit": True, "window": 5, "add": True},
        {"separable": True, "head": "linear"},
        {"squeeze": "hard", "activation": "hard_silu"},
        {"squeeze": "hard_sigmoid", "head": "relu"},
    ],
)
def test_every_pointwise_kernel_can_run_sparse(kinds):
    ready = check(network(**kinds))
    # Two of squeeze-and-excite, one of a separable convolution, "mix" and "last".
    assert len(ready.plan.pointwise) >= 2
    assert {row.layer for row in ready.plan.running} == {
        row.layer for row in ready.plan.pointwise
    }
    assert ("height" in ready.flipped) == (kinds.get("size") != 13)


def test_a_map_of_one_pixel_is_no_head():
    image = keras.Input((4, 4, 3))
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(image)
    x = layers.Conv2D(8, 1)(layers.DepthwiseConv2D(3, 2, padding="same")(x))
    x = layers.Conv2D(8, 1)(layers.DepthwiseConv2D(3, padding="same")(x))
    x = layers.Dense(2)(layers.GlobalAveragePooling2D()(x))
    ready = check(randomized(keras.Model(image, x)))
    assert len(ready.plan.running) == 2


def test_one_axis_alone_is_flipped():
    assert check(network(size=(16, 13))).flipped == ("height",)


def test_the_caller_may_flip():
    model = network()
    ready = check(model, flip="caller")
    assert ready.flipped == ("height", "width")
    assert not ready.flips_input
    assert "the caller" in str(ready)


@pytest.mark.parametrize(
    "name",
    ["MobileNetV3Small", "MobileNet", "MobileNetV2"],
)
@pytest.mark.slow
def test_the_networks_of_keras(name):
    make = getattr(keras.applications, name)
    # V3 makes channels in eights and gives up below that.
    small = {} if name == "MobileNetV3Small" else {"alpha": 0.35}
    if name == "MobileNet":
        small = {"alpha": 0.25}
    model = randomized(make(input_shape=(96, 96, 3), weights=None, classes=7, **small))
    ready = check(model)
    assert {x.layer for x in ready.plan.running} == {
        x.layer for x in ready.plan.pointwise
    }
    head = {"MobileNet": 1, "MobileNetV2": 0, "MobileNetV3Small": 2}[name]
    dense = [x for x in ready.model.layers if isinstance(x, layers.Dense)]
    assert len(dense) == head + (name == "MobileNetV2")


def test_what_looks_at_places_gets_its_image_back():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(image)
    x = layers.Conv2D(8, 1, activation="relu")(x)
    x = layers.DepthwiseConv2D(3, padding="same")(x)
    x = layers.GlobalAveragePooling2D(keepdims=True)(x) * x
    x = layers.Conv2D(6, 1, name="map")(x)
    pooled = layers.MaxPooling2D(3, 2, padding="same")(x)
    valid = layers.MaxPooling2D(3, 2)(layers.ZeroPadding2D(((0, 1), (2, 0)))(x))
    mean = layers.AveragePooling2D(3, 2, padding="same")(x)
    cut = layers.Cropping2D(((1, 0), (0, 2)))(x)
    up = layers.UpSampling2D(2)(x)
    numbers = layers.Dense(3)(layers.Flatten()(x))
    out = [x, pooled, valid, mean, cut, up, numbers, layers.Conv2D(2, 3)(x)]
    model = randomized(keras.Model(image, [*out, layers.GlobalMaxPooling2D()(x)]))
    check_rewriting(model)


def test_a_map_that_the_model_gives_out_is_copied_out_of_the_cluster():
    image = keras.Input((13, 13, 3))
    x = layers.Conv2D(4, 3, 2, padding="same", activation="relu")(image)
    x = layers.Conv2D(8, 1, name="map")(x)
    y = layers.Dense(2)(layers.GlobalAveragePooling2D()(layers.Conv2D(8, 1)(x)))
    made = Rewriter(FlatGraph(keras.Model(image, [x, y])), (), 1, False)
    (copy,) = [k for k in made.model().layers if isinstance(k, layers.MaxPooling2D)]
    assert copy.pool_size == (1, 1)
    assert rewriting.COPIED in made.changes


def test_shared_layers_and_nested_models():
    image = keras.Input((16, 16, 3))
    x = layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    shared = layers.DepthwiseConv2D(3, padding="same")
    norm = layers.BatchNormalization()
    x = norm(shared(x))
    inner = keras.Sequential(
        [keras.Input((8, 8, 8)), layers.Conv2D(8, 1, name="mix"), layers.ReLU()]
    )
    x = layers.Conv2D(8, 1)(inner(norm(shared(x))))
    x = layers.Dense(3)(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(image, x)
    check_rewriting(randomized(model))


def test_the_model_is_not_changed():
    model = network(squeeze="hard")
    before = [np.array(x) for x in model.get_weights()]
    tfticket.export.sparse_ready(model)
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_wrapped_model_is_written_without_its_masks():
    model = tfticket.prune(network())
    tfticket.sparsify(model, 0.9)
    ready = tfticket.export.sparse_ready(model)
    assert all(row.zeros > 0.89 for row in ready.plan.pointwise)
    assert not any("Prune" in type(x).__name__ for x in ready.model.layers)


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            lambda: keras.applications.ResNet50(
                weights=None, input_shape=(32, 32, 3), include_top=False
            ),
            "stride of 1",
        ),
        (
            lambda: keras.Sequential(
                [keras.Input((8, 8, 3)), layers.Conv2D(4, 3), layers.Flatten()]
            ),
            "has no 1x1 convolutions",
        ),
        (
            lambda: keras.Sequential(
                [
                    keras.Input((16, 16, 1)),
                    layers.Conv2D(4, 3, 2, padding="same"),
                    layers.Conv2D(4, 1),
                    layers.GlobalAveragePooling2D(),
                ]
            ),
            "3 channels",
        ),
    ],
)
def test_what_can_not_be_written_is_refused_with_the_reason(model, words):
    with pytest.raises(ValueError, match=words) as error:
        tfticket.export.sparse_ready(model())
    assert "flip" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"target": "x86"}, "target must be"),
        ({"flip": "both"}, "flip must be"),
        ({"batch_size": 2}, "batch_size must be 1 or None"),
    ],
)
def test_arguments_are_checked(options, words):
    with pytest.raises(ValueError, match=words):
        tfticket.export.sparse_ready(network(), **options)


def test_weights_that_are_nan_are_refused():
    model = network()
    model.get_layer("mix").kernel.assign(np.full((1, 1, 8, 8), np.nan))
    with pytest.raises(ValueError, match="NaN"):
        tfticket.export.sparse_ready(model)


def test_a_file_for_a_target_is_rewritten_and_says_so(tmp_path):
    model = network()
    exported = tfticket.export.litert(
        model, tmp_path / "m.tflite", sparse=True, target="web"
    )
    assert exported.rewritten
    assert "unstructured" in exported.sparse.values()
    assert re.search(r"\d+ layers rewritten", str(exported))
    assert "2 of 2 1x1 kernels" in exported.expectation


@pytest.mark.parametrize(
    "options", [{"sparse": False}, {"sparse": True, "quantization": "dynamic"}]
)
def test_a_target_is_for_sparse_files_in_floats(tmp_path, options):
    with pytest.raises(ValueError, match=r"target='web' is for sparse files"):
        tfticket.export.litert(
            network(), tmp_path / "m.tflite", target="web", **options
        )
    assert not list(tmp_path.iterdir())
