"""`one_shot`: against plain NumPy, on graphs of all kinds of layers."""

import sys

import keras
import numpy as np
import pytest
from fixtures import pages
from keras import layers

import tfticket
from tfticket.pruning import blocks
from tfticket.pruning.calibration import Recorded, Rows, batches_of, recording
from tfticket.pruning.masks import masked_weights
from tfticket.sparsity import reconstruction

sys.path.append(str(pages.ROOT / "benchmarks"))
import one_shot_page

RESULTS = pages.ROOT / "docs" / "results"
RANDOM = np.random.default_rng(0)


def reference_sparse_gpt(rows, moments, sparsity):
    """The paper's algorithm by explicit inverses, in a block of all columns.

    The mask is chosen first, of the whole, or of four columns where they begin if
    sparsity is "2:4"; then each column's error goes to those after it by the inverse
    of what is left of H.
    """
    hessian = moments + 0.01 * np.mean(np.diag(moments)) * np.eye(len(moments))
    weights = np.array(rows)
    columns = len(hessian)
    # [H_F^-1]_00 of the columns from j on.
    inverses = [np.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    diagonal = np.array([x[0, 0] for x in inverses])
    mask = np.ones(weights.shape, bool)
    if sparsity != "2:4":
        order = np.argsort((weights**2 / diagonal).ravel(), kind="stable")
        mask.ravel()[order[: round(sparsity * weights.size)]] = False
    for j in range(columns):
        if sparsity == "2:4" and j % 4 == 0:
            mask[:, j : j + 4] = best_two(
                weights[:, j : j + 4] ** 2 / diagonal[j : j + 4]
            )
        inverse = inverses[j]
        for i in range(len(weights)):
            if not mask[i, j]:
                weights[i, j:] -= weights[i, j] / inverse[0, 0] * inverse[0]
                weights[i, j] = 0
    return mask, np.where(mask, weights, 0)


def best_two(scores):
    """Of each row and every four columns the two that score most."""
    ranks = scores.reshape(len(scores), -1, 4).argsort(-1).argsort(-1)
    return (ranks >= 2).reshape(scores.shape)


def correlated(count, size):
    return RANDOM.normal(size=(count, size)) @ RANDOM.normal(size=(size, size))


def test_sparse_gpt_is_the_papers_algorithm():
    x = correlated(200, 12)
    moments, rows = x.T @ x / 200, RANDOM.normal(size=(5, 12))
    mask, found = reconstruction.sparse_gpt(rows, rows != 0, moments, 0.5)
    wanted_mask, wanted = reference_sparse_gpt(rows, moments, 0.5)
    np.testing.assert_array_equal(mask, wanted_mask)
    np.testing.assert_allclose(found, wanted, rtol=1e-8, atol=1e-10)


def test_sparse_gpt_spreads_errors_beyond_its_blocks():
    x = correlated(600, 300)
    moments, rows = x.T @ x / 600, RANDOM.normal(size=(6, 300))
    mask, found = reconstruction.sparse_gpt(rows, rows != 0, moments, 0.5)
    assert mask.sum() == rows.size // 2
    _, alone = reconstruction.sparse_gpt(
        rows, rows != 0, np.diag(np.diag(moments)), 0.5
    )
    errors = [reconstruction.output_error(rows, x, moments) for x in (found, alone)]
    assert errors[0] < 0.7 * errors[1]


def test_least_squares_is_the_best_for_the_mask():
    x = correlated(500, 8)
    moments, rows = x.T @ x / 500, RANDOM.normal(size=(3, 8))
    mask = RANDOM.random(rows.shape) < 0.5
    found = reconstruction.least_squares(rows, mask, moments)
    # The damping is as good as a few more inputs, of one feature each.
    more = np.sqrt(500 * 0.01 * np.mean(np.diag(moments))) * np.eye(8)
    x = np.concatenate([x, more])
    for i, kept in enumerate(mask):
        solved, *_ = np.linalg.lstsq(x[:, kept], x @ rows[i], rcond=None)
        np.testing.assert_allclose(found[i, kept], solved, rtol=1e-6, atol=1e-9)
        assert not found[i, ~kept].any()


def test_groups_of_four_keep_two():
    x = correlated(100, 10)
    moments, rows = x.T @ x, RANDOM.normal(size=(4, 10))
    mask, _ = reconstruction.sparse_gpt(rows, rows != 0, moments, 0.0, (2, 4))
    for start in (0, 4, 8):
        assert (mask[:, start : start + 4].sum(1) == 2).all()


def test_sparsities_of_layers_by_outliers():
    outliers = {"a": 0.0, "b": 0.01, "c": 0.04}
    sizes = {"a": 100, "b": 300, "c": 50}
    found = reconstruction.owl_sparsities(outliers, sizes, 0.7)
    assert found["a"] > found["b"] > found["c"]
    assert max(abs(x - 0.7) for x in found.values()) <= 0.08 + 1e-12
    total = sum(found[k] * sizes[k] for k in sizes) / sum(sizes.values())
    assert total == pytest.approx(0.7)


KINDS = {
    "dense": (layers.Dense(3), (5,)),
    "dense of a sequence": (layers.Dense(3), (4, 5)),
    "einsum": (layers.EinsumDense("abc,cde->abde", (None, 2, 3)), (4, 5)),
    "einsum, two axes": (layers.EinsumDense("abcd,cde->abe", (None, 5)), (4, 2, 3)),
    "einsum with dots": (layers.EinsumDense("...x,xy->...y", (6,)), (4, 5)),
    "einsum in groups": (layers.EinsumDense("abc,bcd->abd", (4, 6)), (4, 5)),
    "conv": (layers.Conv2D(4, 3, strides=2, padding="same"), (7, 8, 3)),
    "dilated": (layers.Conv2D(4, 3, dilation_rate=2), (7, 8, 3)),
    "grouped": (layers.Conv2D(6, 3, groups=3), (5, 6, 6)),
    "depthwise": (layers.DepthwiseConv2D(3, depth_multiplier=2), (5, 6, 4)),
    "conv 1d": (layers.Conv1D(4, 3, padding="causal"), (9, 3)),
    "depthwise 1d": (layers.DepthwiseConv1D(3, strides=2), (9, 3)),
}


@pytest.mark.parametrize("kind", KINDS)
def test_rows_times_features_are_the_outputs(kind):
    """The view of each kind of kernel, against the layer itself."""
    layer, shape = KINDS[kind]
    layer = type(layer).from_config(layer.get_config())
    model = tfticket.prune(keras.Sequential([keras.Input(shape), layer]))
    (weight,) = (x for x in masked_weights(model).values() if x.is_kernel)
    rows = Rows(weight)
    x = RANDOM.normal(size=(2, *shape)).astype("float32")
    kernel = rows.of(np.array(weight.variable))
    features = keras.ops.convert_to_numpy(rows.features(x))
    outputs = np.einsum("guf,gtf->gtu", kernel, features)
    wanted = model.predict(x, verbose=0)
    np.testing.assert_allclose(
        np.sort(outputs.ravel()), np.sort(wanted.ravel()), atol=1e-4
    )
    np.testing.assert_array_equal(rows.back(kernel), weight.variable)
    recorder = Recorded(rows, second=True)
    with recording({"kernel": recorder}):
        model(x)
    np.testing.assert_allclose(
        recorder.moments()[0],
        np.mean(features[0][..., None] * features[0][:, None], 0),
        rtol=1e-4,
        atol=1e-5,
    )
    assert "call" not in vars(weight.layer)


LINEAR = {
    "dense": (layers.Dense(10), (16,), lambda k: k.T),
    "einsum": (
        layers.EinsumDense("abc,cde->abde", (None, 2, 5)),
        (6, 16),
        lambda k: k.reshape(16, 10).T,
    ),
    "1x1": (layers.Conv2D(10, 1), (3, 4, 16), lambda k: k.reshape(16, 10).T),
}


@pytest.mark.parametrize("sparsity", [0.5, "2:4"])
@pytest.mark.parametrize("kind", LINEAR)
def test_one_layer_is_pruned_as_the_papers_say(kind, sparsity):
    layer, shape, rows = LINEAR[kind]
    x = RANDOM.normal(size=(60, *shape)) @ RANDOM.normal(size=(16, 16))
    x = x.astype("float32")
    seen = x.reshape(-1, 16).astype("float64")
    arguments = {"structure": tfticket.structures.NM(2, 4)}
    if sparsity == 0.5:
        arguments = {"sparsity": 0.5}
    for method in ("wanda", "sparsegpt"):
        plain = type(layer).from_config(layer.get_config())
        model = tfticket.prune(keras.Sequential([keras.Input(shape), plain]))
        kernel = model.layers[0].layer.kernel
        before = rows(keras.ops.convert_to_numpy(kernel).copy()).astype("float64")
        tfticket.one_shot(model, x, method=method, **arguments)
        (mask,) = tfticket.get_masks(model).values()
        if method == "wanda":
            scores = np.abs(before) * np.linalg.norm(seen, axis=0)
            wanted_mask = best_two(scores)
            if sparsity == 0.5:
                wanted_mask = scores > np.sort(scores, 1)[:, 7:8]
            wanted = before * wanted_mask
        else:
            moments = seen.T @ seen / len(seen)
            wanted_mask, wanted = reference_sparse_gpt(before, moments, sparsity)
        np.testing.assert_array_equal(rows(mask), wanted_mask)
        found = rows(keras.ops.convert_to_numpy(kernel))
        np.testing.assert_allclose(found, wanted, atol=1e-4 * np.abs(wanted).max())


def network():
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3), name="image")
    x = layers.Conv2D(8, 3, padding="same", activation="relu", name="stem")(image)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(x)
    y = layers.BatchNormalization()(y)
    x = layers.Add()([x, layers.Conv2D(8, 1, name="mix")(y)])
    x = layers.Reshape((64, 8))(x)
    x = layers.MultiHeadAttention(2, 4, name="attention")(x, x)
    x = layers.GlobalAveragePooling1D()(layers.LayerNormalization()(x))
    return keras.Model(image, layers.Dense(5, name="logits")(x))


