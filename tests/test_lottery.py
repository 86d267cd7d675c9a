"""The lottery experiment: what each control starts from, and nothing done twice."""

import dataclasses
import functools
import json
import os
import shutil
import sys
import types
import warnings

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND

import tfticket
from tfticket import data, lottery
from tfticket.common.checksums import derived_seed
from tfticket.lottery.engine.chains import Setting
from tfticket.lottery.engine.run_folder import NEXT, TRAINED, LotteryFolder
from tfticket.lottery.engine.trainer import Order, Trainer, dataset_of
from tfticket.lottery.engine.worker import Worker

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "fixtures"))
from small_lottery import experiment, small_network

pytestmark = pytest.mark.usefixtures("without_xla")
BRANCHES = [
    "reinit",
    "random_sparsity",
    "shuffled",
    "noise:0.5",
    "signs",
    "shuffled_in_signs",
    "sign_noise:0.25",
    "frozen_at_init",
    "one_shot",
    "magnitude_at_init",
    "snip",
    "grasp:5",
    "synflow",
    "late_rewind:20",
    "lr_rewind",
    "fine_tune",
    "stability",
    "transfer:digits",
]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return tmp_path_factory.mktemp("runs")


@pytest.fixture(scope="module")
def ran(runs):
    asked = experiment(branches=BRANCHES, branch_rounds=[2], attacks=["fgsm:0.1"])
    return asked, runs / asked.name, asked.run(runs)


@pytest.fixture(scope="module")
def initial():
    keras.utils.set_random_seed(0)
    network = small_network((8, 8, 1), 10)
    return {
        "hidden/kernel": network.get_layer("hidden").kernel.numpy(),
        "dense/kernel": network.layers[-1].kernel.numpy(),
    }


def part(branch="ticket", number=2, copy=0):
    return lottery.Part(0, branch, copy, number)


def network_of(ran):
    """The network as the ticket tells of it."""
    config = lottery.read_ticket(ran[1], part()).provenance["config"]
    return keras.models.model_from_json(json.dumps(config))


def trainer_of(dataset):
    return Trainer(lottery.Recipe(), dataset, small_network)


def kept(ticket):
    return {name: int(mask.sum()) for name, mask in ticket.masks.items()}


def top(weights, counts):
    """By a full sort: the largest of each, as many as counted."""
    masks = {}
    for name, count in counts.items():
        order = np.argsort(-np.abs(weights[name]), axis=None, kind="stable")
        masks[name] = np.zeros(weights[name].size, bool)
        masks[name][order[:count]] = True
        masks[name] = masks[name].reshape(weights[name].shape)
    return masks


def assert_equal(a, b):
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name])


