"""Weights that come back: sets, counts, zeros and slots, resuming, refusals."""

import warnings

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND, needs_graph
from hypothesis import given, settings
from hypothesis import strategies as st

import tfticket
from tfticket.keras_models.gradients import MeanGradient
from tfticket.keras_models.internals import slots_by_variable
from tfticket.keras_models.variables import State
from tfticket.pruning.dense_gradient import DenseGradient
from tfticket.pruning.growth import Growth
from tfticket.pruning.masks import get_pruned_weights, masked_weights
from tfticket.sparsity.regrowth import (
    drop_and_grow,
    drop_fraction_at,
    kept_by,
    random_mask,
)
from tfticket.sparsity.structures import NM, Axes, Block, Channel, Unstructured

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
DENSE = Axes((0,), (1,))


def compiled(mlp, optimizer="adam", **kwargs):
    model = tfticket.prune(mlp)
    if BACKEND == "tensorflow":  # where XLA compiles longer than these fits last
        kwargs.setdefault("jit_compile", False)
    model.compile(optimizer, LOSS, **kwargs)
    model.optimizer.build(model.trainable_variables)
    return model


class Odd(Unstructured):
    """A structure that nobody knows."""


def dynamic(sparsity=0.5, method="set", frequency=2, end_step=11, seed=0, **kwargs):
    return tfticket.DynamicSparseTraining(
        sparsity, method, frequency=frequency, end_step=end_step, seed=seed, **kwargs
    )


def fit(model, samples, callback, epochs=1, others=(), **kwargs):
    callbacks = [callback, *others]
    model.fit(
        *samples, batch_size=4, epochs=epochs, callbacks=callbacks, verbose=0, **kwargs
    )
    return tfticket.get_masks(model)


def assert_equal(masks, others):
    assert masks.keys() == others.keys()
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, others[name], name)


@pytest.fixture(scope="module")
def shared():
    """A model, whose step is traced once, and how it begins."""
    model = compiled(
        keras.Sequential(
            [
                keras.Input((6,)),
                keras.layers.Dense(8, activation="relu", name="hidden"),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.Dense(3, name="out"),
            ]
        )
    )
    return model, State.of(model)


@pytest.fixture
def model(shared):
    shared[1].restore()
    return shared[0]


class EveryStep(keras.callbacks.Callback):
    """Masks after every step; fails if what they prune is not exactly at rest."""

    def on_train_begin(self, logs=None):
        self.masks = []

    def on_train_batch_end(self, batch, logs=None):
        masks = tfticket.get_masks(self.model)
        self.masks.append(masks)
        for name, weight in get_pruned_weights(self.model).items():
            assert not weight[~masks[name]].any(), name
        assert_slots_at_rest(self.model, masks)

    def counts(self, name):
        return [int(masks[name].sum()) for masks in self.masks]


def slots(model):
    """(name of the weight, slot as an array, its value at rest)."""
    names = {id(w.variable): name for name, w in masked_weights(model).items()}
    for variable, slot, rest in slots_by_variable(model.optimizer):
        if id(variable) in names:
            yield names[id(variable)], keras.ops.convert_to_numpy(slot), rest


def assert_slots_at_rest(model, masks):
    found = 0
    for name, slot, rest in slots(model):
        found += 1
        assert np.all(slot[~masks[name]] == np.float32(rest)), name
    assert found


# The reference: lists and sorting, no code of the package.


