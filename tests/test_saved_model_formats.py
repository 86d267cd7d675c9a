"""SavedModels in every format: exact, small, served by TensorFlow alone."""

import hashlib
import json
import os
import pathlib
import resource
import subprocess
import sys

import hypothesis
import keras
import numpy as np
import pytest
import tensorflow as tf
from fixtures import check_here
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import layers

import tfticket
from tfticket import export
from tfticket.common import renames
from tfticket.export import saved_model_export
from tfticket.export.checking import processes
from tfticket.export.served import warmup
from tfticket.export.storage import csr, encoded, encoding, foldable, formats
from tfticket.inspection.costs import total
from tfticket.sparsity import encoded_size

LABELS = [f"digit {i}" for i in range(10)]
FORMATS = ("dense", "encoded", "foldable", "csr")


def lenet(sparsity=0.95, sizes=(300, 100, 10), inputs=784):
    """A plain model with random weights, of which so many are zero."""
    model = keras.Sequential([keras.Input((inputs,), name="pixels")])
    for units in sizes[:-1]:
        model.add(layers.Dense(units, activation="relu"))
    model.add(layers.Dense(sizes[-1], name="logits"))
    prune_at_random(model, sparsity)
    return model


def prune_at_random(model, sparsity):
    random = np.random.default_rng(0)
    for layer in model.layers:
        if hasattr(layer, "kernel"):
            kernel = layer.kernel.numpy()
            kernel[random.random(kernel.shape) < sparsity] = 0
            layer.kernel.assign(kernel)
            layer.bias.assign(random.standard_normal(layer.bias.shape))


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """One wrapped model in each format; the sparse ones checked in another process."""
    keras.utils.set_random_seed(0)
    model = tfticket.prune(
        keras.Sequential(
            [
                keras.Input((16, 16, 1), name="image"),
                layers.Conv2D(4, 3, activation="relu"),
                layers.BatchNormalization(),
                layers.Flatten(),
                layers.Dense(320, activation="relu"),
                layers.Dense(10, name="logits"),
            ]
        )
    )
    random = np.random.default_rng(0)
    masks = tfticket.get_masks(model)
    keep = {name: random.random(mask.shape) < 0.04 for name, mask in masks.items()}
    tfticket.set_masks(model, keep)
    folder = tmp_path_factory.mktemp("served")
    exported = {}
    for name in FORMATS:
        with pytest.MonkeyPatch.context() as patch:
            if name == "dense":
                check_here.install(patch.setattr)
            exported[name] = export.saved_model(
                model,
                folder / name,
                format=name,
                labels=LABELS,
                top_k=3,
                image="divide_255",
            )
    images = random.integers(0, 256, (12, 16, 16, 1), np.uint8)
    return model, exported, images


# Encoding


@st.composite
def sparse_arrays(draw):
    dtype = draw(st.sampled_from(["float32", "float16", "float64"]))
    size = draw(st.integers(0, 3000))
    at = draw(st.lists(st.integers(0, max(0, size - 1)), max_size=min(size, 40)))
    values = draw(
        hnp.arrays(
            dtype,
            len(at),
            elements=st.floats(
                allow_nan=False, allow_infinity=False, width=int(dtype[5:])
            ),
        )
    )
    flat = np.zeros(size, dtype)
    flat[at] = values
    return flat


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(sparse_arrays(), st.sampled_from(["gaps", "bits", "plain"]))
def test_decoding_gives_every_bit_back(flat, form):
    stored = encoding.encode(flat, form)
    places = tf.constant(stored.places)
    got = encoding.decode(
        form, flat.size, flat.dtype, tf.constant(stored.values), places
    )
    want = flat.copy()
    if form != "plain":
        want[want == 0] = 0.0  # which -0.0 comes back as
    gathered = encoding.decode_by_gather(stored, tf.as_dtype(flat.dtype))
    for found in (got, gathered):
        assert found.dtype == flat.dtype
        assert found.numpy().tobytes() == want.tobytes()


