"""Movement, overlap, barrier and attacks: what is measured of a lottery experiment."""

import json
import math

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from keras import ops

import tfticket
from tfticket.lottery.measures.adversarial import attacked_accuracy, attacked_images
from tfticket.lottery.measures.movement import movement
from tfticket.lottery.measures.overlap import overlap, pairwise_overlap
from tfticket.lottery.measures.stability import barrier, interpolate

SHAPE = (3, 4)
VALUES = hnp.arrays(np.float32, SHAPE, elements=st.floats(-4, 4, width=32))
MASKS = hnp.arrays(bool, SHAPE)


# Movement.


@settings(deadline=None)
@given(VALUES, VALUES, MASKS, MASKS, st.integers(1, 9), st.floats(0.25, 8))
def test_movement_is_that_of_each_group_one_by_one(before, after, a, b, bins, limit):
    kept, std = a & b, 0.5
    found = movement(
        {"k": before}, {"k": after}, {"k": a}, {"k": kept}, {"k": std}, bins, limit
    )
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    edges = found["edges"]
    assert len(edges) == bins + 1
    assert edges == [-edge for edge in reversed(edges)]
    assert edges[-1] == limit
    for group, chosen in (("survive", kept), ("pruned", a & ~kept)):
        row = found["weights"]["k"][group]
        w0, wt = before[chosen].astype(float), after[chosen].astype(float)
        assert row["count"] == len(w0) == sum(row["histogram"])
        if not len(w0):
            assert row["mean_moved"] is row["mean_away"] is row["mean_initial"] is None
            continue
        assert row["mean_moved"] == pytest.approx(np.mean(abs(wt - w0)))
        assert row["mean_away"] == pytest.approx(np.mean(abs(wt) - abs(w0)))
        assert row["mean_initial"] == pytest.approx(np.mean(abs(w0)))
        expected = [0] * bins
        for away in (abs(wt) - abs(w0)) / std:
            inside = [i for i in range(bins) if edges[i] <= away < edges[i + 1]]
            expected[inside[0] if inside else (0 if away < 0 else -1)] += 1
        assert row["histogram"] == expected


def test_movement_does_not_look_at_what_was_pruned_before():
    alive = {"k": np.array([True, True, True, False])}
    kept = {"k": np.array([True, False, False, False])}
    w0, wt = np.array([1.0, 2.0, -4.0, 7.0]), np.array([2.0, 2.0, 4.0, -9.0])
    found = movement({"k": w0, "bias": w0}, {"k": wt}, alive, kept)
    for rest in (0.0, 1e9, np.nan):
        w0[3], wt[3] = rest, -rest
        assert movement({"k": w0}, {"k": wt}, alive, kept) == found
    assert list(found["weights"]) == ["k"]
    assert found["weights"]["k"]["std"] == pytest.approx(np.std([1, 2, -4]))
    pruned = found["weights"]["k"]["pruned"]
    # -4 to 4 moves by 8, and not away from zero.
    assert (pruned["mean_moved"], pruned["mean_away"]) == (4.0, 0.0)


def test_the_sign_of_movement_is_seen_in_the_halves_of_the_histogram():
    w0, wt = np.full(3, 1.0), np.array([1.0 - 1e-12, 1.0, 1.0 + 1e-12])
    everything = {"k": np.ones(3, bool)}
    found = movement({"k": w0}, {"k": wt}, everything, everything, {"k": 1.0}, bins=60)
    counts = found["weights"]["k"]["survive"]["histogram"]
    assert (counts[29], counts[30]) == (1, 2)


def test_a_layer_without_spread_counts_its_moves_at_the_ends():
    everything = {"k": np.ones(4, bool)}
    w0, wt = {"k": np.full(4, -1.0)}, {"k": np.array([0.0, -1.0, -2.0, -3.0])}
    found = movement(w0, wt, everything, everything, bins=4)["weights"]["k"]
    assert found["std"] == 0.0
    assert found["survive"]["histogram"] == [1, 0, 1, 2]


