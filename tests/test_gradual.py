"""Pruning while `fit` trains: steps, counts, resuming, neighbours."""

import warnings

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND, gradients, needs_graph
from hypothesis import given, settings
from hypothesis import strategies as st

import tfticket
from tfticket import schedules
from tfticket.pruning.masks import get_pruned_weights
from tfticket.sparsity.structures import NM

LOSS = keras.losses.SparseCategoricalCrossentropy(from_logits=True)


def compiled(mlp, optimizer="adam", build=True, **kwargs):
    model = tfticket.prune(mlp)
    model.compile(optimizer, LOSS, **kwargs)
    if build:  # else the first step of `fit` does, and is traced twice
        model.optimizer.build(model.trainable_variables)
    return model


def pruned(model):
    """Weights pruned, counted; fails if one of them is not exactly 0.0."""
    masks = tfticket.get_masks(model)
    for name, weight in get_pruned_weights(model).items():
        assert not weight[~masks[name]].any(), name
    return {name: int((~mask).sum()) for name, mask in masks.items()}


def one_of(told):
    """Whether one of the warnings is of a schedule: Keras has its own."""
    return sum("The schedule" in str(x.message) for x in told) == 1


class Recorder(keras.callbacks.Callback):
    """What is pruned when each execution ends."""

    def on_train_begin(self, logs=None):
        self.counts = []

    def on_train_batch_end(self, batch, logs=None):
        self.counts.append(sum(pruned(self.model).values()))


def fit(model, samples, schedule, epochs=1, batch_size=4, callbacks=(), **kwargs):
    recorder = Recorder()
    gradual = tfticket.GradualPruning(schedule, **kwargs)
    model.fit(
        *samples,
        batch_size=batch_size,
        epochs=epochs,
        callbacks=[gradual, *callbacks, recorder],
        verbose=0,
    )
    return recorder.counts


def expected(schedule, steps, sizes=(48, 24)):
    """Pruned weights after each step, straight from the schedule."""
    counts, reached = [], 0.0
    for step in range(steps):
        due, sparsity = schedule(step)
        reached = max(reached, sparsity) if due else reached
        counts.append(sum(round(n * reached) for n in sizes))
    return counts