@hypothesis.settings(deadline=None, max_examples=60)
@hypothesis.given(sparse_arrays())
def test_the_smallest_form_is_the_smallest(flat):
    sizes = {
        form: encoding.encode(flat, form).nbytes for form in ("gaps", "bits", "plain")
    }
    chosen = encoded_size.smallest_form(flat, flat.dtype.itemsize)
    assert sizes[chosen] == min(sizes.values())


@pytest.mark.parametrize("gap", [1, 254, 255, 256, 510, 511, 1000])
def test_distances_over_one_byte(gap):
    flat = np.zeros(gap + 1, np.float32)
    flat[[0, gap]] = 7, 5
    stored = encoding.encode(flat, "gaps")
    assert len(stored.places) == 2 + (gap - 1) // 255
    assert encoding.positions(tf.constant(stored.places), flat.size)[-1] == gap
    assert stored.places.astype(int).sum() == gap


def test_each_form_is_chosen_where_it_is_smallest():
    random = np.random.default_rng(0)
    for density, form in ((0.05, "gaps"), (0.1, "gaps"), (0.3, "bits"), (1, "plain")):
        array = (random.random((100, 100)) < density).astype("float32")
        assert encoded_size.smallest_form(array, 4) == form


@pytest.mark.parametrize("store", [encoded.store, foldable.store_foldable])
def test_stored_weights_are_read_bit_by_bit(store):
    model = keras.Sequential(
        [
            keras.Input((40,)),
            layers.Dense(30, name="sparse"),
            layers.Dense(50, name="half"),
            layers.Dense(60, name="full"),
            layers.Dense(17, name="zero", kernel_initializer="zeros"),
            layers.BatchNormalization(),
            layers.Dense(33, name="other", dtype="bfloat16"),
            layers.Dense(3, name="small", kernel_initializer="zeros"),
        ]
    )
    random = np.random.default_rng(0)
    for name, sparsity in (("sparse", 0.95), ("half", 0.5), ("other", 0.9)):
        kernel = model.get_layer(name).kernel
        keep = random.random(kernel.shape) >= sparsity
        kernel.assign(np.where(keep, kernel.numpy(), np.zeros_like(kernel.numpy())))
    stored = store(model.variables)
    values = tf.function(stored.read)()
    assert {
        id(model.get_layer(n).kernel) for n in ("sparse", "half", "zero", "other")
    } <= set(values)
    for name in ("full", "small"):
        assert id(model.get_layer(name).kernel) not in values
    for variable in model.variables:
        got = values.get(id(variable), variable.value).numpy()
        assert got.dtype == variable.numpy().dtype
        assert got.tobytes() == variable.numpy().tobytes(), variable.path
    assert stored.rounding == 0


@pytest.mark.parametrize("form", ["gaps", "bits", "plain"])
def test_the_smallest_of_float16_come_back_in_float32(form):
    values = np.float16([6e-8, 0, -6e-8, 6e-5, 65504])
    stored = encoding.encode(values, form)
    got = encoding.decode(form, 5, tf.float32, stored.values, stored.places)
    np.testing.assert_array_equal(got, values.astype(np.float32))
    got = encoding.decode_by_gather(stored, tf.float32)
    np.testing.assert_array_equal(got, values.astype(np.float32))


@pytest.mark.parametrize("store", [encoded.store, foldable.store_foldable])
def test_float16_rounds_matrices_only_and_says_by_how_much(store):
    model = lenet(sizes=(30, 10), inputs=30)
    stored = store(model.variables, "float16")
    values = stored.read()
    rounding = 0.0
    for variable in model.variables:
        got = values.get(id(variable), variable.value).numpy()
        want = variable.numpy()
        if want.size == 900:  # the other kernel is too small to be worth it
            rounded = want.astype(np.float16).astype(np.float32)
            rounding = max(rounding, np.max(abs(rounded - want)))
            want = rounded
        np.testing.assert_array_equal(got, want)
    assert 0 < rounding == pytest.approx(stored.rounding)


