import functools

import ml_dtypes
import numpy as np
import pytest

from tfticket.sparsity import criteria

RANDOM = np.random.default_rng(0)
W, W0, A = RANDOM.standard_normal((3, 4, 5))
NAMES = [
    "change",
    "grasp",
    "lamp",
    "magnitude",
    "magnitude_increase",
    "movement",
    "random",
    "recent_change",
    "snip",
    "synflow",
    "taylor",
]


@pytest.fixture
def registry(monkeypatch):
    monkeypatch.setattr(criteria, "_CRITERIA", dict(criteria._CRITERIA))


@pytest.mark.parametrize(
    ("name", "evidence", "expected"),
    [
        ("magnitude", {}, np.sqrt(W**2)),
        ("lamp", {}, W**2 / [[np.sum(W[w**2 <= W**2] ** 2) for w in row] for row in W]),
        ("movement", {"initial": W0}, np.sqrt((W - W0) ** 2)),
        ("magnitude_increase", {"initial": W0}, np.sqrt(W**2) - np.sqrt(W0**2)),
        ("change", {"change": A}, A),
        ("recent_change", {"recent_change": A}, A),
        ("taylor", {"gradient": A}, np.sqrt((W * A) ** 2)),
        ("snip", {"gradient": A}, np.sqrt((W * A) ** 2)),
        ("grasp", {"hessian_gradient": A}, W * A),
        ("synflow", {"flow": A}, np.sqrt((W * A) ** 2)),
    ],
)
def test_scores_are_those_of_the_papers(name, evidence, expected):
    assert criteria.needs(name) == tuple(evidence)
    found = criteria.score(
        name, {"k": W}, {kind: {"k": value} for kind, value in evidence.items()}
    )
    np.testing.assert_allclose(found["k"], expected, rtol=1e-12)


def test_lamp_of_equal_weights_and_of_none():
    np.testing.assert_allclose(criteria.lamp(np.ones(4)), [1 / 4, 1 / 3, 1 / 2, 1])
    np.testing.assert_array_equal(criteria.lamp(np.zeros((2, 2))), np.zeros((2, 2)))


def test_every_criterion_is_registered_by_its_own_name():
    for name in NAMES:
        assert criteria.get(name) is getattr(criteria, name)
        assert criteria.name_of(getattr(criteria, name)) == name
    with pytest.raises(ValueError, match="must be one of") as error:
        criteria.get("size")
    assert all(name in str(error.value) for name in NAMES)
    for wrong in (None, ["magnitude"], 3):
        with pytest.raises(ValueError, match="must be one of"):
            criteria.get(wrong)


@pytest.mark.parametrize("name", NAMES)
def test_half_precision_is_scored_in_float32(name):
    # 1e-4 squared is 1e-8, which is 0 in float16; 300 squared is infinite.
    weight = np.array([1e-4, 300.0], np.float16)
    evidence = {kind: {"k": weight} for kind in criteria.EVIDENCE}
    found = criteria.score(name, {"k": weight}, evidence, seed=0)["k"]
    assert found.dtype == np.float32
    if name in ("snip", "taylor", "grasp", "synflow"):
        np.testing.assert_allclose(found, weight.astype(np.float32) ** 2)


def test_grasp_keeps_what_holds_the_gradient_up():
    # Loss of a quadratic: gradient Hw, its squared norm |Hw|^2.
    h = np.array([[2.0, -1.0], [-1.0, 3.0]])
    w = np.array([1.0, 0.9])
    gradient = h @ w
    found = criteria.grasp(w, h @ gradient)
    step = 1e-6
    for i in range(2):
        smaller = w.copy()
        smaller[i] *= 1 - step
        rise = (np.sum((h @ smaller) ** 2) - np.sum(gradient**2)) / step
        # Higher is kept: taking it out lowers the norm.
        assert found[i] == pytest.approx(-rise / 2, rel=1e-4)


def test_random_goes_by_seed_and_name_not_by_order():
    weights = {"a": W, "b": W}
    first = criteria.score("random", weights, seed=1)
    turned = criteria.score("random", {"b": W, "a": W}, seed=1)
    for name in weights:
        np.testing.assert_array_equal(first[name], turned[name])
    assert not np.array_equal(first["a"], first["b"])
    assert not np.array_equal(
        first["a"], criteria.score("random", weights, seed=2)["a"]
    )
    unseeded = [criteria.score("random", weights)["a"] for _ in range(2)]
    assert not np.array_equal(*unseeded)


