"""A part of a run counts for that part of that run alone."""

import json
import shutil
import warnings

import numpy as np
import pytest

import tfticket
from tfticket import lottery
from tfticket.common.checksums import digest
from tfticket.common.runs import RunFolder
from tfticket.lottery.engine.run_folder import LotteryFolder, read_config, read_results
from tfticket.lottery.results import Part, PartResult

FIRST, OTHER_ROUND, OTHER_SEED = Part(0, round=1), Part(0, round=5), Part(7, round=1)


def result_of(part):
    figures = {"loss": 0.5, "accuracy": 0.9}
    return PartResult(
        part=part,
        density=0.8,
        parameters=8,
        layers={"out/kernel": [8, 10]},
        iterations=60,
        early_stop_iteration=30,
        test=figures,
        early_stop_test=figures,
        validation=figures,
        early_stop_validation=figures,
    )


def made(path, identity, parts=(FIRST,), named=True):
    """A run with these parts, nothing trained."""
    run = LotteryFolder(path)
    ticket = tfticket.Ticket({}, {"out/bias": np.zeros(2, np.float32)})
    with run.opened({"identity": identity} if named else identity, named=named):
        for part in parts:
            run.finish(result_of(part), {"ticket.npz": ticket}, {"iteration": [60]}, [])
    return run


def copy_part(run, part, to_run, to_part):
    shutil.copytree(run.folder(part), to_run.folder(to_part))


@pytest.mark.parametrize("other", [OTHER_ROUND, OTHER_SEED, Part(0, "reinit", 0, 1)])
def test_a_part_copied_to_another_place_is_not_counted(other, tmp_path):
    run = made(tmp_path, {"rate": 0.2})
    copy_part(run, FIRST, run, other)
    with pytest.warns(UserWarning, match=r"damaged and will be made again.*copied"):
        assert run.result(other) is None
    with pytest.warns(UserWarning, match="copied"):
        assert read_results(tmp_path) == [result_of(FIRST)]


@pytest.mark.parametrize("named", [True, False])
def test_a_part_of_a_run_with_other_settings_is_not_counted(named, tmp_path):
    run = made(tmp_path / "100", {"iterations": 100}, (), named)
    other = made(tmp_path / "60", {"iterations": 60}, named=named)
    copy_part(other, FIRST, run, FIRST)
    with pytest.warns(UserWarning, match=r"round_01' is damaged.*other settings"):
        assert run.result(FIRST) is None
    # Made elsewhere of the same settings, it counts.
    same = made(tmp_path / "same", {"iterations": 60}, (), named)
    copy_part(other, FIRST, same, FIRST)
    assert same.result(FIRST) == result_of(FIRST)


@pytest.mark.slow
def test_a_part_that_is_not_counted_is_made_again(tmp_path):
    asked = [
        lottery.Experiment(rounds=1, iterations=n, evaluate_every=10) for n in (20, 30)
    ]
    for experiment in asked:
        lottery.find_ticket(experiment, tmp_path / str(experiment.iterations))
    whole = tmp_path / "30" / "seed_0" / "ticket" / "round_01"
    wanted = (whole / "trained.npz").read_bytes()
    shutil.rmtree(whole)
    shutil.copytree(tmp_path / "20" / "seed_0" / "ticket" / "round_01", whole)
    missing = []
    with pytest.warns(UserWarning, match=r"round_01' is damaged.*other settings"):
        lottery.find_ticket(
            asked[1], tmp_path / "30", on_part=lambda *a: missing.append(a[-1])
        )
    assert missing == [False, True]
    assert (whole / "trained.npz").read_bytes() == wanted


def test_a_part_keeps_its_name_when_its_result_is_amended(tmp_path):
    run = made(tmp_path, {"rate": 0.2})
    run.amend(FIRST.path, result_of(FIRST).as_json())
    assert run.result(FIRST) == result_of(FIRST)
    copy_part(run, FIRST, run, OTHER_ROUND)
    with pytest.warns(UserWarning, match="copied"):
        assert run.result(OTHER_ROUND) is None