# Bytes


def test_encoded_is_a_sixteenth_of_dense_at_95_percent(tmp_path, quick):
    model = lenet(0.95)
    dense = export.saved_model(model, tmp_path / "dense")
    small = export.saved_model(model, tmp_path / "small", format="encoded")
    half = export.saved_model(
        model, tmp_path / "half", format="encoded", value_dtype="float16"
    )
    bytes_of = {
        e.path.parent.name: json.loads((e.path / "tfticket.json").read_text())["made"][
            "weight_bytes"
        ]
        for e in (dense, small, half)
    }
    assert bytes_of["dense"] == 4 * model.count_params()
    assert bytes_of["small"] <= bytes_of["dense"] / 14
    assert bytes_of["half"] <= bytes_of["dense"] / 23
    assert small.size <= dense.size / 8.5
    assert half.size <= dense.size / 10
    assert small.max_error == 0  # not a bit of it has changed
    assert 0 < half.max_error < 1e-2
    assert any("rounded to float16, by up to" in note for note in half.notes)


def test_a_large_mlp_takes_a_fifteenth_of_dense(tmp_path):
    """Weights of 784-2048-2048-10, whose SavedModel adds some 40 kB of graph."""
    random = np.random.default_rng(0)
    for sparsity, whole in ((0.95, 15), (0.98, 35)):
        dense = small = 0
        for shape in ((784, 2048), (2048, 2048), (2048, 10)):
            keep = random.random(shape) >= sparsity
            form = encoded_size.smallest_form(keep, 4)
            flat = keep.astype(np.float32).ravel()
            small += encoding.encode(flat, form).nbytes + 4 * shape[1]
            dense += 4 * flat.size + 4 * shape[1]
        assert (small + 40_000) * whole <= dense + 30_000


def test_weights_that_tensorflow_would_not_fold_are_named(tmp_path, quick):
    model = lenet(0.95, sizes=(700, 3), inputs=900)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(foldable, "TENSORFLOW_FOLDS", 4 * 700 * 900 - 1)
        with pytest.warns(UserWarning, match=r"10 MB in every call.*dense/kernel'"):
            exported = export.saved_model(model, tmp_path / "m", format="foldable")
        assert any("OpenVINO" in note for note in exported.notes)
        patch.setattr(foldable, "TENSORFLOW_FOLDS", 4 * 700 * 900)
        assert not foldable.not_folded(model.variables)
    at_limit = {key: int(np.prod(shape)) * 4 for key, shape in SHAPES.items()}
    assert at_limit["folded"] <= foldable.TENSORFLOW_FOLDS < at_limit["not"]


SHAPES = {"folded": (1280, 2048), "not": (1281, 2048)}


@pytest.mark.parametrize("which", SHAPES)
def test_tensorflow_folds_weights_of_up_to_10_mb(which):
    """What the graph of a session is after its first run, by TensorFlow's own trace."""
    model = keras.Sequential(
        [keras.Input((SHAPES[which][0],)), layers.Dense(SHAPES[which][1])]
    )
    prune_at_random(model, 0.95)
    read = foldable.store_foldable(model.variables[:1]).read
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, (1, SHAPES[which][0]))
        (kernel,) = read().values()
        y = tf.matmul(x, kernel)
        metadata = tf.compat.v1.RunMetadata()
        options = tf.compat.v1.RunOptions(output_partition_graphs=True)
        session.run(y, {x: np.zeros(x.shape)}, options, metadata)
    (graph,) = metadata.partition_graphs
    expands = any(node.op in ("ScatterNd", "GatherV2") for node in graph.node)
    assert expands is (which == "not")


