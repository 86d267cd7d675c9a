"""Channels that go together are cut together, stay exactly zero, and are removed."""

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND
from tfticket.structures import Block, Channel, Heads

import tfticket

layers = keras.layers
LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
# XLA takes longer to compile these models than to train them.
COMPILE = {"jit_compile": False} if BACKEND == "tensorflow" else {}


def residual(width=8, seed=0):
    """A stem, a block with a shortcut, a depthwise layer, squeeze and excite."""
    keras.utils.set_random_seed(seed)
    x = inputs = keras.Input((8, 8, 3))
    x = layers.Conv2D(width, 3, padding="same", name="stem")(x)
    x = layers.BatchNormalization(name="stem_bn")(x)
    y = layers.ReLU(name="relu")(x)
    y = layers.Conv2D(2 * width, 1, name="expand")(y)
    y = layers.BatchNormalization(name="expand_bn")(y)
    y = layers.DepthwiseConv2D(3, padding="same", name="depthwise")(y)
    gate = layers.GlobalAveragePooling2D(keepdims=True, name="squeeze")(y)
    gate = layers.Conv2D(2 * width, 1, activation="sigmoid", name="excite")(gate)
    y = layers.Multiply(name="gate")([y, gate])
    y = layers.Conv2D(width, 1, name="project")(y)
    x = layers.Add(name="add")([x, y])
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(inputs, layers.Dense(3, name="head")(x))


def images(count=32, seed=0):
    random = np.random.default_rng(seed)
    x = random.standard_normal((count, 8, 8, 3), np.float32)
    return x, random.integers(0, 3, count)


def wrapped(structure=None, **kwargs):
    model = residual(**kwargs)
    random = np.random.default_rng(1)
    for layer in model.layers:
        if isinstance(layer, layers_with_statistics()):
            for weight in layer.weights:
                weight.assign(random.uniform(0.5, 1.5, weight.shape))
    return tfticket.prune(model, structure=structure or Channel())


def layers_with_statistics():
    return (layers.BatchNormalization,)


def outputs(model, x):
    return np.array(model.predict(x, verbose=0))


def alive(model):
    """Units alive of two groups, from the masks: any weight that makes them is."""
    masks = tfticket.get_masks(model)
    return {
        "stem": masks["stem/kernel"].any((0, 1, 2)),
        "expand": masks["expand/kernel"].any((0, 1, 2)),
    }


def check_consistent(model):
    """Every weight of a channel that has gone is zero, and only those."""
    stem, expand = alive(model)["stem"], alive(model)["expand"]
    masks = tfticket.get_masks(model)
    for name in ("stem/bias", "stem_bn/gamma", "stem_bn/beta", "stem_bn/moving_mean"):
        np.testing.assert_array_equal(masks[name], stem, name)
    np.testing.assert_array_equal(masks["project/kernel"].any((0, 1, 2)), stem)
    np.testing.assert_array_equal(masks["depthwise/kernel"][0, 0, :, 0], expand)
    np.testing.assert_array_equal(masks["excite/kernel"].any((0, 1, 2)), expand)
    np.testing.assert_array_equal(masks["head/kernel"].any(1), stem)
    weights = {w.path: w for w in tfticket.strip(model).weights}
    for name, mask in masks.items():
        value = np.array(weights[name])
        assert not value[~mask].any(), name


@pytest.mark.parametrize("scope", ["layerwise", "global", "isomorphic"])
def test_groups_are_cut_whole(scope):
    model = wrapped()
    tfticket.sparsify(model, 0.5, scope=scope)
    check_consistent(model)
    kept = sum(int(flags.sum()) for flags in alive(model).values())
    # Three groups: 8 residual channels, 16 inside, which the gate ties.
    assert kept == 12
    if scope != "global":
        assert {k: int(v.sum()) for k, v in alive(model).items()} == {
            "stem": 4,
            "expand": 8,
        }


