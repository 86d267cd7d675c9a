"""Deliberately wrong files, which the check of every format has to refuse."""

import contextlib
import dataclasses
import functools
import re

import keras
import numpy as np
import pytest
import tensorflow as tf
from fixtures import wrong_models
from keras import layers

import tfticket
from tfticket import export
from tfticket.export import (
    litert_export,
    onnx_export,
    openvino_export,
    saved_model_export,
)
from tfticket.export.checking import compare, processes
from tfticket.export.served.function import prepare
from tfticket.export.served.samples import integer_ranges, samples_for
from tfticket.export.tflite import check as litert_check

X = wrong_models.samples()
WRONG = wrong_models.WRONG

FORMATS = {
    "dense": (export.saved_model, {}),
    "encoded": (export.saved_model, {"format": "encoded"}),
    "foldable": (export.saved_model, {"format": "foldable"}),
    "csr": (export.saved_model, {"format": "csr"}),
    "litert": (export.litert, {}),
    "sparse": (export.litert, {"sparse": True}),
    "float16": (export.litert, {"quantization": "float16"}),
    "dynamic": (export.litert, {"quantization": "dynamic"}),
    "int8": (export.litert, {"quantization": "int8", "representative_data": X}),
    "onnx": (export.onnx, {}),
    "openvino": (export.openvino, {}),
}

NEEDS = {"onnx": ["tf2onnx", "onnxruntime"], "openvino": ["tf2onnx", "openvino"]}

TOLERANCES = {"float16": 0.01, "dynamic": 0.1, "int8": 0.15}

SMALL = {"one weight is 1 % off", "a kernel is 1 % off", "an epsilon is another"}
BELOW = {
    "float16": {"one weight is 1 % off"},
    "dynamic": {
        "one weight is 1 % off",
        "a kernel is 1 % off",
        "an epsilon is another",
    },
    "int8": {"one weight is 1 % off", "a kernel is 1 % off", "an epsilon is another"},
}
"""What is smaller than the errors that a quantization may make: nine in ten samples are
off by 0.006, 0.02 and 0.04 of the largest output."""

pytestmark = pytest.mark.filterwarnings("ignore:.*of the weights of.*saves nothing")


@functools.cache
def answers(name):
    model = wrong_models.right() if name == "right" else WRONG[name]()
    values = [value.numpy() for value in model(X)]
    return dict(zip(["kind", "color"], values, strict=True))


def write(monkeypatch, tmp_path, form, wrong, right=wrong_models.right):
    """Exports a wrong model in the place of the right one, compared with that."""
    for package in NEEDS.get(form, []):
        pytest.importorskip(package)

    def instead(model, **kwargs):
        other = prepare(wrong(), **kwargs)
        given = prepare(model, **kwargs)
        return dataclasses.replace(
            other, call_given=given.call_given, state=given.state
        )

    for module in (litert_export, onnx_export, openvino_export, saved_model_export):
        monkeypatch.setattr(module, "prepare", instead)
    function, arguments = FORMATS[form]
    return function(right(), tmp_path / "m", inputs=X, **arguments)


def require_refused(monkeypatch, tmp_path, form, name):
    # LiteRT and ONNX have none of TensorFlow's random numbers.
    says = r"differs from|repeat itself|can't convert.*Random"
    with pytest.raises(export.ExportError, match=f"(?s){says}") as said:
        write(monkeypatch, tmp_path, form, WRONG[name])
    assert re.search("Nothing was kept|can't convert", str(said.value))
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("name", WRONG)
def test_the_comparison_refuses_all(name):
    with pytest.raises(export.ExportError, match=r"tolerance=0\.0001"):
        compare.require_close("It", answers("right"), answers(name), 1e-4)
    for form, tolerance in TOLERANCES.items():
        refused = contextlib.nullcontext()
        if name not in BELOW[form]:
            refused = pytest.raises(export.ExportError, match=f"tolerance={tolerance}")
        with refused:
            compare.require_close(
                "It", answers("right"), answers(name), tolerance, rounded=True
            )