SAMPLES = RANDOM.normal(size=(40, 8, 8, 3)).astype("float32")


@pytest.mark.parametrize("method", ["magnitude", "wanda", "sparsegpt"])
def test_every_kernel_is_pruned_to_the_sparsity(method):
    model = tfticket.prune(network())
    report = tfticket.one_shot(model, SAMPLES, 0.5, method)
    masks = tfticket.get_masks(model)
    assert {row.name for row in report.rows} == set(masks)
    for row in report.rows:
        assert row.sparsity == pytest.approx(0.5, abs=0.06)  # of 9 one can't halve
        assert masks[row.name].mean() == pytest.approx(1 - row.sparsity)
        assert row.inputs > 0
    for name, value in tfticket.pruning.masks.get_pruned_weights(model).items():
        assert not value[~masks[name]].any()


def test_wanda_is_the_papers_one_line():
    model = tfticket.prune(
        keras.Sequential([keras.Input((6,)), layers.Dense(4, name="dense")])
    )
    x = RANDOM.normal(size=(50, 6)) * [1, 5, 1, 0.1, 1, 2]
    kernel = np.array(model.layers[0].layer.kernel)
    tfticket.one_shot(model, x.astype("float32"), 0.5, "wanda")
    scores = np.abs(kernel) * np.linalg.norm(x, axis=0)[:, None]
    wanted = scores > np.sort(scores, axis=0)[2]
    np.testing.assert_array_equal(tfticket.get_masks(model)["dense/kernel"], wanted)