def test_the_lowest_go_as_numpy_ranks_them():
    model = wrapped(Channel(reduce="sum", normalize=False))
    plain = tfticket.strip(model)
    kernels = {x.name: np.abs(np.array(x.kernel)) for x in plain.layers if x.weights
               and hasattr(x, "kernel")}  # fmt: skip
    score = (
        kernels["stem"].mean((0, 1, 2))
        + kernels["project"].mean((0, 1, 2))
        + kernels["expand"].mean((0, 1, 3))
        + kernels["head"].mean(1)
    )
    tfticket.sparsify(model, 0.5)
    np.testing.assert_array_equal(
        np.flatnonzero(alive(model)["stem"]), np.sort(np.argsort(-score)[:4])
    )


@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_zero_after_training_and_removed_exactly(optimizer):
    model = wrapped()
    tfticket.sparsify(model, 0.5)
    model.compile(optimizer, LOSS, **COMPILE)
    x, y = images()
    model.fit(x, y, epochs=2, verbose=0)
    check_consistent(model)
    result = tfticket.export.compact(model) if BACKEND == "tensorflow" else None
    if result is not None:
        small = result.model
        assert small.get_layer("stem").filters == 4
        assert small.get_layer("depthwise").kernel.shape[-2] == 8
        assert not [x for x in result.layers if x.left]
        np.testing.assert_allclose(
            outputs(small, x), outputs(model, x), rtol=1e-5, atol=1e-5
        )


def test_gradual_and_rounds():
    x, y = images()
    model = wrapped()
    model.compile("adam", LOSS, **COMPILE)
    schedule = tfticket.schedules.PolynomialDecay(0.0, 0.75, 0, 3, frequency=1)
    model.fit(x, y, 8, 1, 0, callbacks=[tfticket.GradualPruning(schedule)])
    check_consistent(model)
    assert {k: int(v.sum()) for k, v in alive(model).items()} == {
        "stem": 2,
        "expand": 4,
    }
    model = wrapped()
    model.compile("adam", LOSS, **COMPILE)
    finder = tfticket.IterativeMagnitudePruning(2, 0.5, rewind_to=1)
    model.fit(x, y, 8, 3, 0, callbacks=[finder])
    check_consistent(model)
    assert int(alive(model)["expand"].sum()) == 4
    ticket = finder.ticket
    assert not ticket.masks["stem_bn/gamma"].all()
    again = ticket.apply(residual(seed=5))
    for name, mask in ticket.masks.items():
        np.testing.assert_array_equal(tfticket.get_masks(again)[name], mask)


@pytest.mark.parametrize("criterion", ["snip", "taylor", "random"])
def test_criteria_of_data(criterion):
    model = wrapped()
    model.compile("adam", LOSS, **COMPILE)
    tfticket.sparsify(model, 0.5, criterion=criterion, data=images(), seed=0)
    check_consistent(model)


def test_a_target_of_flops():
    model = wrapped(width=32)
    plan = tfticket.channel_plan(model, flops=0.5)
    before, after = plan.flops
    assert 0.45 < after / before <= 0.5
    assert "FLOPs: " in str(plan)
    tfticket.sparsify(model, flops=0.5)
    rows = tfticket.summary_rows(tfticket.strip(model))
    assert before == sum(row.flops_dense for row in rows)
    if BACKEND == "tensorflow":
        small = tfticket.export.compact(model)
        assert small.flops_before == before
        assert small.flops_after == after
    counts = {row.name: row.after for row in plan.groups}
    assert counts["stem"] == alive(model)["stem"].sum()
    fewer = tfticket.channel_plan(wrapped(width=32), parameters=0.3)
    assert 0.25 < fewer.parameters[1] / fewer.parameters[0] <= 0.3


def test_a_schedule_of_flops():
    model = wrapped(width=32)
    model.compile("adam", LOSS, **COMPILE)
    schedule = tfticket.schedules.PolynomialDecay(0.0, 0.6, 0, 3, frequency=1)
    callback = tfticket.GradualPruning(schedule, measure="flops")
    model.fit(*images(), 8, 1, 0, callbacks=[callback])
    groups = tfticket.channel_groups(model)
    left = {name: int(flags.sum()) for name, flags in alive(model).items()}
    assert 0.35 < groups.flops(left) / groups.flops() <= 0.4