@pytest.mark.parametrize(
    ("form", "name"),
    [
        ("dense", "one weight is 1 % off"),
        ("encoded", "dropout is left on"),
        ("litert", "one weight is 1 % off"),
        # Below what quantization does: what is quantized is compared as well.
        ("int8", "an epsilon is another"),
    ],
)
def test_a_wrong_file_is_refused(form, name, monkeypatch, tmp_path, quick):
    require_refused(monkeypatch, tmp_path, form, name)


@pytest.mark.slow
@pytest.mark.parametrize("form", FORMATS)
def test_the_right_file_is_kept(form, monkeypatch, tmp_path):
    exported = write(monkeypatch, tmp_path, form, wrong_models.right)
    assert exported.agreement > 0.9
    assert "compared on 64 of your samples" in str(exported)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("form", FORMATS)
def test_every_wrong_file_is_refused(form, name, monkeypatch, tmp_path, quick):
    require_refused(monkeypatch, tmp_path, form, name)


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
@pytest.mark.parametrize("form", BELOW)
def test_quantized_files_by_themselves(form, name, monkeypatch, tmp_path):
    """What a converter may do: the file is wrong, and its source was not."""
    monkeypatch.setattr(litert_check, "_require_exact", lambda *_: None)
    if name in BELOW[form]:
        assert write(monkeypatch, tmp_path, form, WRONG[name]).size
    else:
        require_refused(monkeypatch, tmp_path, form, name)


# What is asked of files that round


def test_a_few_samples_may_be_far_off():
    """The worst value of many says little: here it is half of the largest."""
    random = np.random.default_rng(0)
    right = random.dirichlet(np.full(10, 0.1), 500)
    wrong = right + 0.002 * random.standard_normal(right.shape)
    wrong[::20] = 0.5 * wrong[::20] + 0.05
    found = compare.require_close("It", {"y": right}, {"y": wrong}, 0.15, rounded=True)
    assert found.error > 0.4
    assert found.typical < 0.01
    with pytest.raises(export.ExportError, match=r"by 0\.4"):
        compare.require_close("It", {"y": right}, {"y": wrong}, 0.15)
    wrong[::8] = 0.5 * wrong[::8] + 0.05
    with pytest.raises(
        export.ExportError, match=r"90% of 500 samples.*worst: 0\.[4-7]"
    ):
        compare.require_close("It", {"y": right}, {"y": wrong}, 0.15, rounded=True)


def near_ties(spread, noise):
    random = np.random.default_rng(0)
    right = 1 + spread * random.standard_normal((64, 100))
    return {"y": right}, {"y": right + noise * random.standard_normal((64, 100))}


def test_answers_that_are_near_ties_are_held_to_their_order():
    """As of a network that was not trained: all outputs about as large."""
    wrong = {"y": near_ties(1e-3, 0)[0]["y"][:, ::-1]}
    right, close = near_ties(1e-3, 1e-4)
    for actual, refused in ((wrong, True), (close, False)):
        assert compare.difference(right, actual).relative < 0.01
        if refused:
            with pytest.raises(export.ExportError, match=r"same answer for [01]\.\d%"):
                compare.require_close("It", right, actual, 0.15, rounded=True)
        else:
            found = compare.require_close("It", right, actual, 0.15, rounded=True)
            assert found.agreement > 0.7
    # One value for all classes is no answer, though its first one might be right.
    right["y"][:, 0] = right["y"].max() + 1e-4
    flat = {"y": np.ones_like(right["y"])}
    assert compare.agreement(right, flat) == 1
    with pytest.raises(export.ExportError, match=r"nearly for 0\.0%"):
        compare.require_close("It", right, flat, 0.15, rounded=True)
    # It is a matter of tolerance=, as all of this is.
    assert compare.require_close("It", right, flat, 2.0, rounded=True)


def test_regression_is_not_held_to_an_order():
    random = np.random.default_rng(0)
    right = random.standard_normal((64, 640))
    wrong = right + 0.05 * random.standard_normal(right.shape)
    assert compare.require_close(
        "It", {"y": right}, {"y": wrong}, 0.1, rounded=True
    ).agreement
    one = {"y": right[:, :1]}, {"y": wrong[:, :1]}
    assert compare.require_close("It", *one, 0.1, rounded=True).agreement is None


