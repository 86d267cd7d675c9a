"""The papers' protocols: one clock, L2, Keras's optimizers, what stays dense."""

import dataclasses
import json
import re
import shutil
import sys
import threading
import types

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND

import tfticket
from tfticket import data, lottery
from tfticket.lottery import optimizers
from tfticket.lottery.engine.run_folder import TRAINED, LotteryFolder
from tfticket.lottery.engine.trainer import Order, Trainer

pytestmark = pytest.mark.usefixtures("without_xla")
schedules = keras.optimizers.schedules
same_bits = pytest.mark.skipif(
    BACKEND == "torch", reason="a training again is not the same bits on PyTorch"
)


def network(image_shape, classes):
    """Without dropout, so that a training can go on bit for bit."""
    return keras.Sequential(
        [
            keras.Input(image_shape),
            keras.layers.Flatten(),
            keras.layers.Dense(12, use_bias=False, name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.ReLU(),
            keras.layers.Dense(classes, name="out"),
        ]
    )


def experiment(rounds=1, branches=(), **recipe):
    # Nothing is pruned at this rate, so that a ticket is the dense network.
    settings = {"iterations": 40, "evaluate_every": 10, "rate": 1e-6, **recipe}
    return lottery.LotteryExperiment(
        lottery.Recipe(**settings), rounds=rounds, branches=branches, build=network
    )


class Steps(keras.callbacks.Callback):
    """Counts the steps of a training."""

    def __init__(self):
        super().__init__()
        self.count = 0

    def on_train_batch_end(self, batch, logs=None):
        self.count += 1


SGD = {"optimizer": "sgd", "drops": [25], "warmup": 5, "l2": 1e-3}
BRANCHES = ["late_rewind:13", "late_rewind:0", "stability"]


@pytest.fixture(scope="module")
def rewound(tmp_path_factory):
    """Experiments rewound between two evaluations, by clock."""
    found = {}
    for clock in ("continue", "restart"):
        asked = experiment(branches=BRANCHES, rewind_to=13, rewind_clock=clock, **SGD)
        runs, steps = tmp_path_factory.mktemp(clock), {}

        def count(part, steps=steps):
            return [steps.setdefault(part, Steps())]

        results = asked.run(runs, callbacks=count)
        found[clock] = (
            runs / asked.name,
            {result.part: result for result in results},
            {part: counter.count for part, counter in steps.items()},
        )
    return found


def part(branch="ticket", number=1):
    return lottery.Part(0, branch, 0, number)


DENSE = part(number=0)


class TestOneClock:
    @same_bits
    @pytest.mark.parametrize("branch", ["ticket", "late_rewind:13"])
    def test_a_ticket_of_all_weights_goes_on_as_the_dense_training_did(
        self, rewound, branch
    ):
        """Schedule, momentum, statistics and the order of the data go on."""
        folder = rewound["continue"][0]
        dense = LotteryFolder(folder).ticket(DENSE, TRAINED)
        again = LotteryFolder(folder).ticket(part(branch), TRAINED)
        assert again.weights.keys() == dense.weights.keys()
        for name, value in again.weights.items():
            np.testing.assert_array_equal(value, dense.weights[name])
        whole = lottery.read_metrics(folder, DENSE)
        rest = lottery.read_metrics(folder, part(branch))
        assert rest["iteration"] == [20, 30, 40]
        assert rest["val_loss"] == whole["val_loss"][1:]
        # The first of these is over a shorter epoch.
        assert rest["loss"][1:] == whole["loss"][2:]

    @pytest.mark.parametrize("branch", ["ticket", "late_rewind:13", "stability"])
    def test_it_trains_what_is_left(self, rewound, branch):
        _, results, steps = rewound["continue"]
        result = results[part(branch)]
        assert (steps[DENSE], steps[part(branch)]) == (40, 27)
        assert (result.first_iteration, result.rewound_to) == (13, 13)
        assert result.iterations == 40
        assert result.early_stop_iteration in (20, 30, 40)

    @pytest.mark.parametrize("branch", ["ticket", "late_rewind:13", "stability"])
    def test_or_all_of_it_with_a_clock_that_restarts(self, rewound, branch):
        folder, results, steps = rewound["restart"]
        result = results[part(branch)]
        assert (steps[DENSE], steps[part(branch)]) == (40, 40)
        assert (result.first_iteration, result.rewound_to) == (0, 13)
        metrics = lottery.read_metrics(folder, part(branch))
        assert metrics["iteration"] == [10, 20, 30, 40]

    @pytest.mark.parametrize("clock", ["continue", "restart"])
    def test_the_ticket_of_an_experiment_that_rewinds_late_from_0(self, rewound, clock):
        folder, results, steps = rewound[clock]
        start = LotteryFolder(folder).ticket(part("late_rewind:0"))
        first = LotteryFolder(folder).ticket(DENSE)
        ticket = LotteryFolder(folder).ticket(part())
        for name, mask in ticket.masks.items():
            np.testing.assert_array_equal(start.masks[name], mask)
            np.testing.assert_array_equal(
                start.weights[name], np.where(mask, first.weights[name], 0)
            )
        result = results[part("late_rewind:0")]
        assert steps[part("late_rewind:0")] == result.iterations == 40
        assert (result.first_iteration, result.rewound_to) == (0, 0)

    def test_another_order_of_the_data_begins_where_the_ticket_does(self, rewound):
        folder = LotteryFolder(rewound["continue"][0])
        starts = [folder.ticket(part(b)).weights for b in ("ticket", "stability")]
        ends = [
            folder.ticket(part(b), TRAINED).weights for b in ("ticket", "stability")
        ]
        for name, value in starts[0].items():
            np.testing.assert_array_equal(value, starts[1][name])
        assert (ends[0]["hidden/kernel"] != ends[1]["hidden/kernel"]).any()

    def test_tables_have_all_trainings_on_the_dense_ones_clock(self, rewound):
        for clock, last in (("continue", 40), ("restart", 53)):
            results = list(rewound[clock][1].values())
            for row in lottery.figures.trainings.trainings(results):
                begins_at_0 = row["branch"] == "late_rewind:0" or (
                    row["branch"] == "ticket" and row["round"] == 0
                )
                if row["moment"] == "end of training":
                    assert row["iteration"] == (40 if begins_at_0 else last)
                else:
                    own = rewound[clock][1][part(row["branch"], row["round"])]
                    offset = 0 if begins_at_0 or clock == "continue" else 13
                    assert row["iteration"] == own.early_stop_iteration + offset

    @same_bits
    def test_cut_off_between_evaluations_it_resumes_bit_for_bit(
        self, rewound, tmp_path
    ):
        folder, _, _ = rewound["continue"]
        asked = experiment(rewind_to=13, **SGD)

        def stop(of, done, _):
            if of == part() and done == 30:  # it is kept after it is told
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            asked.run(tmp_path, checkpoint_seconds=0, on_evaluation=stop)
        again = tmp_path / asked.name / part().path
        assert (again / "checkpoint.npz").exists()
        counter = Steps()
        asked.run(tmp_path, callbacks=[counter])
        assert counter.count == 20
        for name in ("ticket.npz", TRAINED, "metrics.csv"):
            whole = (folder / part().path / name).read_bytes()
            assert (again / name).read_bytes() == whole

    @pytest.mark.parametrize("rewind_to", [10, 39])
    def test_the_grid_of_evaluations_stays(self, rewind_to, tmp_path):
        asked = experiment(rewind_to=rewind_to)
        asked.run(tmp_path)
        metrics = lottery.read_metrics(tmp_path / asked.name, part())
        assert metrics["iteration"] == [n for n in (20, 30, 40) if n > rewind_to]

    def test_find_has_it_too(self, tmp_path):
        asked = lottery.Experiment(
            *("digits",), iterations=20, evaluate_every=10, rewind_to=4, rounds=1
        )
        found = lottery.find_ticket(asked, tmp_path)
        assert [record.iteration for record in found.records] == [20, 20]
        metrics = lottery.read_metrics(tmp_path, part())
        assert metrics["iteration"] == [10, 20]


# What a recipe had at first: runs of then tell nothing else.
_FIRST = (
    *("dataset", "model", "width", "optimizer", "learning_rate", "weight_decay"),
    *("warmup", "drops", "batch_size", "iterations", "evaluate_every", "augment"),
    *("rate", "output_rate", "conv_rate", "scope", "criterion", "rewind_to"),
    "retrain_factor",
)


class TestRunsOfOlderVersions:
    def test_names_change_where_the_meaning_did(self):
        def name(**recipe):
            return experiment(**recipe).name

        assert lottery.LotteryExperiment().name == "digits-lenet_300_100-44136fa355"
        rewound = lottery.Recipe(rewind_to=500)
        assert rewound.differences() == {"rewind_to": 500, "rewind_clock": "continue"}
        # As before there were two: the folder of such a run is read.
        restarted = dataclasses.replace(rewound, rewind_clock="restart")
        assert restarted.differences() == {"rewind_to": 500}
        # Late rewinding may come as a control.
        assert lottery.Recipe(rewind_clock="restart").differences() == {
            "rewind_clock": "restart"
        }
        for none in (0, None):
            recipe = lottery.Recipe(rewind_to=none)
            assert "rewind_clock" not in recipe.differences()

    def as_older(self, folder):
        """Takes out of a run what versions of before did not write."""
        for path in folder.rglob("result.json"):
            held = json.loads(path.read_text())
            for name in ("first_iteration", "rewound_to"):
                del held["result"][name]
            del held["sha256"]
            tfticket.common.checksums.write_checked(path, held)
        config = folder / "config.json"
        held = json.loads(config.read_text())
        for field in dataclasses.fields(lottery.Recipe):
            if field.name not in _FIRST:
                held.get("recipe", held).pop(field.name, None)
        del held["sha256"]
        tfticket.common.checksums.write_checked(config, held)

    def test_a_run_that_was_rewound_is_read_with_its_own_clock(self, rewound, tmp_path):
        folder = rewound["restart"][0]
        shutil.copytree(folder, tmp_path / folder.name)
        self.as_older(tmp_path / folder.name)
        fresh = []
        asked = experiment(
            branches=BRANCHES, rewind_to=13, rewind_clock="restart", **SGD
        )
        results = asked.run(tmp_path, on_part=lambda *told: fresh.append(told[-1]))
        assert fresh == [False] * 5
        rows = lottery.figures.trainings.trainings(results, rewound_to=13)
        ends = {
            (r["branch"], r["round"]): r["iteration"]
            for r in rows
            if r["moment"] == "end of training"
        }
        assert ends.pop(("ticket", 0)) == 40
        assert ends.pop(("late_rewind:0", 1)) == 40
        assert set(ends.values()) == {53}

    def test_late_rewinding_of_before_is_named_and_left_alone(self, tmp_path):
        asked = experiment(branches=["late_rewind:20"])
        asked.run(tmp_path)
        folder = tmp_path / asked.name
        self.as_older(folder)
        before = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        more = dataclasses.replace(asked, rounds=2, branch_rounds=[1, 2])
        with pytest.raises(FileExistsError, match="round_01' is of an older version"):
            more.run(tmp_path)
        after = {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert after == before
        # What has no other clock is read.
        fresh = []
        experiment().run(tmp_path, on_part=lambda *told: fresh.append(told[-1]))
        assert fresh == [False, False]
        shutil.move(folder / "seed_0" / "late_rewind_20", tmp_path / "aside")
        asked.run(tmp_path, on_part=lambda *told: fresh.append(told[-1]))
        assert fresh == [False, False, False, False, True]

    def test_a_run_without_an_identity_is_left_alone(self, tmp_path):
        asked = experiment()
        folder = tmp_path / asked.name
        folder.mkdir()
        flat = {**dataclasses.asdict(asked.recipe), "versions": {"tfticket": "0.0.9"}}
        (folder / "config.json").write_text(json.dumps(flat))
        with pytest.raises(
            FileExistsError, match=r"another run: \['identity'\] differ"
        ):
            asked.run(tmp_path)
        assert [path.name for path in folder.iterdir()] == ["config.json"]

    def test_find_reads_what_is_the_same_and_nothing_else(self, tmp_path):
        asked = lottery.Experiment(iterations=20, rounds=1)
        lottery.find_ticket(asked, tmp_path)
        self.as_older(tmp_path)
        fresh = []

        def again(**changes):
            fresh.clear()
            return lottery.find_ticket(
                dataclasses.replace(asked, **changes),
                tmp_path,
                on_part=lambda *told: fresh.append(told[-1]),
            )

        again()
        assert fresh == [False, False]
        for changes in ({"l2": 1e-4}, {"exclude": ["fc1"]}, {"optimizer": "sgd"}):
            with pytest.raises(FileExistsError, match="holds another run"):
                again(**changes)

    def test_find_knows_the_clock_of_before(self, tmp_path):
        asked = lottery.Experiment(
            iterations=20, rounds=1, rewind_to=4, rewind_clock="restart"
        )
        lottery.find_ticket(asked, tmp_path)
        self.as_older(tmp_path)
        with pytest.raises(FileExistsError, match=r"\['rewind_clock'\] differ"):
            lottery.find_ticket(
                dataclasses.replace(asked, rewind_clock="continue"), tmp_path
            )
        fresh = []
        lottery.find_ticket(
            asked, tmp_path, on_part=lambda *told: fresh.append(told[-1])
        )
        assert fresh == [False, False]


def least_squares(x, y, kernel, bias):
    """The gradients of the mean squared error."""
    error = x @ kernel + bias - y
    return [2 * x.T @ error / error.size, 2 * error.sum(0) / error.size]


def sgd_by_hand(x, y, start, steps, momentum, l2=0.0, decoupled=0.0, nesterov=False):
    """By PyTorch's formulas, in float64, at a rate of 0.1."""
    values, speeds = [value.astype(float) for value in start], [0.0, 0.0]
    for _ in range(steps):
        for i, gradient in enumerate(least_squares(x, y, *values)):
            decay = values[i] * 0.1 * decoupled
            gradient = gradient + l2 * (values[i] - decay)
            speeds[i] = momentum * speeds[i] + gradient
            step = gradient + momentum * speeds[i] if nesterov else speeds[i]
            values[i] = values[i] - decay - 0.1 * step
    return values


class TestL2:
    STEPS = 100

    def trained(self, recipe, x, y):
        """Kernel and bias before and after steps of the recipe's optimizer."""
        start = [np.ones((x.shape[1], 2)), np.full(2, 0.5)]
        variables = [keras.Variable(value, dtype="float32") for value in start]
        optimizer = recipe.optimizer_for()
        optimizer.build(variables)
        for _ in range(self.STEPS):
            values = [keras.ops.convert_to_numpy(v) for v in variables]
            gradients = [
                keras.ops.convert_to_tensor(g, "float32")
                for g in least_squares(x, y, *values)
            ]
            optimizer.apply(gradients, variables)
        return start, [keras.ops.convert_to_numpy(v) for v in variables]

    @pytest.mark.parametrize(
        "settings",
        [
            {"l2": 0.01},
            {"weight_decay": 0.01},
            {"l2": 0.01, "nesterov": True},
            {"l2": 0.01, "momentum": 0.5},
        ],
    )
    def test_a_hundred_steps_of_sgd_by_hand(self, settings):
        random = np.random.default_rng(0)
        x, y = random.normal(size=(20, 3)), random.normal(size=(20, 2))
        recipe = lottery.Recipe(optimizer="sgd", **settings)
        start, after = self.trained(recipe, x, y)
        by_hand = sgd_by_hand(
            *(x, y, start, self.STEPS),
            momentum=settings.get("momentum", 0.9),
            l2=settings.get("l2", 0.0),
            decoupled=settings.get("weight_decay", 0.0),
            nesterov=settings.get("nesterov", False),
        )
        for value, wanted in zip(after, by_hand, strict=True):
            np.testing.assert_allclose(value, wanted, rtol=1e-4, atol=1e-5)

    def test_the_two_kinds_of_decay_come_to_different_weights(self):
        """Without a gradient of the loss: what 0.01 does to a weight of 1."""
        x, y = np.zeros((4, 3)), np.full((4, 2), 0.5)
        left = {}
        for kind in ("l2", "weight_decay"):
            recipe = lottery.Recipe(optimizer="sgd", **{kind: 0.01})
            left[kind] = float(self.trained(recipe, x, y)[1][0][0, 0])
        assert left == pytest.approx({"l2": 0.369, "weight_decay": 0.905}, abs=0.003)

    def test_adam_adapts_to_it_and_biases_have_it_too(self):
        recipe = lottery.Recipe(l2=0.1, learning_rate=0.005)
        x, y = np.zeros((4, 3)), np.zeros((4, 2))
        _, (kernel, bias) = self.trained(recipe, x, y)
        # Adam's step is about its rate, however small the gradient: 100 of them.
        assert kernel[0, 0] == pytest.approx(0.5, abs=0.1)
        no_l2 = self.trained(dataclasses.replace(recipe, l2=0.0), x, y)[1]
        assert no_l2[0][0, 0] == 1
        assert bias[0] < no_l2[1][0]

    def test_it_is_in_the_steps_of_fit_and_not_in_the_losses_told(self):
        random = np.random.default_rng(0)
        x, y = random.normal(size=(20, 3)), random.normal(size=(20, 2))
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        start = [np.array(weight) for weight in model.weights]
        recipe = lottery.Recipe(optimizer="sgd", l2=0.5, rewind_to=0)
        model.compile(recipe.optimizer_for(), "mse")
        told = model.fit(x, y, batch_size=20, epochs=3, verbose=0, shuffle=False)
        after = sgd_by_hand(x, y, start, 3, momentum=0.9, l2=0.5)
        for weight, wanted in zip(model.weights, after, strict=True):
            np.testing.assert_allclose(np.array(weight), wanted, rtol=1e-4, atol=1e-5)
        loss = np.mean((x @ start[0] + start[1] - y) ** 2)
        assert told.history["loss"][0] == pytest.approx(loss, rel=1e-5)

    def test_pruned_weights_stay_zero_and_others_shrink(self):
        digits = data.load("digits")
        ends = {}
        for l2 in (0.0, 0.1):
            recipe = lottery.Recipe(
                iterations=20, evaluate_every=10, l2=l2, optimizer="sgd"
            )
            trainer = Trainer(recipe, digits, network)
            dense = trainer.dense(trainer.initial_weights(0))
            masks = {k: np.arange(m.size) % 2 == 0 for k, m in dense.masks.items()}
            masks = {k: m.reshape(dense.masks[k].shape) for k, m in masks.items()}
            ticket = tfticket.Ticket(
                masks, tfticket.tickets.ticket.zero_masked(dense.weights, masks)
            )
            ends[l2] = trainer.train_ticket(ticket, Order(0)).weights
            for name, mask in masks.items():
                assert (ends[l2][name][~mask] == 0).all()
        assert (
            np.abs(ends[0.1]["hidden/kernel"]).mean()
            < 0.8 * np.abs(ends[0.0]["hidden/kernel"]).mean()
        )


def cosine_sgd(**changes):
    rate = schedules.CosineDecay(0.0, 90, warmup_target=0.2, warmup_steps=10)
    settings = {"momentum": 0.8, "nesterov": True, **changes}
    return keras.optimizers.SGD(rate, **settings)


class TestOptimizers:
    def test_one_of_keras_is_kept_as_text_and_made_again(self):
        recipe = lottery.Recipe(optimizer=cosine_sgd())
        assert recipe == lottery.Recipe(optimizer=cosine_sgd())
        assert hash(recipe) == hash(lottery.Recipe(optimizer=cosine_sgd()))
        assert recipe != lottery.Recipe(optimizer=cosine_sgd(momentum=0.7))
        assert json.loads(json.dumps(recipe.differences())) == recipe.differences()
        assert dataclasses.replace(recipe, rate=0.3).optimizer == recipe.optimizer
        assert lottery.Recipe(**dataclasses.asdict(recipe)) == recipe
        made = recipe.optimizer_for()
        wanted = {**cosine_sgd().get_config(), "name": made.name}
        assert made.get_config() == wanted
        assert made is not recipe.optimizer_for()
        names = {
            lottery.LotteryExperiment(lottery.Recipe(optimizer=optimizer)).name
            for optimizer in (cosine_sgd(), cosine_sgd(momentum=0.7), "sgd", "adam")
        }
        assert len(names) == 4

    def test_what_keras_has_by_default_is_not_in_the_text(self):
        held = json.loads(optimizers.as_text(keras.optimizers.Adam(0.5, name="mine")))
        assert held["config"] == {"learning_rate": 0.5}

    def test_a_factor_scales_numbers_and_schedules(self):
        def rates(optimizer):
            recipe = lottery.Recipe(optimizer=optimizer, retrain_factor=0.1)
            return [recipe.optimizer_for(f).get_config() for f in (1.0, 0.1)]

        one, tenth = rates(keras.optimizers.SGD(0.5))
        assert tenth["learning_rate"] == pytest.approx(0.1 * one["learning_rate"])
        made = lottery.Recipe(optimizer=cosine_sgd()).optimizer_for(0.1)
        known = cosine_sgd().get_config()["learning_rate"]
        schedule = keras.saving.deserialize_keras_object(known)
        for step in (0, 5, 10, 50, 99):
            made.build([keras.Variable([1.0])]) if not made.built else None
            made.iterations.assign(step)
            assert float(made.learning_rate) == pytest.approx(
                0.1 * float(schedule(step)), abs=1e-7
            )

    def test_it_trains_as_the_object_does(self):
        digits = data.load("digits")
        recipe = lottery.Recipe(
            iterations=20, evaluate_every=20, optimizer=cosine_sgd()
        )
        trainer = Trainer(recipe, digits, network)
        start = trainer.dense(trainer.initial_weights(0))
        trained = trainer.train_ticket(start, Order(3)).weights
        model = network(digits.image_shape, digits.classes)
        for weight, value in zip(
            model.weights, (start.weights[n] for n in start.weights), strict=True
        ):
            weight.assign(value)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile(cosine_sgd(), loss, jit_compile=False)
        batches = digits.training_pipeline(recipe.batch_size, 3)
        model.fit(batches, steps_per_epoch=20, shuffle=False, verbose=0)
        for weight, name in zip(model.weights, trained, strict=True):
            np.testing.assert_allclose(np.array(weight), trained[name], atol=1e-5)

    def test_own_cosine_is_kerass(self):
        recipe = lottery.Recipe(
            *("digits",),
            **{"optimizer": "sgd", "learning_rate": 0.2, "schedule": "cosine"},
            **{"warmup": 10, "iterations": 100, "momentum": 0.8, "nesterov": True},
        )
        made = {**recipe.optimizer_for().get_config(), "name": ""}
        assert made == {**cosine_sgd().get_config(), "name": ""}
        plain = dataclasses.replace(recipe, warmup=0).optimizer_for().get_config()
        schedule = keras.saving.deserialize_keras_object(plain["learning_rate"])
        wanted = [0.1 * (1 + np.cos(np.pi * step / 100)) for step in (0, 30, 100)]
        assert [float(schedule(s)) for s in (0, 30, 100)] == pytest.approx(
            wanted, abs=1e-6
        )

    @pytest.mark.parametrize(
        ("settings", "last"),
        [
            ({"optimizer": keras.optimizers.SGD(0.5)}, 0.05),
            ({"optimizer": cosine_sgd(), "iterations": 50}, None),
            ({"optimizer": cosine_sgd(), "iterations": 100}, 0.02),
            ({"optimizer": "sgd", "schedule": "cosine"}, 0.01),
            ({"optimizer": "sgd", "drops": [10, 20]}, 0.001),
            ({"optimizer": "sgd"}, 0.01),
        ],
    )
    def test_fine_tuning_goes_on_at_the_last_rate(self, settings, last):
        recipe = lottery.Branch("fine_tune").recipe(lottery.Recipe(**settings))
        if last is None:  # the cosine is 40 steps of 90 down by then
            last = 0.1 * (1 + np.cos(np.pi * 39 / 90))
        rate = recipe.optimizer_for().get_config()["learning_rate"]
        assert rate == pytest.approx(last, rel=1e-4)

    def test_what_its_configuration_does_not_tell_is_refused(self):
        decays = keras.optimizers.AdamW()
        decays.exclude_from_weight_decay(var_names=["bias"])

        class Own(keras.optimizers.SGD):
            def get_config(self):
                return {**super().get_config(), "more": object()}

        scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD())
        for optimizer, says in (
            (decays, "exclude_from_weight_decay"),
            (scaled, "wraps another optimizer"),
            (Own(), "JSON-ready"),
            (keras.optimizers.SGD(lambda: 0.1), "a number or a schedule"),
        ):
            with pytest.raises(ValueError, match=says):
                lottery.Recipe(optimizer=optimizer)

    def test_averages_and_rewinding_do_not_go_together(self):
        averaged = keras.optimizers.SGD(0.1, use_ema=True)
        recipe = lottery.Recipe(optimizer=averaged)
        with pytest.raises(ValueError, match="use_ema"):
            lottery.Recipe(optimizer=averaged, rewind_to=5)
        with pytest.raises(ValueError, match="use_ema"):
            lottery.LotteryExperiment(recipe, branches=["late_rewind:5"])

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"optimizer": "sdg"}, r"optimizer must be"),
            ({"optimizer": '{"class_name": "SGD"}'}, "optimizer must be"),
            ({"momentum": 0.5}, "momentum is for optimizer='sgd'"),
            ({"nesterov": True}, "nesterov is for optimizer='sgd'"),
            ({"optimizer": "sgd", "momentum": 1.0}, "below 1"),
            ({"optimizer": "sgd", "momentum": 0, "nesterov": True}, "above 0"),
            ({"schedule": "cosine", "drops": [5]}, "drops are of"),
            (
                {"schedule": "cosine", "warmup": 100, "iterations": 100},
                "leaves nothing",
            ),
            ({"schedule": "linear"}, "schedule must be one of"),
            ({"l2": -1.0}, "l2 must be at least 0"),
            ({"rewind_clock": "stop"}, "rewind_clock must be one of"),
            *(
                ({"optimizer": keras.optimizers.SGD(0.1), name: value}, f"{name} is a")
                for name, value in (
                    *(("learning_rate", 0.1), ("weight_decay", 0.1), ("warmup", 5)),
                    *(("drops", [5]), ("momentum", 0.5), ("schedule", "cosine")),
                )
            ),
        ],
    )
    def test_contradictions(self, settings, message):
        with pytest.raises(ValueError, match=message):
            lottery.Recipe(**settings)

    def test_find_refuses_a_cosine_that_ends_with_the_first_round(self):
        with pytest.raises(ValueError, match="ends with the first round"):
            lottery.Experiment(schedule="cosine", rewind_to=None)
        lottery.Experiment(schedule="cosine", rewind_to=None or 0)


