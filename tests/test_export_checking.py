"""The one runner of programs and the one comparison of outputs that exports share."""

import errno
import os

import keras
import numpy as np
import pytest
from keras import layers

from tfticket import export
from tfticket.export.checking import compare, processes
from tfticket.export.checking.exported import ExportError

X = {"x": np.arange(4.0)}


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Writes a program; gives what runs it."""
    folder = tmp_path / "programs"
    folder.mkdir()
    monkeypatch.setattr(processes, "PROGRAMS", folder)

    def run(text, *arguments, inputs=X):
        (folder / "it.py").write_text(text)
        return processes.run("it", inputs, *arguments)

    return run


class TestProcesses:
    def test_arrays_and_arguments_reach_the_program(self, program):
        text = """
import sys, numpy as np
_, given, got, *arguments = sys.argv
with np.load(given) as file:
    x = file["inputs/file"]
np.savez(got, **{"a/" + arguments[0]: x * int(arguments[1])})
"""
        found = program(text, "b", 3, inputs={"file": np.arange(3)})
        assert list(found) == ["a/b"]
        np.testing.assert_array_equal(found["a/b"], [0, 3, 6])

    def test_an_error_has_the_end_of_what_was_said(self, program):
        with pytest.raises(processes.RunError, match="exit code 1") as error:
            program(
                "import sys; print('a' * 9999, file=sys.stderr); raise OSError('b')"
            )
        assert error.value.stderr.endswith("OSError: b")
        assert len(error.value.stderr) == 2000
        assert not error.value.crashed

    def test_a_crash(self, program):
        with pytest.raises(processes.RunError, match=r"signal 9 \(SIGKILL\)") as error:
            program("import os; os.kill(os.getpid(), 9)")
        assert error.value.crashed

    def test_a_program_that_hangs(self, program, monkeypatch):
        monkeypatch.setattr(processes, "TIMEOUT", 0.5)
        with pytest.raises(processes.RunError, match=r"no answer in 0\.5 seconds"):
            program("import time; time.sleep(60)")

    def test_no_room_for_temporary_files(self, program, monkeypatch):
        def full(*_, **__):
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(np, "savez", full)
        with pytest.raises(OSError, match=r"No space left.*Set TMPDIR") as error:
            program("")
        assert error.value.errno == errno.ENOSPC

    def test_what_runs_names_the_place_and_the_file(self, program):
        with pytest.raises(processes.RunError) as error:
            program("raise OSError('b')")
        found = str(compare.not_run("The file f", error.value, "Do this."))
        assert found.startswith("The file f does not run: exit code 1. Do this. ")
        assert "Nothing was kept. It says:\nTraceback" in found


class TestDifference:
    @pytest.mark.parametrize("scale", [1e-30, 1e-9, 1.0, 1e9])
    def test_is_relative_to_the_largest_value(self, scale):
        expected = {"y": scale * np.array([1.0, -2.0])}
        found = compare.difference(expected, {"y": scale * np.array([1.0, -1.5])})
        assert found.absolute == pytest.approx(0.5 * scale)
        assert found.relative == pytest.approx(0.25)

    def test_is_absolute_where_all_should_be_zero(self):
        found = compare.difference({"y": np.zeros(3)}, {"y": np.array([0, 0, 1e-3])})
        assert found.relative == found.absolute == 1e-3

    def test_a_small_output_beside_a_large_one_counts(self):
        expected = {"large": np.array([1e6]), "small": np.array([1e-6])}
        actual = {"large": np.array([1e6]), "small": np.array([0.0])}
        assert compare.difference(expected, actual) == (1e-6, 1.0, "small")

    @pytest.mark.parametrize("names", ["ab", "ba"])
    def test_nan_is_not_lost(self, names):
        expected = dict.fromkeys(names, np.ones(2))
        actual = {"a": np.ones(2), "b": np.array([1.0, np.nan])}
        found = compare.difference(expected, actual)
        assert np.isnan(found.relative)
        assert found.output == "b"

    @pytest.mark.parametrize(
        ("expected", "actual", "says"),
        [
            ({"y": np.ones(2)}, {"z": np.ones(2)}, r"outputs \['z'\]"),
            ({"y": np.ones(2)}, {"y": np.ones(3)}, r"shape \(3,\), and not \(2,\)"),
            ({"y": np.ones(2)}, {"y": np.full(2, np.nan)}, "'y' is NaN or infinite"),
            ({"y": np.ones(2)}, {"y": np.full(2, 1.2)}, r"by 0\.2, where 0\.1"),
            ({"y": np.array([np.inf])}, {"y": np.ones(1)}, "the model is NaN or inf"),
        ],
    )
    def test_what_is_refused(self, expected, actual, says):
        with pytest.raises(ExportError, match=f"^It .*{says}.*Nothing was kept"):
            compare.require_close("It", expected, actual, 0.1)

    def test_agreement(self):
        expected = {"y": np.eye(4)[:, :3], "flat": np.ones(4)}
        actual = {"y": np.eye(4)[::-1, :3], "flat": np.ones(4)}
        assert compare.agreement(expected, actual) == 0.5  # rows 0 and 3
        assert compare.agreement({"y": np.ones(4)}, {"y": np.ones(4)}) is None


def small_outputs(scale):
    model = keras.Sequential(
        [keras.Input((40,), name="x"), layers.Dense(40), layers.Dense(3)]
    )
    for layer in model.layers:
        layer.kernel.assign(layer.kernel * np.sqrt(scale))
    return model


@pytest.mark.usefixtures("quick")
def test_small_outputs_are_checked_as_large_ones_are(tmp_path):
    """In float16, weights near 1e-9 are zero, and so are the answers."""
    model = small_outputs(1.0)
    model.layers[0].kernel.assign(1e-9 * model.layers[0].kernel)
    kept = np.random.default_rng(0).random((40, 40)) < 0.5
    model.layers[0].kernel.assign(model.layers[0].kernel * kept)
    answers = model.predict(np.ones((1, 40)), verbose=0)
    assert 0 < np.abs(answers).max() < 1e-7
    with pytest.raises(export.ExportError, match="differs from the model"):
        export.saved_model(
            model, tmp_path / "m", format="encoded", value_dtype="float16"
        )
    assert os.listdir(tmp_path) == []
    assert export.saved_model(model, tmp_path / "m", format="encoded").max_error < 1e-12


@pytest.mark.usefixtures("quick")
def test_a_model_that_answers_zero(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2, kernel_initializer="zeros")]
    )
    assert export.saved_model(model, tmp_path / "m").max_error == 0


@pytest.mark.usefixtures("quick")
def test_a_model_that_answers_nan(tmp_path):
    model = keras.Sequential(
        [keras.Input((3,)), layers.Dense(2), layers.Lambda(keras.ops.log)]
    )
    with pytest.raises(export.ExportError, match=r"NaN or infinite.*Pass inputs="):
        export.saved_model(model, tmp_path / "m", inputs=-np.ones((2, 3)))


def test_savedmodel_and_litert_files_run_in_the_one_way(quick, tmp_path, monkeypatch):
    """SavedModel and LiteRT go through the one runner."""
    seen, real = [], processes.run

    def watched(program, *arguments):
        seen.append(program)
        return real(program, *arguments)

    monkeypatch.setattr(processes, "run", watched)
    export.litert(small_outputs(1.0), tmp_path / "m.tflite")
    export.saved_model(small_outputs(1.0), tmp_path / "m")
    # Two interpreters, and two processes of each.
    assert seen == ["run_litert"] * 4 + ["run_saved_model"] * 2