def test_floors_caps_and_rounding():
    model = wrapped(Channel(round_to=8, min_channels=3), width=32)
    tfticket.sparsify(model, 0.7)
    assert {k: int(v.sum()) for k, v in alive(model).items()} == {
        "stem": 8,
        "expand": 16,
    }
    model = wrapped(Channel(min_channels=6))
    tfticket.sparsify(model, 0.99)
    assert {int(v.sum()) for v in alive(model).values()} == {6}
    model = wrapped(Channel(max_sparsity=0.25))
    tfticket.sparsify(model, 0.9)
    assert int(alive(model)["expand"].sum()) == 12
    check_consistent(model)


def test_scales_of_normalizations_decide_where_asked():
    model = wrapped(Channel(score="scale"))
    gamma = np.array(model.get_layer("stem_bn").layer.gamma)
    tfticket.sparsify(model, 0.5)
    want = np.sort(np.argsort(-gamma)[:4])
    np.testing.assert_array_equal(np.flatnonzero(alive(model)["stem"]), want)


def test_heads():
    keras.utils.set_random_seed(0)
    x = inputs = keras.Input((5, 12))
    x = layers.MultiHeadAttention(4, 3, name="attention")(x, x)
    model = keras.Model(inputs, layers.Dense(2, name="out")(x))
    heads = tfticket.prune(model, structure=Heads())
    tfticket.sparsify(heads, 0.5)
    masks = tfticket.get_masks(heads)
    kept = masks["attention/query_dense/kernel"].any((0, 2))
    assert kept.sum() == 2
    for part in ("key_dense", "value_dense"):
        np.testing.assert_array_equal(
            masks[f"attention/{part}/kernel"].any((0, 2)), kept
        )
    np.testing.assert_array_equal(
        masks["attention/output_dense/kernel"].any((1, 2)), kept
    )
    if BACKEND == "tensorflow":
        small = tfticket.export.compact(heads).model
        assert small.get_layer("attention").num_heads == 2
        x = np.random.default_rng(0).random((2, 5, 12), np.float32)
        np.testing.assert_allclose(
            outputs(small, x), outputs(heads, x), rtol=1e-5, atol=1e-5
        )


def test_what_is_excluded_stays_whole():
    model = tfticket.prune(residual(), exclude=["stem"], structure=Channel())
    tfticket.sparsify(model, 0.5)
    assert alive_of(model, "expand/kernel", 3).sum() == 8
    assert "stem/kernel" not in tfticket.get_masks(model)
    assert np.all(np.array(model.get_layer("stem").kernel).any((0, 1, 2)))


def alive_of(model, name, axis):
    mask = tfticket.get_masks(model)[name]
    return mask.any(tuple(i for i in range(mask.ndim) if i != axis))


def test_saved_and_loaded(tmp_path):
    model = wrapped(Channel(round_to=2, reduce="max"))
    tfticket.sparsify(model, 0.5)
    model.save(tmp_path / "m.keras")
    again = keras.models.load_model(tmp_path / "m.keras")
    assert again.get_layer("stem").structure == Channel(round_to=2, reduce="max")
    for name, mask in tfticket.get_masks(model).items():
        np.testing.assert_array_equal(tfticket.get_masks(again)[name], mask)
    x, _ = images(4)
    np.testing.assert_allclose(outputs(again, x), outputs(model, x), rtol=1e-6)
    tfticket.sparsify(again, 0.75)
    check_consistent(again)


