"""What is needed for what: most of tfticket works without TensorFlow."""

import importlib.util
import os
import subprocess
import sys

import pytest

# `None` in sys.modules is how Python says that a module is not there.
BEGIN = """
import sys
for name in ("tensorflow", "tensorflow_datasets", "sklearn", "matplotlib", "PIL"):
    sys.modules[name] = None
import keras
import tfticket
digits = tfticket.data.load("digits")
"""
TRAINS = """
x, y = digits.train
assert x.shape == (1297, 8, 8, 1)
model = keras.Sequential(
    [keras.Input((8, 8, 1)), keras.layers.Flatten(), keras.layers.Dense(10)]
)
wrapped = tfticket.prune(model)
loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
wrapped.compile("adam", loss)
schedule = tfticket.schedules.ConstantSparsity(0.5, 0, frequency=1)
gradual = tfticket.GradualPruning(schedule)
wrapped.fit(x[:60], y[:60], batch_size=20, verbose=0, callbacks=[gradual])
assert tfticket.get_masks(wrapped)["dense/kernel"].mean() == 0.5
tfticket.sparsify(wrapped, 0.75)
plain = tfticket.strip(wrapped)
assert (keras.ops.convert_to_numpy(plain.layers[-1].kernel) == 0).mean() == 0.75
at_once = tfticket.prune(model, sparsity=0.9)
tfticket.summary(at_once)
tfticket.Ticket.from_model(at_once)
"""
REFUSES = """
def refused(says, function, *args):
    try:
        function(*args)
    except ImportError as error:
        assert says in str(error), error
    else:
        raise AssertionError(says)

end = "which is not installed. Install it with: pip install "
who = "tfticket.export needs tensorflow, "
refused(who + end + "tensorflow", getattr, tfticket, "export")
refused(who + end + "tensorflow", __import__, "tfticket.export")
who = "Every data set but 'digits' needs tensorflow_datasets, "
refused(who + end + "'tfticket[datasets]'", tfticket.data.load, "mnist")
refused(end + "tensorflow", digits.training_pipeline, 60, 0)
refused(end + "tensorflow", tfticket.PruningSummaries, "logs")
for name in ("rounds_plot", "plot_run", "popup_plot"):
    who = f"tfticket.lottery.{name} needs matplotlib, "
    refused(who + end + "matplotlib", getattr, tfticket.lottery, name)
"""


@pytest.mark.parametrize(
    "backend", ["jax", pytest.param("torch", marks=pytest.mark.slow)]
)
def test_training_and_pruning_need_no_tensorflow(backend, tmp_path):
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + TRAINS + REFUSES],
        env={**os.environ, "KERAS_BACKEND": backend},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