def masks_after(name="conv_2", trained=None, rounds=1, **recipe):
    """Kept fractions by layer after a round, of an untrained network."""
    recipe = lottery.Recipe(model=name, width=0.1, **recipe)
    trainer = Trainer(
        recipe,
        data.load("digits"),
        lambda shape, classes: tfticket.models.build(name, shape, classes, 0.1),
    )
    trainer.check_rounds(rounds)
    found = trainer.next_masks(0, _UNTRAINED)
    return {k.split("/")[0]: m for k, m in found.items()}, trainer


_UNTRAINED = types.SimpleNamespace(evidence={})


class TestWhatStaysDense:
    def test_rates_of_zero_under_one_cut(self):
        masks, trainer = masks_after(scope="global", rate=0.5, output_rate=0)
        assert masks["fc3"].all()
        others = [k for k in masks if k != "fc3"]
        weights = {k: np.abs(trainer.weights[f"{k}/kernel"]) for k in others}
        values = np.sort(np.concatenate([w.ravel() for w in weights.values()]))
        threshold = values[round(0.5 * values.size)]
        for name in others:
            np.testing.assert_array_equal(masks[name], weights[name] >= threshold)

    def test_convolutions_too(self):
        masks, _ = masks_after(scope="global", rate=0.5, conv_rate=0)
        assert masks["conv1_1"].all()
        assert masks["conv1_2"].all()
        sizes = [masks[k].size for k in ("fc1", "fc2", "fc3")]
        kept = [int(masks[k].sum()) for k in ("fc1", "fc2", "fc3")]
        assert sum(kept) == sum(sizes) - round(0.5 * sum(sizes))

    def test_layer_by_layer(self):
        rates = {"fc1": 0.25, re.compile("^conv1_2"): 0.0}
        masks, _ = masks_after(rate=0.5, output_rate=0.0, rates=rates)
        kept = {name: mask.mean() for name, mask in masks.items()}
        wanted = {"conv1_1": 0.5, "conv1_2": 1, "fc1": 0.75, "fc2": 0.5, "fc3": 1}
        assert kept == pytest.approx(wanted, abs=0.03)

    def test_excluded_layers_have_no_mask(self):
        exclude = ["fc3", re.compile("conv1_1"), keras.layers.Flatten]
        with pytest.raises(ValueError, match="exclude"):
            masks_after(exclude=["fc9"])
        masks, _ = masks_after(exclude=exclude[:2], rate=0.5)
        assert set(masks) == {"conv1_2", "fc1", "fc2"}
        masks, _ = masks_after(exclude=[keras.layers.Conv2D])
        assert set(masks) == {"fc1", "fc2", "fc3"}

    def test_patterns_are_kept_as_texts(self):
        recipe = lottery.Recipe(
            exclude=["fc1", re.compile("^CONV", re.I), keras.layers.Conv2D],
            rates={"fc2": 0.1},
        )
        assert recipe.exclude == ("fc1", "re:(?i)^CONV", "class:Conv2D")
        assert recipe.rates == (("fc2", 0.1),)
        path, regex, kind = recipe.excluded
        assert (path, kind) == ("fc1", keras.layers.Conv2D)
        assert regex.search("conv1")
        again = lottery.Recipe(**json.loads(json.dumps(recipe.differences())))
        assert again == recipe
        assert hash(again) == hash(recipe)

    def test_densities_count_what_has_a_mask(self, tmp_path):
        asked = experiment(rate=0.5, exclude=["out"])
        _, pruned = asked.run(tmp_path)
        assert pruned.layers == {"hidden/kernel": [384, 768]}
        assert pruned.density == 0.5

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"scope": "global", "output_rate": 0.1}, "output_rate must be 0 with"),
            ({"scope": "global", "rates": {"fc1": 0.1}}, r"rates\['fc1'\] must be 0"),
            ({"scope": "sensitivity", "conv_rate": 0}, "no meaning with"),
            ({"rates": {"fc1": 1.0}}, "below 1"),
            ({"exclude": ["re:("]}, "regular expression"),
            ({"exclude": ["class:Own"]}, "keras.layers"),
        ],
    )
    def test_what_has_no_meaning(self, settings, message):
        with pytest.raises(ValueError, match=message):
            lottery.Recipe(**settings)

    @pytest.mark.parametrize("patterns", ["fc1", [1], {"fc1": 0.1}])
    def test_other_than_patterns(self, patterns):
        with pytest.raises(TypeError, match="exclude must be a list of paths"):
            lottery.Recipe(exclude=patterns)

    def test_nothing_left_to_prune(self):
        with pytest.raises(ValueError, match="Every layer is left dense"):
            masks_after(rates={re.compile("."): 0.0}, rounds=1)


