"""When schedules are due, and what they aim at, against the formulas."""

import math

import keras
import numpy as np
import pytest

from tfticket import schedules

CUBIC = schedules.PolynomialDecay(0.2, 0.8, 100, 200, frequency=25)
SQUARE = schedules.PolynomialDecay(0.2, 0.8, 100, 200, power=2, frequency=25)
COSINE = schedules.CosineDecay(0.1, 0.9, 100, 200, frequency=50)
CONSTANT = schedules.ConstantSparsity(0.5, 10, 30, frequency=10)
ENDLESS = schedules.ConstantSparsity(0.5, 10, frequency=10)
ONCE = schedules.OneShot(0.9, 7)
ROUNDS = schedules.Rounds(0.2, 3, 100)
AT_ONCE = schedules.PolynomialDecay(0.2, 0.8, 5, 5, frequency=1)

DUE = [
    (CUBIC, [100, 125, 150, 175, 200]),
    (COSINE, [100, 150, 200]),
    (CONSTANT, [10, 20, 30]),
    (ENDLESS, list(range(10, 401, 10))),
    (ONCE, [7]),
    (ROUNDS, [100, 200, 300]),
    (AT_ONCE, [5]),
    (schedules.OneShot(0.5), [0]),
]


@pytest.mark.parametrize(("schedule", "steps"), DUE)
def test_when_it_is_due(schedule, steps):
    assert [step for step in range(401) if schedule(step)[0]] == steps
    assert [step for step in range(401) if schedule(np.int64(step))[0]] == steps
    assert all(type(schedule(step)[0]) is bool for step in (0, steps[0]))


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        (CUBIC, {100: 0.2, 150: 0.8 - 0.6 / 8, 200: 0.8, 50: 0.2, 300: 0.8}),
        (SQUARE, {100: 0.2, 150: 0.8 - 0.6 / 4, 175: 0.8 - 0.6 / 16, 200: 0.8}),
        (COSINE, {0: 0.1, 100: 0.1, 150: 0.5, 200: 0.9, 400: 0.9}),
        (COSINE, {125: 0.9 - 0.8 * (1 + math.cos(math.pi / 4)) / 2}),
        (CONSTANT, {0: 0.5, 10: 0.5, 99: 0.5}),
        (ONCE, {0: 0.9, 7: 0.9}),
        (ROUNDS, {0: 0, 99: 0, 100: 0.2, 199: 0.2, 200: 0.36, 300: 0.488, 999: 0.488}),
        (AT_ONCE, {0: 0.8, 5: 0.8, 9: 0.8}),
    ],
)
def test_what_it_aims_at(schedule, expected):
    for step, sparsity in expected.items():
        assert schedule(step)[1] == pytest.approx(sparsity, abs=1e-12), step
        assert type(schedule(step)[1]) in (int, float)


@pytest.mark.parametrize("schedule", [CUBIC, COSINE, CONSTANT, ENDLESS, ONCE, ROUNDS])
def test_a_tensor_without_a_value_is_answered_alike(schedule):
    tf = pytest.importorskip("tensorflow")

    @tf.function
    def answer(step):
        return schedule(step)

    for step in (0, 5, 7, 10, 30, 31, 40, 100, 125, 150, 199, 200, 225, 300, 400):
        due, sparsity = answer(tf.constant(step))
        assert bool(due) == schedule(step)[0], step
        assert float(sparsity) == pytest.approx(schedule(step)[1], abs=1e-6)
        assert sparsity.dtype == tf.float32


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (lambda: schedules.ConstantSparsity(0.5, -1), "begin_step"),
        (lambda: schedules.ConstantSparsity(0.5, 0, -2), "end_step"),
        (lambda: schedules.ConstantSparsity(0.5, 5, 4), "begin_step=5, end_step=4"),
        (lambda: schedules.ConstantSparsity(0.5, 0, frequency=0), "frequency"),
        (lambda: schedules.ConstantSparsity(1.0, 0), "target_sparsity"),
        (lambda: schedules.OneShot(0.5, -1), "begin_step"),
        (lambda: schedules.PolynomialDecay(1.0, 0.5, 0, 1), "initial_sparsity"),
        (lambda: schedules.PolynomialDecay(0.5, 1.0, 0, 1), "final_sparsity"),
        (lambda: schedules.PolynomialDecay(0, 0.5, 0, -1), "PolynomialDecay needs"),
        (lambda: schedules.PolynomialDecay(0, 0.5, 0, 1, power=0), "power"),
        (lambda: schedules.CosineDecay(0, 0.5, 0, -1), "CosineDecay needs"),
        (lambda: schedules.Rounds(0, 1, 1), "rate"),
        (lambda: schedules.Rounds(0.5, 0, 1), "rounds"),
        (lambda: schedules.Rounds(0.5, 1, 0), "frequency"),
    ],
)
def test_what_can_not_be_is_refused_by_name(make, says):
    with pytest.raises(ValueError, match=says):
        make()