def test_openvino_reads_foldable_and_dense(served):
    openvino = pytest.importorskip(
        "openvino", reason="needs: pip install 'tfticket[served]'"
    )
    model, exported, images = served
    want = model.predict(images / np.float32(255), verbose=0)
    core = openvino.Core()
    for name in FORMATS:
        path = str(exported[name].path)
        manifest = json.loads((exported[name].path / "tfticket.json").read_text())
        if "OpenVINO" in manifest["read_by"]:
            hints = {"INFERENCE_PRECISION_HINT": "f32"}
            compiled = core.compile_model(core.read_model(path), "CPU", hints)
            (got,) = compiled(images).values()
            np.testing.assert_allclose(got, want, rtol=1e-3, atol=1e-3)
        else:
            with pytest.raises(RuntimeError, match="VarHandleOp"):
                core.read_model(path)


# Served


@pytest.mark.parametrize("name", FORMATS[1:])
def test_another_process_and_the_c_api_agree(name, served):
    _, exported, _ = served
    found = exported[name]
    assert found.c_api
    assert found.agreement == 1.0
    assert found.max_error < 1e-5
    assert found.latency_ms > 0
    assert found.format == name
    assert "stripped" in found.notes
    files = [path for path in found.path.rglob("*") if path.is_file()]
    assert found.size == sum(path.stat().st_size for path in files)
    if name == "csr":
        assert "1 Dense layers compute on sparse" in found.notes


@pytest.mark.parametrize("name", FORMATS)
def test_the_c_api_alone_serves(name, served, tmp_path):
    """A process with no Python of TensorFlow's, as TensorFlow Serving has none."""
    from tensorflow.core.protobuf import saved_model_pb2

    from tfticket.export.checking.programs import run_c_api

    model, exported, images = served
    path = exported[name].path
    libraries = sorted(pathlib.Path(tf.__file__).parent.glob("libtensorflow_cc*"))
    if not libraries:
        pytest.skip("TensorFlow has no C++ library of its own here")
    content = saved_model_pb2.SavedModel()
    content.ParseFromString((path / "saved_model.pb").read_bytes())
    signature = content.meta_graphs[0].signature_def["serving_default"]
    names = {
        "inputs": {"image": signature.inputs["image"].name},
        "outputs": {"logits": signature.outputs["logits"].name},
    }
    (tmp_path / "names.json").write_text(json.dumps(names))
    np.savez(tmp_path / "in.npz", **{"inputs/image": images})
    subprocess.run(
        [
            *(sys.executable, run_c_api.__file__),
            *(tmp_path / "in.npz", tmp_path / "out.npz"),
            *(libraries[0], path, tmp_path / "names.json"),
        ],
        check=True,
    )
    with np.load(tmp_path / "out.npz") as file:
        got = file["c_api/logits"]
    want = model.predict(images / np.float32(255), verbose=0)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)


def test_every_format_gives_the_models_outputs_for_every_batch(served):
    model, exported, images = served
    want = model.predict(images / np.float32(255), verbose=0)
    for name in FORMATS:
        loaded = tf.saved_model.load(str(exported[name].path))
        serve = loaded.signatures["serving_default"]
        for batch in (1, 8, 9, 12):  # few and many rows take two ways in "csr"
            got = serve(image=tf.constant(images[:batch]))["logits"]
            np.testing.assert_allclose(got, want[:batch], rtol=1e-4, atol=1e-5)


def test_classes_come_by_name_and_the_best_first(served):
    model, exported, images = served
    logits = model.predict(images / np.float32(255), verbose=0)
    best = np.argsort(-logits, axis=1)[:, :3]
    for name in FORMATS:
        loaded = tf.saved_model.load(str(exported[name].path))
        got = loaded.signatures["classify"](image=tf.constant(images))
        assert set(got) == {"classes", "scores"}
        texts = [[label.decode() for label in row] for row in got["classes"].numpy()]
        assert texts == [[LABELS[i] for i in row] for row in best]
        want = np.take_along_axis(logits, best, 1)
        np.testing.assert_allclose(got["scores"], want, rtol=1e-4, atol=1e-5)


