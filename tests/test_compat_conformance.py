"""The facts that TF-MOT's own tests state, and answers of real TF-MOT.

The latter run where the environment variable TFTICKET_TFMOT_PYTHON names a Python that
has tensorflow-model-optimization and tf_keras.
"""

import json
import os
import pathlib
import subprocess

import keras
import numpy as np
import pytest
from fixtures.tfmot_cases import guide, is_refused_without_callback, policy_verdicts
from hypothesis import HealthCheck, Phase, assume, given, settings
from hypothesis import strategies as st

import tfticket
from tfticket.compat import tfmot

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
TFMOT_PYTHON = os.environ.get("TFTICKET_TFMOT_PYTHON")
ConstantSparsity = tfmot.sparsity.keras.ConstantSparsity
PolynomialDecay = tfmot.sparsity.keras.PolynomialDecay


def test_polynomial_decay():
    schedule = PolynomialDecay(0.2, 0.8, 100, 110, 3, 1)
    sparsities = [schedule(step)[1] for step in (100, 102, 105, 110)]
    np.testing.assert_allclose(sparsities, [0.2, 0.4928, 0.725, 0.8], atol=1e-6)
    # Held outside, where nothing is pruned.
    outside = [schedule(step) for step in (99, 111)]
    assert not any(due for due, _ in outside)
    np.testing.assert_allclose([value for _, value in outside], [0.2, 0.8], atol=1e-6)


def test_constant_sparsity():
    schedule = ConstantSparsity(0.5, 100, 110, 1)
    assert {schedule(step)[1] for step in range(95, 115)} == {0.5}


@pytest.mark.parametrize(
    ("schedule", "end"),
    [
        (ConstantSparsity(0.5, 100, 200, 10), 200),
        (ConstantSparsity(0.5, 100, -1, 10), 1000),
        (PolynomialDecay(0.2, 0.8, 100, 200, frequency=10), 200),
    ],
)
def test_when_pruning_is_due(schedule, end):
    due = [step for step in range(300) if schedule(step)[0]]
    assert due == list(range(100, min(end, 299) + 1, 10))


def test_a_decay_needs_an_end():
    with pytest.raises(ValueError, match="end_step"):
        PolynomialDecay(0.2, 0.8, 100, -1)


@pytest.mark.parametrize("sparsity", [-0.1, 1.0, 1.1])
def test_sparsities_out_of_range(sparsity):
    for make in (
        lambda: ConstantSparsity(sparsity, 0),
        lambda: PolynomialDecay(sparsity, 0.8, 0, 10),
        lambda: PolynomialDecay(0.2, sparsity, 0, 10),
    ):
        with pytest.raises(ValueError, match="at least 0 and below 1"):
            make()


@pytest.mark.parametrize(
    ("steps", "message"),
    [
        ((-1, 10, 1), "begin_step"),
        ((0, -2, 1), "end_step"),
        ((20, 10, 1), "end_step"),
        ((0, 10, 0), "frequency"),
        ((0, 10, -1), "frequency"),
    ],
)
def test_steps_out_of_range(steps, message):
    begin, end, frequency = steps
    with pytest.raises(ValueError, match=message):
        ConstantSparsity(0.5, begin, end, frequency)
    with pytest.raises(ValueError, match=message):
        PolynomialDecay(0.2, 0.8, begin, end, frequency=frequency)


def test_schedules_survive_their_configuration():
    for schedule in (
        ConstantSparsity(0.7, 10, 20, 10),
        PolynomialDecay(0.2, 0.6, 10, 20, 5, 10),
    ):
        saved = keras.saving.serialize_keras_object(schedule)
        again = keras.saving.deserialize_keras_object(json.loads(json.dumps(saved)))
        assert again.get_config() == schedule.get_config()
        assert isinstance(again, tfmot.sparsity.keras.PruningSchedule)