class TestTheTicketItself:
    def test_counts_are_the_papers_arithmetic(self, ran):
        _, folder, results = ran
        counts = {"hidden/kernel": 1280, "dense/kernel": 200}
        for number in range(3):
            ticket = lottery.read_ticket(folder, part(number=number))
            assert kept(ticket) == counts
            counts = {
                "hidden/kernel": counts["hidden/kernel"]
                - round(0.2 * counts["hidden/kernel"]),
                "dense/kernel": counts["dense/kernel"]
                - round(0.1 * counts["dense/kernel"]),
            }
        assert [r.density for r in results[:3]] == [
            sum(k for k, _ in r.layers.values()) / 1480 for r in results[:3]
        ]

    def test_weights_are_the_initial_ones_bit_for_bit(self, ran, initial):
        for number in range(3):
            ticket = lottery.read_ticket(ran[1], part(number=number))
            for name, mask in ticket.masks.items():
                np.testing.assert_array_equal(
                    ticket.weights[name], np.where(mask, initial[name], 0)
                )

    def test_masks_are_the_largest_trained_weights_and_nested(self, ran):
        folder = LotteryFolder(ran[1])
        for number in (1, 2):
            before = folder.ticket(part(number=number - 1), TRAINED)
            ticket = folder.ticket(part(number=number))
            assert_equal(ticket.masks, top(before.weights, kept(ticket)))
            for name, mask in ticket.masks.items():
                assert not (mask & ~before.masks[name]).any()
                assert (before.weights[name][~before.masks[name]] == 0).all()

    def test_results_tell_what_the_metrics_say(self, ran):
        _, folder, results = ran
        for result in results:
            metrics = lottery.read_metrics(folder, result.part)
            first = result.first_iteration
            assert first == (20 if result.part.branch == "late_rewind:20" else 0)
            assert metrics["iteration"] == list(range(first + 20, 121, 20))
            best = int(np.argmin(metrics["val_loss"]))
            assert result.early_stop_iteration == metrics["iteration"][best]
            assert result.early_stop_validation["loss"] == metrics["val_loss"][best]
            assert result.versions["tfticket"] == tfticket.__version__

    def test_accuracy_is_that_of_the_trained_weights(self, ran):
        digits = data.load("digits")
        for result in ran[2][:3]:
            trained = LotteryFolder(ran[1]).ticket(result.part, TRAINED)
            self.check_accuracies(digits, result, trained.apply(network_of(ran)))

    def check_accuracies(self, digits, result, model):
        for found, (images, labels) in (
            (result.test, digits.test),
            (result.validation, digits.validation),
        ):
            logits = model.predict(images, verbose=0).astype(float)
            assert found["accuracy"] == pytest.approx(
                np.mean(logits.argmax(-1) == labels), abs=1e-6
            )
            largest = logits.max(-1)
            sums = np.log(np.exp(logits - largest[:, None]).sum(-1)) + largest
            losses = sums - logits[np.arange(len(labels)), labels]
            assert found["loss"] == pytest.approx(losses.mean(), rel=1e-4)

    def test_so_is_that_of_a_control_that_is_pruned_at_its_end(self, tmp_path):
        """The last update falls into the last execution, and is done after it."""
        recipe = lottery.Recipe(iterations=20, width=0.1)
        asked = lottery.LotteryExperiment(recipe, rounds=1, branches=["gradual"])
        result = asked.run(tmp_path)[-1]
        assert result.part.branch == "gradual"
        trained = LotteryFolder(tmp_path / asked.name).ticket(result.part, TRAINED)
        network = tfticket.models.build("lenet_300_100", (8, 8, 1), 10, 0.1)
        model = trained.apply(tfticket.prune(network))
        self.check_accuracies(data.load("digits"), result, model)

    def test_movement_and_attack_are_there(self, ran):
        for result in ran[2][:3]:
            assert result.movement
            assert 0 <= result.attacks["fgsm:0.1"] <= result.test["accuracy"]