def test_sparsify_takes_it_as_a_criterion():
    model = tfticket.prune(
        keras.Sequential([keras.Input((6,)), layers.Dense(4, name="dense")])
    )
    x = (RANDOM.normal(size=(50, 6)) * [1, 5, 1, 0.1, 1, 2]).astype("float32")
    kernel = np.array(model.layers[0].layer.kernel)
    tfticket.sparsify(model, 0.5, "wanda", data=x)
    scores = np.abs(kernel) * np.linalg.norm(x, axis=0)[:, None]
    wanted = scores > np.sort(scores.ravel())[11]
    np.testing.assert_array_equal(tfticket.get_masks(model)["dense/kernel"], wanted)
    with pytest.raises(ValueError, match="'wanda' needs input_norm"):
        tfticket.sparsify(model, 0.6, "wanda")
    recurrent = tfticket.prune(
        keras.Sequential([keras.Input((5, 3)), layers.LSTM(2, name="lstm")])
    )
    with pytest.raises(ValueError, match=r"lstm.*what a LSTM"):
        tfticket.sparsify(recurrent, 0.5, "wanda", data=np.zeros((2, 5, 3)))


def test_layers_see_what_the_pruned_ones_before_them_make():
    first, second = layers.Dense(6, name="a"), layers.Dense(4, name="b")
    model = tfticket.prune(keras.Sequential([keras.Input((6,)), first, second]))
    kernel = np.array(model.layers[1].layer.kernel)
    x = RANDOM.normal(size=(50, 6)).astype("float32")
    tfticket.one_shot(model, x, 0.5, "wanda")
    seen = keras.ops.convert_to_numpy(model.layers[0](x))
    scores = np.abs(kernel) * np.linalg.norm(seen, axis=0)[:, None]
    wanted = scores > np.sort(scores, axis=0)[2]
    np.testing.assert_array_equal(tfticket.get_masks(model)["b/kernel"], wanted)