def masks_of(cases):
    """The masks that one step of training takes, of (tensor, arguments) pairs."""
    inputs, outputs = [], []
    for i, (tensor, arguments) in enumerate(cases):
        if tensor.ndim == 2:
            layer = keras.layers.Dense(
                tensor.shape[1], use_bias=False, name=f"layer_{i}"
            )
            inputs.append(keras.Input((tensor.shape[0],)))
        else:
            layer = keras.layers.Conv2D(
                tensor.shape[3], tensor.shape[:2], use_bias=False, name=f"layer_{i}"
            )
            inputs.append(keras.Input((*tensor.shape[:2], tensor.shape[2])))
        layer.build(inputs[-1].shape)
        layer.kernel.assign(tensor)
        wrapped = tfmot.sparsity.keras.prune_low_magnitude(layer, **arguments)
        outputs.append(wrapped(inputs[-1]))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    callback = tfmot.sparsity.keras.UpdatePruningStep()
    callback.set_model(model)
    callback.set_params({"steps": 1, "epochs": 1})
    callback.on_train_begin()
    callback.on_epoch_begin(0)
    callback.on_train_batch_begin(0)
    masks = tfticket.get_masks(model)
    return [masks[f"layer_{i}/kernel"] for i in range(len(cases))]


def at_once(sparsity):
    return ConstantSparsity(sparsity, 1, frequency=1)


def test_the_lowest_magnitudes_are_pruned():
    weight = np.array([[1.0, -2.0, 3.0], [-4.0, 5.0, -6.0]])
    (mask,) = masks_of([(weight, {"pruning_schedule": at_once(0.5)})])
    np.testing.assert_array_equal(mask, [[0, 0, 0], [1, 1, 1]])


def test_blocks_are_pruned_by_their_average_or_maximum():
    weight = np.array(
        [
            [0.1, 0.1, 0.2, 0.2],
            [0.1, 0.7, 0.2, 0.2],
            [0.4, 0.4, 0.3, 0.3],
            [0.4, 0.4, 0.3, 0.3],
        ]
    )

    def case(pooling):
        return weight, {
            "pruning_schedule": at_once(0.5),
            "block_size": (2, 2),
            "block_pooling_type": pooling,
        }

    average, maximum = masks_of([case("AVG"), case("MAX")])
    np.testing.assert_array_equal(average, np.kron([[0, 0], [1, 1]], np.ones((2, 2))))
    np.testing.assert_array_equal(maximum, np.kron([[1, 0], [1, 0]], np.ones((2, 2))))


def test_blocks_at_the_edges_may_be_smaller():
    weight = np.array([[3.0, 3.0, 1.0], [3.0, 3.0, 1.0], [2.0, 2.0, 4.0]])
    arguments = {"pruning_schedule": at_once(0.5), "block_size": (2, 2)}
    (mask,) = masks_of([(weight, arguments)])
    np.testing.assert_array_equal(mask, [[1, 1, 0], [1, 1, 0], [0, 0, 1]])


def test_m_by_n_counts_zeros_along_the_inputs():
    random = np.random.default_rng(0)
    tensors = [
        random.standard_normal(shape)
        for shape in [(8, 3), (10, 3), (3, 3, 8, 2), (1, 1, 6, 2)]
    ]
    for zeros in (1, 2, 3):
        masks = masks_of([(t, {"sparsity_m_by_n": (zeros, 4)}) for t in tensors])
        for mask in masks:
            length = mask.shape[-2]
            rows = np.moveaxis(mask, -2, -1).reshape(-1, length)
            for begin in range(0, length, 4):
                group = rows[:, begin : begin + 4]
                kept = min(group.shape[1], 4 - zeros)
                assert np.all(group.sum(axis=1) == kept)


def test_m_by_n_of_a_single_input_channel_prunes_nothing():
    (mask,) = masks_of([(np.ones((3, 3, 1, 2)), {"sparsity_m_by_n": (2, 4)})])
    assert np.all(mask)


