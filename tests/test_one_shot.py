"""`one_shot`: against plain NumPy, on graphs of all kinds of layers."""

import keras
import numpy as np
import pytest
from keras import layers

import tfticket
from tfticket.pruning.calibration import Recorded, Rows, recording
from tfticket.pruning.masks import masked_weights
from tfticket.sparsity import reconstruction

RANDOM = np.random.default_rng(0)


def reference_sparse_gpt(rows, moments, sparsity):
    """The paper's algorithm by explicit inverses, in a block of all columns.

    The mask is chosen first, of the whole; then each column's error goes to those
    after it by the inverse of what is left of H.
    """
    hessian = moments + 0.01 * np.mean(np.diag(moments)) * np.eye(len(moments))
    weights = np.array(rows)
    columns = len(hessian)
    # [H_F^-1]_00 of the columns from j on.
    inverses = [np.linalg.inv(hessian[j:, j:]) for j in range(columns)]
    scores = np.stack(
        [weights[:, j] ** 2 / inverses[j][0, 0] for j in range(columns)], 1
    )
    count = round(sparsity * weights.size)
    order = np.argsort(scores.ravel(), kind="stable")
    mask = np.ones(weights.size, bool)
    mask[order[:count]] = False
    mask = mask.reshape(weights.shape)
    for j in range(columns):
        inverse = inverses[j]
        for i in range(len(weights)):
            if not mask[i, j]:
                weights[i, j:] -= weights[i, j] / inverse[0, 0] * inverse[0]
                weights[i, j] = 0
    return mask, np.where(mask, weights, 0)


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


def network():
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
    seen = model.layers[0](x)
    scores = np.abs(kernel) * np.linalg.norm(seen, axis=0)[:, None]
    wanted = scores > np.sort(scores, axis=0)[2]
    np.testing.assert_array_equal(tfticket.get_masks(model)["b/kernel"], wanted)


def test_better_methods_change_the_outputs_less():
    plain = network()
    wanted = plain.predict(SAMPLES, verbose=0)
    errors = {}
    for method, again in (
        *(("magnitude", False), ("wanda", False), ("sparsegpt", False)),
        ("wanda", True),
    ):
        model = tfticket.prune(plain)
        report = tfticket.one_shot(
            model, SAMPLES, 0.5, method, reconstruct=again, batch_size=16
        )
        found = model.predict(SAMPLES, verbose=0)
        errors[method, again] = np.mean((found - wanted) ** 2)
        assert all(
            (row.error is not None) == (again or method == "sparsegpt")
            for row in report.rows
        )
    assert errors["sparsegpt", False] < errors["wanda", False]
    assert errors["wanda", True] < errors["wanda", False]


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
