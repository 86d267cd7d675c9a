"""Trained on another backend, exported on TensorFlow.

The tests of the core run whole on JAX and PyTorch by `make test-jax` and
`make test-torch`; here one program trains, prunes and selects on each.
"""

import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from fixtures.backends import needs_tensorflow

import tfticket

PROGRAM = pathlib.Path(__file__).parent / "fixtures" / "train_elsewhere.py"


@pytest.fixture(scope="module", params=["jax", "torch"])
def elsewhere(request, tmp_path_factory):
    """Folder with what was trained, and what the program says of it."""
    pytest.importorskip(request.param)
    folder = tmp_path_factory.mktemp(request.param)
    done = subprocess.run(
        [sys.executable, PROGRAM, folder],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": request.param},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said["backend"] == request.param
    return folder, said


@needs_tensorflow
def test_it_trains_with_exact_counts_and_zeros(elsewhere):
    _, said = elsewhere
    # Twice 40 % of the survivors, 20 % in the output layer.
    assert said["kept"] == {"hidden/kernel": 2560 - 1024 - 614, "logits/kernel": 256}
    assert said["gradual"] == {"hidden/kernel": 512, "logits/kernel": 80}
    assert said["popup"] == {"hidden/kernel": 1024, "logits/kernel": 160}
    assert said["accuracy"] > 0.9
    assert said["popup_accuracy"] > 0.5


@needs_tensorflow
def test_a_model_trained_elsewhere_is_exported_here(elsewhere, tmp_path, quick):
    folder, _ = elsewhere
    trained = keras.models.load_model(folder / "trained.keras")
    images = tfticket.data.load("digits").test[0]
    want = np.load(folder / "outputs.npy")
    np.testing.assert_allclose(trained.predict(images, verbose=0), want, atol=1e-4)
    exported = tfticket.export.saved_model(trained, tmp_path / "served")
    import tensorflow as tf

    serve = tf.saved_model.load(str(exported.path)).signatures["serving_default"]
    got = serve(image=tf.constant(images))["logits"]
    np.testing.assert_allclose(got, want, atol=1e-4)


@needs_tensorflow
def test_a_ticket_found_elsewhere_trains_here(elsewhere):
    folder, said = elsewhere
    ticket = tfticket.Ticket.load(folder / "ticket.npz")
    assert {k: int(m.sum()) for k, m in ticket.masks.items()} == said["kept"]
    digits = tfticket.data.load("digits")
    network = keras.models.clone_model(
        keras.models.load_model(folder / "trained.keras")
    )
    model = ticket.apply(network)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3), loss, metrics=["accuracy"])
    model.fit(*digits.train, epochs=4, batch_size=60, verbose=0)
    assert model.evaluate(*digits.test, verbose=0)[1] > 0.9
    for name, mask in tfticket.get_masks(model).items():
        np.testing.assert_array_equal(mask, ticket.masks[name])