def test_models_in_one_process_do_not_share_their_weights(tmp_path, quick):
    model = lenet(sizes=(20, 10), inputs=30)
    first = export.saved_model(model, tmp_path / "m", format="encoded").path
    x = tf.ones((2, 30))
    before = tf.saved_model.load(str(first)).signatures["serving_default"]
    again = tf.saved_model.load(str(first))
    want = before(pixels=x)["logits"].numpy()
    kernel = model.layers[0].kernel  # one that is encoded
    kernel.assign(2 * kernel)
    second = export.saved_model(model, tmp_path / "m", format="encoded").path
    after = tf.saved_model.load(str(second)).signatures["serving_default"]
    assert not np.allclose(after(pixels=x)["logits"], want)
    del again
    np.testing.assert_array_equal(before(pixels=x)["logits"], want)


def test_what_a_layer_assigns_is_kept_when_encoded(tmp_path, quick):
    @keras.saving.register_keras_serializable("formats")
    class Counting(layers.Layer):
        def build(self, shape):
            # Zeros in a matrix, which would be encoded if nothing assigned to it.
            self.calls = self.add_weight(
                shape=(30, 20), initializer="zeros", trainable=False, name="calls"
            )

        def call(self, x):
            self.calls.assign_add(1.0)
            return x + self.calls[0]

    model = keras.Sequential(
        [keras.Input((30,), name="x"), layers.Dense(20), Counting()]
    )
    prune_at_random(model, 0.9)
    # Each run counts on, so no two agree.
    path = export.saved_model(
        model, tmp_path / "m", format="encoded", deterministic=False
    ).path
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    first, second = (serve(x=tf.ones((1, 30)))["counting"].numpy() for _ in range(2))
    np.testing.assert_allclose(second - first, 1, rtol=1e-5)


# Computing on sparse weights


def test_csr_takes_sequences_and_leaves_the_model_as_it_was(tmp_path, quick):
    model = keras.Sequential(
        [
            keras.Input((5, 400), name="x"),
            layers.Dense(600, activation="tanh"),
            layers.Dense(550, use_bias=False),
            layers.Dense(3),
        ]
    )
    random = np.random.default_rng(0)
    for layer in model.layers:
        layer.kernel.assign(layer.kernel * (random.random(layer.kernel.shape) < 0.05))
    assert csr.candidates(model) == model.layers[:2]
    exported = export.saved_model(model, tmp_path / "m", format="csr")
    assert "2 Dense layers compute on sparse" in exported.notes
    assert all("call" not in vars(layer) for layer in model.layers)
    serve = tf.saved_model.load(str(exported.path)).signatures["serving_default"]
    x = random.standard_normal((3, 5, 400)).astype("float32")
    got = next(iter(serve(x=tf.constant(x)).values()))
    np.testing.assert_allclose(got, model(x), rtol=1e-4, atol=1e-5)


def test_csr_where_another_layer_reads_the_kernel(tmp_path, quick):
    class Tied(layers.Layer):
        def __init__(self, source):
            super().__init__()
            self.source = source

        def call(self, x):
            return keras.ops.matmul(x, keras.ops.transpose(self.source.kernel))

    inputs = keras.Input((500,), name="x")
    dense = layers.Dense(500)
    model = keras.Model(inputs, Tied(dense)(dense(inputs)))
    keep = np.random.default_rng(0).random((500, 500)) < 0.05
    dense.kernel.assign(dense.kernel * keep)
    assert export.saved_model(model, tmp_path / "m", format="csr").agreement == 1


@pytest.mark.parametrize(
    ("sparsity", "sizes", "want"),
    [(0.0, (20, 3), "dense"), (0.9, (20, 3), "encoded"), (0.97, (900, 3), "csr")],
)
def test_auto_chooses_and_says_why(sparsity, sizes, want, tmp_path, quick):
    model = lenet(sparsity, sizes=sizes, inputs=300)
    exported = export.saved_model(model, tmp_path / "m", format="auto")
    assert exported.format == want
    assert any(note.startswith(f"auto took {want}: ") for note in exported.notes)
    assert formats.choose(model, "float16")[0] != "csr"