@pytest.mark.slow
def test_better_methods_change_the_outputs_less():
    plain = network()
    wanted = plain.predict(SAMPLES, verbose=0)
    errors = {}
    for method, again in (
        *(("magnitude", None), ("wanda", None), ("sparsegpt", None)),
        *(("wanda", "layer"), ("wanda", "block")),
    ):
        model = tfticket.prune(plain)
        report = tfticket.one_shot(
            model, SAMPLES, 0.5, method, reconstruct=again, batch_size=16
        )
        found = model.predict(SAMPLES, verbose=0)
        errors[method, again] = np.mean((found - wanted) ** 2)
        assert all(
            (row.error is not None) == (again == "layer" or method == "sparsegpt")
            for row in report.rows
        )
    assert errors["sparsegpt", None] < errors["wanda", None]
    assert errors["wanda", "layer"] < errors["wanda", None]
    assert errors["wanda", "block"] < 0.8 * errors["wanda", None]


def test_blocks_end_where_one_value_goes_on():
    model = tfticket.prune(network())
    report = tfticket.one_shot(model, SAMPLES[:8], 0.5, reconstruct="block", epochs=1)
    assert [block.names for block in report.blocks] == [
        ("stem/kernel",),
        ("depthwise/kernel", "mix/kernel"),  # up to the sum
        tuple(
            f"attention/{x}_dense/kernel" for x in ("query", "key", "value", "output")
        ),
        ("logits/kernel",),
    ]
    assert "block from" in str(report)


@pytest.mark.parametrize("in_place", [False, True])
def test_blocks_learn_to_do_what_they_did(in_place):
    plain = network()
    wanted = plain.predict(SAMPLES, verbose=0)
    norm = plain.get_layer("batch_normalization")
    statistics = np.array(norm.moving_mean)
    model = tfticket.prune(plain, in_place=in_place)
    report = tfticket.one_shot(
        *(model, SAMPLES, 0.5),
        **{"reconstruct": "block", "epochs": 20, "learning_rate": 0.01},
        batch_size=20,
    )
    assert all(x.trained < x.pruned for x in report.blocks)
    assert sum(x.trained for x in report.blocks) < 0.8 * sum(
        x.pruned for x in report.blocks
    )
    # The last block's outputs are the model's.
    off = np.mean((model.predict(SAMPLES, verbose=0) - wanted) ** 2)
    off /= np.mean(wanted**2)
    assert off == pytest.approx(report.blocks[-1].trained, rel=1e-3)
    masks = tfticket.get_masks(model)
    for name, value in tfticket.pruning.masks.get_pruned_weights(model).items():
        assert not value[~masks[name]].any()
        assert np.count_nonzero(masks[name]) > 0
    # Nothing runs as in training.
    norm = model.get_layer("batch_normalization")
    np.testing.assert_array_equal(norm.moving_mean, statistics)


def test_blocks_that_get_worse_are_put_back():
    model = tfticket.prune(network())
    report = tfticket.one_shot(
        model, SAMPLES, 0.5, reconstruct="block", epochs=2, learning_rate=100.0
    )
    for block in report.blocks:
        assert block.trained == block.pruned


def test_a_model_without_a_graph_is_one_block():
    model = Subclassed()
    x = RANDOM.normal(size=(30, 5, 6)).astype("float32")
    wanted = keras.ops.convert_to_numpy(model(x))
    wrapped = tfticket.prune(model)
    with pytest.warns(UserWarning, match="pruned by magnitude"):
        report = tfticket.one_shot(
            wrapped, x, 0.5, reconstruct="block", epochs=30, learning_rate=0.01
        )
    (block,) = report.blocks
    assert block.trained < 0.5 * block.pruned
    found = keras.ops.convert_to_numpy(wrapped(x))
    off = np.mean((found - wanted) ** 2) / np.mean(wanted**2)
    assert off == pytest.approx(block.trained, rel=1e-3)