class TestBadInput:
    def test_masks_on_kernels_alone(self):
        model = tfticket.prune(residual())
        with pytest.raises(ValueError, match=r"stem/bias.*no masks; wrap the model"):
            tfticket.sparsify(model, 0.5, structure=Channel())

    def test_targets(self):
        model = wrapped()
        with pytest.raises(ValueError, match="exactly one of sparsity, flops"):
            tfticket.sparsify(model, 0.5, flops=0.5)
        with pytest.raises(ValueError, match="exactly one"):
            tfticket.channel_plan(model)
        with pytest.raises(ValueError, match=r"flops must be .*at most 1"):
            tfticket.sparsify(model, flops=1.5)
        with pytest.raises(ValueError, match=r"flops=0\.0001 can't be reached.*0\.\d+"):
            tfticket.sparsify(model, flops=0.0001)
        assert all(mask.all() for mask in tfticket.get_masks(model).values())
        with pytest.raises(ValueError, match="whole channels only"):
            tfticket.sparsify(tfticket.prune(residual()), flops=0.5)

    def test_values_that_conflict(self):
        model = wrapped()
        with pytest.raises(ValueError, match=r"go together two values.*'project'"):
            tfticket.sparsify(model, 0.5, sparsities={"stem": 0.5, "project": 0.25})
        tfticket.sparsify(model, 0.5, sparsities={"stem": 0.25, "project": 0.25})
        assert int(alive(model)["stem"].sum()) == 6

    def test_arguments(self):
        with pytest.raises(ValueError, match="round_to must be at least 1"):
            Channel(round_to=0)
        with pytest.raises(ValueError, match="max_sparsity must be above 0"):
            Channel(max_sparsity=0.0)
        with pytest.raises(ValueError, match=r"reduce must be one of.*'median'"):
            Channel(reduce="median")
        with pytest.raises(ValueError, match=r"scope='erk'.*isomorphic"):
            tfticket.sparsify(wrapped(), 0.5, scope="erk")

    def test_layers_without_a_rule_are_named(self):
        class Odd(layers.Layer):
            def build(self, shape):
                self.w = self.add_weight(shape=(shape[-1], shape[-1]), name="w")

            def call(self, x):
                return keras.ops.matmul(x, self.w)

        x = inputs = keras.Input((6,))
        x = layers.Dense(8, name="before")(x)
        x = layers.Dense(8, name="odd_in")(x)
        model = keras.Model(inputs, layers.Dense(2)(Odd(name="odd")(x)))
        wrapped = tfticket.prune(model, structure=Channel())
        with pytest.warns(UserWarning, match=r"not cut.*'odd'"):
            tfticket.sparsify(wrapped, 0.5)
        assert alive_of(wrapped, "before/kernel", 1).sum() == 4
        assert alive_of(wrapped, "odd_in/kernel", 1).sum() == 8

    def test_nothing_to_cut(self):
        model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
        with pytest.raises(ValueError, match=r"channel_groups\(model\)\) says why"):
            tfticket.prune(model, structure=Channel())

    def test_schedules_of_layers_that_go_together(self):
        constant = tfticket.schedules.ConstantSparsity
        model = residual()
        model = tfticket.prune(model, structure=Channel(), schedule=constant(0.5, 0))
        model.get_layer("project").schedule = constant(0.25, 0)
        model.compile("adam", LOSS, **COMPILE)
        with pytest.raises(ValueError, match="two schedules"):
            model.fit(*images(), verbose=0, callbacks=[tfticket.GradualPruning()])

    def test_other_structures_beside(self):
        model = wrapped()
        model.get_layer("head").structure = Block((2, 1))
        tfticket.sparsify(model, 0.5)
        assert alive_of(model, "expand/kernel", 3).sum() == 8


def text_model():
    """Tokens, a block of attention, and a head that reads all of the width."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((5,), dtype="int32")
    x = layers.Embedding(7, 16, name="tokens")(inputs)
    y = layers.LayerNormalization(name="norm")(x)
    y = layers.MultiHeadAttention(2, 4, name="attention")(y, y)
    x = layers.Add(name="add")([x, y])
    return keras.Model(inputs, layers.Dense(7, name="head")(x))


def test_the_width_of_an_embedding_goes_with_what_reads_it():
    # A warning would fail here: heads are not what Channel() is asked to cut.
    model = tfticket.prune(text_model(), structure=Channel())
    tfticket.sparsify(model, 0.5)
    masks = tfticket.get_masks(model)
    width = masks["tokens/embeddings"][0]
    assert width.sum() == 8
    np.testing.assert_array_equal(masks["tokens/embeddings"], np.tile(width, (7, 1)))
    np.testing.assert_array_equal(masks["head/kernel"].any(1), width)
    np.testing.assert_array_equal(masks["norm/gamma"], width)


def test_an_embedding_that_is_excluded_keeps_its_width():
    model = tfticket.prune(text_model(), [layers.Embedding], structure=Channel())
    names = set(tfticket.get_masks(model))
    assert not {"tokens/embeddings", "head/kernel", "norm/gamma"} & names
    assert "attention/query_dense/kernel" in names