def reference(scores, growth, mask, fraction, sizes):
    """Alive units after an update, as a set of block indices."""
    blocks = {}
    for index in np.ndindex(mask.shape):
        block = tuple(i // size for i, size in zip(index, sizes, strict=True))
        blocks.setdefault(block, []).append(index)
    alive = [b for b in blocks if any(mask[i] for i in blocks[b])]
    dead = [b for b in blocks if b not in alive]

    def mean(values, block, only=None):
        there = [values[i] if only is None or only[i] else 0.0 for i in blocks[block]]
        return sum(there) / len(there)

    count = max(0, min(round(len(alive) * fraction), len(alive) - 1, len(dead)))
    # `sorted` is stable, so of equal scores the earlier is first.
    stay = sorted(alive, key=lambda b: -mean(scores, b, mask))[: len(alive) - count]
    grown = sorted(dead, key=lambda b: -mean(growth, b))[:count]
    after = np.zeros(mask.shape, bool)
    for block in stay:
        for index in blocks[block]:
            after[index] = mask[index]
    for block in grown:
        for index in blocks[block]:
            after[index] = True
    return after, count


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 6)),
    block=st.sampled_from([None, (2, 1), (1, 2), (2, 2)]),
    fraction=st.floats(0.01, 0.99),
    density=st.floats(0, 1),
    levels=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_sets_are_those_of_the_reference(shape, block, fraction, density, levels, seed):
    random = np.random.default_rng(seed)
    if block is not None and any(b > n for b, n in zip(block, shape, strict=True)):
        block = None
    structure = Unstructured() if block is None else Block(block)
    # Few values, so that many are equal; halves, so that means are exact.
    scores = random.integers(0, levels, shape) / 2
    growth = random.integers(0, levels, shape) / 2
    mask = random.random(shape) < density
    found = drop_and_grow(scores, growth, mask, fraction, structure, DENSE)
    expected, count = reference(scores, growth, mask, fraction, block or (1, 1))
    np.testing.assert_array_equal(found.mask, expected)
    assert found.moved == count
    # What was dropped is not grown in the same update.
    assert not np.any(found.mask & mask & ~found.survivors)
    drawn = drop_and_grow(
        scores, np.random.default_rng(seed), mask, fraction, structure, DENSE
    )
    np.testing.assert_array_equal(drawn.survivors, found.survivors)
    units = structure.pool(scores, mask, DENSE)[1].sum()
    assert structure.pool(scores, drawn.mask, DENSE)[1].sum() == units


def reference_of_groups(scores, growth, mask, fraction, kept, group):
    """As `reference`, of N:M along the rows of a Dense kernel, column by column."""
    after, groups = mask.copy(), []
    for column in range(mask.shape[1]):
        for start in range(0, mask.shape[0], group):
            rows = range(start, min(start + group, mask.shape[0]))
            groups.append([(row, column) for row in rows])
    may_go = []
    for indices in groups:
        alive = [i for i in indices if mask[i]]
        lowest = sorted(alive, key=lambda i: (scores[i], [-x for x in i]))
        may_go += lowest[: len(indices) - len(alive)]
    alive = int(mask.sum())
    count = max(0, min(round(alive * fraction), alive - 1, mask.size - alive))
    count = min(count, len(may_go))
    dropped = sorted(may_go, key=lambda i: (scores[i], [-x for x in i]))[:count]
    for index in dropped:
        after[index] = False
    for indices in groups:
        lost = len(set(indices) & set(dropped))
        dead = [i for i in indices if not mask[i]]
        for index in sorted(dead, key=lambda i: -growth[i])[:lost]:
            after[index] = True
    return after, count


@settings(max_examples=150, deadline=None)
@given(
    shape=st.tuples(st.integers(3, 9), st.integers(1, 5)),
    nm=st.sampled_from([(1, 2), (2, 4), (1, 4), (2, 3), (2, 50)]),
    fraction=st.floats(0.01, 0.99),
    levels=st.integers(1, 5),
    seed=st.integers(0, 999),
)
def test_groups_are_those_of_the_reference(shape, nm, fraction, levels, seed):
    random = np.random.default_rng(seed)
    structure = NM(*nm)
    mask = random_mask(np.ones(shape, bool), 0, random, structure, DENSE)
    assert mask.sum() == kept_by(structure, shape, DENSE)
    assert random_mask(mask, 0, random, structure, DENSE) is mask
    scores = random.integers(0, levels, shape) / 2
    growth = random.integers(0, levels, shape) / 2
    found = drop_and_grow(scores, growth, mask, fraction, structure, DENSE)
    group = min(nm[1], shape[0])
    expected, count = reference_of_groups(scores, growth, mask, fraction, nm[0], group)
    np.testing.assert_array_equal(found.mask, expected)
    assert found.moved == count
    drawn = drop_and_grow(scores, random, mask, fraction, structure, DENSE).mask
    for masks in (mask, found.mask, drawn):
        for start in range(0, shape[0], group):
            part = masks[start : start + group]
            assert (part.sum(axis=0) == min(nm[0], len(part))).all()