def test_infinite_values_are_refused_however_few():
    right = np.random.default_rng(0).standard_normal((64, 5))
    wrong = right.copy()
    wrong[3, 2] = np.inf
    with pytest.raises(export.ExportError, match="NaN or infinite"):
        compare.require_close("It", {"y": right}, {"y": wrong}, 0.15, rounded=True)


# Two calls, and two processes


class Noise(layers.Layer):
    def call(self, x):
        return x + 0.1 * keras.random.normal(keras.ops.shape(x))


class Count(layers.Layer):
    def build(self, shape):
        self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, x):
        self.calls.assign_add(1.0)
        return x * (1 + 0.01 * self.calls)


class Tosses(layers.Layer):
    """Noise by TensorFlow, whose seed no variable has."""

    def call(self, x):
        return x + 0.01 * tf.random.uniform(tf.shape(x))


def stateful():
    return keras.Sequential(
        [keras.Input(batch_shape=(8, 5, 3)), layers.LSTM(4, stateful=True)]
    )


def with_layer(layer):
    inputs = keras.Input((3,), name="x")
    return keras.Sequential([inputs, layers.Dense(4), layer(name="y")])


@pytest.mark.parametrize(
    "make",
    [stateful, *(functools.partial(with_layer, x) for x in (Noise, Count, Tosses))],
)
def test_what_does_not_repeat_itself(make, tmp_path, quick):
    model = make()
    before = [value.numpy() for value in model.variables]
    with pytest.raises(export.ExportError, match=r"repeat.*deterministic=False"):
        export.saved_model(model, tmp_path / "m")
    assert not any(tmp_path.iterdir())
    found = export.saved_model(model, tmp_path / "m", deterministic=False)
    assert any("two calls differ by" in note for note in found.notes)
    for value, now in zip(before, model.variables, strict=True):
        np.testing.assert_array_equal(value, now.numpy())


def test_the_first_call_is_compared_where_calls_differ(monkeypatch, tmp_path, quick):
    def wrong():
        model = with_layer(Count)
        model.layers[0].kernel.assign(0.9 * model.layers[0].kernel)
        return model

    real = prepare

    def instead(model):
        return dataclasses.replace(real(wrong()), call_given=real(model).call_given)

    monkeypatch.setattr(saved_model_export, "prepare", instead)
    with pytest.raises(export.ExportError, match="differs from the model"):
        export.saved_model(with_layer(Count), tmp_path / "m", deterministic=False)


def test_two_processes_have_to_agree(monkeypatch, tmp_path, quick):
    real, starts = processes.run, []

    def elsewhere(program, *arguments):
        found = real(program, *arguments)
        starts.append(program)
        if len(starts) == 2:
            found = {key: value + np.float32(0.01) for key, value in found.items()}
        return found

    monkeypatch.setattr(processes, "run", elsewhere)
    with pytest.raises(export.ExportError, match=r"repeat itself|differs"):
        export.saved_model(with_layer(layers.ReLU), tmp_path / "m")
    assert len(starts) == 2


@pytest.mark.parametrize("format", ["encoded", "foldable", "csr"])
def test_a_state_that_would_be_frozen(format, tmp_path):
    with pytest.raises(ValueError, match=r"changes a state.*format='dense'"):
        export.saved_model(stateful(), tmp_path / "m", format=format)


def test_a_state_that_onnx_does_not_keep(tmp_path):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    with pytest.raises(export.ExportError, match="keeps a state between calls"):
        export.onnx(stateful(), tmp_path / "m.onnx")
    found = export.onnx(stateful(), tmp_path / "m.onnx", deterministic=False)
    assert "the file does not" in str(found)


# What is compared


