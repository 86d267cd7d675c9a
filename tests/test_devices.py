"""Several devices that share a batch give what one gives, up to rounding."""

import functools
import json
import os
import pathlib
import subprocess
import sys

import numpy as np
import pytest
from fixtures.backends import BACKEND, needs_tensorflow

import tfticket
from tfticket import devices, lottery

PROGRAM = pathlib.Path(__file__).parent / "fixtures" / "mirrored.py"


@pytest.fixture(scope="module")
def trained(run_script, tmp_path_factory):
    """What one device makes of something, and what two do."""
    if BACKEND == "torch":
        pytest.skip("Keras has no strategy for PyTorch")

    @functools.cache
    def run(what):
        done = run_script(PROGRAM, what, cwd=tmp_path_factory.mktemp("devices"))
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])

    return run


@pytest.mark.parametrize(
    "what",
    ["gradual", "rigl"]
    + [pytest.param(x, marks=pytest.mark.slow) for x in ("imp", "ste", "popup")],
)
def test_two_devices_train_as_one(what, trained):
    one, two = trained(what)
    assert (one["devices"], two["devices"]) == (1, 2)
    assert one["agree"]
    assert two["agree"]
    np.testing.assert_allclose(two["loss"], one["loss"], rtol=1e-2)
    for name, mask in one["masks"].items():
        mask, other = np.array(mask), np.array(two["masks"][name])
        assert mask.sum() == other.sum()
        # What rounding changes is which of two almost equal scores is the larger.
        assert np.mean(mask == other) > 0.97, name
        assert 0 < mask.sum() < mask.size


def test_two_devices_find_the_same_ticket(trained):
    one, two = (found["ticket"] for found in trained("imp"))
    assert one.keys() == two.keys()
    for name, weight in one.items():
        close = np.isclose(two[name], weight, rtol=1e-3, atol=1e-5)
        assert np.mean(close) > 0.99, name


@pytest.mark.slow
def test_an_experiment_on_two_devices(trained):
    one, two = trained("experiment")
    assert one["accuracy"].keys() == two["accuracy"].keys()
    for part, accuracy in one["accuracy"].items():
        assert two["accuracy"][part] == pytest.approx(accuracy, abs=0.02)
    for name, mask in one["masks"].items():
        assert np.mean(np.array(mask) == np.array(two["masks"][name])) > 0.99


def test_a_strategy_of_another_backend_or_of_none():
    with pytest.raises(ValueError, match=r"one of .*strategy='tpu'"):
        devices.strategy("tpu")
    other = "data_parallel" if BACKEND == "tensorflow" else "mirrored"
    with pytest.raises(ValueError, match=rf"'{other}' is for .*KERAS_BACKEND="):
        devices.strategy(other)


def test_a_batch_that_does_not_divide(monkeypatch, tmp_path):
    monkeypatch.setattr(devices, "replicas", lambda: 8)
    with pytest.raises(ValueError, match=r"batch_size=60 .* 8 devices.*multiple of 8"):
        lottery.find_ticket(lottery.Experiment(rounds=1), tmp_path / "run")
    assert not (tmp_path / "run").exists()
    experiment = lottery.LotteryExperiment(lottery.Recipe(iterations=20), rounds=1)
    with pytest.raises(ValueError, match="batch_size=60"):
        experiment.run(tmp_path / "runs")
    assert not (tmp_path / "runs").exists()
    popup = lottery.PopupExperiment(batch_size=60)
    with pytest.raises(ValueError, match="batch_size=60"):
        popup.run()


@needs_tensorflow
def test_settings_for_compile(monkeypatch):
    dense = tfticket.models.build("lenet_300_100", (28, 28, 1), 10)
    settings = tfticket.models.compile_settings
    assert settings(dense, 100) == {"jit_compile": True, "steps_per_execution": 50}
    monkeypatch.setattr(devices, "replicas", lambda: 2)
    assert settings(dense, 100) == {"jit_compile": False, "steps_per_execution": 1}
    monkeypatch.undo()
    convolutions = tfticket.models.build("conv_2", (32, 32, 3), 10)
    assert not settings(convolutions, 100)["jit_compile"]


@needs_tensorflow
@pytest.mark.slow
def test_keras_fits_under_no_multi_worker_strategy(tmp_path):
    """When this fails, Keras can do it, and docs/scale.md has to be rewritten."""
    errors = workers(tmp_path, "fit")
    assert all("PerReplica" in text for text in errors), errors


@needs_tensorflow
@pytest.mark.slow
def test_a_loop_of_ones_own_on_two_workers(tmp_path):
    one, two = (json.loads(text.splitlines()[-1]) for text in workers(tmp_path, "loop"))
    assert one == two
    assert one["kept"] == {"hidden/kernel": 256, "out/kernel": 40}


def workers(folder, what):
    """Output of two processes of one cluster on this machine."""
    program = PROGRAM.with_name("multi_worker.py")
    ports = [free_port() for _ in range(2)]
    cluster = {"worker": [f"127.0.0.1:{port}" for port in ports]}
    running = []
    for index in range(2):
        config = {"cluster": cluster, "task": {"type": "worker", "index": index}}
        running.append(
            subprocess.Popen(
                [sys.executable, program, what],
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
            )
        )
    try:
        return [process.communicate(timeout=300)[0] for process in running]
    finally:
        for process in running:
            process.kill()


def free_port():
    import socket

    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