@settings(max_examples=50, deadline=None)
@given(density=st.floats(0, 1), keep=st.integers(0, 20), seed=st.integers(0, 99))
def test_random_masks_have_the_size_and_keep_what_they_can(density, keep, seed):
    random = np.random.default_rng(seed)
    mask = random.random((5, 4)) < density
    drawn = random_mask(mask, keep, random)
    assert drawn.sum() == keep
    assert (mask & drawn).sum() == min(keep, mask.sum())
    if mask.sum() == keep:
        assert drawn is mask


def test_every_pruned_weight_is_drawn_alike():
    """500 draws of 2 out of 8: each 125 times but for chance (5 sigma are 48)."""
    mask = np.arange(12) < 4
    scores = np.arange(12.0)
    random = np.random.default_rng(0)
    draws = sum(
        drop_and_grow(scores, random, mask, 0.5).mask.astype(int) for _ in range(500)
    )
    assert list(draws[:4]) == [0, 0, 500, 500]
    assert draws[4:].sum() == 1000
    assert np.abs(draws[4:] - 125).max() < 48


def test_the_fraction_follows_the_paper():
    """f(t) = alpha / 2 (1 + cos(t pi / T)), arXiv 1911.11134, section 3."""
    for step in (0, 10, 33, 90):
        expected = 0.3 / 2 * (1 + np.cos(step * np.pi / 90))
        assert drop_fraction_at(step, 0, 90, 0.3) == pytest.approx(expected)
        assert drop_fraction_at(step + 7, 7, 97, 0.3) == pytest.approx(expected)
        assert drop_fraction_at(step, 0, 90, 0.3, "constant") == 0.3


OPTIMIZERS = {
    "adamw": lambda: keras.optimizers.AdamW(0.01, weight_decay=0.1),
    "adagrad": lambda: keras.optimizers.Adagrad(0.1),
}


@pytest.mark.parametrize(
    "optimizer", ["adamw", pytest.param("adagrad", marks=pytest.mark.slow)]
)
def test_counts_zeros_and_slots_at_every_step(optimizer, mlp, data):
    """Updates before steps 2, 4, ..., 10; 24 of 48 and 12 of 24 weights are kept."""
    model = compiled(mlp, OPTIMIZERS[optimizer](), jit_compile="auto")
    seen = EveryStep()
    rigl = dynamic(method="rigl", data=data, decay="constant", drop_fraction=0.25)
    fit(model, data, rigl, others=[seen])
    assert seen.counts("hidden/kernel") == [24] * 12
    assert seen.counts("out/kernel") == [12] * 12
    for name, moved in (("hidden/kernel", 6), ("out/kernel", 3)):
        changes = [
            int((after[name] & ~before[name]).sum())
            for before, after in zip(seen.masks, seen.masks[1:], strict=False)
        ]
        # The step before which it is due is the first under the new masks.
        assert changes == [0, *[moved, 0] * 5]
        assert [record.grown[name] for record in rigl.records] == [moved] * 5
    assert [record.step for record in rigl.records] == [2, 4, 6, 8, 10]
    assert rigl.records[0].dropped == rigl.records[0].grown


