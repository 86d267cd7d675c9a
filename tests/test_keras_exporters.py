"""ONNX and OpenVINO through Keras's exporters, from each backend."""

import contextlib
import json
import os
import pathlib
import subprocess
import sys

import keras
import numpy as np
import pytest
from keras import layers

from tfticket import export

PROGRAM = pathlib.Path(__file__).parent / "fixtures" / "export_elsewhere.py"
CONVERTERS = {"tensorflow": "tf2onnx", "jax": "jax2onnx", "torch": "onnxscript"}


@pytest.mark.parametrize("backend", CONVERTERS)
def test_files_of_each_backend_by_their_runtimes(backend, tmp_path):
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip(CONVERTERS[backend])
    if backend != "tensorflow":
        pytest.importorskip(backend)
    # Where it is missing, its part is left out.
    openvino = None
    with contextlib.suppress(ImportError):
        import openvino
    done = subprocess.run(
        [sys.executable, PROGRAM, tmp_path, *(["openvino"] if openvino else [])],
        capture_output=True,
        text=True,
        env={**os.environ, "KERAS_BACKEND": backend},
    )
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout.splitlines()[-1])
    assert said.pop("backend") == backend
    for error, agreement, notes in said.values():
        assert error < 1e-5
        assert agreement == 1
        assert "stripped" in notes  # and how the input with a hyphen is served
    arrays = dict(np.load(tmp_path / "it.npz"))
    want = [arrays.pop("out3"), arrays.pop("out5")]
    session = onnxruntime.InferenceSession(tmp_path / "m.onnx")
    # By name, and a batch that the check did not have.
    assert {i.name for i in session.get_inputs()} == set(arrays)
    for got, value in zip(session.run(["out3", "out5"], arrays), want, strict=True):
        np.testing.assert_allclose(got, value, atol=1e-5)
    if openvino:
        hints = {"INFERENCE_PRECISION_HINT": "f32"}
        file = tmp_path / "ov" / "model.xml"
        results = openvino.Core().compile_model(file, "CPU", hints)(arrays)
        for name, value in zip(("out3", "out5"), want, strict=True):
            np.testing.assert_allclose(results[name], value, atol=1e-5)


def test_openvino_takes_what_keras_alone_does_not(tmp_path):
    pytest.importorskip("openvino")
    pytest.importorskip("tf2onnx")
    model = keras.Sequential(
        [keras.Input((6, 4), name="x"), layers.LSTM(5), layers.Dense(3, name="y")]
    )
    exported = export.openvino(model, tmp_path / "m")
    assert exported.max_error < 1e-5
    assert sorted(p.name for p in exported.path.iterdir()) == ["model.bin", "model.xml"]
    with pytest.raises(FileExistsError, match="overwrite=True"):
        export.openvino(model, tmp_path / "m")
    model.layers[-1].bias.assign([1, 2, 3])
    export.openvino(model, tmp_path / "m", overwrite=True)
    assert [p.name for p in tmp_path.iterdir()] == ["m"]


def test_openvino_says_which_extra_it_needs(tmp_path, monkeypatch):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2)])
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ImportError, match=r"tfticket\[onnx,openvino\]"):
        export.openvino(model, tmp_path / "m")
    assert not any(tmp_path.iterdir())