def test_a_function_registers_with_and_without_a_name(registry):
    @criteria.register
    def signed(weight, gradient, power=1):
        return weight * gradient**power

    @criteria.register("mean_of_two")
    def other(weight, initial, change):
        return (weight + initial + change) / 3

    assert criteria.get("signed") is signed
    assert criteria.name_of(other) == "mean_of_two"
    assert criteria.needs("signed") == ("gradient",)
    assert criteria.needs(other) == ("initial", "change")
    squared = functools.partial(signed, power=2)
    found = criteria.score(squared, {"k": W}, {"gradient": {"k": A}})
    np.testing.assert_allclose(found["k"], W * A**2)


def test_a_name_is_taken_over_only_when_asked(registry):
    def mine(weight):
        return weight

    criteria.register("mine")(mine)
    criteria.register("mine")(mine)
    with pytest.raises(ValueError, match=r"'magnitude' already.*overwrite=True"):
        criteria.register("magnitude")(mine)
    assert criteria.get("magnitude") is criteria.magnitude
    criteria.register("magnitude", overwrite=True)(mine)
    assert criteria.get("magnitude") is mine


def test_unknown_evidence_is_refused_and_the_known_listed(registry):
    def curious(weight, hessian):
        return weight

    with pytest.raises(ValueError, match="'curious' asks for 'hessian'") as error:
        criteria.register(curious)
    assert all(kind in str(error.value) for kind in criteria.EVIDENCE)
    with pytest.raises(ValueError, match="must be one of"):
        criteria.get("curious")
    for nothing in (lambda: 0, lambda *, weight: weight):
        with pytest.raises(ValueError, match="first argument"):
            criteria.needs(nothing)


def test_functions_written_in_c_are_criteria():
    np.testing.assert_array_equal(criteria.score(np.abs, {"k": W})["k"], np.abs(W))


@pytest.mark.parametrize(
    ("returned", "said"),
    [
        (np.zeros((5, 4)), r"shape \(4, 5\).*ndarray of shape \(5, 4\)"),
        (1.0, "float of shape"),
        (None, "NoneType"),
        (np.zeros((4, 5), complex), "real numbers.*complex128"),
        (np.zeros((4, 5), bool), "real numbers.*bool"),
        (np.zeros((4, 5), object), "real numbers.*object"),
        (np.zeros((4, 5), "M8[s]"), "real numbers.*datetime"),
        (np.where(W.max() == W, np.nan, W), "finite.*1 NaN or infinite of 20"),
        (np.full((4, 5), np.inf), "finite.*20 NaN"),
    ],
)
def test_what_is_no_score_is_refused_by_names(returned, said):
    def odd(weight):
        return returned

    with pytest.raises(ValueError, match=f"'odd', weight 'conv/kernel'.*{said}"):
        criteria.score(odd, {"conv/kernel": W})


def test_integers_are_scores():
    ranks = np.arange(20).reshape(4, 5)
    found = criteria.score(lambda weight: ranks, {"k": W})["k"]
    assert found.dtype == np.float64
    np.testing.assert_array_equal(found, ranks)


def test_bfloat16_is_a_score():
    ranks = np.arange(20).reshape(4, 5).astype(ml_dtypes.bfloat16)
    found = criteria.score(lambda weight: ranks, {"k": W})["k"]
    np.testing.assert_array_equal(found, np.arange(20).reshape(4, 5))


def test_hessians_may_be_computed_when_asked_for():
    """So that what is in the mapping is looked at one by one."""

    class Computed(dict):
        def __getitem__(self, key):
            asked.append(key)
            return W

    asked, taken = [], []

    def mine(weight, input_hessian):
        taken.append(input_hessian)
        return weight

    criteria.score(mine, {"k": W}, {"input_hessian": Computed(k=None, other=None)})
    assert asked == ["k"]
    assert taken[0] is W
    with pytest.raises(TypeError, match=r"^evidence\['input_hessian'\] must be"):
        criteria.score(mine, {"k": W}, {"input_hessian": 3})


def test_missing_and_misshapen_evidence_is_named():
    with pytest.raises(ValueError, match=r"'movement' needs initial.*'k'.*'change'"):
        criteria.score("movement", {"k": W}, {"change": {"k": W}})
    with pytest.raises(ValueError, match=r"initial.*'k'.*\(4, 5\).*\(5,\)"):
        criteria.score("movement", {"k": W}, {"initial": {"k": W[0]}})


def test_arguments_of_register_are_refused_by_name():
    with pytest.raises(TypeError, match=r"^overwrite must"):
        criteria.register("mine", overwrite=1)
    with pytest.raises(TypeError, match=r"^name must"):
        criteria.register(3)


def test_lamp_of_equal_weights_goes_by_their_place():
    scores = criteria.get("lamp")(np.ones(100))
    np.testing.assert_allclose(scores, 1 / np.arange(100, 0, -1))