def test_grown_weights_start_at_zero_with_slots_at_rest(model, data):
    """Even where another callback has loaded something into pruned places."""
    before, grown = {}, {}

    class Look(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                before.update(tfticket.get_masks(self.model))
                for weight in masked_weights(self.model).values():
                    weight.variable.assign(weight.variable.value + 1.0)
                for _, slot, _ in slots_by_variable(self.model.optimizer):
                    slot.assign(slot.value + 1.0)

    class After(keras.callbacks.Callback):
        def on_train_batch_begin(self, batch, logs=None):
            if batch == 3:
                after = tfticket.get_masks(self.model)
                grown.update({n: after[n] & ~mask for n, mask in before.items()})
                for name, weight in get_pruned_weights(self.model).items():
                    assert not weight[~before[name]].any()
                assert_slots_at_rest(self.model, before)

    callback = dynamic(frequency=3, end_step=4, decay="constant")
    callbacks = [Look(), callback, After()]
    model.fit(*data, batch_size=4, epochs=1, callbacks=callbacks, verbose=0)
    assert {name: int(mask.sum()) for name, mask in grown.items()} == {
        "hidden/kernel": 7,
        "out/kernel": 4,
    }


def one_layer(mask, kernel, optimizer="sgd"):
    model = tfticket.prune(
        keras.Sequential(
            [keras.Input((3,)), keras.layers.Dense(2, use_bias=False, name="dense")]
        )
    )
    model.compile(optimizer, "mse")
    masked_weights(model)["dense/kernel"].variable.assign(kernel)
    tfticket.set_masks(model, {"dense/kernel": mask})
    return model


# Of the mean over batch and outputs of (x w - y)^2: 2 x' (x w - y) / (n outputs).
KERNEL = np.array([[0.5, 0.0], [-0.1, 0.2], [0.0, 0.0]], "float32")
MASK = KERNEL != 0
X = np.array([[1.0, 2.0, 3.0], [0.0, 1.0, -1.0]], "float32")
Y = np.array([[2.0, -1.0], [0.5, 4.0]], "float32")
GRADIENT = 2 * X.T @ (X @ KERNEL - Y) / 4


def test_the_dense_gradient_is_that_of_the_formula():
    model = one_layer(MASK, KERNEL)
    weights = masked_weights(model)
    before = model.get_weights()
    found = DenseGradient(model, weights, (X, Y)).at_turn(0)["dense/kernel"]
    np.testing.assert_allclose(found, GRADIENT, rtol=1e-6)
    for value, now in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(now, value)  # masks among them
    masked = MeanGradient(model, [weights["dense/kernel"].variable])
    found = masked([(X, Y, None)])[0]
    np.testing.assert_allclose(found, np.where(MASK, GRADIENT, 0), rtol=1e-6)


@pytest.mark.parametrize("loss", [None, lambda y, p: keras.ops.mean((y - p) ** 2)])
def test_rigl_grows_where_the_dense_gradient_is_largest(loss):
    """Learning rate 0: weights and gradient before the second step are as given."""
    model = one_layer(MASK, KERNEL, keras.optimizers.SGD(0.0))
    pruned = np.where(MASK, -1, np.abs(GRADIENT))
    best = np.unravel_index(pruned.argmax(), pruned.shape)
    expected = MASK.copy()
    expected[1, 0] = False  # 0.1, the least of three
    expected[best] = True
    callback = dynamic(
        None, "rigl", 1, 2, start="present", decay="constant", data=(X, Y), loss=loss
    )
    model.fit(X, Y, batch_size=1, epochs=1, verbose=0, callbacks=[callback])
    assert [record.step for record in callback.records] == [1]
    np.testing.assert_array_equal(tfticket.get_masks(model)["dense/kernel"], expected)


SOURCES = {
    "arrays": lambda x, y: (x, y),
    "list": lambda x, y: [(x[:128], y[:128]), (x[128:], y[128:])],
    "iterable": lambda x, y: _Again([(x[:128], y[:128]), (x[128:], y[128:])]),
}


class _Again:
    def __init__(self, batches):
        self.batches = batches

    def __iter__(self):
        return iter(self.batches)


@pytest.mark.parametrize("source", SOURCES)
def test_batches_are_taken_in_turn(source):
    random = np.random.default_rng(0)
    x = random.standard_normal((200, 3)).astype("float32")
    y = random.standard_normal((200, 2)).astype("float32")
    model = one_layer(MASK, KERNEL)
    weights = masked_weights(model)
    gradient = DenseGradient(model, weights, SOURCES[source](x, y))
    error = x @ KERNEL - y
    for turn, part in enumerate([slice(128), slice(128, 200), slice(128)]):
        size = len(x[part])
        expected = x[part].T @ error[part] / size  # two outputs: 2 / (2 size)
        found = gradient.at_turn(turn)["dense/kernel"]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)
    both = DenseGradient(model, weights, SOURCES[source](x, y), batches=2).at_turn(0)
    np.testing.assert_allclose(
        both["dense/kernel"], x.T @ error / 200, rtol=1e-4, atol=1e-6
    )


