"""2:4 masks are in the layout of sparse tensor cores, and ONNX files keep them."""

import functools
import sys

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfticket
from tfticket import export
from tfticket.sparsity.structures import NM


def network():
    x = inputs = keras.Input((8, 8, 6), name="image")
    x = layers.Conv2D(8, 3, name="conv")(x)
    x = layers.Conv2DTranspose(5, 3, name="up")(x)
    x = layers.SeparableConv2D(6, 3, name="separable")(x)
    x = layers.Reshape((-1, 6))(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.LSTM(3, name="lstm")(x)
    x = layers.Dense(7, name="dense")(x)
    return keras.Model(inputs, layers.Dense(4, name="logits")(x))


def rows_of(name, mask):
    """Rows along which the layer of `network` sums, by hand for each kind of layer."""
    if name.startswith("up/"):  # height, width, outputs, inputs
        return mask.reshape(-1, mask.shape[-1])
    if name == "attention/output_dense/kernel":  # heads, size, outputs
        return mask.reshape(-1, mask.shape[-1]).T
    if name.startswith("attention/"):  # inputs, heads, size
        return mask.reshape(mask.shape[0], -1).T
    return np.moveaxis(mask, -2, -1).reshape(-1, mask.shape[-2])


def violating(rows):
    return sum(
        row[i : i + 4].sum() > 2 for row in rows for i in range(0, rows.shape[1], 4)
    )


def test_masks_of_nm_are_two_four_in_every_kind_of_layer():
    model = tfticket.prune(network())
    tfticket.sparsify(model, 0.5, structure=NM(2, 4), allow_empty=True)
    report = export.check_two_four(model)
    assert report.ok, str(report)
    masks = tfticket.get_masks(model)
    assert [weight.name for weight in report.weights] == list(masks)
    for weight in report.weights:
        rows = rows_of(weight.name, masks[weight.name])
        assert violating(rows) == 0, weight.name
        assert weight.groups == rows.shape[0] * -(-rows.shape[1] // 4)
        assert weight.padded == (rows.shape[1] % 4 != 0)
        assert weight.density == masks[weight.name].mean()
    # And so are the stripped weights, which is what is exported.
    assert export.check_two_four(tfticket.strip(model)).ok


@functools.cache
def judged():
    return tfticket.prune(
        keras.Sequential(
            [keras.Input((9, 9, 7)), layers.Conv2D(4, 2), layers.Dense(6, name="last")]
        )
    )


@settings(max_examples=25, deadline=None)
@given(st.floats(0.2, 0.8), st.integers(0, 999))
def test_any_mask_is_judged_as_by_hand(sparsity, seed):
    model = judged()
    random = np.random.default_rng(seed)
    masks = {
        name: random.random(mask.shape) >= sparsity
        for name, mask in tfticket.get_masks(model).items()
    }
    tfticket.set_masks(model, masks)
    report = export.check_two_four(model)
    for weight in report.weights:
        rows = rows_of(weight.name, masks[weight.name])
        assert len(weight.violations) == violating(rows)
        for start in weight.violations:
            at = [slice(i, i + 1) for i in start]
            at[-2] = slice(start[-2], start[-2] + 4)
            assert start[-2] % 4 == 0
            assert masks[weight.name][tuple(at)].sum() > 2
    assert report.ok == (not any(len(w.violations) for w in report.weights))


def test_a_violation_is_named_with_its_place():
    model = tfticket.prune(keras.Sequential([keras.Input((8,)), layers.Dense(3)]))
    mask = np.zeros((8, 3), bool)
    mask[[0, 3], 0] = mask[[4, 5, 7], 1] = True
    tfticket.set_masks(model, {"dense/kernel": mask})
    report = export.check_two_four(model)
    assert not report.ok
    np.testing.assert_array_equal(report.weights[0].violations, [[4, 1]])
    assert "dense/kernel: 6 groups" in str(report)
    assert "1 keep more than 2 of 4, those from index (4, 1)" in str(report)


def test_two_four_of_the_wrong_axis_is_found():
    """Groups along the outputs, as a transposed kernel would have them."""
    model = tfticket.prune(keras.Sequential([keras.Input((8,)), layers.Dense(8)]))
    mask = np.tile([True, True, False, False], (8, 2))
    tfticket.set_masks(model, {"dense/kernel": mask})
    assert len(export.check_two_four(model).weights[0].violations) == 4 * 2


def test_depthwise_kernels_and_embeddings_are_not_read():
    model = keras.Sequential(
        [keras.Input((8, 8, 4)), layers.DepthwiseConv2D(3, name="depthwise")]
    )
    report = export.check_two_four(model)
    assert not report.ok
    assert "not read as 2:4: a depthwise" in str(report)
    words = keras.Sequential(
        [keras.Input((5,), dtype="int32"), layers.Embedding(9, 4, name="words")]
    )
    assert "sums over nothing" in str(export.check_two_four(words))


def test_popup_models_are_checked_as_what_they_compute():
    model = tfticket.popup(keras.Sequential([keras.Input((8,)), layers.Dense(4)]))
    (weight,) = export.check_two_four(model).weights
    assert weight.density == 0.5


def test_nothing_to_check():
    with pytest.raises(ValueError, match=r"no weights that can be 2:4"):
        export.check_two_four(keras.Sequential([keras.Input((4,)), layers.ReLU()]))
    with pytest.raises(TypeError, match=r"keras\.Model"):
        export.check_two_four(layers.Dense(3))


def test_onnx_says_which_extra_it_needs(tmp_path, monkeypatch, mlp):
    monkeypatch.setitem(sys.modules, "tf2onnx", None)
    with pytest.raises(ImportError, match=r"pip install 'tfticket\[onnx\]'"):
        export.onnx(mlp, tmp_path / "m.onnx")
    assert not any(tmp_path.iterdir())
    (tmp_path / "mine.onnx").write_text("mine")
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export.onnx(mlp, tmp_path / "mine.onnx")
    with pytest.raises(ValueError, match="opset=3"):
        export.onnx(mlp, tmp_path / "m.onnx", opset=3)


def test_onnx_keeps_two_four_through_conversion(tmp_path):
    pytest.importorskip("tf2onnx")
    onnx = pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    model = tfticket.prune(
        keras.Sequential(
            [
                keras.Input((8, 8, 8), name="image"),
                layers.Conv2D(12, 3, padding="same"),
                layers.BatchNormalization(),
                layers.ReLU(),
                layers.Flatten(),
                layers.Dense(10, name="logits"),
            ]
        )
    )
    tfticket.sparsify(model, 0.5, structure=NM(2, 4))
    exported = export.onnx(model, tmp_path / "m.onnx")
    assert exported.agreement == 1.0
    proto = onnx.load(str(exported.path))
    assert [i.name for i in proto.graph.input] == ["image"]
    assert [o.name for o in proto.graph.output] == ["logits"]
    weights = [onnx.numpy_helper.to_array(w) for w in proto.graph.initializer]
    (conv,) = [w for w in weights if w.ndim == 4]
    assert conv.shape == (12, 8, 3, 3)
    assert violating(np.moveaxis(conv, 1, -1).reshape(-1, 8) != 0) == 0
    (dense,) = [w for w in weights if w.shape == (768, 10)]
    assert violating(dense.T != 0) == 0


def test_an_onnx_file_that_differs_is_refused(tmp_path, monkeypatch, mlp):
    pytest.importorskip("tf2onnx")
    pytest.importorskip("onnxruntime")
    from tfticket.export.checking import processes

    real = processes.run
    monkeypatch.setattr(
        processes, "run", lambda *a: {k: v + 0.1 for k, v in real(*a).items()}
    )
    with pytest.raises(export.ExportError, match="differs from the model"):
        export.onnx(mlp, tmp_path / "m.onnx")
    assert not any(tmp_path.iterdir())