@st.composite
def questions(draw):
    """A tensor and what is asked of TF-MOT's and of our pruning of it."""
    kind = draw(st.sampled_from(["single", "AVG", "MAX", "m_by_n"]))
    rank = draw(st.sampled_from([2, 4])) if kind in ("single", "m_by_n") else 2
    sizes = [st.integers(1, 3)] * (rank - 2) + [st.integers(1, 13)] * 2
    shape = tuple(draw(size) for size in sizes)
    question = {"sparsity": 0.5, "block": [1, 1], "pooling": "AVG", "m_by_n": None}
    units = np.prod(shape)
    if kind in ("AVG", "MAX"):
        block = [draw(st.integers(1, 4)), draw(st.integers(1, 4))]
        assume(block != [1, 1])
        # Where TF-MOT pads by two and more it scores other windows than it prunes.
        assume(all(-n % b < 2 for n, b in zip(shape, block, strict=True)))
        question |= {"block": block, "pooling": kind}
        blocks = [-(-n // b) for n, b in zip(shape, block, strict=True)]
        # Nor does it take a single row or column of blocks.
        assume(min(blocks) > 1)
        units = np.prod(blocks)
    if kind == "m_by_n":
        group = draw(st.integers(2, 5))
        question["m_by_n"] = [draw(st.integers(1, group - 1)), group]
    else:
        question["sparsity"] = draw(st.integers(0, 99)) / 100
        kept = units * (1 - question["sparsity"])
        # TF-MOT rounds what it keeps, and keeps at least one.
        assume(kept > 0.51 and abs(kept % 1 - 0.5) > 1e-3)
    seed = draw(st.integers(0, 2**32 - 1))
    tensor = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    return tensor, question


def many_questions(number=120):
    found = []

    @settings(
        max_examples=number,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
        deadline=None,
    )
    @given(questions())
    def ask(question):
        found.append(question)

    ask()
    return found


@pytest.fixture(scope="module")
def asked(tmp_path_factory):
    """Questions, and the answers of one process with real TF-MOT."""
    if not TFMOT_PYTHON:
        pytest.skip("TFTICKET_TFMOT_PYTHON names no Python that has TF-MOT")
    folder = tmp_path_factory.mktemp("tfmot")
    found = many_questions()
    tensors = {str(i): tensor for i, (tensor, _) in enumerate(found)}
    wanted = json.dumps([question for _, question in found])
    np.savez(folder / "cases.npz", **tensors, settings=wanted)
    root = str(FIXTURES.parents[1])
    subprocess.run(
        [
            TFMOT_PYTHON,
            FIXTURES / "run_tfmot.py",
            folder / "cases.npz",
            folder / "answers.npz",
        ],
        check=True,
        env={**os.environ, "PYTHONPATH": root},
    )
    with np.load(folder / "answers.npz") as answers:
        return found, dict(answers)


def as_arguments(question):
    if question["m_by_n"]:
        return {"sparsity_m_by_n": tuple(question["m_by_n"])}
    return {
        "pruning_schedule": at_once(question["sparsity"]),
        "block_size": tuple(question["block"]),
        "block_pooling_type": question["pooling"],
    }


def test_masks_are_those_of_real_tfmot(asked):
    found, answers = asked
    masks = masks_of([(tensor, as_arguments(question)) for tensor, question in found])
    for i, (mask, (tensor, question)) in enumerate(zip(masks, found, strict=True)):
        np.testing.assert_array_equal(
            mask, answers[str(i)], err_msg=f"{tensor.shape} {question}"
        )


def test_policy_verdicts_are_those_of_real_tfmot(asked):
    assert policy_verdicts(keras, tfmot) == json.loads(str(asked[1]["verdicts"]))


# Of the recipe that trains less than the default schedule's first hundred steps.
@pytest.mark.filterwarnings("ignore:The schedule")
def test_the_guide_has_the_sparsities_of_real_tfmot(asked):
    assert guide(keras, tfmot) == json.loads(str(asked[1]["guide"]))


def test_a_missing_callback_is_refused_by_both(asked):
    assert json.loads(str(asked[1]["refused"]))
    assert is_refused_without_callback(keras, tfmot)


def test_a_live_model_of_composite_layers_is_converted(asked):
    answer = json.loads(str(asked[1]["converted"]))
    if "missing" in answer:
        pytest.skip(f"Python with TF-MOT: {answer['missing']}")
    assert answer["difference"] < 1e-5
    assert answer["same masks"]
    assert answer["masks"] == 10