def test_in_place_prunes_as_wrapped():
    plain = network()
    models = [tfticket.prune(plain)]
    models.append(tfticket.prune(keras.models.clone_model(plain), in_place=True))
    models[1].set_weights(plain.get_weights())
    for model in models:
        tfticket.one_shot(model, SAMPLES, 0.5, "sparsegpt")
    one, other = map(tfticket.get_masks, models)
    assert all(np.array_equal(one[name], other[name]) for name in one)


def test_a_criterion_may_ask_for_hessians():
    plain = network()
    model = tfticket.prune(plain)
    tfticket.sparsify(model, 0.5, "obs", data=SAMPLES)
    masks = tfticket.get_masks(model)
    # Of the first layer by hand: w^2 over the diagonal of the damped inverse.
    patches = keras.ops.image.extract_patches(SAMPLES, 3, 1, padding="same")
    seen = np.array(patches).reshape(-1, 27).astype("float64")
    hessian = seen.T @ seen / len(seen)
    hessian += 0.01 * np.mean(np.diag(hessian)) * np.eye(27)
    kernel = np.array(plain.get_layer("stem").kernel).reshape(27, 8)
    scores = kernel**2 / np.diag(np.linalg.inv(hessian))[:, None]
    wanted = scores > np.sort(scores, None)[107]
    np.testing.assert_array_equal(masks["stem/kernel"].reshape(27, 8), wanted)

    seen = []

    def largest(weight, input_hessian):
        seen.append((weight.shape, input_hessian.moments.shape))
        return weight

    tfticket.sparsify(model, 0.6, largest, data=SAMPLES)
    assert ((3, 3, 3, 8), (1, 27, 27)) in seen
    assert ((3, 3, 8, 1), (8, 9, 9)) in seen


def test_hessians_are_held_one_call_at_a_time(monkeypatch):
    model = tfticket.prune(network())
    runs = []
    real = blocks.Stream.look
    monkeypatch.setattr(
        blocks.Stream, "look", lambda *given: (runs.append(1), real(*given))
    )
    names = list(tfticket.get_masks(model))
    found = blocks.Hessians(model, names, list(batches_of(SAMPLES)))
    for name in names:
        assert found[name].shape == masked_weights(model)[name].variable.shape
        assert len(found._held) <= 4
    assert len(runs) == 5  # of attention all four at once
    assert found[names[0]].moments.shape == (1, 27, 27)  # from the start again
    assert len(runs) == 6


