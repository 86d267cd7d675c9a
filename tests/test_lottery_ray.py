"""The same experiment on a local Ray cluster, one of whose workers dies."""

import os
import pathlib
import signal
import sys

import pytest

from tfticket import lottery

sys.path.insert(0, os.path.join(os.path.dirname(__file__), "fixtures"))
from small_lottery import experiment

ASKED = {"replicates": 2, "rounds": 2, "branches": ["reinit"], "branch_rounds": [1]}


def tickets(folder, results):
    return {
        (result.part, name): value.tobytes()
        for result in results
        for name, value in lottery.read_ticket(folder, result.part).weights.items()
    }


def running_chains():
    """Processes of the cluster that run a chain now; Ray names them so."""
    found = []
    for path in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if path.read_bytes().startswith(b"ray::_run_chain"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.slow
def test_as_local_though_a_worker_dies(tmp_path):
    ray = pytest.importorskip("ray")
    asked = experiment(**ASKED, recipe={"iterations": 400})
    local = asked.run(tmp_path / "local")
    fixtures = os.path.join(os.path.dirname(__file__), "fixtures")
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        log_to_driver=False,
        runtime_env={"env_vars": {"PYTHONPATH": fixtures}},
    )
    killed = []

    def on_part(*_):
        # Once the first chain is done, others run.
        if not killed and (running := running_chains()):
            os.kill(running[0], signal.SIGKILL)
            killed.append(running[0])

    try:
        on_cluster = asked.run(
            tmp_path / "ray", runner="ray", checkpoint_seconds=0.0, on_part=on_part
        )
    finally:
        ray.shutdown()
    assert killed
    assert [r.part for r in on_cluster] == [r.part for r in local]
    folders = [tmp_path / name / asked.name for name in ("local", "ray")]
    assert tickets(folders[0], local) == tickets(folders[1], on_cluster)
    assert [r.test for r in local] == [r.test for r in on_cluster]


def test_without_ray(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r"pip install 'tfticket\[ray\]'"):
        experiment(**ASKED).run(tmp_path, runner="ray")