SCHEDULES = {
    "polynomial": schedules.PolynomialDecay(0.2, 0.8, 2, 9, frequency=3),
    "cosine": schedules.CosineDecay(0.0, 0.75, 0, 8, frequency=2),
    "constant": schedules.ConstantSparsity(0.5, 3, frequency=4),
    "one-shot": schedules.OneShot(0.9, 5),
    "rounds": schedules.Rounds(0.5, 3, frequency=3),
    "own": lambda step: (step % 2 == 1, min(0.6, step / 10)),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_masks_follow_the_schedule_step_by_step(name, mlp, data):
    model = compiled(mlp)
    counts = fit(model, data, SCHEDULES[name])
    assert counts == expected(SCHEDULES[name], 12)


@needs_graph
@pytest.mark.parametrize("per_execution", [2, 3, 5])
def test_steps_per_execution_is_late_by_less_than_one_execution(
    per_execution, mlp, data
):
    schedule = SCHEDULES["polynomial"]
    model = compiled(mlp, steps_per_execution=per_execution)
    counts = fit(model, data, schedule)
    exact = expected(schedule, 12)
    starts = range(0, 12, per_execution)
    assert counts == [exact[start] for start in starts]
    # What fell due within the last execution is made up for when training ends.
    assert sum(pruned(model).values()) == exact[-1]


def test_accumulated_gradients_count_once(mlp, data):
    schedule = schedules.ConstantSparsity(0.5, 3, frequency=1)
    model = compiled(mlp, keras.optimizers.Adam(gradient_accumulation_steps=2))
    counts = fit(model, data, schedule)
    assert counts == [0] * 6 + [36] * 6


def test_a_resumed_fit_goes_on(mlp, data, tmp_path):
    """Also through a saved file, whose optimizer knows the step."""
    schedule = SCHEDULES["polynomial"]
    first = compiled(mlp)
    halves = fit(first, (data[0][:24], data[1][:24]), schedule)
    first.save(tmp_path / "half.keras")
    second = keras.models.load_model(tmp_path / "half.keras")
    halves += fit(second, (data[0][24:], data[1][24:]), schedule)
    assert halves == expected(schedule, 12)


@needs_graph
def test_no_retracing_over_a_schedule(mlp, data):
    traces = []

    def loss(y, predicted):
        traces.append(1)
        return keras.ops.mean(predicted)

    wrapped = tfticket.prune(mlp)
    wrapped.compile("adam", loss)
    before = len(traces)
    fit(wrapped, data, SCHEDULES["polynomial"], epochs=1)
    once = len(traces) - before
    fit(
        wrapped, data, schedules.PolynomialDecay(0.2, 0.9, 0, 60, frequency=1), epochs=5
    )
    assert once > 0
    assert len(traces) - before == once


def test_wrappers_follow_their_own_schedules(mlp, data):
    late = schedules.ConstantSparsity(0.75, 6, frequency=1)

    def wrap(layer):
        if layer.name == "hidden":
            return tfticket.prune(layer, schedule=late, structure=NM(1, 2))
        return tfticket.prune(layer) if layer.name == "out" else layer

    model = keras.models.clone_model(mlp, clone_function=wrap)
    model.compile("adam", LOSS)
    fit(model, data, schedules.ConstantSparsity(0.25, 0, frequency=1))
    # 1:2 stops at a half.
    assert pruned(model) == {"hidden/kernel": 24, "out/kernel": 6}


def test_a_schedule_in_the_wrapper_is_saved_and_asks_for_its_callback(
    mlp, data, tmp_path
):
    schedule = SCHEDULES["polynomial"]
    model = tfticket.prune(mlp, schedule=schedule, structure=NM(2, 4))
    model.compile("adam", LOSS)
    with pytest.raises(ValueError, match=r"'hidden'.*GradualPruning"):
        model.fit(*data, verbose=0)
    if BACKEND == "jax":
        # Keras's trainer loses the weights where the first step fails.
        model = tfticket.prune(mlp, schedule=schedule, structure=NM(2, 4))
        model.compile("adam", LOSS)
    model.predict(data[0], verbose=0)
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.get_layer("hidden").schedule == schedule
    assert loaded.get_layer("hidden").structure == NM(2, 4)
    fit(loaded, data, None)
    # Six inputs are a group of four and one of two, which stays.
    assert pruned(loaded) == {"hidden/kernel": 16, "out/kernel": 12}


def test_global_erk_and_own_sparsities(mlp, data):
    once = schedules.OneShot(0.5)
    model = compiled(mlp)
    fit(model, data, once, scope="global")
    assert sum(pruned(model).values()) == 36
    model = compiled(mlp)
    fit(model, data, once, scope="erk")
    assert sum(pruned(model).values()) == 36
    assert pruned(model)["out/kernel"] < 12
    model = compiled(mlp)
    slow = schedules.PolynomialDecay(0.4, 0.8, 0, 100, frequency=100)
    fit(model, data, slow, sparsities={"out": 0.5})
    assert pruned(model) == {"hidden/kernel": 19, "out/kernel": 6}  # half the way
    model = compiled(mlp)
    fit(model, data, once, output_factor=0.5)
    assert pruned(model) == {"hidden/kernel": 24, "out/kernel": 6}


@pytest.mark.parametrize("criterion", ["movement", "change", "recent_change", "snip"])
def test_criteria_that_follow_the_training(criterion, mlp, data):
    model = compiled(mlp)
    initial = get_pruned_weights(model)["hidden/kernel"].copy()
    trained = {}

    class Keep(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if batch == 7:
                trained.update(get_pruned_weights(self.model))

    keep = Keep()
    once = schedules.OneShot(0.5, 8)
    fit(model, data, once, callbacks=[keep], criterion=criterion, data=data)
    assert pruned(model) == {"hidden/kernel": 24, "out/kernel": 12}
    if criterion == "movement":
        moved = np.abs(trained["hidden/kernel"] - initial)
        mask = tfticket.get_masks(model)["hidden/kernel"]
        assert moved[mask].min() >= moved[~mask].max()


NEIGHBOURS = {
    "early stopping": lambda folder: keras.callbacks.EarlyStopping(
        "loss", patience=0, restore_best_weights=True, min_delta=1e9
    ),
    "checkpoint": lambda folder: keras.callbacks.ModelCheckpoint(
        folder / "best.keras", monitor="loss", save_best_only=True
    ),
    "backup": lambda folder: keras.callbacks.BackupAndRestore(
        folder / "backup", delete_checkpoint=False
    ),
    "ema": lambda folder: keras.callbacks.SwapEMAWeights(),
}


@pytest.mark.parametrize("first", [True, False], ids=["before", "after"])
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_neighbours_keep_masks_and_weights_together(name, first, mlp, data, tmp_path):
    ema = {"use_ema": True, "ema_momentum": 0.5} if name == "ema" else {}
    model = compiled(mlp, keras.optimizers.Adam(0.05, **ema))
    schedule = schedules.PolynomialDecay(0.2, 0.8, 0, 30, frequency=2)
    callbacks = [NEIGHBOURS[name](tmp_path), tfticket.GradualPruning(schedule)]
    model.fit(
        *data,
        batch_size=4,
        epochs=3,
        verbose=0,
        validation_data=data,
        callbacks=callbacks if first else callbacks[::-1],
    )
    counts = pruned(model)
    assert counts["hidden/kernel"] > 9
    if name == "checkpoint":
        saved = keras.models.load_model(tmp_path / "best.keras")
        assert pruned(saved)["hidden/kernel"] > 9
    if name == "backup":
        again = compiled(mlp, keras.optimizers.Adam(0.05), build=False)
        callbacks = [NEIGHBOURS[name](tmp_path), tfticket.GradualPruning(schedule)]
        again.fit(
            *data,
            batch_size=4,
            epochs=4,
            verbose=0,
            callbacks=callbacks if first else callbacks[::-1],
        )
        assert int(again.optimizer.iterations) == 48
        assert pruned(again) == {"hidden/kernel": 38, "out/kernel": 19}


def test_fine_tuning_keeps_zeros(mlp, data):
    model = compiled(mlp)
    fit(model, data, schedules.OneShot(0.7))
    counts = pruned(model)
    model.fit(*data, epochs=2, verbose=0)
    assert pruned(model) == counts


@pytest.mark.parametrize("knows_its_optimizer", [True, False])
def test_a_loop_of_ones_own(knows_its_optimizer, mlp, data):
    model = tfticket.prune(mlp, schedule=schedules.OneShot(0.5, 2))
    optimizer = keras.optimizers.SGD(0.1)
    if knows_its_optimizer:
        model.optimizer = optimizer
    gradual = tfticket.UpdatePruningStep()
    gradual.set_model(model)
    gradual.on_train_begin()
    counts = []
    for step in range(4):
        gradual.on_train_batch_begin(step)
        found = gradients(lambda: LOSS(data[1], model(data[0], training=True)), model)
        optimizer.apply(found, model.trainable_variables)
        counts.append(sum(pruned(model).values()))
    gradual.on_train_end()
    assert counts == [0, 0, 36, 36]


@settings(max_examples=8, deadline=None)
@given(st.floats(0, 0.99), st.sampled_from(["layerwise", "global", "erk"]), st.data())
def test_sparsify_is_exact(sparsity, scope, draw):
    shapes = draw.draw(st.lists(st.integers(2, 9), min_size=3, max_size=5))
    layers = [keras.layers.Dense(n) for n in shapes[1:]]
    model = tfticket.prune(keras.Sequential([keras.Input((shapes[0],)), *layers]))
    tfticket.sparsify(model, sparsity, scope=scope, allow_empty=True)
    sizes = [mask.size for mask in tfticket.get_masks(model).values()]
    counts = list(pruned(model).values())
    if scope == "layerwise":
        assert counts == [round(n * sparsity) for n in sizes]
    assert sum(counts) == (
        sum(counts) if scope == "layerwise" else round(sum(sizes) * sparsity)
    )


def test_sparsify_in_rounds_and_on_top(mlp):
    model = tfticket.prune(mlp)
    tfticket.sparsify(model, 0.5)
    before = tfticket.get_masks(model)
    tfticket.sparsify(model, 0.75, "synflow", scope="global", rounds=10)
    after = tfticket.get_masks(model)
    assert sum(pruned(model).values()) == 54
    assert not any((after[name] & ~before[name]).any() for name in after)


def test_imp_with_structure_rates_and_criterion(mlp, data):
    model = compiled(mlp)
    imp = tfticket.IterativeMagnitudePruning(
        rounds=2, rate=0.25, structure=NM(2, 4), rates={"out": 0.0}, criterion="change"
    )
    model.fit(*data, epochs=3, callbacks=[imp], verbose=0)
    # 48 -> 36 -> 27, and of six inputs, groups of four and of two (kept whole).
    mask = imp.ticket.masks["hidden/kernel"]
    assert mask.sum() == 48 - 16
    assert mask[:4].sum(0).min() == 2
    assert imp.ticket.masks["out/kernel"].all()
    assert imp.ticket.provenance["criterion"] == "change"


def test_a_part_for_the_output_of_a_schedule_without_an_end(mlp, data):
    model = compiled(mlp)
    fit(model, data, lambda step: (step == 0, 0.5), output_factor=0.5)
    assert pruned(model) == {"hidden/kernel": 24, "out/kernel": 6}


def test_a_schedule_is_asked_about_each_step_once(mlp, data):
    asked = []

    def schedule(step):
        asked.append(step)
        return step == 30, 0.5

    model = compiled(mlp)
    model.optimizer.iterations.assign(20)
    fit(model, data, schedule, epochs=3)
    # Before, for what may be due; then ahead of the training, whatever its epochs.
    assert len(asked) < 1500
    assert sum(pruned(model).values()) == 36


def test_a_fit_without_a_step(mlp, data):
    model = compiled(mlp)
    gradual = tfticket.GradualPruning(schedules.OneShot(0.5))
    model.fit(*data, epochs=2, initial_epoch=2, callbacks=[gradual], verbose=0)
    assert sum(pruned(model).values()) == 0


class TestBadInput:
    def test_schedule_that_never_fires(self, mlp, data):
        schedule = schedules.ConstantSparsity(0.5, 100)
        with pytest.warns(UserWarning, match=r"begin_step=100.*steps 0 to 11"):
            fit(compiled(mlp), data, schedule)
        # Due once, at its initial sparsity of 0.
        schedule = schedules.PolynomialDecay(0.0, 0.5, 1, 3)
        with pytest.warns(UserWarning, match="frequency=100.*prunes nothing"):
            fit(compiled(mlp), data, schedule)
        model = compiled(mlp)
        gradual = tfticket.GradualPruning(schedules.OneShot(0.5, 20))
        with pytest.warns(UserWarning, match="steps 0 to 11"):
            model.fit(
                *data,
                batch_size=4,
                epochs=5,
                initial_epoch=4,
                callbacks=[gradual],
                verbose=0,
            )

    @pytest.mark.parametrize(
        ("schedule", "says"),
        [
            # 0.9 * (1 - (1 - 10 / 1000) ** 3) at step 10, the last that is due.
            (
                schedules.PolynomialDecay(0, 0.9, 0, 1000, frequency=10),
                r"ends at sparsity 0\.02673 in this fit, which trains steps 0 to 11; "
                r"its final sparsity is 0\.9\.",
            ),
            (
                schedules.PolynomialDecay(0, 0.9, 0, 5000),
                r"prunes nothing in this fit, which trains steps 0 to 11; its final "
                r"sparsity is 0\.9\.",
            ),
            (
                schedules.Rounds(0.5, 3, frequency=4),
                r"ends at sparsity 0\.75 .* its final sparsity is 0\.875",
            ),
        ],
    )
    def test_a_schedule_that_falls_short(self, mlp, data, schedule, says):
        with pytest.warns(UserWarning, match=says) as told:
            fit(compiled(mlp), data, schedule)
        assert one_of(told)

    def test_a_schedule_that_falls_short_of_steps_not_known(self, mlp, data):
        x, y = data
        batches = ((x[:4], y[:4]) for _ in range(5))
        schedule = schedules.PolynomialDecay(0, 0.9, 0, 10, frequency=2)
        gradual = tfticket.GradualPruning(schedule)
        says = r"ends at sparsity 0\.7056 in the steps up to [45]; .* 0\.9"
        with pytest.warns(UserWarning, match=says) as told:
            compiled(mlp).fit(batches, callbacks=[gradual], verbose=0)
        assert one_of(told)

    def test_a_fit_that_stops_early_falls_short(self, mlp, data):
        class Stop(keras.callbacks.Callback):
            def on_train_batch_end(self, batch, logs=None):
                self.model.stop_training = batch == 3

        schedule = schedules.PolynomialDecay(0, 0.9, 0, 10, frequency=2)
        with pytest.warns(UserWarning, match=r"0\.4392 in the steps up to 3"):
            fit(compiled(mlp), data, schedule, callbacks=[Stop()])

    def test_schedules_that_arrive_do_not_warn(self, mlp, data):
        with warnings.catch_warnings():
            warnings.simplefilter("error", UserWarning)
            for schedule in (
                schedules.PolynomialDecay(0.2, 0.8, 2, 9, frequency=3),  # 0.7983
                schedules.ConstantSparsity(0.9, 11),
            ):
                fit(compiled(mlp), data, schedule)
            # A second fit of a model that is there, whose steps begin again.
            model = compiled(mlp)
            fit(model, data, schedules.OneShot(0.9))
            model.compile("adam", LOSS)
            fit(model, data, schedules.PolynomialDecay(0, 0.9, 0, 1000))

    def test_schedules_out_of_range(self):
        with pytest.raises(ValueError, match="begin_step=10, end_step=5"):
            schedules.PolynomialDecay(0.0, 0.5, 10, 5)
        with pytest.raises(ValueError, match="end_step=-1"):
            schedules.PolynomialDecay(0.0, 0.5, 10, -1)
        with pytest.raises(ValueError, match="begin_step=-1"):
            schedules.ConstantSparsity(0.5, -1)
        with pytest.raises(ValueError, match="frequency=0"):
            schedules.ConstantSparsity(0.5, 0, frequency=0)
        with pytest.raises(ValueError, match=r"target_sparsity.*1\.0"):
            schedules.OneShot(1.0)
        with pytest.raises(ValueError, match=r"final_sparsity.*1\.2"):
            schedules.CosineDecay(0.0, 1.2, 0, 5)
        with pytest.raises(ValueError, match="rounds must be at least 1"):
            schedules.Rounds(0.2, 0, 10)
        with pytest.raises(ValueError, match="power=-1"):
            schedules.PolynomialDecay(0.0, 0.5, 0, 5, power=-1)
        with pytest.raises(TypeError, match="target_sparsity must be a number"):
            schedules.ConstantSparsity("half", 0)
        with pytest.raises(TypeError, match="frequency must be an integer"):
            schedules.Rounds(0.2, 2, "x")

    def test_no_schedule(self, mlp, data):
        with pytest.raises(TypeError, match=r"schedule=0\.5"):
            tfticket.GradualPruning(0.5)
        with pytest.raises(ValueError, match="no schedule to follow"):
            fit(compiled(mlp), data, None)
        with pytest.raises(TypeError, match=r"returned: 0\.5"):
            fit(compiled(mlp), data, lambda step: 0.5)

    @pytest.mark.skipif(BACKEND != "tensorflow", reason="Keras builds it first")
    def test_not_built(self, data):
        model = keras.Sequential([tfticket.Prune(keras.layers.Dense(3))])
        model.compile("adam", LOSS)
        with pytest.raises(ValueError, match=r"not built.*keras\.Input"):
            fit(model, data, schedules.OneShot(0.5))

    def test_not_wrapped(self, mlp, data):
        mlp.compile("adam", LOSS)
        with pytest.raises(ValueError, match=r"no masks.*tfticket\.prune"):
            fit(mlp, data, schedules.OneShot(0.5))

    def test_a_sparsity_that_empties_a_layer(self, mlp, data):
        schedule = schedules.OneShot(0.99)
        with pytest.raises(ValueError, match=r"'hidden/kernel'.*allow_empty"):
            fit(compiled(mlp), data, schedule)
        model = compiled(mlp)
        fit(model, data, schedule, allow_empty=True)
        assert pruned(model) == {"hidden/kernel": 48, "out/kernel": 24}

    def test_a_global_cut_leaves_every_layer_one_weight(self, mlp, data):
        kernel = np.full((8, 3), 1e-9, "float32")
        kernel[5, 1] = 2e-9
        mlp.get_layer("out").kernel.assign(kernel)
        model = tfticket.prune(mlp)
        tfticket.sparsify(model, 0.5, scope="global")
        assert pruned(model) == {"hidden/kernel": 13, "out/kernel": 23}
        assert tfticket.get_masks(model)["out/kernel"][5, 1]
        # 2 of 72 stay, one each; not even that many of 3.
        tfticket.sparsify(model, 70 / 72, scope="global")
        assert pruned(model) == {"hidden/kernel": 47, "out/kernel": 23}
        with pytest.raises(ValueError, match=r"a single weight.*allow_empty"):
            tfticket.sparsify(model, 71 / 72, scope="global")
        assert sum(pruned(model).values()) == 70
        model = tfticket.prune(mlp)
        tfticket.sparsify(model, 0.5, scope="global", allow_empty=True)
        assert pruned(model) == {"hidden/kernel": 12, "out/kernel": 24}
        model = compiled(mlp)
        fit(model, data, schedules.OneShot(0.5), scope="global")
        assert sum(pruned(model).values()) == 36

    def test_criteria(self, mlp):
        model = tfticket.prune(mlp)
        with pytest.raises(ValueError, match=r"magnitude.*synflow"):
            tfticket.sparsify(model, 0.5, "magnitud")
        with pytest.raises(ValueError, match=r"'snip' needs gradient.*data="):
            tfticket.sparsify(model, 0.5, "snip")
        with pytest.raises(ValueError, match=r"'movement'.*GradualPruning"):
            tfticket.sparsify(model, 0.5, "movement")
        with pytest.raises(ValueError, match="finite"):
            tfticket.sparsify(model, 0.5, lambda w: w * np.nan)
        with pytest.raises(ValueError, match="shape"):
            tfticket.sparsify(model, 0.5, lambda w: w[0])
        assert sum(pruned(model).values()) == 0
        with pytest.raises(ValueError, match="used up"):
            tfticket.sparsify(model, 0.5, "snip", data=iter([(1, 2)]))

    def test_a_criterion_fails_before_training(self, mlp, data):
        model = compiled(mlp)
        late = schedules.OneShot(0.5, 8)
        with pytest.raises(ValueError, match="finite"):
            fit(model, data, late, criterion=lambda w: w * np.nan)
        assert int(model.optimizer.iterations) == 0

    def test_patterns_and_structures(self, mlp):
        model = tfticket.prune(mlp)
        with pytest.raises(ValueError, match=r"sparsities names.*'hiden'"):
            tfticket.sparsify(model, 0.5, sparsities={"hiden": 0.1})
        with pytest.raises(ValueError, match=r"sparsities\['hidden/kernel'\].*1\.5"):
            tfticket.sparsify(model, 0.5, sparsities={"hidden": 1.5})
        with pytest.raises(ValueError, match=r"'hidden/kernel'.*block.*exclude"):
            tfticket.sparsify(model, 0.5, structure=tfticket.structures.Block((70, 1)))
        with pytest.raises(TypeError, match=r"sparsities must be a dict"):
            tfticket.sparsify(model, 0.5, sparsities=["hidden"])
        with pytest.raises(TypeError, match=r"hidden/kernel.*number.*None"):
            tfticket.sparsify(model, 0.5, sparsities={"hidden": None})
        channel = tfticket.structures.Channel(grouped=False)
        tfticket.sparsify(model, 0.5, structure=channel, sparsities={"out": 0.0})
        with pytest.raises(ValueError, match="output_factor=2"):
            tfticket.sparsify(model, 0.5, output_factor=2)
        with pytest.raises(ValueError, match="rounds"):
            tfticket.sparsify(model, 0.5, rounds=0)


@pytest.mark.skipif(not hasattr(keras, "distillation"), reason="Keras before 3.12")
def test_a_distiller_is_pruned_by_its_student(mlp, data):
    teacher = keras.models.clone_model(mlp)
    student = tfticket.prune(mlp)
    distiller = keras.distillation.Distiller(
        teacher, student, keras.distillation.LogitsDistillation()
    )
    distiller.compile(keras.optimizers.SGD(0.1, momentum=0.9), LOSS)
    schedule = SCHEDULES["polynomial"]
    assert fit(distiller, data, schedule) == expected(schedule, 12)
    masks = tfticket.get_masks(student)
    places = [id(variable) for variable in distiller.trainable_variables]
    for name, weight in tfticket.pruning.masks.masked_weights(student).items():
        momentum = distiller.optimizer.momentums[places.index(id(weight.variable))]
        resting = keras.ops.convert_to_numpy(momentum)[~masks[name]]
        assert resting.size
        assert not resting.any()


class ManyUpdates(keras.Sequential):
    """Updates ten times a batch, so that steps can't be told from batches."""

    def train_step(self, *args):
        for _ in range(9):
            super().train_step(*args)
        return super().train_step(*args)


@pytest.mark.skipif(BACKEND == "jax", reason="steps of JAX hand their state on")
def test_more_than_one_update_a_batch(mlp, data):
    model = ManyUpdates(tfticket.prune(mlp).layers)
    model.compile("sgd", LOSS)
    schedule = schedules.PolynomialDecay(0.0, 0.5, 0, 60, frequency=20)
    # The last that was due before each batch.
    assert fit(model, data, schedule) == expected(schedule, 120)[::10]