@needs_graph
def test_the_gradient_is_traced_once(model, data):
    traces = []

    def loss(y, predicted):
        traces.append(1)
        return LOSS(y, predicted)

    for begin, updates in ((0, 1), (12, 5)):
        traces.clear()
        rigl = dynamic(
            *(0.5, "rigl", 2, begin + 2 * updates),
            **{"begin_step": begin, "decay": "constant", "data": data, "loss": loss},
        )
        fit(model, data, rigl)
        assert len(rigl.records) == updates
        assert len(traces) == 1


def test_the_same_seed_gives_the_same_masks(model, data):
    masks = []
    dense = tfticket.get_masks(model)
    for seed in (1, 1, 2):
        tfticket.set_masks(model, dense)
        masks.append(fit(model, data, dynamic(method="static", seed=seed)))
    assert_equal(masks[0], masks[1])
    assert any(np.any(masks[0][name] != masks[2][name]) for name in masks[0])


@pytest.mark.parametrize(
    "method", ["rigl", pytest.param("set", marks=pytest.mark.slow)]
)
def test_a_resumed_fit_goes_on(model, method, data, tmp_path):
    """Through a saved file, bit for bit."""

    def callback():
        source = {"data": data} if method == "rigl" else {}
        return dynamic(method=method, frequency=2, end_step=20, **source)

    kwargs = {"epochs": 2, "shuffle": False}
    begin = State.of(model)
    expected = fit(model, data, callback(), **kwargs)
    whole = State.of(model)
    begin.restore()
    fit(model, data, callback(), epochs=1, shuffle=False)
    model.save(tmp_path / "half.keras")
    half = keras.models.load_model(tmp_path / "half.keras")
    assert_equal(fit(half, data, callback(), initial_epoch=1, **kwargs), expected)
    now = State.of(half).values
    assert now.keys() == whole.values.keys()
    for name, value in whole.values.items():
        np.testing.assert_array_equal(now[name], value)


def test_erk_own_sparsities_and_blocks(model, data):
    begin, erk = State.of(model), dynamic(0.5, scope="erk")
    fit(model, data, erk)
    kept = {name: int(m.sum()) for name, m in tfticket.get_masks(model).items()}
    # 36 of 72 in all, in proportion to 6 + 8 and 8 + 3.
    assert kept == {"hidden/kernel": 20, "out/kernel": 16}
    seen = EveryStep()
    begin.restore()
    block = dynamic(0.75, structure=Block((2, 1)), sparsities={"out": 0.0})
    masks = fit(model, data, block, others=[seen])
    assert seen.counts("hidden/kernel") == [12] * 12
    assert masks["out/kernel"].all()
    pairs = masks["hidden/kernel"].reshape(3, 2, 8)
    np.testing.assert_array_equal(pairs[:, 0], pairs[:, 1])
    assert set(block.records[0].grown) == {"hidden/kernel"}


def test_groups_and_channels(model, data):
    """2:4, where every group keeps its number, and output channels."""
    begin = State.of(model)
    seen, nm = EveryStep(), dynamic(None, structure=NM(2, 4), decay="constant")
    fit(model, data, nm, others=[seen])
    for masks in seen.masks:
        assert (masks["hidden/kernel"][:4].sum(axis=0) == 2).all()
        assert masks["hidden/kernel"][4:].all()  # two of two
        assert (masks["out/kernel"].reshape(2, 4, 3).sum(axis=1) == 2).all()
    assert nm.densities == {"hidden/kernel": 32 / 48, "out/kernel": 0.5}
    assert nm.records[0].grown == {"hidden/kernel": 10, "out/kernel": 4}
    begin.restore()
    seen = EveryStep()
    rigl = dynamic(
        *(0.5, "rigl"), structure=Channel(grouped=False), decay="constant", data=data
    )
    fit(model, data, rigl, others=[seen])
    for masks in seen.masks:
        columns = masks["hidden/kernel"]
        assert (columns == columns[:1]).all()
        assert columns[0].sum() == 4
        assert masks["out/kernel"].all()  # the model's answers
    assert [record.grown for record in rigl.records] == [{"hidden/kernel": 1}] * 5