# Beside the model


def test_the_manifest_says_what_is_there(served):
    model, exported, _ = served
    for name in FORMATS:
        path = exported[name].path
        found = json.loads((path / "tfticket.json").read_text())
        assert found["made"]["format"] == name
        assert "TensorFlow" in found["read_by"]
        assert ("OpenVINO" in found["read_by"]) is (name in ("dense", "foldable"))
        assert found["made"]["keras"] == keras.__version__
        assert found["parity"]["agreement"] == 1.0
        assert found["parity"]["c_api"] is (name != "dense")
        listed = {path / file for file in found["files"]}
        there = {file for file in path.rglob("*") if file.is_file()}
        assert there - listed == {path / "tfticket.json"}
        for file, facts in found["files"].items():
            content = (path / file).read_bytes()
            assert facts["bytes"] == len(content)
            assert facts["sha256"] == hashlib.sha256(content).hexdigest()
        rows = {row["name"]: row for row in found["weights"]}
        masks = tfticket.get_masks(model)
        kept = int(masks["conv2d/kernel"].sum())
        assert rows["conv2d/kernel"]["flops_dense"] == 2 * 9 * 4 * 14 * 14
        assert rows["conv2d/kernel"]["flops_sparse"] == 2 * kept * 14 * 14
        assert rows["conv2d/kernel"]["kept"] == kept
        assert rows["batch_normalization"]["flops_dense"] == 0
        assert found["parameters"] == tfticket.strip(model).count_params()
        assert found["flops_unknown"] == {}
        # The weights' bytes are those that `summary` gives.
        whole = total(tfticket.summary_rows(model))
        if name in ("dense", "encoded"):
            counted = {"dense": whole.bytes_dense, "encoded": whole.bytes_sparse}
            assert found["made"]["weight_bytes"] == counted[name]


def test_the_manifest_names_what_it_does_not_count(tmp_path, quick):
    class Own(layers.Dense):
        def call(self, x):
            return keras.ops.matmul(x, self.kernel)

    own, dense = Own(3, use_bias=False, name="own"), layers.Dense(2, name="dense")
    model = keras.Sequential([keras.Input((4,)), own, dense])
    path = export.saved_model(model, tmp_path / "m").path
    found = json.loads((path / "tfticket.json").read_text())
    assert found["flops_dense"] == 2 * 3 * 2
    assert list(found["flops_unknown"]) == ["own/kernel"]


def test_a_warm_up_request_is_what_tensorflow_serving_reads():
    # Made by tensorflow-serving-api 2.21: PredictionLog(predict_log=PredictLog(
    # request=PredictRequest(...))), serialized deterministically.
    want = bytes.fromhex(
        "32420a400a190a066469676974731a0f73657276696e675f64656661756c7412230a0178121e"
        "0801120812020801120208042210000000000000803f0000004000004040"
    )
    x = np.arange(4, dtype=np.float32)[None]
    assert warmup.prediction_log("digits", "serving_default", {"x": x}) == want


def test_a_warm_up_request_by_tensorflow_servings_own_classes():
    logs = pytest.importorskip("tensorflow_serving.apis.prediction_log_pb2")
    inputs = {"x": np.ones((1, 300), "float32"), "ids": np.array([[1, 1 << 40]])}
    content = warmup.prediction_log("digits", "classify", inputs)
    request = logs.PredictionLog.FromString(content).predict_log.request
    assert request.model_spec.name == "digits"
    assert request.model_spec.signature_name == "classify"
    assert set(request.inputs) == set(inputs)
    for name, value in inputs.items():
        np.testing.assert_array_equal(tf.make_ndarray(request.inputs[name]), value)