def test_the_least_that_can_be():
    assert schedules.ConstantSparsity(0.0, 0, 0, frequency=1)(0) == (True, 0.0)
    assert schedules.ConstantSparsity(0.5, 3, 3)(3) == (True, 0.5)
    assert schedules.Rounds(0.5, 1, 1)(1) == (True, 0.5)
    assert schedules.PolynomialDecay(0, 0.5, 0, 1, power=0.1)(0) == (True, 0)


@pytest.mark.parametrize(
    "schedule", [CUBIC, SQUARE, COSINE, CONSTANT, ENDLESS, ONCE, ROUNDS, AT_ONCE]
)
def test_it_is_made_again_of_its_config(schedule):
    config = keras.saving.serialize_keras_object(schedule)
    assert keras.saving.deserialize_keras_object(config) == schedule
    assert type(schedule).from_config(schedule.get_config()) == schedule


def test_defaults():
    assert schedules.ConstantSparsity(0.5, 0) == schedules.ConstantSparsity(
        0.5, 0, end_step=-1, frequency=100
    )
    assert schedules.PolynomialDecay(0, 0.5, 0, 9).get_config() == {
        **{"initial_sparsity": 0, "final_sparsity": 0.5, "begin_step": 0},
        **{"end_step": 9, "power": 3, "frequency": 100},
    }
    assert schedules.CosineDecay(0, 0.5, 0, 9).frequency == 100


class OfTfmot:
    """As TF-MOT's schedules are."""

    frequency = 5

    def _should_prune_in_step(self):
        raise NotImplementedError

    def __call__(self, step):
        return step % 5 == 0, 0.5


def every_fifth(step):
    return step % 5 == 0, 0.5


def test_a_schedule_is_a_callable_that_is_no_class():
    for schedule in (CUBIC, every_fifth, OfTfmot()):
        assert schedules.get(schedule) is schedule
    for wrong in (None, 0.5, "CosineDecay", schedules.OneShot):
        with pytest.raises(TypeError, match="schedule must be a schedule"):
            schedules.get(wrong)


def test_an_answer_is_checked_where_it_is_due():
    assert schedules.evaluate(every_fifth, 5) == (True, 0.5)
    assert schedules.evaluate(lambda step: [np.True_, np.float32(0.5)], 0) == (
        True,
        0.5,
    )
    assert schedules.evaluate(lambda step: (False, 2.0), 0) == (False, 2.0)
    with pytest.raises(ValueError, match=r"the sparsity of .* at step 3"):
        schedules.evaluate(lambda step: (True, 1.0), 3)
    for answer in (0.5, (True,), (True, 0.5, 1), "no", None):
        with pytest.raises(TypeError, match=r"At step 3, .* returned"):
            schedules.evaluate(lambda step, answer=answer: answer, 3)


def test_what_is_known_of_a_schedule():
    assert all(map(schedules.is_periodic, (CUBIC, ENDLESS, ONCE, ROUNDS, OfTfmot())))
    assert not schedules.is_periodic(every_fifth)
    every_fifth_of = type("OfTheUser", (), {"frequency": 5})()
    assert not schedules.is_periodic(every_fifth_of)
    last = {CUBIC: 0.8, COSINE: 0.9, CONSTANT: 0.5, ONCE: 0.9, every_fifth: None}
    for schedule, sparsity in last.items():
        assert schedules.final_sparsity(schedule) == sparsity
    assert schedules.final_sparsity(ROUNDS) == pytest.approx(0.488)