class TestPresets:
    def test_the_papers_resnet_loses_convolutions_alone(self):
        """Shortcuts and the output layer are dense, and count as kept."""
        recipe = lottery.Recipe.preset("resnet_20")
        random = np.random.default_rng(0)
        part = random.normal(size=(128, 32, 32, 3)).astype("float32"), np.arange(128)
        images = data.Dataset(
            "noise", *(part,) * 3, classes=10, mean=np.zeros(3), std=np.ones(3)
        )
        trainer = Trainer(
            recipe, images, lambda *shape: tfticket.models.build("resnet_20", *shape)
        )
        trainer.check_rounds(16)
        masks = trainer.next_masks(0, _UNTRAINED)
        dense = {k for k in masks if "_shortcut" in k or k.startswith("fc")}
        assert all(masks[name].all() for name in dense)
        assert sum(masks[name].size for name in dense) == 2_560 + 640
        kept = sum(int(mask.sum()) for mask in masks.values())
        size = sum(mask.size for mask in masks.values())
        assert (kept, size) == (3_200 + 267_696 - round(0.2 * 267_696), 270_896)

    @pytest.mark.parametrize("name", lottery.PRESETS)
    def test_each_is_a_recipe_that_can_be_changed(self, name):
        recipe = lottery.Recipe.preset(name)
        experiment = lottery.LotteryExperiment.preset(name, replicates=2)
        assert experiment.recipe == recipe
        assert experiment.rounds == lottery.PRESETS[name]["rounds"]
        longer = dataclasses.replace(recipe, iterations=2 * recipe.iterations)
        assert longer.l2 == recipe.l2 == lottery.PRESETS[name].get("l2", 0.0)
        assert lottery.Experiment.preset(name).rewind_to == recipe.rewind_to

    def test_of_another_name(self):
        for preset in (lottery.Recipe.preset, lottery.LotteryExperiment.preset):
            with pytest.raises(ValueError, match=r"name must be one of.*lenet_mnist"):
                preset("lenet")

    def test_lenet_is_the_run_that_pages_are_of(self):
        named = lottery.LotteryExperiment.preset("lenet_mnist").name
        mnist = lottery.Recipe(dataset="mnist", iterations=50_000)
        assert named == lottery.LotteryExperiment(mnist).name