def test_integers_are_what_embeddings_take(tmp_path, quick, monkeypatch):
    ids, other, flags = (
        keras.Input((5,), dtype="int32", name=name)
        for name in ("ids", "other", "flags")
    )
    x = layers.Embedding(1000, 4, name="large")(layers.Reshape((5, 1))(ids))
    y = layers.Embedding(50, 4)(keras.ops.concatenate([other, ids[:, :2]], 1))
    z = keras.ops.cast(flags, "float32")
    outputs = layers.Dense(3)(
        layers.Concatenate()([layers.Flatten()(v) for v in (x, y, z)])
    )
    model = tfticket.prune(keras.Model([ids, other, flags], outputs))
    prepared = prepare(model)
    assert integer_ranges(prepared) == {"ids": 50, "other": 50}
    found = samples_for(None, prepared)
    assert found.arrays["ids"].max() > 30
    assert found.arrays["flags"].max() == 1
    assert found.text == (
        "8 random inputs (flags: 0 and 1 only); pass inputs= for a real check"
    )
    assert f"compared on {found.text}" in str(export.saved_model(model, tmp_path / "m"))


def test_rows_of_an_embedding_beyond_the_first_two_are_checked(
    monkeypatch, tmp_path, quick
):
    def make(wrong=False):
        keras.utils.set_random_seed(0)
        table = layers.Embedding(30, 4)
        ids = keras.Input((5,), dtype="int32", name="ids")
        last = layers.Dense(2, name="y")
        model = keras.Sequential([ids, table, layers.Flatten(), last])
        if wrong:
            value = table.embeddings.numpy()
            value[2:] = value[:1:-1]
            table.embeddings.assign(value)
        return model

    real = prepare

    def instead(model):
        return dataclasses.replace(real(make(True)), call_given=real(model).call_given)

    monkeypatch.setattr(saved_model_export, "prepare", instead)
    with pytest.raises(export.ExportError, match="differs from the model"):
        export.saved_model(make(), tmp_path / "m")


def test_pixels_are_made_up_of_all_values():
    model = keras.Sequential(
        [keras.Input((8, 8, 3), dtype="uint8"), layers.Rescaling(1 / 255)]
    )
    [value] = samples_for(None, prepare(model)).arrays.values()
    assert value.max() > 250


def test_samples_that_the_model_does_not_tell_apart_are_said(tmp_path, quick):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, bias_initializer="ones")]
    )
    model.layers[0].kernel.assign(1e-6 * model.layers[0].kernel)
    assert "that the model tells apart" in str(
        export.saved_model(model, tmp_path / "m")
    )


@pytest.mark.parametrize(
    "name",
    [
        *("in", "größe"),
        *(pytest.param(x, marks=pytest.mark.slow) for x in ("class", "self", "温度")),
    ],
)
def test_names_that_are_pythons_or_not_ascii(name, tmp_path, quick):
    inputs = keras.Input((3,), name=name)
    model = keras.Model(inputs, layers.Dense(2, name="lambda")(inputs))
    found = export.saved_model(model, tmp_path / "m")
    serve = tf.saved_model.load(str(found.path)).signatures["serving_default"]
    [served] = serve.structured_input_signature[1]
    assert served.isascii()
    assert f"input '{name}' is served as '{served}'" in found.notes
    assert "output 'lambda' is served as 'arg_lambda'" in found.notes
    if name in ("in", "größe"):
        assert export.litert(model, tmp_path / "m.tflite").size


def test_a_signature_may_not_be_ten_tolerances_off(monkeypatch, tmp_path, quick):
    """Its scores are held to the tolerance of the export, and no wider one."""
    real = processes.run
    largest = []

    def shifted(*arguments):
        found = real(*arguments)
        largest.append(np.abs(found["serving_default/y"]).max())
        found["classify/scores"] = found["classify/scores"] + off * largest[-1]
        return found

    monkeypatch.setattr(processes, "run", shifted)
    model = keras.Sequential([keras.Input((3,)), layers.Dense(2, name="y")])
    kwargs = {"labels": ["no", "yes"], "tolerance": 1e-3}
    off = np.float32(5e-4)
    assert export.saved_model(model, tmp_path / "m", **kwargs)
    off = np.float32(2e-3)
    with pytest.raises(export.ExportError, match=r"differs from itself.*'classify'"):
        export.saved_model(model, tmp_path / "m", **kwargs)