def test_movement_refuses_what_does_not_fit():
    ones, mask = {"k": np.ones(2)}, {"k": np.array([True, False])}
    for arguments, message in [
        ((ones, ones, mask, {"k": np.array([True, True])}), "part of alive.*1 kept"),
        ((ones, ones, mask, {}), "masks of the same weights"),
        (({}, ones, mask, mask), "initial must have every weight.*'k'"),
        ((ones, {}, mask, mask), "trained must have every weight.*'k'"),
        ((ones, ones, mask, mask, {}), "stds must have every weight.*'k'"),
        ((ones, ones, mask, mask, {"k": np.nan}), "stds.*at least 0.*nan"),
        ((ones, {"k": np.ones(3)}, mask, mask), r"trained\['k'\].*\(2,\).*\(3,\)"),
        ((ones, ones, mask, {"k": np.ones(1, bool)}), r"kept\['k'\].*\(1,\)"),
        ((ones, {"k": np.array([np.nan, 1])}, mask, mask), r"trained\['k'\].*NaN"),
        ((ones, ones, mask, mask, None, 0), "bins must be at least 1"),
        ((ones, ones, mask, mask, None, 4, np.inf), "limit must be.*inf"),
        ((ones, ones, mask, mask, None, 4, 0.0), "limit must be.*0"),
    ]:
        with pytest.raises(ValueError, match=message):
            movement(*arguments)


# Overlap.


# scipy computes the kurtosis, too, which small populations don't have.
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
@settings(deadline=None)
@given(st.data())
def test_overlap_is_hypergeometric(data):
    stats = pytest.importorskip("scipy.stats")
    a, b = {}, {}
    for name in ("first", "second"):
        shape = data.draw(hnp.array_shapes(max_dims=3, max_side=6))
        a[name] = data.draw(hnp.arrays(bool, shape))
        b[name] = data.draw(hnp.arrays(bool, shape))
    found = overlap(a, b)
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    for name, row in found["weights"].items():
        x, y = set(np.flatnonzero(a[name])), set(np.flatnonzero(b[name]))
        chance = stats.hypergeom(a[name].size, len(x), len(y))
        assert (row["size"], row["kept_a"], row["kept_b"], row["both"]) == (
            a[name].size,
            len(x),
            len(y),
            len(x & y),
        )
        assert row["expected"] == pytest.approx(chance.mean())
        if chance.std() > 0:
            assert row["std"] == pytest.approx(chance.std())
            z = (len(x & y) - chance.mean()) / chance.std()
            assert row["z"] == pytest.approx(z)
        else:  # scipy has NaN for a population of one
            assert (row["std"], row["z"]) == (0.0, None)
        jaccard = len(x & y) / len(x | y) if x | y else None
        assert row["jaccard"] == jaccard
    total, rows = found["total"], list(found["weights"].values())
    for column in ("size", "kept_a", "kept_b", "both", "expected"):
        assert total[column] == pytest.approx(sum(row[column] for row in rows))
    assert total["std"] ** 2 == pytest.approx(sum(row["std"] ** 2 for row in rows))
    swapped = overlap(b, a)["total"]
    assert (swapped["z"], swapped["jaccard"]) == (total["z"], total["jaccard"])


def test_masks_drawn_layer_by_layer_do_not_seem_alike():
    # Chance over all layers jointly would expect both to keep 1000 * 1000 / 5000.
    random = np.random.default_rng(0)

    def draw():
        small = np.arange(1000) < 900
        large = np.arange(4000) < 100
        return {"small": random.permutation(small), "large": random.permutation(large)}

    total = overlap(draw(), draw())["total"]
    assert total["both"] > 4 * 1000 * 1000 / 5000
    assert abs(total["z"]) < 3


def test_overlap_of_large_masks_does_not_overflow():
    a, b = np.zeros((2, 1_000_000), bool)
    a[:500_000], b[250_000:750_000] = True, True
    row = overlap({"k": a}, {"k": b})["weights"]["k"]
    # sqrt(k1 k2 (n - k1) (n - k2) / (n^2 (n - 1))), the halves of 10^6.
    assert row["std"] == pytest.approx(math.sqrt(500_000**4 / (1e12 * 999_999)))
    assert row["z"] == 0.0


def test_pairs_are_all_pairs_once():
    masks = {
        seed: {"k": np.arange(8) % (2 + i) == 0} for i, seed in enumerate((7, 3, 5))
    }
    pairs = pairwise_overlap(masks)
    assert [pair["seeds"] for pair in pairs] == [[7, 3], [7, 5], [3, 5]]
    for pair in pairs:
        a, b = (masks[seed] for seed in pair.pop("seeds"))
        assert pair == overlap(a, b)
    assert pairwise_overlap({0: masks[7]}) == []