def test_warm_up_requests_are_written_for_each_signature(served, tmp_path, quick):
    _, exported, _ = served
    for found in exported.values():
        file = found.path / "assets.extra" / "tf_serving_warmup_requests"
        records = [r.numpy() for r in tf.data.TFRecordDataset(str(file))]
        assert len(records) == 2
        assert b"serving_default" in records[0]
        assert b"classify" in records[1]
        assert all(found.path.parent.name.encode() in record for record in records)
    model = lenet(sizes=(10,), inputs=30)
    without = export.saved_model(model, tmp_path / "m", warmup=False).path
    assert not (without / "assets.extra").exists()


def test_preprocessing_by_a_function(tmp_path, quick):
    model = keras.Sequential(
        [keras.Input((4, 4, 1), name="image"), layers.Flatten(), layers.Dense(3)]
    )

    def standardize(image):
        image = tf.cast(image, tf.float32)
        return (image - 33.0) / 78.0

    path = export.saved_model(model, tmp_path / "m", image=standardize).path
    serve = tf.saved_model.load(str(path)).signatures["serving_default"]
    image = np.random.default_rng(0).integers(0, 256, (3, 4, 4, 1), np.uint8)
    assert serve.structured_input_signature[1]["image"].dtype == tf.uint8
    got = next(iter(serve(image=tf.constant(image)).values()))
    want = model((image.astype("float32") - 33) / 78)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-4)
    wrong = {"image": lambda image: tf.cast(image, tf.float32)[:, :2]}
    with pytest.raises(ValueError, match=r"shape \(None, 2, 4, 1\).*\(None, 4, 4, 1\)"):
        export.saved_model(model, tmp_path / "n", **wrong)
    with pytest.raises(ValueError, match=r"'image' is of uint8.*whole numbers"):
        export.saved_model(model, tmp_path / "n", image="divide_255", inputs=image / 2)
    with pytest.raises(ValueError, match=r"\['divide_255', 'minus_1_to_1'\].*'x'"):
        export.saved_model(model, tmp_path / "n", image="x")
    assert sorted(os.listdir(tmp_path)) == ["m"]


# Bad input


def test_arguments_that_do_not_fit(tmp_path):
    model = lenet(sizes=(10,), inputs=60)
    for match, arguments in {
        r"format must be one of .*format='sparse'": {"format": "sparse"},
        r"value_dtype must be one of .*'int8'": {"value_dtype": "int8"},
        r"is for format='encoded' or 'foldable'.*'csr'": {
            "format": "csr",
            "value_dtype": "float16",
        },
        r"top_k=3 needs labels": {"top_k": 3},
        r"labels must have 10 different strings": {"labels": ["a", "b"]},
        r"labels must have 10 different": {"labels": ["a"] * 10},
        r"top_k must be at most 10.*top_k=11": {"labels": LABELS, "top_k": 11},
    }.items():
        with pytest.raises(ValueError, match=match):
            export.saved_model(model, tmp_path / "m", **arguments)
    two = keras.Model(model.inputs, [model.layers[-1].output] * 2)
    with pytest.raises(ValueError, match="one output of shape"):
        export.saved_model(two, tmp_path / "m", labels=LABELS)
    ids = keras.Sequential([keras.Input((3,), dtype="int32"), layers.Embedding(5, 2)])
    with pytest.raises(ValueError, match="of int32 already"):
        export.saved_model(ids, tmp_path / "m", image="divide_255")
    model.layers[0].kernel.assign(np.full((60, 10), 1e6))
    with pytest.raises(ValueError, match=r"kernel.*1e\+06.*ends at 65504"):
        encoded.store(model.variables, "float16")
    assert not any(tmp_path.iterdir())


@pytest.mark.parametrize("format", ["encoded", "foldable", "csr"])
def test_a_model_without_zeros_is_warned_of(format, tmp_path, quick):
    model = lenet(0.0, sizes=(10,), inputs=30)
    with pytest.warns(UserWarning, match=r"0\.0% of the weights .*saves nothing"):
        exported = export.saved_model(model, tmp_path / "m", format=format)
    assert any("saves nothing" in note for note in exported.notes)


