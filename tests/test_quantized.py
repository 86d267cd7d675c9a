"""Models that Keras has quantized: their zeros, their files, what can't be done."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

import tfticket
from tfticket import export
from tfticket.export.storage import encoding
from tfticket.inspection.costs import total
from tfticket.keras_models.quantized import quantized_weights

if not hasattr(keras.quantizers, "Int4QuantizationConfig"):
    pytest.skip("Keras before 3.13 has other int4", allow_module_level=True)

pytestmark = pytest.mark.usefixtures("quick_collection")
GPTQ = pytest.param("gptq", marks=pytest.mark.slow)  # goes column by column
MODES = ("int8", "int4", "int4 a channel", "awq", GPTQ)


def sparse(sparsity=0.9, sizes=(140, 33, 10), inputs=150):
    """A stripped model and its masks; the rest of each kernel is not symmetric."""
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((inputs,), name="x")])
    for i, units in enumerate(sizes):
        model.add(layers.Dense(units, name=f"d{i}"))
    for layer in model.layers:
        layer.kernel.assign(layer.kernel + 0.05)
    wrapped = tfticket.prune(model)
    tfticket.sparsify(wrapped, sparsity, scope="layerwise")
    return tfticket.strip(wrapped), tfticket.get_masks(wrapped)


def quantize(model, mode):
    if mode == "int4 a channel":
        model.quantize(config=keras.quantizers.Int4QuantizationConfig(block_size=-1))
    elif mode in ("gptq", "awq"):
        kind = {"gptq": "GPTQConfig", "awq": "AWQConfig"}[mode]
        x = np.random.default_rng(0).standard_normal((64, model.input_shape[-1]))
        samples = layers.Embedding(64, x.shape[1], weights=x, trainable=False)
        config = getattr(keras.quantizers, kind)(
            dataset=[np.arange(64)],
            tokenizer=object(),
            num_samples=2,
            sequence_length=32,
            quantization_layer_structure={
                "pre_block_layers": [samples],
                "sequential_blocks": model.layers,
            },
        )
        model.quantize(config=config)
    else:
        model.quantize(mode)
    return model


def dequantized(model):
    """Kernels by what the model computes, which knows no storage: of unit vectors."""
    found = {}
    for layer in model.layers:
        layer.inputs_quantizer = None  # int8 rounds its inputs as well
        eye = np.eye(layer.input_spec.axes[-1], dtype="float32")
        found[f"{layer.name}/kernel"] = np.array(layer(eye) - layer.bias)
    return found


@pytest.mark.parametrize("mode", MODES)
def test_each_mode_keeps_zeros_and_a_mask_brings_back_what_moved(mode):
    model, masks = sparse()
    quantize(model, mode)
    kept, kernels = tfticket.quantized_masks(model), dequantized(model)
    assert list(kept) == list(masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(kept[name], kernels[name] != 0)
        assert not np.any(kept[name] & ~mask)
    # Now make pruned weights of the largest that are left.
    less = {k: m & (np.abs(kernels[k]) < 0.1) for k, m in masks.items()}
    moved = tfticket.mask_quantized(model, less)
    assert moved == {k: int(np.sum(kept[k] & ~less[k])) for k in less}
    assert sum(moved.values()) > 0
    for name, kernel in dequantized(model).items():
        want = np.where(less[name], kernels[name], 0)
        np.testing.assert_array_equal(kernel, want)
    assert not any(tfticket.mask_quantized(model, less).values())


@pytest.mark.parametrize("mode", ["int8", "int4"])
def test_einsum_and_embedding(mode):
    token = keras.Input((5,), dtype="int32")
    x = layers.Embedding(12, 130, name="table")(token)
    outputs = layers.EinsumDense("abc,cde->abde", (5, 3, 7), name="heads")(x)
    model = keras.Model(token, outputs)
    model.quantize(mode)
    kept = tfticket.quantized_masks(model)
    shapes = {"table/embeddings": (12, 130), "heads/kernel": (130, 3, 7)}
    assert {name: mask.shape for name, mask in kept.items()} == shapes
    random = np.random.default_rng(0)
    masks = {k: random.random(shape) < 0.3 for k, shape in shapes.items()}
    masks["table/embeddings"][:] = True
    masks["table/embeddings"][3] = False
    masks["heads/kernel"][:, 1] = False
    tfticket.mask_quantized(model, masks)
    tokens = np.array([[0, 1, 2, 3, 4]])
    out = np.array(model(tokens))
    assert not out[:, 3].any()
    assert not out[:, :, 1].any()
    assert out[:, [0, 1, 2, 4]][:, :, [0, 2]].any()


@pytest.mark.slow
def test_int8_is_a_third_at_90_percent_and_exact(tmp_path, quick):
    model, _ = sparse(0.9, (1200, 400, 10), 600)
    for mode in ("int8", "int4"):
        copy = keras.models.clone_model(model)
        copy.set_weights(model.get_weights())
        quantize(copy, mode)
        dense = export.saved_model(copy, tmp_path / mode / "dense")
        small = export.saved_model(copy, tmp_path / mode / "small", format="encoded")
        stored = [
            json.loads((made.path / "tfticket.json").read_text())["made"][
                "weight_bytes"
            ]
            for made in (dense, small)
        ]
        assert small.max_error == 0
        if mode == "int8":
            of_int8 = dense.size
            assert stored[1] <= 0.24 * stored[0]
        # Zeros of int4 stand at a byte of each group's own, and are found there.
        assert small.size <= of_int8 / 3
        whole = total(tfticket.summary_rows(copy))
        assert [whole.bytes_dense, whole.bytes_sparse] == stored
        kept = sum(mask.sum() for mask in tfticket.quantized_masks(copy).values())
        rows = [r for r in tfticket.summary_rows(copy) if r.name.endswith("/kernel")]
        assert sum(row.kept for row in rows) == kept
        loaded = tf.saved_model.load(str(small.path))
        x = np.random.default_rng(1).standard_normal((3, 600)).astype("float32")
        got = loaded.signatures["serving_default"](x=tf.constant(x))["d2"]
        np.testing.assert_array_equal(got, copy(x))


def test_what_saves_nothing_is_named_once(tmp_path, quick):
    model, _ = sparse(0.5)
    model.get_layer("d0").kernel.assign(np.full((150, 140), 0.1))
    quantize(model, "int8")
    exported = export.saved_model(model, tmp_path / "m", format="encoded")
    (note,) = [n for n in exported.notes if "stored as they are" in n]
    assert note.endswith(": d0/kernel")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int32"])
@pytest.mark.parametrize("form", ["gaps", "bits", "plain"])
def test_every_bit_of_whole_numbers_comes_back(dtype, form):
    info = np.iinfo(dtype)
    flat = np.random.default_rng(0).integers(info.min, info.max, 4000, dtype, True)
    flat[np.random.default_rng(1).random(4000) < 0.9] = 0
    stored = encoding.encode(flat, form)
    places = tf.constant(stored.places)
    got = encoding.decode(
        form, flat.size, flat.dtype, tf.constant(stored.values), places
    )
    np.testing.assert_array_equal(got, flat)


@pytest.mark.parametrize("mode", ["int8", "float8"])
def test_what_is_quantized_is_not_pruned(mode):
    model, masks = sparse()
    model.quantize(mode)
    for call in (tfticket.prune, lambda m: tfticket.popup(m, 0.5)):
        with pytest.raises(ValueError, match=rf"'d0' \({mode}\).*call quantize last"):
            call(model)
    with pytest.raises(ValueError, match=r"d0.*quantize last"):
        tfticket.prune(model.get_layer("d0"))
    if mode == "float8":
        with pytest.raises(ValueError, match=r"can't be copied.*float8"):
            tfticket.strip(model)
        with pytest.raises(ValueError, match=r"\['float8'\].*int8"):
            tfticket.mask_quantized(model, masks)


def test_masks_that_do_not_fit():
    model, masks = sparse()
    with pytest.raises(ValueError, match=r"none.*quantize\('int8'\)"):
        tfticket.mask_quantized(model, masks)
    model.quantize("int8", filters="d[01]")
    before = tfticket.quantized_masks(model)
    for bad, match in (
        ({"d0/kernel": np.zeros((2, 2))}, "shape"),
        ({"d0/kernel": np.full((150, 140), 2)}, "exactly 0 or 1"),
        ({"no/kernel": np.zeros((2, 2))}, r"'no/kernel'.*d0/kernel"),
    ):
        with pytest.raises(ValueError, match=match):
            tfticket.mask_quantized(model, {"d1/kernel": masks["d1/kernel"], **bad})
    assert set(tfticket.mask_quantized(model, masks)) == set(before)
    with pytest.raises(TypeError, match=r"keras\.Model"):
        tfticket.quantized_masks(layers.Dense(2))


def test_lora_after_quantizing_leaves_the_kernels_zeros():
    model, masks = sparse()
    model.quantize("int8")
    before = {k: w.variable.numpy() for k, w in quantized_weights(model).items()}
    for layer in model.layers:
        layer.enable_lora(2)
    model.compile("adam", "mse")
    random = np.random.default_rng(0)
    x, y = random.standard_normal((64, 150)), random.standard_normal((64, 10))
    start = model.evaluate(x, y, verbose=0)
    model.fit(x, y, epochs=3, verbose=0)
    assert model.evaluate(x, y, verbose=0) < start
    for name, weight in quantized_weights(model).items():
        np.testing.assert_array_equal(weight.variable, before[name])
        assert not tfticket.quantized_masks(model)[name][~masks[name]].any()
