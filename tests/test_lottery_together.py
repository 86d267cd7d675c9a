"""Trainings in one program of JAX come to what they come to alone."""

import numpy as np
import pytest
from fixtures.backends import BACKEND

from tfticket import data, models
from tfticket.lottery import LotteryExperiment, Recipe
from tfticket.lottery.engine.together import Together, check
from tfticket.lottery.engine.trainer import Order, Trainer

RECIPE = Recipe(iterations=60, evaluate_every=20, width=0.2)
needs_jax = pytest.mark.skipif(BACKEND != "jax", reason="JAX has vmap")


@pytest.fixture(scope="module")
def trainer():
    def build(shape, classes):
        return models.build("lenet_300_100", shape, classes, 0.2)

    return Trainer(RECIPE, data.load("digits"), build)


def tickets(trainer, seeds):
    for seed in seeds:
        ticket = trainer.dense(trainer.initial_weights(seed))
        random = np.random.default_rng(seed)
        masks = {k: random.random(m.shape) < 0.5 for k, m in ticket.masks.items()}
        weights = {
            k: w * masks[k] if k in masks else w for k, w in ticket.weights.items()
        }
        yield type(ticket)(masks, weights)


@needs_jax
def test_they_train_as_alone(trainer):
    starts = list(tickets(trainer, range(3)))
    orders = [Order(10), Order(11), Order(12, first_step=7)]
    together = Together(trainer)
    found = together.train([(start, None) for start in starts], orders)
    assert len(found) == 3
    for start, order, mine in zip(starts, orders, found, strict=True):
        masks = trainer.next_masks(0, mine)
        alone = trainer.train_ticket(start, order)
        assert mine.metrics["iteration"] == alone.metrics["iteration"] == [20, 40, 60]
        assert mine.best == alone.best
        for name in ("loss", "accuracy", "val_loss", "val_accuracy"):
            np.testing.assert_allclose(
                mine.metrics[name], alone.metrics[name], rtol=1e-3, err_msg=name
            )
        for name, weight in alone.weights.items():
            np.testing.assert_allclose(mine.weights[name], weight, atol=1e-4)
            np.testing.assert_allclose(
                mine.best_weights[name], alone.best_weights[name], atol=1e-4
            )
        for name, mask in start.masks.items():
            np.testing.assert_array_equal(mine.masks[name], mask)
            assert not mine.weights[name][~mask].any()
        others = trainer.next_masks(0, alone)
        same = np.concatenate([np.ravel(masks[k] == others[k]) for k in masks])
        assert np.mean(same) >= 0.999
    assert together.compilations == 1


@needs_jax
def test_an_optimizer_and_batch_norm_go_on(trainer):
    recipe = Recipe(
        model="resnet_8", iterations=4, evaluate_every=2, width=0.2, optimizer="sgd"
    )
    trainer = Trainer(
        recipe,
        data.load("digits"),
        lambda shape, classes: models.build("resnet_8", shape, classes, 0.2),
    )
    start = trainer.dense(trainer.initial_weights(0))
    prefix = trainer.prefix(start, Order(3), 2)
    ticket = type(start)(start.masks, prefix["weights"])
    alone = trainer.train_ticket(ticket, Order(3, 2), prefix["optimizer"])
    (mine,) = Together(trainer).train([(ticket, prefix["optimizer"])], [Order(3, 2)])
    for name, weight in alone.weights.items():
        np.testing.assert_allclose(mine.weights[name], weight, atol=1e-3, err_msg=name)
    assert mine.optimizer.keys() == alone.optimizer.keys()
    for name, value in alone.optimizer.items():
        np.testing.assert_allclose(mine.optimizer[name], value, atol=1e-2, err_msg=name)


@needs_jax
def test_dropout_drops_what_it_drops_alone():
    def build(shape, classes):
        return models.build("lenet_300_100", shape, classes, 0.2, dropout=0.5)

    trainer = Trainer(RECIPE, data.load("digits"), build)
    starts = list(tickets(trainer, range(2)))
    orders = [Order(10), Order(11)]
    found = Together(trainer).train([(start, None) for start in starts], orders)
    for start, order, mine in zip(starts, orders, found, strict=True):
        alone = trainer.train_ticket(start, order)
        for name, weight in alone.weights.items():
            np.testing.assert_allclose(mine.weights[name], weight, atol=1e-4)


def test_what_cannot_be_trained_together_is_refused(monkeypatch):
    if BACKEND != "jax":
        with pytest.raises(ValueError, match=r"need Keras on JAX.*KERAS_BACKEND=jax"):
            check(RECIPE)
        monkeypatch.setattr("keras.backend.backend", lambda: "jax")
    check(RECIPE)
    with pytest.raises(ValueError, match="runner='vmap', strategy='data_parallel'"):
        check(RECIPE, "data_parallel")
    with pytest.raises(ValueError, match="runner='vmap' with callbacks"):
        check(RECIPE, callbacks=[None])
    with pytest.raises(ValueError, match="augment=True"):
        check(Recipe(augment=True))
    with pytest.raises(ValueError, match="'change' follows the change of every step"):
        check(Recipe(criterion="change"))


@needs_jax
def test_an_experiment_in_one_program(tmp_path):
    recipe = Recipe(iterations=40, evaluate_every=20, rewind_to=20)
    experiment = LotteryExperiment(
        *(recipe, 2, 2, 0, ["reinit", "late_rewind:10", "set", "stability"], [1]),
        attacks=["fgsm:0.1"],
    )
    alone = experiment.run(tmp_path / "alone")
    told = []
    found = experiment.run(
        tmp_path / "vmap", runner="vmap", on_part=lambda result, *_: told.append(result)
    )
    assert len(told) == len(found) == len(alone)
    for one, other in zip(alone, found, strict=True):
        assert (one.part, one.first_iteration) == (other.part, other.first_iteration)
        assert one.parameters == other.parameters
        assert abs(one.test["accuracy"] - other.test["accuracy"]) < 0.02
        assert one.attacks.keys() == other.attacks.keys()
    again = experiment.run(tmp_path / "vmap", runner="vmap")
    assert again == found