def test_a_disk_that_fills_up_midway(tmp_path, quick):
    model = lenet()
    path = tmp_path / "m"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=r"File too large; nothing.*m/1'"):
            export.saved_model(model, path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not any(tmp_path.iterdir())


def test_a_folder_that_can_not_be_written(tmp_path, quick):
    (tmp_path / "file").write_text("no folder")
    with pytest.raises(OSError, match=r"nothing of it was kept.*file/m/1"):
        export.saved_model(lenet(sizes=(10,), inputs=30), tmp_path / "file" / "m")
    assert (tmp_path / "file").read_text() == "no folder"


def test_the_older_version_comes_back_where_the_new_can_not(
    tmp_path, quick, monkeypatch
):
    model = lenet(sizes=(10,), inputs=30)
    path = export.saved_model(model, tmp_path / "m").path
    before = (path / "fingerprint.pb").read_bytes()
    real = os.rename

    def fails(source, target):
        if os.path.basename(source) == "new":
            raise OSError(28, "No space left on device")
        real(source, target)

    # As on a system that knows no such renames.
    monkeypatch.setattr(renames, "_renamed", lambda *_: False)
    monkeypatch.setattr(os, "rename", fails)
    with pytest.raises(OSError, match=r"No space left.*m/1'") as error:
        export.saved_model(model, tmp_path / "m", version=1, overwrite=True)
    assert error.value.filename == str(path)
    with pytest.raises(OSError, match="No space left"):
        export.saved_model(model, tmp_path / "n")
    assert (path / "fingerprint.pb").read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


def test_python_in_the_graph_is_refused(tmp_path):
    class Python(layers.Layer):
        def call(self, x):
            if isinstance(x, keras.KerasTensor):
                return x
            return tf.ensure_shape(tf.numpy_function(np.sin, [x], tf.float32), x.shape)

    model = keras.Sequential([keras.Input((3,)), layers.Dense(2), Python()])
    with pytest.raises(export.ExportError, match=r"calls Python.*tf\.numpy_function"):
        export.saved_model(model, tmp_path / "m")
    assert not any(tmp_path.iterdir())


def test_an_operation_that_only_this_process_has_is_refused(tmp_path, monkeypatch):
    """As one from `tf.load_op_library`: here the file is bent after writing."""

    def write(ready, folder):
        real(ready, folder)
        file = folder / "saved_model.pb"
        file.write_bytes(file.read_bytes().replace(b"MatMul", b"MyMul_"))

    real = saved_model_export.write
    monkeypatch.setattr(saved_model_export, "write", write)
    with pytest.raises(export.ExportError, match=r"(?s)are missing, does not.*MyMul_"):
        export.saved_model(lenet(sizes=(10,), inputs=30), tmp_path / "m")
    assert not any(tmp_path.iterdir())


def test_a_signature_that_names_the_wrong_class_is_refused(
    tmp_path, quick, monkeypatch
):
    real = processes.run

    def shuffled(*arguments):
        results = real(*arguments)
        results["classify/classes"] = results["classify/classes"][:, ::-1]
        return results

    monkeypatch.setattr(processes, "run", shuffled)
    with pytest.raises(export.ExportError, match=r"differs from itself.*'classify'"):
        export.saved_model(lenet(sizes=(10,), inputs=30), tmp_path / "m", labels=LABELS)
    assert not any(tmp_path.iterdir())


def test_names_that_numpy_takes_for_itself_and_bfloat16(tmp_path):
    inputs = keras.Input((3,), name="file")
    outputs = layers.Dense(2, name="arr_0", dtype="mixed_bfloat16")(inputs)
    exported = export.saved_model(keras.Model(inputs, outputs), tmp_path / "m")
    assert exported.c_api
    assert exported.max_error < 0.1