def test_overlap_refuses_what_does_not_fit():
    mask = {"k": np.ones(2, bool)}
    with pytest.raises(ValueError, match=r"same weights.*\['k'\].*\['l'\]"):
        overlap(mask, {"l": mask["k"]})
    with pytest.raises(ValueError, match=r"'k'.*same shape.*\(2,\) and \(1, 2\)"):
        overlap(mask, {"k": mask["k"][None]})


# Stability.


@settings(deadline=None)
@given(VALUES, VALUES, MASKS, st.floats(0, 1))
def test_between_two_networks_lie_their_weights(a, b, mask, alpha):
    a, b = np.where(mask, a, np.float32(0)), np.where(mask, b, np.float32(0))
    found = interpolate({"k": a}, {"k": b}, alpha)["k"]
    assert found.dtype == a.dtype
    assert np.all(found[~mask] == 0.0)
    np.testing.assert_allclose(found, a + alpha * (b - a), rtol=0, atol=1e-6)
    assert np.all((np.minimum(a, b) <= found) & (found <= np.maximum(a, b)))
    np.testing.assert_array_equal(interpolate({"k": a}, {"k": a}, alpha)["k"], a)
    np.testing.assert_array_equal(interpolate({"k": a}, {"k": b}, 0.0)["k"], a)
    np.testing.assert_array_equal(interpolate({"k": a}, {"k": b}, 1.0)["k"], b)


def test_only_floats_are_interpolated():
    half = keras.ops.convert_to_numpy(keras.ops.cast([1.0, 3.0], "bfloat16"))
    a = {"seed": np.array([1, 2], np.uint32), "on": np.array(True), "half": half}
    b = {"seed": np.array([9, 9], np.uint32), "on": np.array(False), "half": half * 3}
    found = interpolate(a, b, 0.5)
    np.testing.assert_array_equal(found["seed"], [1, 2])
    assert found["seed"].dtype == np.uint32
    assert found["on"]
    assert found["half"].dtype == half.dtype
    np.testing.assert_array_equal(found["half"].astype(float), [2.0, 6.0])


@settings(deadline=None)
@given(st.lists(st.floats(0, 1), min_size=3, max_size=9))
def test_barrier_is_the_highest_error_less_the_mean_of_the_ends(errors):
    seen = []

    def evaluate(weights):
        seen.append(float(weights["x"]))
        error = errors[len(seen) - 1]
        return {"loss": 3 * error, "accuracy": 1 - error}

    start, end = {"x": np.array(0.0)}, {"x": np.array(2.0)}
    found = barrier(evaluate, start, end, points=len(errors))
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    np.testing.assert_allclose(seen, np.linspace(0, 2, len(errors)))
    np.testing.assert_allclose(found["alphas"], np.linspace(0, 1, len(errors)))
    np.testing.assert_allclose(found["errors"], errors, atol=1e-12)
    np.testing.assert_allclose(found["losses"], np.multiply(3, errors))
    height = max(errors) - np.mean([errors[0], errors[-1]])
    assert found["error_barrier"] == pytest.approx(height, abs=1e-12)
    assert found["loss_barrier"] == pytest.approx(3 * height, abs=1e-12)
    assert found["stable"] is (found["error_barrier"] < 0.02)


@pytest.mark.parametrize(("height", "stable"), [(0.019, True), (0.021, False)])
def test_stable_is_a_barrier_under_two_percent(height, stable):
    def evaluate(weights):
        return {"loss": np.inf, "accuracy": 0.9 - height * (weights["x"] == 1.0)}

    found = barrier(evaluate, {"x": np.array(0.0)}, {"x": np.array(2.0)})
    assert found["error_barrier"] == pytest.approx(height)
    assert found["stable"] is stable
    assert (found["losses"], found["loss_barrier"]) == ([None] * 11, None)