def test_momentum_is_the_average_of_the_gradients():
    """Learning rate 0: the gradient is that of the batch, and two batches differ."""
    model = one_layer(MASK, KERNEL, keras.optimizers.SGD(0.0))
    one = 2 * X[:1].T @ (X[:1] @ KERNEL - Y[:1]) / 2
    other = 2 * X[1:].T @ (X[1:] @ KERNEL - Y[1:]) / 2
    growth = Growth(
        *("momentum", model, masked_weights(model), None, 0.75),
        data=[(X[:1], Y[:1]), (X[1:], Y[1:])],
    )
    averages = [0.25 * one, 0.75 * 0.25 * one + 0.25 * other]
    for turn, average in enumerate(averages, 1):
        found = growth.scores(1, turn, {})["dense/kernel"]
        np.testing.assert_allclose(found, np.abs(average), rtol=1e-5)
    assert growth.samples == 2


def test_growing_by_a_criterion(model, data):
    """The signed gradient: another set than RigL's, found from the same gradient."""

    def signed(weight, gradient):
        return gradient

    kernel = one_layer(MASK, KERNEL, keras.optimizers.SGD(0.0))
    worst = np.where(MASK, -np.inf, GRADIENT)
    best = np.unravel_index(worst.argmax(), worst.shape)
    callback = dynamic(
        None, signed, 1, 2, start="present", decay="constant", data=(X, Y)
    )
    kernel.fit(X, Y, batch_size=1, epochs=1, verbose=0, callbacks=[callback])
    after = tfticket.get_masks(kernel)["dense/kernel"]
    assert [tuple(map(int, i)) for i in np.argwhere(after & ~MASK)] == [best]
    # By the values that weights began with, kept by nobody else.
    masks = fit(model, data, dynamic(method="movement"))
    assert masks["hidden/kernel"].sum() == 24


def test_grown_weights_start_as_asked():
    """Learning rate 0; another run of the same seed draws the same."""
    drawn = []
    for seed in (0, 0, 1):
        model = one_layer(MASK, KERNEL, keras.optimizers.SGD(0.0))
        callback = dynamic(
            *(None, "set", 1, 2, seed),
            **{"start": "present", "decay": "constant", "drop_fraction": 0.7},
            initializer="he_uniform",
        )
        model.fit(X, Y, batch_size=1, epochs=1, verbose=0, callbacks=[callback])
        kernel = get_pruned_weights(model)["dense/kernel"]
        grown = tfticket.get_masks(model)["dense/kernel"] & ~MASK
        assert grown.sum() == 2
        assert kernel[grown].all()
        assert np.abs(kernel[grown]).max() <= np.sqrt(6 / 3)
        assert not kernel[MASK & (kernel != KERNEL)].any()
        drawn.append(kernel)
    np.testing.assert_array_equal(drawn[0], drawn[1])
    assert np.any(drawn[0] != drawn[2])


def test_how_long_weights_had_lived(model, data):
    """Updates before 3, 6, 9: the first drops what began at 0."""
    callback = dynamic(frequency=3, end_step=9, decay="constant", drop_fraction=0.9)
    fit(model, data, callback)
    first, *later = [record.lived["hidden/kernel"] for record in callback.records]
    assert first == 3
    # 24 kept, of which 22 are new: at least 20 of the 22 that go had lived 3 steps.
    assert all(3 <= lived <= (20 * 3 + 2 * 9) / 22 for lived in later)


def test_operations_of_the_training(model, data):
    """12 steps of 4 with half of 72 weights; 5 gradients of 48 samples."""
    rigl = dynamic(method="rigl", data=data, decay="constant")
    history = model.fit(*data, batch_size=4, verbose=0, callbacks=[rigl]).history
    assert history["relative_flops"] == [0.5]
    found = rigl.training_flops(4)
    assert found.dense == 12 * 4 * 3 * 2 * 72
    assert found.flops == found.dense // 2 + 5 * 48 * 2 * (36 + 36 + 72)
    assert found.relative == found.flops / found.dense
    with pytest.raises(ValueError, match="No fit with this DynamicSparseTraining"):
        dynamic().training_flops(4)


def test_operations_of_a_schedule(model, data):
    """Dense for 4 steps, then half, of a layer that uses its weights 5 times."""
    layers = [keras.Input((5, 6)), keras.layers.Dense(2, name="dense")]
    several = tfticket.prune(keras.Sequential([*layers, keras.layers.Flatten()]))
    several.compile("sgd", LOSS)
    schedule = tfticket.schedules.ConstantSparsity(0.5, 4)
    gradual = tfticket.GradualPruning(schedule)
    x = np.zeros((48, 5, 6), "float32")
    several.fit(x, data[1], batch_size=4, verbose=0, callbacks=[gradual])
    found = gradual.training_flops(1)
    assert found.dense == 12 * 3 * 2 * 5 * 12
    assert found.relative == (4 + 8 / 2) / 12