class TestControls:
    def start(self, ran, branch):
        return lottery.read_ticket(ran[1], part(branch))

    def test_reinit(self, ran, initial):
        ticket, control = self.start(ran, "ticket"), self.start(ran, "reinit")
        assert_equal(ticket.masks, control.masks)
        for name, mask in control.masks.items():
            assert (control.weights[name][mask] != initial[name][mask]).all()
            spread = control.weights[name][mask].std() / initial[name][mask].std()
            assert 0.5 < spread < 1.5

    @pytest.mark.parametrize("branch", ["random_sparsity", "shuffled"])
    def test_random_masks(self, ran, initial, branch):
        ticket, control = self.start(ran, "ticket"), self.start(ran, branch)
        assert kept(ticket) == kept(control)
        for name, mask in control.masks.items():
            assert (mask != ticket.masks[name]).any()
            same = control.weights[name] == np.where(mask, initial[name], 0)
            assert same.all() == (branch == "shuffled")

    def test_noise(self, ran, initial):
        ticket, control = self.start(ran, "ticket"), self.start(ran, "noise:0.5")
        assert_equal(ticket.masks, control.masks)
        for name, mask in control.masks.items():
            noise = (control.weights[name] - initial[name])[mask]
            assert noise.std() == pytest.approx(0.5 * initial[name].std(), rel=0.15)
            assert (control.weights[name][~mask] == 0).all()

    def test_one_shot_and_magnitude_at_init(self, ran, initial):
        counts = kept(self.start(ran, "ticket"))
        dense = LotteryFolder(ran[1]).ticket(part(number=0), TRAINED).weights
        for branch, weights in (("one_shot", dense), ("magnitude_at_init", initial)):
            control = self.start(ran, branch)
            assert_equal(control.masks, top(weights, counts))
            for name, mask in control.masks.items():
                np.testing.assert_array_equal(
                    control.weights[name], np.where(mask, initial[name], 0)
                )

    @pytest.mark.parametrize("branch", ["snip:10", "grasp:5", "synflow"])
    def test_pruned_at_initialisation(self, ran, initial, branch):
        control = self.start(ran, branch)
        assert sum(kept(control).values()) == sum(
            kept(self.start(ran, "ticket")).values()
        )
        for name, mask in control.masks.items():
            np.testing.assert_array_equal(
                control.weights[name], np.where(mask, initial[name], 0)
            )

    def test_snip_keeps_the_largest_sensitivities(self, ran, initial):
        digits = data.load("digits")
        ticket = lottery.read_ticket(ran[1], part(number=0))
        model = ticket.apply(network_of(ran))
        model.compile(loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True))
        count = sum(kept(self.start(ran, "snip:10")).values())
        tfticket.sparsify(
            model,
            1 - count / 1480,
            "snip",
            scope="global",
            data=trainer_of(digits).calibration_data(0, 10),
            allow_empty=True,
        )
        own = tfticket.get_masks(model)
        # Dropout differs, so a few of the sensitivities do.
        agree = np.mean(
            [np.mean(own[k] == m) for k, m in self.start(ran, "snip:10").masks.items()]
        )
        assert agree > 0.8

    def test_a_criterions_images_are_the_replicates_as_many_of_each_class(self):
        digits = data.load("digits")
        trainer = trainer_of(digits)
        drawn = [trainer.calibration_data(seed, 7) for seed in (0, 0, 1)]
        for images, labels in drawn:
            assert np.bincount(labels).tolist() == [7] * 10
            known = {(x.tobytes(), y) for x, y in zip(*digits.train, strict=True)}
            own = {(x.tobytes(), y) for x, y in zip(images, labels, strict=True)}
            assert len(own) == 70
            assert own <= known
        np.testing.assert_array_equal(drawn[0][0], drawn[1][0])
        assert (drawn[0][0] != drawn[2][0]).any()
        with pytest.raises(
            ValueError, match=r"200 training images per class\. Of class"
        ):
            trainer.calibration_data(0, 200)

    def test_parts_of_before_are_no_parts_of_now(self):
        asked = experiment(branches=["snip", "snip:10", "grasp:3"])
        found = {str(part.path) for part in asked.parts() if part.branch != "ticket"}
        assert found == {
            f"seed_0/{name}/copy_0/round_0{number}"
            for name in ("snip_10", "grasp_3")
            for number in (1, 2)
        }
        names = {
            experiment(recipe={"criterion": "snip", **more}).name
            for more in ({}, {"calibration": 20})
        }
        assert len(names) == 2
        assert experiment(recipe={"criterion": "snip"}).identity["calibration"] == 10
        assert (
            "calibration" not in experiment(recipe={"criterion": "movement"}).identity
        )

    def test_signs(self, ran, initial):
        ticket, control = self.start(ran, "ticket"), self.start(ran, "signs")
        assert_equal(ticket.masks, control.masks)
        for name, mask in control.masks.items():
            size = np.float32(initial[name].std(dtype=np.float32))
            want = np.where(initial[name] > 0, size, -size) * mask
            np.testing.assert_allclose(control.weights[name], want, rtol=1e-6)
        np.testing.assert_array_equal(
            control.weights["hidden/bias"], ticket.weights["hidden/bias"]
        )

    def kept_of(self, ran, branch, initial):
        """Kept weights of the ticket and of a control with its masks, by layer."""
        control = self.start(ran, branch)
        assert_equal(control.masks, self.start(ran, "ticket").masks)
        for name, mask in control.masks.items():
            assert (control.weights[name][~mask] == 0).all()
            yield initial[name][mask], control.weights[name][mask]

    def test_shuffled_in_signs(self, ran, initial):
        for own, drawn in self.kept_of(ran, "shuffled_in_signs", initial):
            np.testing.assert_array_equal(np.sign(own), np.sign(drawn))
            np.testing.assert_array_equal(np.sort(own), np.sort(drawn))
            assert np.mean(own == drawn) < 0.1

    def test_sign_noise(self, ran, initial):
        for own, drawn in self.kept_of(ran, "sign_noise:0.25", initial):
            np.testing.assert_array_equal(np.abs(own), np.abs(drawn))
            assert (own != drawn).sum() == round(0.25 * own.size)

    def test_frozen_at_init(self, ran, initial):
        ticket, control = self.start(ran, "ticket"), self.start(ran, "frozen_at_init")
        trained = LotteryFolder(ran[1]).ticket(part("frozen_at_init"), TRAINED)
        results = {r.part: r for r in ran[2]}
        for name, mask in ticket.masks.items():
            np.testing.assert_array_equal(control.weights[name], initial[name])
            moved = trained.weights[name] != initial[name]
            assert not moved[~mask].any()
            assert moved[mask].mean() > 0.9
        # What counts is what is trained.
        found = results[part("frozen_at_init")]
        assert found.parameters == results[part()].parameters
        assert found.layers == results[part()].layers
        model = trained.apply(network_of(ran))
        digits = data.load("digits")
        guesses = model.predict(digits.test[0], verbose=0).argmax(-1)
        assert found.test["accuracy"] == pytest.approx(
            np.mean(guesses == digits.test[1]), abs=1e-6
        )

    def test_weights_that_are_held_and_move_are_refused(self, tmp_path):
        recipe = {"iterations": 20, "weight_decay": 0.1}
        asked = experiment(rounds=1, recipe=recipe, branches=["frozen_at_init"])
        with pytest.raises(ValueError, match="'frozen_at_init' holds pruned weights"):
            asked.run(tmp_path)

    def test_their_dropout_does_not_know_what_was_trained_before(self, tmp_path):
        asked = experiment(rounds=1, branches=["snip:10", "grasp:10"])
        asked.run(tmp_path)
        folder = tmp_path / asked.name
        controls = [part(branch, number=1) for branch in asked.branches]
        first = [lottery.read_ticket(folder, control).masks for control in controls]
        for control in controls:
            shutil.rmtree(folder / control.path)
        asked.run(tmp_path)
        for control, masks in zip(controls, first, strict=True):
            assert_equal(lottery.read_ticket(folder, control).masks, masks)

    def test_dropout_of_the_recipe(self, tmp_path):
        recipe = lottery.Recipe(iterations=20, width=0.1, dropout=0.5)
        asked = lottery.LotteryExperiment(recipe, rounds=1, branches=["small_dense"])
        dense, ticket, small = asked.run(tmp_path)
        with_dropout = Trainer(
            recipe,
            data.load("digits"),
            lambda *shape: tfticket.models.build("lenet_300_100", *shape, 0.1, 0.5),
        )
        initial = with_dropout.initial_weights(0)
        start = lottery.read_ticket(tmp_path / asked.name, dense.part)
        np.testing.assert_equal(start.weights, initial)
        order = Order(derived_seed(0, "order", "ticket", 0, 0))
        trained = with_dropout.train_ticket(start, order)
        kept = lottery.read_metrics(tmp_path / asked.name, dense.part)
        assert kept["loss"] == pytest.approx(trained.metrics["loss"])
        assert abs(small.parameters - ticket.parameters) < 0.1 * ticket.parameters
        with pytest.raises(ValueError, match=r"keras\.layers\.Dropout"):
            dataclasses.replace(asked, build=lambda shape, classes: None)
        with pytest.raises(ValueError, match=r"dropout needs .* model='resnet_8'"):
            dataclasses.replace(recipe, model="resnet_8")

    def test_late_rewinding(self, ran):
        start = self.start(ran, "late_rewind:20")
        assert_equal(start.masks, self.start(ran, "ticket").masks)
        dense = lottery.read_ticket(ran[1], part(number=0))
        moved = np.abs(start.weights["hidden/kernel"] - dense.weights["hidden/kernel"])
        mask = start.masks["hidden/kernel"]
        # Adam moves a weight by about the learning rate at each of the first steps.
        assert 0 < np.median(moved[mask]) < 20 * 1.5e-3
        assert (start.weights["hidden/kernel"][~mask] == 0).all()

    def test_rewinding_the_experiment_itself(self, ran, runs):
        asked = experiment(rounds=1, recipe={"rewind_to": 20, "drops": [100]})
        asked.run(runs)
        fresh = []
        asked.run(runs, on_part=lambda *a: fresh.append(a[-1]))
        assert fresh == [False, False]
        ticket = lottery.read_ticket(runs / asked.name, part(number=1))
        late = self.start(ran, "late_rewind:20")  # of the next round
        for name, mask in late.masks.items():
            both = mask & ticket.masks[name]
            assert both.any()
            np.testing.assert_array_equal(
                ticket.weights[name][both], late.weights[name][both]
            )

    @pytest.mark.parametrize("branch", ["lr_rewind", "fine_tune"])
    def test_trained_weights(self, ran, branch):
        control = self.start(ran, branch)
        parent = LotteryFolder(ran[1]).ticket(part(number=1), TRAINED)
        assert_equal(control.masks, self.start(ran, "ticket").masks)
        for name, mask in control.masks.items():
            np.testing.assert_array_equal(
                control.weights[name], np.where(mask, parent.weights[name], 0)
            )

    def test_fine_tuning_moves_less(self, ran):
        folder = LotteryFolder(ran[1])
        way = {}
        for branch in ("lr_rewind", "fine_tune"):
            before, after = (folder.ticket(part(branch), *n) for n in ((), (TRAINED,)))
            way[branch] = np.abs(
                after.weights["hidden/kernel"] - before.weights["hidden/kernel"]
            ).mean()
        assert way["fine_tune"] < 0.5 * way["lr_rewind"]

    def test_stability(self, ran):
        results = {r.part: r for r in ran[2]}
        found = results[part("stability")].barrier
        errors = found["errors"]
        ends = [1 - results[part(b)].test["accuracy"] for b in ("ticket", "stability")]
        assert [errors[0], errors[-1]] == pytest.approx(ends)
        assert found["error_barrier"] == pytest.approx(max(errors) - sum(ends) / 2)

    def test_stability_of_the_dense_network_from_a_step_on(self, tmp_path):
        branches = ["stability:0", "stability:50", "stability"]
        asked = experiment(rounds=1, branches=branches)
        results = {r.part: r for r in asked.run(tmp_path)}
        assert [p.round for p in results if p.branch in branches[:2]] == [0, 0]
        folder = LotteryFolder(tmp_path / asked.name)
        dense = folder.ticket(part(number=0), TRAINED).weights
        apart = {}
        for branch, step in (("stability:0", 0), ("stability:50", 50)):
            found = results[part(branch, 0)]
            assert found.density == 1.0
            assert found.first_iteration == step
            errors = found.barrier["errors"]
            ends = [
                1 - results[part(b, 0)].test["accuracy"] for b in ("ticket", branch)
            ]
            assert [errors[0], errors[-1]] == pytest.approx(ends)
            start = folder.ticket(part(branch, 0)).weights
            trained = folder.ticket(part(branch, 0), TRAINED).weights
            apart[step] = np.abs(trained["hidden/kernel"] - dense["hidden/kernel"])
            assert (apart[step] > 0).any()
            initial = folder.ticket(part(number=0)).weights
            same = np.array_equal(start["hidden/kernel"], initial["hidden/kernel"])
            assert same == (step == 0)
        # Copies that part later end nearer to each other.
        assert apart[50].mean() < apart[0].mean()

    def test_the_copy_goes_on_from_the_dense_training(self, tmp_path):
        asked = experiment(rounds=1, branches=["stability:60"])
        setting = Setting(asked.recipe, 1, (60,), str(tmp_path), build=small_network)
        (main, _) = experiment(rounds=1).run(tmp_path)
        folder = str(tmp_path / asked.name)
        worker = Worker(dataclasses.replace(setting, folder=folder))
        worker.check()
        assert main.part == part(number=0)
        job = worker._control(lottery.Part(0, "stability:60", 0, 0))
        prefix = worker.prefix(0, 60)
        assert_equal(job.start.ticket.weights, prefix["weights"])
        assert job.start.step == 60
        assert_equal(job.start.optimizer, prefix["optimizer"])

    def test_transfer_to_the_same_data_is_another_order(self, ran):
        start = self.start(ran, "transfer:digits")
        assert_equal(start.masks, self.start(ran, "ticket").masks)
        assert_equal(start.weights, self.start(ran, "ticket").weights)

    def test_thresholds_by_sensitivity(self, runs):
        recipe = {"scope": "sensitivity", "rate": 0.5, "rewind_to": None}
        asked = experiment(rounds=1, recipe={**recipe, "retrain_factor": 0.1})
        _, pruned = asked.run(runs)
        assert pruned.parameters == 740
        folder = LotteryFolder(runs / asked.name)
        trained = folder.ticket(part(number=0), TRAINED).weights
        ticket = folder.ticket(part(number=1))
        assert_equal(ticket.masks, top(trained, kept(ticket)))
        # Thresholds of their own: not the same density, nor one cut through both.
        shares = [kept / size for kept, size in pruned.layers.values()]
        assert abs(shares[0] - shares[1]) > 0.02
        for name, mask in ticket.masks.items():
            np.testing.assert_array_equal(
                ticket.weights[name], np.where(mask, trained[name], 0)
            )

    def test_small_dense(self, runs):
        recipe = {"model": "lenet_300_100", "iterations": 20}
        asked = experiment(
            recipe=recipe, rounds=1, branches=["small_dense"], build=None
        )
        ticket, small = asked.run(runs)[1:]
        assert small.parameters == pytest.approx(ticket.parameters, rel=0.01)
        assert all(kept == size for kept, size in small.layers.values())
        assert small.density == pytest.approx(ticket.density, rel=0.01)


