"""An experiment side by side in processes: the same folder, and an end to all of it."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest
from test_lottery_kill import contents

from tfticket import lottery
from tfticket.lottery import popup_experiment
from tfticket.lottery.engine import processes, runners
from tfticket.lottery.engine.chains import Chain

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "fixtures"))
import processes_at_work
from small_lottery import experiment

FIXTURES = pathlib.Path(__file__).with_name("fixtures")


class Here:
    """Stands in for `Processes`: does each task in this process, when waited for."""

    def __init__(self, most, start, *args):
        self.most, self.tasks, self.most_at_once = most, [], 0
        self.work = start(*args)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return None

    @property
    def is_free(self):
        return len(self.tasks) < self.most

    @property
    def is_busy(self):
        return bool(self.tasks)

    def give(self, task):
        self.tasks.append(task)
        self.most_at_once = max(self.most_at_once, len(self.tasks))

    def wait(self):
        said = []
        self.work(self.tasks.pop(), lambda *words: said.append(words))
        yield from said


@pytest.fixture
def here(monkeypatch):
    made = []

    def make(*args):
        made.append(Here(*args))
        return made[-1]

    monkeypatch.setattr(runners, "Processes", make)
    monkeypatch.setattr(popup_experiment, "Processes", make)
    monkeypatch.setattr(processes, "cores", lambda: 4)
    return made


@pytest.mark.usefixtures("without_xla")
class TestOrder:
    def test_the_results_are_those_of_one_after_another(self, here, tmp_path):
        branches = ["reinit", "one_shot"]
        asked = experiment(replicates=2, branches=branches, branch_rounds=[1])
        told, steps = [], set()
        results = asked.run(
            tmp_path / "side",
            processes=4,
            on_part=lambda result, *rest: told.append((result.part, *rest)),
            on_evaluation=lambda part, done, of: steps.add((part, done, of)),
        )
        assert here[0].most_at_once == 4
        assert [r.part for r in results] == asked.parts()
        assert sorted(part for part, *_ in told) == sorted(asked.parts())
        assert [rest for _, *rest in told] == [[n, 10, True] for n in range(1, 11)]
        assert {part for part, *_ in steps} == set(asked.parts())
        assert (asked.parts()[0], 120, 120) in steps
        asked.run(tmp_path / "one")
        assert contents(tmp_path / "side") == contents(tmp_path / "one")

    def test_what_is_finished_is_not_sent(self, here, tmp_path):
        experiment(rounds=1).run(tmp_path)
        fresh = {}
        experiment(rounds=2, attacks=["fgsm:0.1"]).run(
            tmp_path,
            processes="auto",
            on_part=lambda result, *rest: fresh.update({result.part: rest[-1]}),
        )
        assert list(fresh.values()) == [False, False, True]
        assert here[0].most == 3  # an attack is missing in each
        again = experiment(rounds=2).run(tmp_path, processes="auto")
        assert len(again) == 3
        assert len(here) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("without_xla")
def test_popup_trainings_side_by_side(here, tmp_path):
    asked = lottery.PopupExperiment(
        densities=[0.3, 0.6],
        weight_initializers=["signed_constant"],
        width=0.1,
        epochs=1,
    )
    told, steps = [], []
    results = asked.run(
        tmp_path / "side",
        processes=2,
        on_part=lambda result, *rest: told.append(rest),
        on_evaluation=lambda *said: steps.append(said),
    )
    assert here[0].most_at_once == 2
    assert told == [(1, 3, True), (2, 3, True), (3, 3, True)]
    assert {part for part, *_ in steps} == set(asked.parts())
    assert results == asked.run(tmp_path / "one")
    files = [tmp_path / name / "results.json" for name in ("side", "one")]
    assert files[0].read_text() == files[1].read_text()
    assert asked.run(tmp_path / "side", processes=2) == results
    assert len(here) == 1
    with pytest.raises(ValueError, match="processes is for strategy='none'"):
        asked.run(tmp_path, processes=2, strategy="mirrored")


def test_a_part_begins_when_its_tickets_are_there():
    chains = [Chain(0, "reinit", 0, (2,)), Chain(0, "reinit", 0, (1,))]
    chains += [Chain(0, "ticket", 0, (number,)) for number in (0, 1, 2)]
    waiting = runners._Waiting(chains)
    taken = []
    for number in range(3):
        while (chain := waiting.take()) is not None:
            taken.append(chain)
        assert taken[-1] != chains[0] or number == 2
        waiting.done(lottery.Part(0, round=number))
    taken.append(waiting.take())
    main = chains[2:]
    assert taken == [main[0], main[1], main[2], chains[1], chains[0]]
    assert waiting.take() is None


def test_whole_chains_wait_for_whole_replicates():
    chains = [Chain(seed, "ticket", 0, (0, 1, 2)) for seed in (0, 1)]
    chains.append(Chain(1, "reinit", 0, (1, 2)))
    waiting = runners._Waiting(chains)
    assert [waiting.take() for _ in range(3)] == [*chains[:2], None]
    for number in range(3):
        assert waiting.take() is None
        waiting.done(lottery.Part(1, round=number))
    assert waiting.take() == chains[2]


class TestBadInput:
    @pytest.mark.parametrize(
        ("arguments", "error", "message"),
        [
            ({"processes": 0}, ValueError, "processes must be at least 1"),
            ({"processes": 5}, ValueError, "processes must be at most 4, the cores"),
            ({"processes": "all"}, ValueError, "processes must be 'auto' or a number"),
            ({"processes": 1.5}, TypeError, "processes must be an integer"),
            (
                {"processes": 2, "runner": "ray"},
                ValueError,
                "processes is for runner='local'",
            ),
            (
                {"processes": 2, "strategy": "mirrored"},
                ValueError,
                "processes is for strategy='none'",
            ),
        ],
    )
    def test_before_any_work(self, arguments, error, message, here, tmp_path):
        with pytest.raises(error, match=message):
            experiment().run(tmp_path, **arguments)
        assert not list(tmp_path.iterdir())

    def test_a_network_that_can_not_be_sent(self, here, tmp_path):
        with pytest.raises(ValueError, match=r"^build can't be sent.*top of a module"):
            experiment(build=lambda shape, classes: None).run(tmp_path, processes=2)
        assert not list(tmp_path.iterdir())

    def test_the_flag(self, run_script, tmp_path):
        script = pathlib.Path(__file__).parents[1] / "scripts" / "run_lottery.py"
        for value, told in [("two", "a number or 'auto'"), ("10000", "at most")]:
            done = run_script(script, f"--processes={value}", cwd=tmp_path)
            assert done.returncode == 2
            assert told in done.stderr


def said_of(pool):
    found = []
    while pool.is_busy:
        found += pool.wait()
    return found


def test_tasks_in_a_process():
    """All in one, because a process takes seconds to start."""
    before = dict(os.environ)
    with processes.Processes(1, processes_at_work.start, "word") as pool:
        pool.give("a")
        assert not pool.is_free
        (first,) = said_of(pool)
        assert pool.is_free
        pool.give("warn")
        with pytest.warns(UserWarning, match="take care"):
            (second,) = said_of(pool)
        # It was started once, in another process, which has one thread.
        assert first[:3] == ("a", "word", 1)
        assert second[:3] == ("warn", "word", 2)
        assert first[3:] == second[3:]
        assert first[3] != os.getpid()
        assert first[4] == "1"
        assert dict(os.environ) == before
        pool.give("die")
        with pytest.raises(lottery.WorkerDiedError) as died:
            said_of(pool)
    told = str(died.value)
    assert told.startswith("The process that had to do 'die' ended with exit code -9")
    assert told.endswith("the last words")


@pytest.mark.slow
def test_an_error_is_raised_here_and_ends_the_others():
    with processes.Processes(2, processes_at_work.start, "word") as pool:
        pool.give("sleep")
        pool.give("fail")
        with pytest.raises(LookupError, match="no such thing") as failed:
            said_of(pool)
    assert "processes_at_work.py" in str(failed.value.__cause__)
    assert not any(p.is_alive() for p in pool._processes.values())


@pytest.mark.slow
def test_side_by_side_the_bits_are_the_same(tmp_path):
    asked = processes_at_work.EXPERIMENT
    steps = set()
    asked.run(
        tmp_path / "side",
        processes=2,
        on_evaluation=lambda part, done, of: steps.add(part),
    )
    asked.run(tmp_path / "one")
    found = contents(tmp_path / "side")
    assert found == contents(tmp_path / "one")
    assert len(found) == 2 * (5 * 3 + 3)
    assert steps == set(asked.parts())


def children(parent):
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text().rpartition(")")[2].split()
        except OSError:
            continue  # it has ended
        if int(fields[1]) == parent and fields[0] != "Z":
            found.append(int(path.parent.name))
    return found


def until(condition, seconds=900):
    end = time.monotonic() + seconds
    while not condition() and time.monotonic() < end:
        time.sleep(0.1)
    assert condition()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_kill_ends_all_and_the_same_command_goes_on(tmp_path):
    command = [sys.executable, FIXTURES / "processes_at_work.py", tmp_path / "killed"]
    running = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    try:
        until(lambda: list(tmp_path.rglob("result.json")))
        own = children(running.pid)
    finally:
        running.kill()
        running.wait()
    assert len(own) >= 2
    until(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in own))
    left = len(list(tmp_path.rglob("result.json")))
    assert left < len(processes_at_work.EXPERIMENT.parts())
    subprocess.run(command, check=True, stderr=subprocess.DEVNULL)
    processes_at_work.EXPERIMENT.run(tmp_path / "one")
    assert contents(tmp_path / "killed") == contents(tmp_path / "one")
    assert not list(tmp_path.rglob("*.tmp*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_ctrl_c_ends_all(tmp_path):
    script = pathlib.Path(__file__).parents[1] / "scripts" / "run_lottery.py"
    flags = ["--rounds=1", "--iterations=100000", "--replicates=2", "--processes=2"]
    running = subprocess.Popen(
        [sys.executable, script, *flags, "--checkpoint_seconds=0"],
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        start_new_session=True,  # whose group gets the key, as of a terminal
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        until(lambda: len(list(tmp_path.rglob("checkpoint.npz"))) == 2)
        own = children(running.pid)
        os.killpg(running.pid, signal.SIGINT)
        _, told = running.communicate(timeout=300)
    finally:
        running.kill()
    assert running.returncode == 130
    assert told.splitlines()[-1].startswith("Interrupted. What is finished is kept.")
    assert "Traceback" not in told
    # The workers have ended by now, and multiprocessing's tracker ends after them.
    until(lambda: not any(pathlib.Path(f"/proc/{pid}").exists() for pid in own), 60)


@pytest.mark.slow
def test_a_script_without_a_guard_is_told(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        f"import sys\nsys.path.insert(0, {str(FIXTURES)!r})\n"
        "from processes_at_work import EXPERIMENT\n"
        "EXPERIMENT.run('runs', processes=2)\n"
    )
    done = subprocess.run(
        [sys.executable, script], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "exit code 1" in done.stderr
    assert "if __name__ == '__main__':" in done.stderr
