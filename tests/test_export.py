"""Exports load without keras and tfticket, and compute what the model computes."""

import dataclasses
import functools
import os
import pathlib
import subprocess
import sys
import textwrap

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfticket
from tfticket import export
from tfticket.export.checking.compare import Rule
from tfticket.export.served import check as saved_model_check
from tfticket.export.served.function import prepare, trace
from tfticket.export.served.samples import samples_for
from tfticket.export.tflite import check as litert_check


def pruned_cnn():
    model = tfticket.prune(
        keras.Sequential(
            [
                keras.Input((8, 8, 1), name="image"),
                layers.Conv2D(4, 3, activation="relu"),
                layers.BatchNormalization(),
                layers.MaxPooling2D(),
                layers.Flatten(),
                layers.Dense(5, name="logits"),
            ]
        )
    )
    random = np.random.default_rng(0)
    masks = {
        k: random.random(m.shape) < 0.3 for k, m in tfticket.get_masks(model).items()
    }
    tfticket.set_masks(model, masks)
    return model


def two_by_two():
    a, b = keras.Input((3,), name="a"), keras.Input((3,), name="b")
    x = layers.Dense(2, name="x")(a)
    y = layers.Add(name="y")([x, layers.Dense(2, name="inner")(b)])
    return keras.Model({"a": a, "b": b}, {"first": x, "second": y})


def files(folder):
    return sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file())