class TestNothingIsDoneTwice:
    def test_what_a_process_made_before_makes_no_difference(self, ran, tmp_path):
        asked, folder, _ = ran
        keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        keras.utils.set_random_seed(7)
        experiment(rounds=1).run(tmp_path)
        for name in ("ticket.npz", TRAINED, NEXT):
            first, second = (
                (runs_of / part(number=1).path / name).read_bytes()
                for runs_of in (folder, tmp_path / asked.name)
            )
            assert first == second, name

    def test_a_second_run_trains_nothing(self, ran, runs, monkeypatch):
        monkeypatch.setattr(Trainer, "train_ticket", None)
        fresh = []
        again = ran[0].run(runs, on_part=lambda *a: fresh.append(a[-1]))
        assert again == ran[2]
        assert not any(fresh)

    def test_what_is_asked_for_later_is_added(self, ran, runs):
        asked = experiment(
            rounds=3,
            branches=["reinit"],
            branch_rounds=[2],
            copies=2,
            attacks=["pgd:0.1"],
        )
        fresh = {}
        results = asked.run(runs, on_part=lambda r, *a: fresh.update({r.part: a[-1]}))
        assert {p for p in fresh if fresh[p]} == {
            part(number=3),
            part("reinit", copy=1),
        }
        assert all("pgd:0.1" in r.attacks for r in results)
        two = [
            lottery.read_ticket(ran[1], part("reinit", copy=c)).weights for c in (0, 1)
        ]
        assert (two[0]["hidden/kernel"] != two[1]["hidden/kernel"]).any()

    @pytest.mark.skipif(
        BACKEND == "torch", reason="a training again is not the same bits on PyTorch"
    )
    def test_replicates_differ_and_each_is_its_seeds(self, runs):
        both = experiment(rounds=1, replicates=2, recipe={"rate": 0.5})
        alone = experiment(rounds=1, seed=1, recipe={"rate": 0.5})
        first, _, second, last = both.run(runs / "both")
        assert first.test != second.test
        own = alone.run(runs / "alone")
        assert [r.test for r in own] == [second.test, last.test]

    @pytest.mark.skipif(
        BACKEND == "torch", reason="a training again is not the same bits on PyTorch"
    )
    @pytest.mark.parametrize(
        ("name", "damage"),
        [
            ("result.json", "flip"),
            ("result.json", "cut"),
            ("ticket.npz", "flip"),
            (TRAINED, "cut"),
            (NEXT, "remove"),
        ],
    )
    def test_damage_is_named_and_made_good(self, ran, tmp_path, name, damage):
        asked, folder, _ = ran
        shutil.copytree(folder, tmp_path / folder.name)
        harmed = tmp_path / folder.name / part(number=1).path / name
        content = harmed.read_bytes()
        if damage == "remove":
            harmed.unlink()
        else:
            middle = len(content) // 2
            flipped = bytes([content[middle] ^ 1])
            rest = content[middle + 1 :] if damage == "flip" else b""
            harmed.write_bytes(content[:middle] + flipped + rest)
        alone = experiment(rounds=1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            alone.run(tmp_path)
        told = [
            str(w.message) for w in caught if "will be made again" in str(w.message)
        ]
        assert harmed.exists()
        if name != "result.json":
            assert harmed.read_bytes() == content
        assert any("round_01" in text for text in told)
        # Nothing else was done again: what follows was made from the same bytes.
        assert LotteryFolder(tmp_path / asked.name).result(part()) is not None

    def test_what_was_made_from_another_ticket_is_made_again(self, ran, tmp_path):
        folder = ran[1]
        shutil.copytree(folder, tmp_path / folder.name)
        run = LotteryFolder(tmp_path / folder.name)
        held = json.loads((run.folder(part()) / "result.json").read_text())
        before = dataclasses.replace(part(), round=1)
        masks = {k: ~m for k, m in run.ticket(before, NEXT).masks.items()}
        result = run.result(before)
        run.finish(
            result,
            {
                "ticket.npz": run.ticket(before),
                TRAINED: run.ticket(before, TRAINED),
                NEXT: tfticket.Ticket(masks, {}),
            },
            lottery.read_metrics(run.path, before),
            [],
        )
        assert held["inputs"]
        with pytest.warns(UserWarning, match=r"round_02.*made from another"):
            assert run.result(part()) is None

    def test_damaged_config_and_foreign_folders(self, ran, tmp_path):
        asked, folder, _ = ran
        shutil.copytree(folder, tmp_path / folder.name)
        config = tmp_path / folder.name / "config.json"
        whole = config.read_text()
        config.write_text(whole[:100])
        with pytest.warns(UserWarning, match=r"config\.json' is damaged"):
            experiment(rounds=1).run(tmp_path)
        assert config.read_text() == whole
        shutil.rmtree(tmp_path / folder.name)
        (tmp_path / folder.name).mkdir()
        (tmp_path / folder.name / "thesis.tex").write_text("mine")
        with pytest.raises(FileExistsError, match="no run's"):
            asked.run(tmp_path)


def test_rates_by_kind_of_layer():
    digits = data.load("digits")
    recipe = lottery.Recipe(model="conv_2", width=0.1, rate=0.5, conv_rate=0.25)
    trainer = Trainer(
        recipe, digits, functools.partial(tfticket.models.build, "conv_2", width=0.1)
    )
    masks = trainer.next_masks(0, types.SimpleNamespace(evidence={}))
    kept = {name.split("/")[0]: mask.mean() for name, mask in masks.items()}
    wanted = dict.fromkeys(["conv1_1", "conv1_2"], 0.75)
    wanted |= {"fc1": 0.5, "fc2": 0.5, "fc3": 0.75}  # the output layer at half
    assert kept == pytest.approx(wanted, abs=0.02)
    assert lottery.Recipe(scope="global").rates_for(trainer.model) == {}


class TestData:
    def test_options_of_the_recipe_load_it(self):
        recipe = lottery.Recipe(
            normalize="unit", train_size=200, label_noise=0.5, data_seed=3
        )
        found = dataset_of(recipe)
        options = {"train_size": 200, "label_noise": 0.5, "seed": 3}
        want = data.load(normalize="unit", **options)
        np.testing.assert_array_equal(found.train[0], want.train[0])
        np.testing.assert_array_equal(found.train[1], want.train[1])
        assert json.loads(json.dumps(recipe.differences())) == {
            **{"normalize": "unit", "train_size": 200},
            **{"label_noise": 0.5, "data_seed": 3},
        }

    def test_a_run_trains_on_them(self, tmp_path):
        asked = experiment(
            rounds=1, recipe={"label_noise": 0.9, "train_size": 300, "iterations": 60}
        )
        (dense, _) = asked.run(tmp_path)
        assert dense.test["accuracy"] < 0.4
        told = lottery.read_config(tmp_path / asked.name)["data"]
        assert "300 training, 200 validation" in told

    @pytest.mark.parametrize("name", ["normalize", "train_size", "label_noise"])
    def test_data_of_ones_own_is_as_it_is(self, name):
        value = {"normalize": "unit", "train_size": 5, "label_noise": 0.5}[name]
        with pytest.raises(ValueError, match=f"{name} is for data that is loaded"):
            experiment(dataset=data.load(), recipe={name: value})

    def test_the_order_of_controls(self, tmp_path):
        branches = ["transfer:digits", "stability"]
        results = {}
        for same in (False, True):
            asked = experiment(rounds=1, branches=branches, recipe={"same_order": same})
            results[same] = [result.test for result in asked.run(tmp_path)[1:]]
        # The control is the ticket itself, and differs from it by the order alone.
        ticket, transferred, stable = results[True]
        assert ticket == transferred
        assert ticket != stable
        assert results[False][0] == ticket
        assert results[False][1] != ticket
        assert results[False][2] == stable

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="layers in tf.data pipelines")
    def test_augmentation_by_a_layer(self, tmp_path):
        layers = [keras.layers.RandomTranslation(0.1, 0.1) for _ in range(2)]
        asked, again = (
            experiment(rounds=1, recipe={"augment": layer}) for layer in layers
        )
        assert asked.recipe == again.recipe
        assert hash(asked.recipe) == hash(again.recipe)
        assert asked.name == again.name != experiment(recipe={"augment": True}).name
        told = json.loads(json.dumps(asked.recipe.differences()))
        assert lottery.Recipe(**told) == asked.recipe
        whole = asked.run(tmp_path / "whole")

        def stop(part, done, of):
            if part.round == 1 and done == 60:
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            again.run(tmp_path / "cut", checkpoint_seconds=0.0, on_evaluation=stop)
        cut = again.run(tmp_path / "cut", checkpoint_seconds=0.0)
        assert [r.test for r in cut] == [r.test for r in whole]
        assert whole[0].test != experiment(rounds=1).run(tmp_path)[0].test

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="layers in tf.data pipelines")
    def test_a_layer_that_does_not_fit_is_refused_before_any_training(self, tmp_path):
        asked = experiment(recipe={"augment": keras.layers.Resizing(4, 4)})
        with pytest.raises(ValueError, match="augment must keep images of shape"):
            asked.run(tmp_path)
        assert not list(tmp_path.rglob("seed_*"))