def test_static_masks_stay_and_a_given_size_is_kept(model, data):
    tfticket.sparsify(model, 0.5)
    ticket = tfticket.get_masks(model)
    for kwargs in ({"sparsity": 0.5}, {"sparsity": None, "start": "present"}):
        static = dynamic(method="static", **kwargs)
        assert_equal(fit(model, data, static), ticket)
        assert static.records == []


def test_the_end_is_at_three_quarters_of_the_fit(model, data):
    callback = dynamic(frequency=1, end_step=None)
    history = model.fit(
        *data, batch_size=4, epochs=2, verbose=0, callbacks=[callback]
    ).history
    assert [record.step for record in callback.records] == list(range(1, 19))
    assert callback.records[-1].drop_fraction == 0
    assert history["sparsity"] == [0.5, 0.5]


@needs_graph
def test_several_steps_an_execution(mlp, data):
    """Of those due within an execution the latest takes place; none after training."""
    model = compiled(mlp, steps_per_execution=5)
    callback = dynamic(frequency=2, end_step=12)
    fit(model, data, callback)
    assert [record.step for record in callback.records] == [4, 10]


def test_accumulated_gradients_count_once(mlp, data):
    model = compiled(mlp, keras.optimizers.Adam(gradient_accumulation_steps=2))
    callback, seen = dynamic(end_step=5), EveryStep()
    fit(model, data, callback, others=[seen])
    assert [record.step for record in callback.records] == [2, 4]
    assert seen.counts("hidden/kernel") == [24] * 12


@pytest.mark.skipif(not hasattr(keras, "distillation"), reason="Keras before 3.12")
def test_of_a_distiller_the_student(mlp, data):
    teacher, student = keras.models.clone_model(mlp), tfticket.prune(mlp)
    distiller = keras.distillation.Distiller(
        teacher, student, keras.distillation.LogitsDistillation()
    )
    distiller.compile("adam", LOSS)
    distiller.jit_compile &= BACKEND != "tensorflow"
    rigl = dynamic(method="rigl", data=data)
    fit(distiller, data, rigl)
    masks = tfticket.get_masks(student)
    assert {name: int(m.sum()) for name, m in masks.items()} == {
        "hidden/kernel": 24,
        "out/kernel": 12,
    }
    assert rigl.records[0].grown["hidden/kernel"] == 7


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"drop_fraction": 0.0}, "drop_fraction must be"),
        ({"drop_fraction": 1.0}, "drop_fraction must be"),
        ({"sparsity": 1.0}, "sparsity must be"),
        ({"sparsity": None, "sparsities": {"out": 0.5}}, "sparsity has to say"),
        ({"momentum": 1.0}, "momentum must be"),
        ({"initializer": "twos"}, "initializer must be the name"),
        ({"begin_step": 5, "end_step": 5}, "end_step must be after begin_step"),
        ({"frequency": 0}, "frequency must be at least 1"),
        ({"method": "rigel"}, "method must be"),
        ({"method": "magnitude"}, "method='magnitude' can't tell pruned weights apart"),
        ({"method": "snip"}, "method='snip' can't tell pruned weights apart"),
        ({"method": "grasp"}, "method='grasp' can't tell pruned weights apart"),
        ({"scope": "global"}, "scope must be"),
        ({"decay": "linear"}, "decay must be"),
        ({"start": "dense"}, "start must be"),
        ({"structure": Channel()}, r"Channel\(grouped=False\).*Channel\(grouped=True"),
        ({"structure": Odd()}, r"Block\(shape\), NM\(kept, group\) or.*Odd\(\)"),
        ({"method": "rigl"}, "grows by the dense gradient.*data="),
        ({"method": "rigl", "data": iter(())}, "used up after one"),
        ({"data": ([], [])}, "takes no gradients"),
        ({"batches": 0, "method": "rigl"}, "batches must be at least 1"),
    ],
)
def test_arguments_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        dynamic(**arguments)