def test_saved_model_serves_where_keras_and_tfticket_cannot_be_imported(
    tmp_path, quick
):
    model = pruned_cnn()
    exported = export.saved_model(model, tmp_path / "digits")
    assert exported.path == tmp_path / "digits" / "1"
    assert exported.agreement == 1.0
    assert exported.notes == ("stripped",)
    assert "stripped" in str(exported)
    assert exported.size == sum(
        (exported.path / f).stat().st_size for f in files(exported.path)
    )
    x = np.random.default_rng(1).standard_normal((3, 8, 8, 1)).astype("float32")
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model.predict(x, verbose=0))
    code = f"""
        import sys
        for name in ("keras", "tf_keras", "tfticket"):
            sys.modules[name] = None
        import numpy as np, tensorflow as tf
        loaded = tf.saved_model.load(r"{exported.path}")
        serve = loaded.signatures["serving_default"]
        inputs = serve.structured_input_signature[1]
        assert inputs["image"].shape.as_list() == [None, 8, 8, 1], inputs
        got = serve(image=tf.constant(np.load(r"{tmp_path}/x.npy")))
        want = np.load(r"{tmp_path}/y.npy")
        assert list(got) == ["logits"], got
        np.testing.assert_allclose(got["logits"], want, rtol=1e-5, atol=1e-5)
        assert any(np.mean(v.numpy() == 0) > 0.5 for v in loaded.weights)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True)


@pytest.mark.parametrize("make", [pruned_cnn, two_by_two])
def test_litert_runs_with_the_models_names(make, tmp_path):
    from ai_edge_litert.interpreter import Interpreter

    model = make()
    exported = export.litert(model, tmp_path / "m.tflite")
    assert exported.path == tmp_path / "m.tflite"
    assert exported.size == exported.path.stat().st_size
    random = np.random.default_rng(1)
    inputs = {
        t.name: random.standard_normal((4, *t.shape[1:])).astype("float32")
        for t in model.inputs
    }
    got = Interpreter(str(exported.path)).get_signature_runner("serving_default")(
        **inputs
    )
    single = len(inputs) == 1
    want = model.predict(next(iter(inputs.values())) if single else inputs, verbose=0)
    want = [want] if single else [want["first"], want["second"]]
    names = ["logits"] if single else ["x", "y"]
    assert sorted(got) == names
    for name, value in zip(names, want, strict=True):
        np.testing.assert_allclose(got[name], value, rtol=1e-4, atol=1e-5)


def test_versions_count_up_and_are_not_replaced_unasked(tmp_path, quick):
    model = two_by_two()
    assert export.saved_model(model, tmp_path / "m").path.name == "1"
    assert export.saved_model(model, tmp_path / "m").path.name == "2"
    with pytest.raises(FileExistsError, match=r"m/1 exists.*overwrite=True"):
        export.saved_model(model, tmp_path / "m", version=1)
    before = (tmp_path / "m" / "1" / "saved_model.pb").stat().st_ino
    export.saved_model(model, tmp_path / "m", version=1, overwrite=True)
    assert (tmp_path / "m" / "1" / "saved_model.pb").stat().st_ino != before
    assert sorted(os.listdir(tmp_path)) == ["m"]
    assert sorted(os.listdir(tmp_path / "m")) == ["1", "2"]
    with pytest.raises(ValueError, match="version=0"):
        export.saved_model(model, tmp_path / "m", version=0)


def test_litert_is_not_replaced_unasked(tmp_path):
    path = tmp_path / "m.tflite"
    path.write_text("mine")
    with pytest.raises(FileExistsError, match=r"m\.tflite exists"):
        export.litert(two_by_two(), path)
    assert path.read_text() == "mine"
    export.litert(two_by_two(), path, overwrite=True)
    assert path.stat().st_size > 1000


@pytest.mark.parametrize("write", [export.saved_model, export.litert])
def test_a_file_that_differs_is_refused_and_nothing_is_left(
    write, tmp_path, monkeypatch, quick
):
    for module in (saved_model_check, litert_check):
        differs = functools.partial(_differs, module.check)
        monkeypatch.setattr(module, "check", differs)
    with pytest.raises(export.ExportError, match="differs from the model"):
        write(two_by_two(), tmp_path / "m")
    assert os.listdir(tmp_path) == []


def _differs(real, written, target, serving, *arguments):
    off = dataclasses.replace(
        serving,
        predict=lambda inputs: {
            name: value + 0.01 for name, value in serving.predict(inputs).items()
        },
    )
    return real(written, target, off, *arguments)


def test_a_file_that_does_not_load_is_refused(tmp_path):
    prepared = prepare(two_by_two())
    samples = samples_for(None, prepared)
    ready = trace(prepared)
    broken = tmp_path / "broken.tflite"
    broken.write_bytes(b"no model")
    with pytest.raises(export.ExportError, match="does not run"):
        litert_check.check(
            broken,
            broken,
            ready,
            samples,
            None,
            Rule(1e-3),
            ["builtin"],
        )
    with pytest.raises(export.ExportError, match=r"(?s)run: exit code 1.*says"):
        saved_model_check.check(tmp_path, tmp_path, ready, samples, Rule(1e-3))


def test_bad_models_and_inputs(tmp_path, mlp):
    path = tmp_path / "m"
    with pytest.raises(TypeError, match=r"keras\.Model"):
        export.saved_model(layers.Dense(3), path)
    with pytest.raises(ValueError, match="no known inputs"):
        export.saved_model(keras.Sequential([layers.Dense(3)]), path)
    with pytest.raises(ValueError, match=r"shape \(None, 6\).*\(2, 5\)"):
        export.saved_model(mlp, path, inputs=np.ones((2, 5)))
    with pytest.raises(ValueError, match="one array for each"):
        export.saved_model(two_by_two(), path, inputs={"a": np.ones((2, 3))})
    sequence = keras.Sequential([keras.Input((None, 4)), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"open shape \(None, None, 4\)"):
        export.saved_model(sequence, path)
    mlp.get_layer("out").kernel.assign(np.full((8, 3), np.nan))
    with pytest.raises(ValueError, match=r"out/kernel.*NaN"):
        export.litert(mlp, path)
    assert not path.exists()


def test_open_shapes_export_with_a_sample(tmp_path, quick):
    sequence = keras.Sequential([keras.Input((None, 4)), layers.Dense(2)])
    exported = export.saved_model(sequence, tmp_path / "m", inputs=np.ones((2, 7, 4)))
    assert pathlib.Path(exported.path, "saved_model.pb").is_file()


def test_integer_inputs(tmp_path, quick):
    model = keras.Sequential(
        [
            keras.Input((5,), dtype="int32", name="ids"),
            layers.Embedding(10, 3),
            layers.Flatten(),
            layers.Dense(2),
        ]
    )
    assert export.saved_model(tfticket.prune(model), tmp_path / "m").agreement == 1.0


def test_names_that_tensorflow_does_not_take(tmp_path, quick):
    a, b = keras.Input((3,), name="my-input"), keras.Input((3,), name="2nd")
    dense = layers.Dense(2, name="out.1")
    model = keras.Model([a, b], [dense(a), dense(b), layers.Dense(2, name="out_1")(a)])
    path = export.saved_model(model, tmp_path / "m").path
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    assert set(serve.structured_input_signature[1]) == {"my_input", "arg_2nd"}
    x = np.ones((2, 3), "float32")
    got = serve(my_input=tf.constant(x), arg_2nd=tf.constant(2 * x))
    assert set(got) == {"out_1", "out_1_1", "out_1_2"}
    np.testing.assert_allclose(got["out_1_1"], dense(2 * x), rtol=1e-6)


def test_what_litert_can_not_do_is_an_export_error(tmp_path):
    model = keras.Sequential([keras.Input((5, 3)), layers.LSTM(2)])
    with pytest.raises(export.ExportError, match=r"can't convert.*pass batch_size=1"):
        export.litert(model, tmp_path / "m.tflite")
    half = keras.Sequential([keras.Input((5,), dtype="float64")])
    half.add(layers.Dense(2, dtype="float64"))
    with pytest.raises(export.ExportError) as error:
        export.litert(half, tmp_path / "m.tflite")
    assert "recurrent" not in str(error.value)
    assert not any(tmp_path.iterdir())


def test_a_vocabulary_is_refused(tmp_path):
    lookup = layers.IntegerLookup(vocabulary=[1, 2, 3], output_mode="one_hot")
    model = keras.Sequential(
        [keras.Input((1,), dtype="int64"), lookup, layers.Dense(2)]
    )
    with pytest.raises(ValueError, match="keeps a table"):
        export.saved_model(model, tmp_path / "m")


def test_a_check_needs_samples_and_one_array_an_input(tmp_path, quick):
    model = keras.Sequential([keras.Input((2,)), layers.Dense(1)])
    with pytest.raises(ValueError, match="no samples"):
        export.saved_model(model, tmp_path / "m", inputs=np.zeros((0, 2)))
    with pytest.raises(ValueError, match=r"shape \(3, 1, 2\)"):
        export.saved_model(model, tmp_path / "m", inputs=[np.ones((1, 2))] * 3)
    with pytest.raises(ValueError, match="one array for each"):
        export.saved_model(two_by_two(), tmp_path / "m", inputs=[np.ones((1, 2))] * 3)
    exported = export.saved_model(model, tmp_path / "m", inputs=[[1, 2], [3, 4]])
    assert exported.agreement is None
    assert "%" not in str(exported)


def test_the_check_is_against_the_model_that_was_given(tmp_path, monkeypatch, quick):
    """A strip that loses something must not be compared with itself."""
    from tfticket.export.served import function

    def forgetful(model):
        plain = tfticket.strip(model)
        plain.layers[-1].bias.assign_add(np.ones(5))
        return plain

    monkeypatch.setattr(function, "strip", forgetful)
    with pytest.raises(export.ExportError, match="differs from the model"):
        export.saved_model(pruned_cnn(), tmp_path / "m")