class TestNames:
    def test_a_field_added_later_does_not_rename(self):
        before = lottery.Recipe(iterations=500)

        @dataclasses.dataclass(frozen=True)
        class Later(lottery.Recipe):
            label_smoothing: float = 0.0

        assert Later(iterations=500).differences() == before.differences()
        other = Later(iterations=500, label_smoothing=0.1).differences()
        assert other == {**before.differences(), "label_smoothing": 0.1}

    def test_defaults_spelled_out_are_defaults(self):
        spelled = lottery.Recipe(
            evaluate_every=10, learning_rate=1.2e-3, output_rate=0.1, conv_rate=0.2
        )
        assert spelled.differences() == {}

    def test_names_are_readable_and_of_what_defines_the_run(self):
        def name(**recipe):
            return lottery.LotteryExperiment(lottery.Recipe(**recipe)).name

        assert name().startswith("digits-lenet_300_100-")
        assert name() == name(evaluate_every=10)
        assert len({name(), name(rate=0.3), name(iterations=10), name(width=2.0)}) == 4
        one = lottery.LotteryExperiment(rounds=3, replicates=2, branches=["reinit"])
        assert one.name == name()
        assert experiment().name.startswith("digits-small_network-")

    def test_own_data_counts_by_its_values(self):
        digits = data.load("digits")
        changed = dataclasses.replace(digits, test=(digits.test[0] + 1, digits.test[1]))
        names = {experiment(dataset=d).name for d in (digits, changed)}
        assert len(names) == 2


