"""The progress bars: what they show, and the time left by a clock of the test's."""

import io
import types

import pytest
from rich.console import Console

import tfticket
from tfticket import schedules
from tfticket.inspection import progress
from tfticket.lottery import Part, PartResult
from tfticket.lottery.figures import progress as part_progress

LOSS = "sparse_categorical_crossentropy"


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands still until it is set: `clock.now = seconds`."""
    clock = types.SimpleNamespace(now=0.0)
    clock.monotonic = lambda: clock.now
    for module in (progress, part_progress):
        monkeypatch.setattr(module, "time", clock)
    return clock


@pytest.fixture
def console():
    return Console(file=io.StringIO(), width=120)


def shown(bar):
    """The bar as it stands, its blocks left out."""
    console = Console(file=io.StringIO(), width=120)
    console.print(bar._progress.get_renderable())
    text = console.file.getvalue()
    return " ".join(text.replace("━", "").replace("╸", "").replace("╺", "").split())


def epochs_of(seconds, clock, console, logs=lambda epoch: None, **arguments):
    """What is shown after each of the epochs that take so long."""
    bar = progress.RoundProgress(console, **arguments)
    bar.set_params({"epochs": len(seconds)})
    bar.on_train_begin()
    lines = []
    for epoch, taken in enumerate(seconds):
        clock.now += taken
        bar.on_epoch_end(epoch, logs(epoch))
        lines.append(shown(bar))
    bar.on_train_end()
    return lines


@pytest.mark.parametrize("unit", [1, 100])
def test_time_left_without_the_epoch_that_compiles(clock, console, unit):
    # Rich's own column shows none for epochs that take more than 30 seconds.
    spans = [50 * unit, *[2 * unit, 4 * unit] * 2]
    lines = epochs_of(spans, clock, console)
    minutes = {1: ("0:03:20", "0:00:06", "0:00:06", "0:00:03")}
    minutes[100] = ("5:33:20", "0:10:00", "0:10:00", "0:04:27")
    most, *others = minutes[unit]
    assert lines[0] == f"training 1/5 at most {most} left"
    assert [line.split()[2] for line in lines[1:4]] == others
    assert lines[-1] == "training 5/5"


def test_rounds_are_known_from_the_end_of_the_first(clock, console):
    def logs(epoch):
        found = {"round": epoch // 2, "density": 0.8 ** (epoch // 2), "val_loss": 1.5}
        return {**found, "round_parameters": 9} if epoch % 2 else found

    lines = epochs_of([1.0] * 6, clock, console, logs)
    begin = "round 0, density 100.0 %, val_loss 1.5000 1/6 at most"
    assert lines[0].startswith(begin)
    assert lines[1].startswith("round 0 of 2, density 100.0 %")
    assert lines[4].startswith("round 2 of 2, density 64.0 %, val_loss 1.5000 5/6")
    assert "round  1: density  80.0 %\n" in console.file.getvalue()
    lines = epochs_of([1.0] * 6, clock, console, logs, rounds=2)
    assert lines[0].startswith("round 0 of 2, density 100.0 %")


def test_in_a_fit_that_prunes_by_rounds(mlp, data, console):
    model = tfticket.prune(mlp)
    model.compile("adam", LOSS, metrics=["accuracy"])
    pruning = tfticket.IterativeMagnitudePruning(rounds=2, rate=0.5, test_data=data)
    bar = progress.RoundProgress(console)
    fit = {"epochs": 6, "validation_data": data, "verbose": 0}
    model.fit(*data, callbacks=[pruning, bar], **fit)
    *rounds, last = console.file.getvalue().splitlines()
    assert [line.split(":")[0] for line in rounds] == [f"round  {i}" for i in range(3)]
    accuracy = 100 * pruning.records[1].test["accuracy"]
    # Half of 48 and three quarters of the output layer's 24 are left.
    density = 100 * (24 + 18) / 72
    assert f"density  {density:.1f} %, test accuracy {accuracy:.2f} %" in rounds[1]
    assert f"iteration {pruning.records[1].best_iteration}" in rounds[1]
    assert last.startswith("round 2 of 2, density")
    assert "6/6" in last


def test_in_a_fit_that_prunes_gradually(mlp, data, console):
    model = tfticket.prune(mlp)
    model.compile("adam", LOSS)
    gradual = tfticket.GradualPruning(schedules.OneShot(0.5))
    callbacks = [gradual, progress.RoundProgress(console)]
    model.fit(*data, epochs=3, initial_epoch=1, callbacks=callbacks, verbose=0)
    (last,) = console.file.getvalue().splitlines()
    assert last.startswith("sparsity 50.0 %")
    assert "3/3" in last


def test_time_left_of_parts_leaves_out_those_found(clock, console):
    part = Part(0, round=1)
    measured = {"accuracy": 0.5}
    result = PartResult(part, 0.8, 10, {}, 100, 7, *[measured] * 4)
    with part_progress.PartProgress(6, console) as bar:
        bar.on_part(result, 1, 6, fresh=False)
        assert shown(bar) == "starting 1/6"
        clock.now = 60
        bar.on_evaluation(part, 50, 100)
        # Half a part took a minute; four and a half are left.
        assert shown(bar) == f"{part.path} at step 50 1/6 0:09:00 left"
        bar.on_part(result, 2, 6, fresh=True)
        assert shown(bar) == f"{part.path} at step 50 2/6 0:04:00 left"
    assert "density 80.0 %, test accuracy 50.00 %" in console.file.getvalue()


def test_parts_side_by_side_add_up(clock, console):
    first, second = Part(0), Part(1)
    result = PartResult(first, 1.0, 10, {}, 100, 7, *[{"accuracy": 0.5}] * 4)
    with part_progress.PartProgress(4, console) as bar:
        bar.on_evaluation(first, 50, 100)
        clock.now = 60
        bar.on_evaluation(second, 50, 100)
        # A whole part's work took a minute; that of three is left.
        assert shown(bar) == f"{second.path} at step 50 0/4 0:03:00 left"
        bar.on_part(result, 1, 4, fresh=True)
        assert shown(bar) == f"{second.path} at step 50 1/4 0:01:40 left"


def test_bad_rounds():
    with pytest.raises(ValueError, match="rounds must be at least 1"):
        progress.RoundProgress(rounds=0)