def test_renewed_statistics_are_those_of_the_data():
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((6, 6, 3)), layers.Conv2D(4, 3)])
    model.add(layers.BatchNormalization(momentum=0.0))
    model.add(layers.Dropout(0.9))
    model.add(layers.Conv2D(5, 3))
    model.add(layers.BatchNormalization(momentum=0.0))
    x = RANDOM.normal(2, 3, size=(64, 6, 6, 3)).astype("float32")
    # Without dropout and with a momentum of 0, training would leave the same behind.
    twin = keras.models.clone_model(model)
    twin.set_weights(model.get_weights())
    twin.layers[2].rate = 0.0
    twin(x, training=True)
    assert tfticket.renew_batch_norm(model, x) == 2
    for one, other in zip(model.get_weights(), twin.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
    wrapped = tfticket.prune(model)
    assert tfticket.renew_batch_norm(wrapped, x, batch_size=16) == 2
    first = wrapped.layers[1]
    np.testing.assert_allclose(first.moving_mean, twin.layers[1].moving_mean, rtol=1e-4)
    before = model.get_weights()
    with pytest.raises(ValueError, match="not finite"):
        tfticket.renew_batch_norm(model, x * np.nan)
    with pytest.raises(ValueError, match="no samples"):
        tfticket.renew_batch_norm(model, x[:0])
    assert all(map(np.array_equal, before, model.get_weights()))


def test_a_quantized_model_is_refused_with_what_to_do():
    model = keras.Sequential([keras.Input((8,)), layers.Dense(4)])
    model.quantize("int8")
    with pytest.raises(ValueError, match=r"quantized 'dense.*call quantize last"):
        tfticket.one_shot(model, np.ones((4, 8)), 0.5)


def test_two_of_four():
    model = tfticket.prune(
        keras.Sequential([keras.Input((8,)), layers.Dense(16), layers.Dense(4)])
    )
    structure = tfticket.structures.NM(2, 4)
    x = RANDOM.normal(size=(60, 8)).astype("float32")
    for method in ("magnitude", "wanda", "sparsegpt"):
        tfticket.set_masks(
            model, {k: np.ones_like(v) for k, v in tfticket.get_masks(model).items()}
        )
        tfticket.one_shot(model, x, method=method, structure=structure)
        for mask in tfticket.get_masks(model).values():
            assert (mask.reshape(-1, 4, mask.shape[1]).sum(1) == 2).all()


def test_owl_keeps_the_total():
    model = tfticket.prune(network())
    tfticket.one_shot(model, SAMPLES, 0.6, layer_sparsity="owl")
    masks = tfticket.get_masks(model)
    total = sum(x.sum() for x in masks.values()) / sum(x.size for x in masks.values())
    assert total == pytest.approx(0.4, abs=0.03)
    densities = [x.mean() for x in masks.values()]
    assert max(densities) - min(densities) > 0.05


class Subclassed(keras.Model):
    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.first, self.second = layers.Dense(8), layers.LSTM(4)

    def call(self, x):
        return self.second(self.first(x))


def test_a_model_without_a_graph_and_kernels_that_are_not_seen():
    model = Subclassed()
    x = RANDOM.normal(size=(30, 5, 6)).astype("float32")
    model(x)
    wrapped = tfticket.prune(model)
    with pytest.warns(UserWarning, match="pruned by magnitude, since what a LSTM"):
        report = tfticket.one_shot(wrapped, x, 0.5, "sparsegpt")
    methods = {row.name: row.method for row in report.rows}
    assert set(methods.values()) == {"sparsegpt", "magnitude"}
    assert all(abs(row.sparsity - 0.5) < 0.02 for row in report.rows)


def test_named_kernels_have_a_sparsity_of_their_own():
    model = tfticket.prune(network())
    tfticket.one_shot(model, SAMPLES, 0.5, sparsities={"stem": 0.0, layers.Dense: 0.25})
    masks = tfticket.get_masks(model)
    assert masks["stem/kernel"].all()
    assert masks["logits/kernel"].mean() == 0.75


def test_batches_of_a_dataset_and_of_pairs():
    masks = []
    pairs = [(SAMPLES[:20], np.zeros(20)), (SAMPLES[20:], np.zeros(20))]
    plain = network()
    for data in (SAMPLES, pairs, [SAMPLES[:20], SAMPLES[20:]][::1]):
        model = tfticket.prune(plain)
        given = iter(data) if isinstance(data, list) else data
        tfticket.one_shot(model, given, 0.5, batch_size=20)
        masks.append(tfticket.get_masks(model))
    for other in masks[1:]:
        assert all(np.array_equal(other[name], masks[0][name]) for name in masks[0])


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"data": None}, "data must be samples"),
        ({"data": SAMPLES[:0]}, "no samples"),
        ({"data": SAMPLES * np.nan}, "not finite"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"method": "hessian"}, "method must be"),
        ({"reconstruct": True}, "reconstruct must be"),
        ({"epochs": 0}, "epochs must be"),
        ({"layer_sparsity": "erk"}, "layer_sparsity must be"),
        ({"structure": tfticket.structures.Block((2, 1))}, "structure must be None"),
        ({"structure": tfticket.structures.NM(2, 4)}, "Leave sparsity out"),
        ({"sparsities": {"stemm": 0.5}}, "stemm"),
        ({"data": [(SAMPLES, SAMPLES)], "batch_size": 0}, "batch_size"),
    ],
)
def test_bad_arguments_change_nothing(arguments, words):
    model = tfticket.prune(network())
    before = [np.array(x) for x in model.get_weights()]
    with pytest.raises((ValueError, TypeError), match=words):
        tfticket.one_shot(
            model,
            **{"data": SAMPLES, "sparsity": 0.5, "method": "sparsegpt"} | arguments,
        )
    assert all(map(np.array_equal, before, model.get_weights()))


def test_the_page_is_made_of_the_rows(tmp_path):
    (tmp_path / "one_shot").mkdir()
    for path in (RESULTS / "one_shot").glob("*.csv"):
        (tmp_path / "one_shot" / path.name).symlink_to(path)
    one_shot_page.write(tmp_path)
    text = (tmp_path / "one_shot.md").read_text()
    assert text == (RESULTS / "one_shot.md").read_text()