class TestCallbacks:
    @same_bits
    def test_every_training_has_them_and_results_are_the_same(self, tmp_path):
        asked = experiment()
        seen = []

        class Watch(keras.callbacks.Callback):
            def __init__(self, part):
                super().__init__()
                self.part = part

            def on_epoch_end(self, epoch, logs=None):
                seen.append((self.part.round, epoch, sorted(logs)))

        asked.run(tmp_path / "watched", callbacks=lambda part: [Watch(part)])
        asked.run(tmp_path / "alone")
        logs = ["accuracy", "loss", "val_accuracy", "val_loss"]
        assert seen == [(r, epoch, logs) for r in (0, 1) for epoch in range(4)]
        for name in ("ticket.npz", TRAINED, "metrics.csv"):
            pair = [
                (tmp_path / where / asked.name / part().path / name).read_bytes()
                for where in ("watched", "alone")
            ]
            assert pair[0] == pair[1]
        # Nothing is missing, and nothing is called.
        asked.run(tmp_path / "watched", callbacks=lambda part: [Watch(part)])
        assert len(seen) == 8

    @pytest.mark.parametrize(
        ("callbacks", "message"),
        [
            (keras.callbacks.Callback(), "must be a list of keras.callbacks"),
            ([print], "must be a list of keras.callbacks"),
            (lambda part, more: [], r"called with \(part\)"),
        ],
    )
    def test_others_are_refused_before_any_training(self, callbacks, message, tmp_path):
        with pytest.raises(TypeError, match=message):
            experiment().run(tmp_path, callbacks=callbacks)
        assert not list(tmp_path.iterdir())

    def test_a_function_that_returns_none_is_named(self, tmp_path):
        with pytest.raises(TypeError, match="callbacks must be a list"):
            experiment().run(tmp_path, callbacks=lambda part: None)

    def test_another_process_gets_a_copy_or_they_are_refused(
        self, tmp_path, monkeypatch
    ):
        cloudpickle = pytest.importorskip("cloudpickle")
        monkeypatch.setitem(sys.modules, "ray.cloudpickle", cloudpickle)
        held = keras.callbacks.LambdaCallback()
        held.lock = threading.Lock()
        with pytest.raises(TypeError, match="runner='ray' needs"):
            experiment().run(tmp_path, runner="ray", callbacks=[held])
        assert not list(tmp_path.iterdir())
        monkeypatch.setitem(sys.modules, "ray", None)
        with pytest.raises(ImportError):  # the copy was made
            experiment().run(tmp_path, runner="ray", callbacks=[Steps()])
        one, other = (
            lottery.engine.chains.Setting(
                lottery.Recipe(), 1, (), "", callbacks=[Steps()]
            )
            for _ in range(2)
        )
        assert one == other
        assert hash(one) == hash(other)