def as_before(run):
    """As runs were written when parts had no name and `config.json` no checksum."""
    for path in run.path.rglob("*.json"):
        held = json.loads(path.read_text())
        for name in ("of", "run", "sha256"):
            held.pop(name, None)
        if path.name == "result.json":
            held["sha256"] = digest(held)
        path.write_text(json.dumps(held))


@pytest.mark.parametrize("named", [True, False])
def test_runs_of_before_load_and_go_on(named, tmp_path):
    identity = {"rate": 0.2}
    run = made(tmp_path, identity, named=named)
    as_before(run)
    made(tmp_path, identity, [OTHER_ROUND], named)
    assert read_results(tmp_path) == [result_of(FIRST), result_of(OTHER_ROUND)]
    # What their results say of themselves is compared all the same.
    copy_part(run, FIRST, run, OTHER_SEED)
    with pytest.warns(UserWarning, match="copied"):
        assert run.result(OTHER_SEED) is None


def test_a_part_without_a_name_has_no_place_in_a_run_with_names(tmp_path):
    before = made(tmp_path / "before", {"rate": 0.2})
    as_before(before)
    run = made(tmp_path / "run", {"rate": 0.2}, ())
    copy_part(before, FIRST, run, FIRST)
    with pytest.warns(UserWarning, match="does not say of which run"):
        assert run.result(FIRST) is None


def test_config_says_what_defines_the_run_and_no_more(tmp_path):
    made(tmp_path, {"rate": 0.2})
    assert set(read_config(tmp_path)) == {"identity", "versions"}


@pytest.mark.parametrize("named", [True, False])
def test_no_changed_byte_of_a_config_goes_unseen(named, tmp_path):
    identity = {"identity": {"rate": 0.2}}
    run, config = RunFolder(tmp_path, ["seed_*"]), tmp_path / "config.json"
    with run.opened(identity, named=named):
        run.write("seed_0", 1)
    written = config.read_bytes()
    wanted, noticed = json.loads(written), 0
    for i, byte in [*enumerate(written)][::5]:
        config.write_bytes(written[:i] + bytes([byte ^ 2]) + written[i + 1 :])
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                with run.opened(identity, named=named):
                    pass
            except FileExistsError as error:
                # Nobody but its user can know what run it was.
                noticed += (not named) and str(tmp_path) in str(error)
                continue
        if caught:
            assert "config.json' is damaged and is written again" in str(caught[0])
            noticed += 1
        # White space, or what was written again.
        assert json.loads(config.read_bytes()) == wanted
    assert noticed > len(written) / 10


def test_a_damaged_config_is_told_to_readers(tmp_path):
    made(tmp_path, {"rate": 0.2})
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace("0.2", "0.3"))
    for read in (read_config, read_results):
        with pytest.raises(ValueError, match="another checksum"):
            read(tmp_path)


def test_no_changed_byte_of_a_result_gives_another(tmp_path):
    run = made(tmp_path, {"rate": 0.2})
    path = run.folder(FIRST) / "result.json"
    written = path.read_bytes()
    for i, byte in [*enumerate(written)][::5]:
        path.write_bytes(written[:i] + bytes([byte ^ 2]) + written[i + 1 :])
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "'.*round_01' is damaged")
            found = run.result(FIRST)
        assert found in (None, result_of(FIRST))


@pytest.mark.slow
def test_a_checkpoint_of_a_run_with_other_settings_is_not_used(tmp_path):
    def stop(part, done, of):
        if done == 40:  # having saved at 20
            raise KeyboardInterrupt

    asked = [
        lottery.Experiment(
            rounds=1, iterations=40, evaluate_every=20, learning_rate=rate
        )
        for rate in (0.001, 0.1)
    ]
    for experiment in asked:
        with pytest.raises(KeyboardInterrupt):
            lottery.find_ticket(
                experiment,
                tmp_path / str(experiment.learning_rate),
                checkpoint_seconds=0,
                on_evaluation=stop,
            )
    first, second = (next(iter(tmp_path.glob(f"{r}/**/*.npz"))) for r in (0.001, 0.1))
    shutil.copy(first, second)
    done = []
    lottery.find_ticket(
        asked[1], tmp_path / "0.1", on_evaluation=lambda part, n, of: done.append(n)
    )
    assert done == [20, 40] * 2