class TestBadInput:
    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"branches": ["renit"]}, "branches must be of.*'renit'"),
            ({"branches": ["noise"]}, "as in noise:0.5"),
            ({"branches": ["noise:x"]}, "needs a number above 0"),
            ({"branches": ["late_rewind:1.5"]}, "needs 0 or a whole number above 0"),
            ({"branches": ["sign_noise:1.5"]}, "a number above 0 and at most 1"),
            ({"branches": ["stability:-1"]}, "needs 0 or a whole number above"),
            ({"branches": ["stability:120"]}, "not before the end"),
            (
                {
                    "branches": ["stability:20"],
                    "recipe": {"rewind_clock": "restart"},
                },
                "needs rewind_clock='continue'",
            ),
            ({"branches": ["snip:0"]}, "needs a whole number above 0"),
            ({"branches": ["grasp:"]}, "needs a whole number above 0"),
            ({"recipe": {"normalize": "none"}}, "normalize must be one of"),
            ({"recipe": {"train_size": 0}}, "train_size must be at least 1"),
            ({"recipe": {"label_noise": 2}}, "label_noise must be at least 0"),
            ({"recipe": {"data_seed": -1}}, "data_seed must be at least 0"),
            ({"recipe": {"calibration": 0}}, "calibration must be at least 1"),
            ({"recipe": {"augment": "flip"}}, "augment must be True, False, a Keras"),
            ({"branches": ["reinit:3"]}, "takes no value"),
            ({"branches": ["late_rewind:120"]}, "not before the end"),
            ({"branches": ["small_dense"]}, "can't do so with build"),
            ({"branch_rounds": [3]}, "branch_rounds must be at most 2"),
            ({"branch_rounds": [0]}, "at least 1"),
            ({"attacks": ["fgms:0.1"]}, "attacks must be written"),
            ({"attacks": ["pgd"]}, "attacks must be written"),
            ({"rounds": 0}, "rounds must be at least 1"),
            ({"recipe": {"rate": 1.0}}, "rate"),
            ({"recipe": {"model": "lenet"}}, "model must be one of"),
            ({"recipe": {"evaluate_every": 7}}, "does not divide"),
            ({"recipe": {"rewind_to": 120}}, "not before the end"),
            ({"recipe": {"scope": "global", "output_rate": 0.1}}, "must be 0 with"),
            ({"recipe": {"learning_rate": 0.0}}, "learning_rate must be above 0"),
            ({"recipe": {"drops": [0]}}, "drops must be at least 1"),
            ({"recipe": {"criterion": "magnitud"}}, "magnitude"),
        ],
    )
    def test_before_anything_is_loaded(self, kwargs, message):
        with pytest.raises(ValueError, match=message):
            experiment(**kwargs)

    @pytest.mark.parametrize(
        ("kwargs", "message"),
        [
            ({"rounds": 12, "recipe": {"rate": 0.6}}, "leaves no weight of"),
            ({"recipe": {"batch_size": 5000}}, "batch_size=5000 is more than"),
            ({"branches": ["transfer:nist"]}, "No data set is named 'nist'"),
        ],
    )
    def test_before_any_training(self, kwargs, message, tmp_path):
        with pytest.raises(ValueError, match=message):
            experiment(**kwargs).run(tmp_path)
        assert not list(tmp_path.rglob("seed_*"))