def test_stability_refuses_what_does_not_fit():
    a = {"x": np.zeros(2)}
    for b, alpha, message in [
        ({"y": np.zeros(2)}, 0.5, r"same names.*\['x', 'y'\]"),
        ({"x": np.zeros(3)}, 0.5, r"'x'.*\(2,\) and \(3,\)"),
        (a, 1.5, "alpha=1.5"),
    ]:
        with pytest.raises(ValueError, match=message):
            interpolate(a, b, alpha)
    with pytest.raises(ValueError, match="points=2"):
        barrier(lambda weights: {"loss": 0.0, "accuracy": 1.0}, a, a, points=2)
    with pytest.raises(ValueError, match="accuracy=97"):
        barrier(lambda weights: {"loss": 0.0, "accuracy": 97.0}, a, a)


# Attacks.


def linear(features=5, classes=3):
    return keras.Sequential(
        [
            keras.Input((features,)),
            keras.layers.Dense(classes, bias_initializer="random_normal"),
        ]
    )


@pytest.fixture(scope="module")
def trained():
    """A wrapped convolutional network, and images that it classifies."""
    keras.utils.set_random_seed(0)
    random = np.random.default_rng(0)
    labels = np.arange(240) % 3
    images = random.uniform(-0.4, 0.4, (240, 6, 6, 2)).astype("float32")
    images[np.arange(240), labels, labels + 1] += 0.5
    model = keras.Sequential(
        [
            keras.Input((6, 6, 2)),
            keras.layers.Conv2D(8, 3, activation="relu"),
            keras.layers.BatchNormalization(momentum=0.5),
            keras.layers.Flatten(),
            keras.layers.Dropout(0.5),
            keras.layers.Dense(3),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(0.01), loss)
    model.fit(images, labels, epochs=15, batch_size=24, verbose=0)
    model = tfticket.prune(model)
    model.compile(loss=loss)
    masks = tfticket.get_masks(model)
    tfticket.set_masks(
        model, {name: random.random(m.shape) < 0.8 for name, m in masks.items()}
    )
    return model, images, labels


def test_fgsm_on_a_linear_model_is_the_closed_form():
    random = np.random.default_rng(0)
    model, images = linear(), random.standard_normal((7, 5)).astype("float32")
    labels = np.arange(7) % 3
    kernel, bias = model.get_weights()
    logits = images @ kernel + bias
    chance = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    # The loss' gradient is W (p - onehot).
    direction = np.sign((chance - np.eye(3)[labels]) @ kernel.T)
    epsilon = np.array([0.1, 0.2, 0.3, 0.0, 0.5])
    found = attacked_images(model, images, labels, "fgsm", epsilon, batch_size=3)
    np.testing.assert_allclose(found, images + epsilon * direction, rtol=1e-6)
    bounded = attacked_images(
        model, images, labels, "fgsm", epsilon, low=images.min(0), high=images.max(0)
    )
    expected = np.clip(images + epsilon * direction, images.min(0), images.max(0))
    np.testing.assert_allclose(bounded, expected, rtol=1e-6)
    moved = np.argmax((images + epsilon * direction) @ kernel + bias, -1)
    accuracy = attacked_accuracy(model, images, labels, "fgsm", epsilon, batch_size=3)
    assert accuracy == np.mean(moved == labels)


def test_fgsm_goes_one_step_however_many_pgd_goes():
    # The logits are (x^2, 0): loss of class 0 is highest at 0, and a step goes past.
    model = keras.Sequential([keras.Input((1,)), keras.layers.Lambda(ops.square)])
    model.add(keras.layers.Dense(2))
    model.layers[-1].set_weights([np.array([[1.0, 0.0]]), np.zeros(2)])
    arguments = model, np.array([[0.25]]), np.array([0])
    assert attacked_images(*arguments, "fgsm", 1.0, steps=2).item() == -0.75
    assert abs(attacked_images(*arguments, "pgd", 1.0, steps=40).item()) < 0.1


def test_pgd_on_a_linear_model_goes_to_the_corner_of_the_ball():
    # Of two classes the gradient has one sign everywhere.
    model, images = linear(classes=2), np.zeros((4, 5), "float32")
    kernel, labels = model.get_weights()[0], np.array([0, 1, 0, 1])
    away = np.where(labels[:, None], 1, -1) * np.sign(kernel[:, 0] - kernel[:, 1])
    found = attacked_images(model, images, labels, "pgd", 0.2)
    np.testing.assert_allclose(found, 0.2 * away, rtol=1e-6)
    # A short step hardly leaves the random start, which is inside the ball.
    near = attacked_images(model, images, labels, "pgd", 0.2, steps=1, step_size=0.01)
    start = near - 0.01 * away
    inside = np.abs(near) < 0.2
    assert inside.mean() > 0.7
    assert np.ptp(start[inside]) > 0.2
    assert abs(start[inside].mean()) < 0.1


@pytest.mark.parametrize("method", ["fgsm", "pgd"])
def test_epsilon_zero_is_the_plain_accuracy(trained, method):
    model, images, labels = trained
    labels = np.where(np.arange(len(labels)) % 4, labels, (labels + 1) % 3)
    plain = np.mean(np.argmax(model.predict(images, verbose=0), -1) == labels)
    assert 0.6 < plain < 0.9
    # A last batch that is not full counts its images once.
    found = attacked_accuracy(model, images, labels, method, 0.0, batch_size=100)
    assert found == pytest.approx(plain)
    assert isinstance(found, float)


ATTACKED = linear(features=4)


@settings(max_examples=30, deadline=None)
@given(
    images=hnp.arrays(np.float32, (3, 4), elements=st.floats(-1, 1, width=32)),
    epsilon=hnp.arrays(
        np.float32, st.sampled_from([(), (4,)]), elements=st.floats(0, 3, width=32)
    ),
    low=st.none() | hnp.arrays(np.float32, 4, elements=st.floats(-3, -1, width=32)),
    high=st.none() | st.floats(1, 3, width=32),
    method=st.sampled_from(["fgsm", "pgd"]),
    step_size=st.none() | st.floats(0, 9),
)
def test_no_image_leaves_the_ball_or_the_bounds(
    images, epsilon, low, high, method, step_size
):
    found = attacked_images(
        ATTACKED, images, np.arange(3), method, epsilon, 2, step_size, 2, low, high
    )
    assert np.all(np.abs(found - images) <= epsilon + 1e-6)
    assert np.all(found >= (-np.inf if low is None else low))
    assert np.all(found <= (np.inf if high is None else high))


def test_attacks_lower_accuracy_and_pgd_is_no_weaker_than_fgsm(trained):
    model, images, labels = trained
    before = [np.array(weight) for weight in model.get_weights()]
    accuracies, losses = {}, {}
    for method in ("fgsm", "pgd"):
        arguments = model, images, labels, method, 0.12
        accuracies[method] = attacked_accuracy(*arguments, steps=20)
        moved = attacked_images(*arguments, steps=20)
        losses[method] = model.evaluate(moved, labels, verbose=0)
        accuracy = np.mean(np.argmax(model.predict(moved, verbose=0), -1) == labels)
        assert accuracies[method] == pytest.approx(accuracy)
    plain = attacked_accuracy(model, images, labels, "fgsm", 0.0)
    noise = np.random.default_rng(0).choice([-0.12, 0.12], images.shape)
    noisy = attacked_accuracy(model, images + noise, labels, "fgsm", 0.0)
    assert accuracies["pgd"] <= accuracies["fgsm"] < min(plain, noisy) - 0.1
    assert losses["pgd"] > losses["fgsm"]
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_an_attack_is_known_by_its_seed_and_not_by_its_batches(trained):
    model, images, labels = trained

    def attack(**changed):
        return attacked_images(model, images, labels, "pgd", 0.1, 2, 0.02, **changed)

    found = attack()
    np.testing.assert_array_equal(attack(), found)
    np.testing.assert_allclose(attack(batch_size=7), found, atol=1e-5)
    assert np.mean(attack(seed=1) != found) > 0.3


def test_probabilities_are_attacked_like_their_logits():
    logits = linear()
    # Keras would see through its own softmax.
    softmax = keras.Sequential(
        [
            logits,
            keras.layers.Activation(
                lambda x: ops.exp(x) / ops.sum(ops.exp(x), -1, keepdims=True)
            ),
        ]
    )
    images, labels = np.random.default_rng(1).standard_normal((6, 5)), np.arange(6) % 3
    found = attacked_images(softmax, images, labels, "fgsm", 0.3, from_logits=False)
    expected = attacked_images(logits, images, labels, "fgsm", 0.3)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    # Taken for logits, probabilities of three classes give another gradient.
    assert not np.allclose(
        attacked_images(softmax, images, labels, "fgsm", 0.3), expected
    )


class Counted(keras.layers.Layer):
    """The square root; counts how often Python goes through it, and how often images.

    `seen` goes up in evaluation, too, as a careless layer's state does.
    """

    times = 0

    def build(self, shape):
        self.seen = self.add_weight(shape=(), initializer="zeros", trainable=False)

    def call(self, inputs):
        self.times += 1
        self.seen.assign_add(1.0)
        return ops.sqrt(inputs)


def test_the_gradient_is_compiled_once_the_model_stays_and_nan_moves_nothing():
    layer = Counted()
    model = keras.Sequential([keras.Input((3,)), layer, keras.layers.Dense(2)])
    model.layers[-1].set_weights([np.array([[3.0, 0], [2, 0], [0, 1]]), np.zeros(2)])
    # At 0 the root has an infinite slope, and below it has none.
    images = np.array([[0.0, 1.0, 4.0]] * 5, "float32")
    before, layer.times = float(layer.seen.value), 0
    arguments = model, images, np.zeros(5, int), "pgd", 0.1, 4, None, 2
    assert np.all(np.isfinite(attacked_images(*arguments)))
    assert layer.times == 1 or BACKEND == "torch"  # which compiles nothing
    layer.times = 0
    attacked_accuracy(*arguments)
    # Once for the gradient, once for the accuracy.
    assert layer.times == 2 or BACKEND == "torch"
    assert float(layer.seen.value) == before


def test_images_that_rounding_has_put_outside_are_left_there():
    images = np.array([[1.0 + 1e-6] * 5, [-1e-6] * 5], "float32")
    flat = linear()
    flat.set_weights([np.zeros((5, 3)), np.zeros(3)])
    # Neither a gradient of zero moves an image, nor an epsilon of zero.
    for model, method, epsilon in ((flat, "fgsm", 0.1), (linear(), "pgd", 0.0)):
        found = attacked_images(
            model, images, np.zeros(2, int), method, epsilon, low=0.0, high=1.0
        )
        np.testing.assert_array_equal(found, images)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"method": "cw"}, "method must be one of.*'cw'"),
        ({"epsilon": -0.1}, "epsilon must be 0 or more.*-0.1"),
        ({"epsilon": np.nan}, "epsilon must be finite.*nan"),
        ({"epsilon": np.ones(4)}, r"epsilon.*5 channels.*\(4,\)"),
        ({"method": "pgd", "step_size": -1.0}, "step_size must be 0 or more"),
        ({"steps": 0}, "steps must be at least 1"),
        ({"batch_size": 0}, "batch_size must be at least 1"),
        ({"seed": -1}, "seed must be at least 0"),
        ({"low": 0.5}, r"images go past low=0.5 by 0.5.*normalised"),
        ({"high": -0.5}, "images go past high=-0.5 by 0.5"),
        ({"low": np.zeros((2, 5))}, r"low.*5 channels.*\(2, 5\)"),
        ({"images": np.zeros((0, 5))}, r"images must have shape.*\(0, 5\)"),
        ({"images": np.full((2, 5), np.inf)}, "images must be finite"),
        ({"labels": np.zeros((2, 1), int)}, r"labels must be integers.*\(2, 1\)"),
        ({"labels": np.zeros(2)}, "labels must be integers.*float64"),
        ({"labels": np.array([0, -1])}, "labels must be 0 or more.*-1"),
        ({"labels": np.array([0, 3])}, "labels must be below the model's 3.*3"),
        ({"model": keras.Sequential([keras.layers.Dense(3)])}, "not built"),
        (
            {
                "model": keras.Sequential(
                    [keras.Input((5,)), keras.layers.Reshape((5, 1))]
                )
            },
            r"one output of shape \(n, classes\).*\(2, 5, 1\)",
        ),
    ],
)
def test_attacks_refuse_what_does_not_fit(changed, message):
    arguments = {
        "model": linear(),
        "images": np.zeros((2, 5)),
        "labels": np.zeros(2, int),
        "method": "fgsm",
        "epsilon": 0.1,
    }
    with pytest.raises(ValueError, match=message):
        attacked_accuracy(**{**arguments, **changed})
