"""LiteRT files in every form: right in both interpreters, or refused with a reason."""

import functools
import os

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfticket
from tfticket import export
from tfticket.export.checking import processes
from tfticket.export.checking.programs import run_litert
from tfticket.export.tflite import check, known_faults, reader
from tfticket.export.tflite.representative import check_range, representative_samples

X = np.random.default_rng(1).standard_normal((24, 64)).astype("float32")
SIGNATURE = {"x": tf.TensorSpec((None, 64), tf.float32)}


@functools.cache
def mlp(block, inputs=64, sparsity=0.8):
    """A wrapped model with masks of 1 x `block`, 0 for none."""
    keras.utils.set_random_seed(0)
    model = tfticket.prune(
        keras.Sequential(
            [
                keras.Input((inputs,), name="x"),
                layers.Dense(64, activation="relu", name="hidden"),
                layers.Dense(16, name="logits"),
            ]
        )
    )
    random = np.random.default_rng(0)
    if block:
        masks = {
            name: np.repeat(
                random.random((-(-mask.shape[0] // block), mask.shape[1])) >= sparsity,
                block,
                axis=0,
            )[: mask.shape[0]]
            for name, mask in tfticket.get_masks(model).items()
        }
        tfticket.set_masks(model, masks)
    for layer in model.layers:
        scale = np.sqrt(1 / (1 - sparsity)) if block else 1
        layer.layer.kernel.assign(layer.layer.kernel * scale)
    return model


def data(quantization, x=X):
    return x if quantization == "int8" else None


def run(path, runtime, x=X):
    """In this process: what crashes an interpreter was refused in another."""
    return run_litert.runner(str(path), runtime)(x=x)["logits"]


@pytest.mark.parametrize(
    ("quantization", "least", "size"),
    [
        pytest.param(None, 1e-5, 1.0, marks=pytest.mark.slow),
        ("float16", 2e-3, 0.6),
        ("dynamic", 0.05, 0.45),
        ("int8", 0.06, 0.45),
    ],
)
def test_dense_files_are_right_in_both_interpreters(
    quantization, least, size, tmp_path
):
    model = mlp(0)
    path = tmp_path / "m.tflite"
    exported = export.litert(
        model, path, quantization, representative_data=data(quantization)
    )
    assert exported.sparse == {}
    assert exported.runtimes == ("xnnpack", "builtin")
    assert exported.size == path.stat().st_size
    float32 = 4 * (64 * 64 + 64 * 16)
    assert exported.size < size * float32 + 4000
    want = model.predict(X, verbose=0)
    errors = []
    for runtime in known_faults.RUNTIMES:
        errors.append(np.abs(run(path, runtime) - want).max() / np.abs(want).max())
    assert max(errors) < least
    if quantization:
        assert max(errors) > 1e-5  # it has been quantized at all
    assert exported.agreement > 0.8


@pytest.mark.parametrize(
    ("quantization", "block", "form"),
    [
        (None, 1, "unstructured"),
        (None, 4, "1x4"),
        pytest.param("float16", 1, "unstructured", marks=pytest.mark.slow),
        ("int8", 16, "1x16"),
    ],
)
def test_sparse_files_that_work(quantization, block, form, tmp_path):
    model = mlp(block)
    path = tmp_path / "m.tflite"
    exported = export.litert(
        model, path, quantization, sparse=True, representative_data=data(quantization)
    )
    assert set(exported.sparse.values()) == {form}
    assert len(exported.sparse) == 2
    assert exported.fallback is None
    assert form in str(exported)
    assert exported.size < 0.55 * 4 * (64 * 64 + 64 * 16)
    want = model.predict(X, verbose=0)
    for runtime in known_faults.RUNTIMES:
        error = np.abs(run(path, runtime) - want).max() / np.abs(want).max()
        assert error < 0.1, runtime


@pytest.mark.parametrize(
    ("quantization", "block", "inputs", "reason", "instead"),
    [
        ("float16", 4, 64, "NaN", "quantization=None"),
        (None, 4, 62, "no whole number of blocks", "multiple of the block"),
        ("dynamic", 16, 64, "as if they were dense", r"sparse=False"),
        ("int8", 1, 64, "can't prepare", r"runtimes=\['builtin'\]"),
    ],
)
def test_what_is_known_to_go_wrong_is_refused_before_it_runs(
    quantization, block, inputs, reason, instead, tmp_path, monkeypatch
):
    monkeypatch.setattr(check, "check", None)  # must not come so far
    x = X[:, :inputs]
    with pytest.raises(export.ExportError, match=f"{reason}.*Use .*{instead}") as error:
        export.litert(
            mlp(block, inputs),
            tmp_path / "m.tflite",
            quantization,
            sparse=True,
            representative_data=data(quantization, x),
        )
    assert "hidden" in str(error.value)
    assert "fallback=True" in str(error.value)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    ("quantization", "block", "inputs", "message"),
    [
        ("float16", 4, 64, "differs from the model"),  # NaN
        (None, 4, 62, "differs from the (model|dense one)"),
        ("int8", 1, 64, "does not run"),
    ],
)
def test_the_same_is_refused_by_running_it_where_nothing_is_known(
    quantization, block, inputs, message, tmp_path, monkeypatch
):
    monkeypatch.setattr(known_faults, "MADE_FOR", {})
    x = X[:, :inputs]
    with pytest.raises(export.ExportError, match=message):
        export.litert(
            mlp(block, inputs),
            tmp_path / "m.tflite",
            quantization,
            sparse=True,
            representative_data=data(quantization, x),
        )
    assert os.listdir(tmp_path) == []


def test_a_sparse_file_is_held_to_its_dense_twin(tmp_path, monkeypatch):
    """What a loose tolerance would let pass."""
    monkeypatch.setattr(known_faults, "MADE_FOR", {})
    with pytest.raises(export.ExportError, match="differs from the dense one"):
        export.litert(mlp(4, 62), tmp_path / "m.tflite", sparse=True, tolerance=100.0)
    assert os.listdir(tmp_path) == []


def test_a_runtime_that_is_not_used_need_not_be_right(tmp_path):
    path = tmp_path / "m.tflite"
    exported = export.litert(
        mlp(16), path, "dynamic", sparse=True, runtimes=["builtin"]
    )
    assert exported.runtimes == ("builtin",)
    assert set(exported.sparse.values()) == {"1x16"}
    want = mlp(16).predict(X, verbose=0)
    assert np.abs(run(path, "builtin") - want).max() < 0.1 * np.abs(want).max()


def test_fallback_writes_the_dense_file_and_says_why(tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.warns(UserWarning, match=r"m\.tflite is dense.*NaN"):
        exported = export.litert(mlp(4), path, "float16", sparse=True, fallback=True)
    assert exported.sparse == {}
    assert "NaN" in exported.fallback
    assert "Dense, since" in str(exported)
    assert exported.quantization == "float16"
    want = mlp(4).predict(X, verbose=0)
    np.testing.assert_allclose(run(path, "xnnpack"), want, atol=0.01)


def test_nothing_to_store_sparse_is_said(tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.warns(UserWarning, match="No weight .* stored sparse.*30 % zeros"):
        exported = export.litert(mlp(0), path, sparse=True)
    assert exported.sparse == {}
    assert exported.fallback is None


def test_sparse_convolutions_are_unpacked(tmp_path):
    keras.utils.set_random_seed(0)
    model = tfticket.prune(
        keras.Sequential(
            [
                keras.Input((6, 6, 8), name="x"),
                layers.Conv2D(8, 3),
                layers.Flatten(),
                layers.Dense(4, name="logits"),
            ]
        ),
        exclude=["logits"],
    )
    tfticket.sparsify(model, 0.8)
    path = tmp_path / "m.tflite"
    with pytest.warns(UserWarning, match="not faster: it has no 1x1"):
        exported = export.litert(model, path, sparse=True)
    (weight,) = reader.read(path.read_bytes()).sparse
    assert (weight.operation, weight.type, weight.block) == ("CONV_2D", "float32", 1)
    assert exported.sparse == {weight.name: "unstructured"}


def test_the_rules_are_the_results_page():
    """The page is written by running every combination; the rules must say the same."""
    page = os.path.join(os.path.dirname(__file__), "../docs/results/litert_matrix.md")
    with open(page) as file:
        text = file.read()
    assert "agree with all" in text
    for name, version in known_faults.MADE_FOR.items():
        assert f"{name} {version}" in text
    assert text.count("**wrong**") > 10
    assert text.count("**fails**") > 10


def test_other_releases_are_not_judged():
    known = dict(known_faults.MADE_FOR)
    assert known_faults.known({k: f"{v}.9" for k, v in known.items()})
    assert not known_faults.known({**known, "tensorflow": "2.22.0"})
    assert not known_faults.known({"tensorflow": "2.21.0", "ai-edge-litert": "2.30"})


def test_unknown_arguments(tmp_path):
    path = tmp_path / "m.tflite"
    with pytest.raises(ValueError, match=r"None, 'float16', 'dynamic', 'int8'.*'int4'"):
        export.litert(mlp(0), path, "int4")
    with pytest.raises(ValueError, match=r"'xnnpack', 'builtin'.*'gpu'"):
        export.litert(mlp(0), path, runtimes=["gpu"])
    with pytest.raises(ValueError, match="quantization='int8' only"):
        export.litert(mlp(0), path, "dynamic", representative_data=X)
    path.write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export.litert(mlp(0), path, "int8", representative_data=X)
    assert path.read_text() == "mine"
    assert os.listdir(tmp_path) == ["m.tflite"]


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (None, "needs representative_data"),
        (X[:, :5], r"shape \(None, 64\).*\(24, 5\)"),
        (np.zeros((0, 64)), "at least one"),
        ([], "no samples"),
        (iter([]), "no samples"),
        (3, "Received: int"),
        ("data", "Received: str"),
        (np.full((4, 64), np.nan), "NaN or infinite"),
        (np.full((4, 64), 0.5), r"0\.5 everywhere"),
        (np.full((4, 64), "a"), "must be numbers"),
        ({"y": X}, r"one array for each of \['x'\].*\['y'\]"),
        ([X, X[:, :5]], r"shape \(24, 5\)"),
    ],
)
def test_bad_representative_data(bad, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        export.litert(mlp(0), tmp_path / "m", "int8", representative_data=bad)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(
    "form",
    [
        lambda: X,
        lambda: {"x": X},
        lambda: tf.constant(X),
        lambda: iter([X[:20], X[20:]]),
        lambda: list(X),  # single samples
        lambda: tf.data.Dataset.from_tensor_slices(X),
        lambda: tf.data.Dataset.from_tensor_slices((X, np.zeros(24))).batch(5),
        lambda: tf.data.Dataset.from_tensor_slices({"x": X}).batch(7),
    ],
)
def test_representative_data_of_every_kind(form):
    samples = representative_samples(form(), SIGNATURE)
    np.testing.assert_array_equal(samples["x"], X)


def test_endless_representative_data_is_cut():
    data = tf.data.Dataset.from_tensor_slices(X).batch(24).repeat()
    assert representative_samples(data, SIGNATURE)["x"].shape == (512, 64)


def test_representative_data_of_two_inputs():
    signature = {"a": SIGNATURE["x"], "b": tf.TensorSpec((None, 3), tf.float32)}
    b = np.arange(72.0).reshape(24, 3)
    data = tf.data.Dataset.from_tensor_slices(({"a": X, "b": b}, b)).batch(5)
    np.testing.assert_array_equal(representative_samples(data, signature)["b"], b)
    with pytest.raises(ValueError, match="the same number of samples"):
        representative_samples({"a": X, "b": b[:3]}, signature)


def test_representative_data_of_another_scale():
    pixels = {"x": np.random.default_rng(0).uniform(0, 255, (50, 64))}
    scaled = {"x": pixels["x"] / 255}
    for samples, inputs in [(pixels, scaled), (scaled, pixels)]:
        with pytest.raises(ValueError, match=r"ranges from .* and inputs from"):
            check_range(samples, inputs)
    check_range(scaled, {"x": scaled["x"][:2] / 2})
    check_range({"x": X}, {"x": X * 1.5})


def test_int8_is_checked_on_the_representative_data(tmp_path, monkeypatch):
    seen = {}
    real = check.check

    def watched(written, target, serving, samples, *arguments):
        seen.update(samples.arrays)
        return real(written, target, serving, samples, *arguments)

    monkeypatch.setattr(check, "check", watched)
    export.litert(mlp(0), tmp_path / "m", "int8", representative_data=X)
    np.testing.assert_array_equal(seen["x"], X)
    with pytest.raises(ValueError, match="ranges from"):
        export.litert(
            mlp(0), tmp_path / "n", "int8", representative_data=X, inputs=X * 300
        )


def test_a_quantization_that_costs_too_much_is_refused(tmp_path):
    # Small outputs are measured by their own size, and not by 1.
    small = tfticket.strip(mlp(0))
    last = small.layers[-1]
    last.kernel.assign(last.kernel * 1e-4)
    with pytest.raises(export.ExportError, match=r"differs from the model"):
        export.litert(small, tmp_path / "m", "dynamic", tolerance=1e-4)
    assert os.listdir(tmp_path) == []


def test_open_shapes_and_nan_weights(tmp_path):
    sequence = keras.Sequential([keras.Input((None, 4), name="x"), layers.Dense(2)])
    with pytest.raises(ValueError, match=r"open shape.*Pass inputs="):
        export.litert(sequence, tmp_path / "m", "dynamic")
    assert export.litert(sequence, tmp_path / "m", inputs=np.ones((2, 7, 4)))
    broken = tfticket.strip(mlp(0))
    broken.layers[0].kernel.assign(np.full((64, 64), np.nan))
    with pytest.raises(ValueError, match=r"hidden/kernel.*NaN"):
        export.litert(broken, tmp_path / "n", "int8", representative_data=X)
    assert os.listdir(tmp_path) == ["m"]


def test_a_crash_takes_its_own_process_down_only(tmp_path, monkeypatch):
    program = tmp_path / "run_litert.py"
    program.write_text("import os; os.kill(os.getpid(), 11)")
    monkeypatch.setattr(processes, "PROGRAMS", tmp_path)
    with pytest.raises(processes.RunError, match=r"signal 11 \(SIGSEGV\)") as error:
        check.run([program], {"x": X}, "builtin")
    assert error.value.crashed
    with pytest.raises(export.ExportError, match=r"signal 11.*Nothing was kept"):
        export.litert(mlp(0), tmp_path / "m.tflite")
    assert os.listdir(tmp_path) == ["run_litert.py"]


def test_an_input_of_any_name(tmp_path):
    model = keras.Sequential([keras.Input((4,), name="file"), layers.Dense(2)])
    assert export.litert(model, tmp_path / "m.tflite", "dynamic").size


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "SimpleRNN", "Bidirectional"])
def test_recurrent_layers_in_a_fixed_batch(kind, tmp_path):
    """The file answers as Keras does, and takes batches of that size."""
    if kind == "Bidirectional":
        layer = keras.layers.Bidirectional(keras.layers.LSTM(3))
    else:
        layer = getattr(keras.layers, kind)(3)
    model = keras.Sequential([keras.Input((5, 4)), layer, keras.layers.Dense(2)])
    exported = export.litert(model, tmp_path / "m.tflite", batch_size=1)
    assert exported.max_error < 1e-5
    if kind == "LSTM":
        with pytest.raises(ValueError, match="batch_size must be at least 1"):
            export.litert(model, tmp_path / "n.tflite", batch_size=0)
        fixed = keras.Sequential([keras.Input((4,), batch_size=2)])
        fixed.add(keras.layers.Dense(2))
        with pytest.raises(ValueError, match=r"batch_size=1 does not fit.*batch of 2"):
            export.litert(fixed, tmp_path / "n.tflite", batch_size=1)