def refused(model, data, callback, message, others=()):
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        fit(model, data, callback, epochs=2, others=others)
    if BACKEND != "jax":  # whose trainer loses weights with an error (Keras 3.15)
        for value, now in zip(before, model.get_weights(), strict=True):
            np.testing.assert_array_equal(now, value)


def test_models_are_refused(model, mlp, data):
    plain = keras.models.clone_model(mlp)
    plain.compile("sgd", LOSS)
    refused(plain, data, dynamic(), "has no masks")
    refused(model, data, dynamic(0.99), "'hidden/kernel' would keep none of its 48")
    refused(model, data, dynamic(0.0), "Every weight would stay dense")
    refused(model, data, dynamic(0.5, start="present"), "has 48 of 48 units.*keeps 24")
    for structure, message in (
        (Channel(), r"Channel\(grouped=False\)"),
        (NM(1, 3), "'hidden/kernel' is at 1:3, which prunes 0.6667 of it, more than"),
    ):
        other = tfticket.prune(mlp, structure=structure)
        other.compile("sgd", LOSS)
        refused(other, data, dynamic(), message)
    refused(model, data, dynamic(None), "sparsity must be.*start='present'.*NM")
    keeps = tfticket.prune(mlp, keep_dense=True)
    keeps.compile("sgd", LOSS)
    refused(keeps, data, dynamic(), "'hidden' keeps its dense weights")
    schedule = tfticket.schedules.ConstantSparsity(0.5, 0)
    scheduled = tfticket.prune(mlp, schedule=schedule)
    scheduled.compile("sgd", LOSS)
    refused(scheduled, data, dynamic(), "has a pruning schedule")
    lora = tfticket.prune(mlp)
    lora.get_layer("hidden").layer.enable_lora(2)
    lora.compile("sgd", LOSS)
    refused(lora, data, dynamic(), "'hidden' has LoRA weights")
    frozen = tfticket.prune(mlp)
    frozen.get_layer("hidden").trainable = False
    frozen.compile("sgd", LOSS)
    refused(frozen, data, dynamic(), "'hidden/kernel' is frozen")
    masks = fit(frozen, data, dynamic(sparsities={"hidden": 0.0}))
    assert masks["hidden/kernel"].all()
    assert masks["out/kernel"].sum() == 12


@pytest.mark.parametrize("first", [True, False])
def test_other_callbacks_that_change_masks_are_refused(model, first, data):
    schedule = tfticket.schedules.ConstantSparsity(0.5, 0)
    for other in (
        tfticket.GradualPruning(schedule),
        tfticket.IterativeMagnitudePruning(1),
        dynamic(),
    ):
        pair = [dynamic(), other] if first else [other, dynamic()]
        refused(model, data, pair[0], "can't change the masks of one fit", pair[1:])
        # One after the other is fine, also after the refusal.
    fit(model, data, tfticket.GradualPruning(schedule))
    fit(model, data, dynamic())


def test_gradients_that_are_nan_are_refused(mlp, data):
    model = compiled(mlp)
    broken = (np.full_like(data[0], np.nan), data[1])
    rigl = dynamic(method="rigl", data=broken)
    with pytest.raises(ValueError, match=r"dense gradient of 'hidden/kernel'.*step 2"):
        fit(model, data, rigl)


def test_a_fit_without_updates_warns(model, data):
    with pytest.warns(UserWarning, match="No update of the masks is due"):
        fit(model, data, dynamic(frequency=100, end_step=None))
    with pytest.warns(UserWarning, match="steps 12 to 23"):  # drawn too late
        fit(model, data, dynamic(0.75, end_step=11))
    with warnings.catch_warnings():
        # Drawn before: a training that goes on.
        warnings.simplefilter("error", UserWarning)
        fit(model, data, dynamic(0.75, end_step=11))


def test_a_fit_of_unknown_length_needs_an_end(model, data):
    def batches():
        for start in range(0, 48, 4):
            yield data[0][start : start + 4], data[1][start : start + 4]

    with pytest.raises(ValueError, match="How long this fit trains is not known"):
        model.fit(
            batches(), shuffle=False, verbose=0, callbacks=[dynamic(end_step=None)]
        )
