"""What the checks of exports ask for, number by number, without a file."""

import importlib.metadata
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest
import tensorflow as tf

from tfticket.export.checking import compare, processes
from tfticket.export.checking.compare import Compared, Rule
from tfticket.export.checking.exported import Exported, ExportError, size_of
from tfticket.export.served.samples import Samples
from tfticket.export.tflite import check as litert_check
from tfticket.export.tflite import known_faults
from tfticket.export.tflite.reader import EncodedWeight


def text_of(function, *args, **kwargs):
    with pytest.raises(ExportError) as error:
        function(*args, **kwargs)
    return str(error.value)


TEN = {"y": np.array([[1.0, 2.0, 4.0]] * 10)}


class TestRequireClose:
    def test_the_tolerance_itself_is_allowed(self):
        for rounded in (False, True):
            actual = {"y": TEN["y"] + 0.5}
            found = compare.require_close("It", TEN, actual, 0.125, rounded=rounded)
            assert found == Compared(0.5, 0.125, 1.0)
            text = text_of(
                *(compare.require_close, "It", TEN, actual, 0.1249),
                rounded=rounded,
            )
            assert text.endswith("Nothing was kept.")

    def test_all_that_the_message_says(self):
        actual = {"y": TEN["y"] + 0.5}
        text = text_of(
            *(compare.require_close, "It", TEN, actual, 0.1),
            *("another", "Do this."),
        )
        assert text == (
            "It differs from another: output 'y' by 0.5, where 0.4 is allowed "
            "(tolerance=0.1). Do this. Nothing was kept."
        )
        text = text_of(
            *(compare.require_close, "It", TEN, actual, 0.1),
            *("another", "Do this.", True),
        )
        assert text == (
            "It differs from another: of output 'y', 90% of 10 samples are within "
            "0.125 of the largest value, where tolerance=0.1 is allowed (the worst: "
            "0.125); same answer for 100.0%, same or nearly for 100.0%, where 90% is "
            "asked for. Do this. Nothing was kept."
        )

    def test_the_worst_output_is_named(self):
        right = {"a": np.ones(3), "b": np.full(3, 10.0), "c": np.ones(3)}
        wrong = {"a": np.full(3, 1.1), "b": np.full(3, 12.0), "c": np.ones(3)}
        text = text_of(compare.require_close, "It", right, wrong, 0.05)
        assert "output 'b' by 2, where 0.5 is allowed" in text
        text = text_of(compare.require_close, "It", right, wrong, 0.15, rounded=True)
        assert "of output 'b', 90% of 3 samples are within 0.2 " in text
        assert "same answer" not in text
        assert compare.require_close("It", right, wrong, 0.2).typical == pytest.approx(
            0.2
        )

    def test_one_in_ten_samples_may_be_wrong(self):
        right = {"y": np.tile([[0.0, 1.0]], (20, 1))}
        for bad, allowed in ((2, True), (3, False)):
            wrong = {"y": right["y"].copy()}
            wrong["y"][:bad] = [[1.0, 0.0]]
            arguments = ("It", right, wrong, 0.1, "the model", "", True)
            if allowed:
                found = compare.require_close(*arguments)
                assert found == Compared(1.0, 0.0, 0.9)
            else:
                text = text_of(compare.require_close, *arguments)
                assert "same answer for 85.0%, same or nearly for 85.0%" in text

    def test_half_floats_and_bytes_are_compared_exactly(self):
        right = {"y": np.array([[60_000.0, -60_000.0]] * 10, np.float16)}
        wrong = {"y": np.array([[-60_000.0, 60_000.0]] * 10, np.float16)}
        assert compare.difference(right, wrong).absolute == pytest.approx(120_000, 1e-2)
        for rounded in (False, True):
            text_of(compare.require_close, "It", right, wrong, 0.5, rounded=rounded)
        right = {"y": np.array([[0, 255]] * 10, np.uint8)}
        wrong = {"y": np.array([[255, 0]] * 10, np.uint8)}
        found = compare.require_close("It", right, wrong, 1.0, rounded=True)
        assert (found.error, found.typical, found.agreement) == (255, 1, 0)
        text_of(compare.require_close, "It", right, wrong, 0.9, rounded=True)

    def test_the_range_of_half_floats_does_not_overflow(self):
        right = {"y": np.array([[-30_000, 39_264, 40_000]] * 10, np.float16)}
        wrong = {"y": np.array([[-30_000, 39_648, 39_616]] * 10, np.float16)}
        arguments = ("It", right, wrong, 0.01, "the model", "", True)
        text = text_of(compare.require_close, *arguments)
        assert "same or nearly for 0.0%" in text

    def test_a_scalar_output(self):
        right, wrong = {"y": np.float64(2.0)}, {"y": np.float64(1.0)}
        text = text_of(compare.require_close, "It", right, wrong, 0.4, rounded=True)
        assert "90% of 1 samples are within 0.5 of the largest" in text
        found = compare.require_close("It", right, wrong, 0.5, rounded=True)
        assert found == Compared(1.0, 0.5, None)

    def test_the_range_is_that_of_each_answer(self):
        """Not of all samples together, of which some are larger."""
        right = np.array([[0.0, 1.0, 0.9], [10.0, 11.0, 10.9]] * 10)
        wrong = right[:, [0, 2, 1]]
        for shape in ((20, 3), (5, 4, 3)):
            pair = {"y": right.reshape(shape)}, {"y": wrong.reshape(shape)}
            assert compare.require_close("It", *pair, 0.11, rounded=True).agreement == 0
            text = text_of(compare.require_close, "It", *pair, 0.09, rounded=True)
            assert "same or nearly for 0.0%" in text

    def test_names_and_shapes(self):
        right = {"y": np.ones((2, 3)), "x": np.ones(2)}
        text = text_of(compare.require_close, "It", right, {"y": np.ones(2)}, 0.1, "b")
        assert text == (
            "It has the outputs ['y'], and b has ['x', 'y']. Nothing was kept."
        )
        wrong = {"y": np.ones((3, 2)), "x": np.ones(2)}
        text = text_of(compare.require_close, "It", right, wrong, 0.1, "b")
        assert text == (
            "It differs from b: output 'y' has shape (3, 2), and not (2, 3). Nothing "
            "was kept."
        )
        wrong = {"y": np.ones((2, 3)), "x": np.array([1, np.inf])}
        text = text_of(compare.require_close, "It", right, wrong, 0.1, "b")
        assert text.startswith("It differs from b: output 'x' is NaN or infinite")
        text = text_of(compare.require_close, "It", wrong, right, 0.1, "b")
        assert text.startswith("It can't be checked: output 'x' of b is NaN or inf")

    def test_empty_outputs_are_equal(self):
        empty = {"y": np.ones((0, 3)), "z": np.ones((2, 0))}
        assert compare.difference(empty, empty)[:2] == (0, 0)
        assert compare.scale(empty) == 1
        none = {"z": empty["z"]}
        found = compare.require_close("It", none, none, 0.1, rounded=True)
        assert found == Compared(0, 0, None)


class TestRepeatable:
    def calls(self, *apart, dtype=np.float32):
        return [{"y": np.array([1.0, 1.0 - x], dtype)} for x in (0, *apart)]

    def test_what_threads_add_in_another_order_is_allowed(self):
        assert compare.require_repeatable("It", self.calls(0.9e-5)) == ()
        assert compare.require_repeatable("It", self.calls(0, 0)) == ()
        text = text_of(compare.require_repeatable, "It", self.calls(0, 1.2e-5))
        assert "It does not repeat itself" in text
        assert "'y' by 1.2" in text
        assert "where 1e-05 is allowed" in text
        assert "deterministic=False" in text

    def test_half_floats_may_be_some_of_their_steps_apart(self):
        step = float(np.finfo(np.float16).eps)
        calls = self.calls(4 * step, dtype=np.float16)
        assert compare.require_repeatable("It", calls) == ()
        text = text_of(
            *(compare.require_repeatable, "It"),
            self.calls(4.5 * step, dtype=np.float16),
        )
        assert "where 0.004 is allowed" in text
        text_of(
            *(compare.require_repeatable, "It"),
            [{"y": np.array([255, 1])}, {"y": np.array([255, 2])}],
        )

    def test_the_worst_call_counts(self):
        for calls in (self.calls(0, 0.5, 0), self.calls(0.5, 0.1), self.calls(0, 0.5)):
            assert "by 0.5 of" in text_of(compare.require_repeatable, "It", calls)

    def test_the_worst_is_relative_to_its_output(self):
        first = {"large": np.array([1e3]), "small": np.array([1.0])}
        calls = [
            *(first, {**first, "large": np.array([1e3 + 1])}),
            {**first, "small": np.array([0.5])},
        ]
        text = text_of(compare.require_repeatable, "It", calls)
        assert "in output 'small' by 0.5" in text

    def test_where_it_need_not(self):
        notes = compare.require_repeatable("It", self.calls(0.25), False)
        assert notes == ("two calls differ by 0.25 of the largest output",)
        assert compare.require_repeatable("It", self.calls(0), False) == ()

    def test_other_forms_are_another_answer(self):
        calls = [{"y": np.ones(2)}, {"y": np.ones(3)}]
        text = text_of(compare.require_repeatable, "It", calls)
        assert text.startswith("It differs from another call of it: output 'y'")

    def test_what_is_not_finite_is_left_to_the_comparison(self):
        for where in (0, 1):
            calls = self.calls(0)
            calls[where]["y"][0] = np.nan
            assert compare.require_repeatable("It", calls) == ()


TWO = {"y": np.array([[1.0, 0.0], [0.0, 1.0]])}


class TestJudge:
    def off(self, by):
        return {"y": TWO["y"] + by}

    def test_the_worst_process_counts_and_only_first_calls(self):
        rule = Rule(0.1, deterministic=False)
        starts = [[self.off(0.01), self.off(5)], [self.off(0.05), self.off(0)]]
        found = compare.judge("It", TWO, starts, rule)
        assert found.error == pytest.approx(0.05)
        assert found.typical == pytest.approx(0.05)
        assert found.agreement == 1
        assert len(found.notes) == 1
        assert found.notes[0].startswith("two calls differ by")
        starts[1][0] = self.off(0.2)
        text = text_of(compare.judge, "It", TWO, starts, rule, "Do this.")
        assert "It differs from the model: output 'y' by 0.2" in text
        assert "(tolerance=0.1). Do this. Nothing" in text

    def test_calls_of_all_processes_have_to_agree(self):
        starts = [[self.off(0)] * 2, [self.off(0), self.off(0.01)]]
        text = text_of(compare.judge, "It", TWO, starts, Rule(0.1))
        assert "does not repeat itself" in text

    def test_it_passes_on_whether_the_file_rounds(self):
        right = {"y": np.tile([[0.0, 1.0]], (20, 1))}
        wrong = {"y": right["y"].copy()}
        wrong["y"][0] = [1.0, 0.0]
        starts = [[wrong, wrong]]
        assert compare.judge("It", right, starts, Rule(0.1, rounded=True)).error == 1
        text_of(compare.judge, "It", right, starts, Rule(0.1))

    def test_samples_that_are_alike_are_noted(self):
        same = {"y": np.ones((4, 2))}
        found = compare.judge("It", same, [[same, same]], Rule(0.1))
        assert len(found.notes) == 1
        assert found.notes[0].startswith("output 'y' differs between these samples by")

    def test_the_worst_of_each_kind(self):
        found = compare.worst(
            [Compared(1, 5, 0.5, ("a", "b")), Compared(2, 4, None, ("b", "c"))]
        )
        assert found == Compared(2, 5, 0.5, ("a", "b", "c"))
        assert compare.worst([Compared(1, 1, None)]) == Compared(1, 1, None)
        assert compare.worst([Compared(1, 1, 0.5), Compared(1, 1, 0.25)])[2] == 0.25


def test_a_random_model_is_allowed_what_it_differs_by_itself():
    calls = [{"y": np.array([2.0])}, {"y": np.array([1.0])}]
    assert compare.answers(lambda x: calls[0], {}, Rule(0.1, True)) == (
        *(calls[0], Rule(0.1, True)),
    )
    given = iter(calls)
    rule = Rule(0.1, True, deterministic=False)
    expected, found = compare.answers(lambda x: next(given), {}, rule)
    assert expected is calls[0]
    assert found == Rule(pytest.approx(0.1 + 3 * 0.5), True, False)


def test_outputs_that_hardly_vary():
    values = np.array([[1.0, 5.0], [1.0, 6.0], [1.0, 10.0]])
    (note,) = compare.varies_little({"y": values}, 0.5)
    assert note == (
        "output 'y' differs between these samples by 0.5 of its largest value, and the "
        "check allows 0.5: pass inputs= that the model tells apart"
    )
    assert compare.varies_little({"y": values}, 0.49) == ()
    alone = {"a": values[:1], "b": np.float32(1), "c": np.zeros((3, 2))}
    assert compare.varies_little(alone, 0.5) == ()
    small = {"y": np.array([[-100], [100]], np.int8)}
    assert compare.varies_little(small, 1.9) == ()
    assert len(compare.varies_little(small, 2.0)) == 1
    both = compare.varies_little({**alone, "x": values, "y": values[:2]}, 1.0)
    assert [note[:10] for note in both] == ["output 'x'", "output 'y'"]


def test_a_file_that_does_not_run():
    error = processes.RunError("exit code 3", "the end of it")
    assert str(error) == "exit code 3: the end of it"
    assert str(processes.RunError("exit code 3")) == "exit code 3"
    assert str(compare.not_run("It", error, "Do this.")) == (
        "It does not run: exit code 3. Do this. Nothing was kept. It says:\n"
        "the end of it"
    )
    error = processes.RunError("exit code 3")
    assert str(compare.not_run("It", error)) == (
        "It does not run: exit code 3. Nothing was kept."
    )
    assert not error.crashed


# What an export says


def test_what_an_export_says():
    plain = Exported(pathlib.Path("m/1"), 12_345, 1.5e-7, None)
    assert str(plain) == (
        "m/1 (12 kB, checked in another process: largest difference 1.5e-07)"
    )
    full = Exported(
        pathlib.Path("m/1"),
        *(2_000, 0.25, 0.975, 1.234, True, "encoded"),
        ("a note", "another"),
        *("64 of your samples", 0.01),
    )
    assert str(full) == (
        "m/1 (encoded, 2 kB, checked in another process: largest difference 2.5e-01, "
        "90% of the samples within 1.0e-02 of the largest output, same answer for "
        "97.5% of the samples, 1.2 ms a sample; compared on 64 of your samples; a "
        "note; another)"
    )
    dense = Exported(pathlib.Path("m"), 0, 0.0, 0.0, 0.0, format="dense")
    assert str(dense) == (
        "m (0 kB, checked in another process: largest difference 0.0e+00, same answer "
        "for 0.0% of the samples, 0 ms a sample)"
    )
    large = Exported(pathlib.Path("m"), 1_999_600, 0.0, None)
    assert str(large).startswith("m (2000 kB, checked")
    assert not plain.c_api
    assert (plain.notes, plain.compared, plain.typical_error) == ((), "", None)


def test_the_size_of_files_and_folders(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "one").write_bytes(bytes(3))
    (tmp_path / "a" / "b" / "two").write_bytes(bytes(4))
    assert size_of(tmp_path) == 7
    assert size_of(tmp_path / "a" / "one") == 3


# Processes


def test_two_processes_each_call_twice(monkeypatch):
    seen = []

    def run(program, inputs, *arguments):
        seen.append((program, inputs, arguments))
        number = len(seen)
        return {"again/a/b": number + 0.5, "outputs/a/b": number, "outputs/c": 0}

    monkeypatch.setattr(processes, "run", run)
    assert processes.starts("it", {"x": 1}, "file", 2) == [
        [{"a/b": 1, "c": 0}, {"a/b": 1.5}],
        [{"a/b": 2, "c": 0}, {"a/b": 2.5}],
    ]
    assert seen == [("it", {"x": 1}, ("file", 2))] * 2


@pytest.mark.parametrize(
    ("code", "reason", "crashed"),
    [
        (0, None, False),
        (1, "exit code 1", False),
        (-9, "its process died of signal 9 (SIGKILL)", True),
        (-200, "its process died of signal 200", True),
    ],
)
def test_what_became_of_a_process(code, reason, crashed, monkeypatch):
    seen = {}

    def run(command, **kwargs):
        seen.update(kwargs, command=command)
        said = f"  {'x' * 3000}end \n"
        return types.SimpleNamespace(returncode=code, stderr=said)

    monkeypatch.setattr(subprocess, "run", run)
    if reason is None:
        processes._call(["it.py", pathlib.Path("a"), 3])
    else:
        with pytest.raises(processes.RunError) as error:
            processes._call(["it.py", pathlib.Path("a"), 3])
        assert (error.value.reason, error.value.crashed) == (reason, crashed)
        assert error.value.stderr == f"{'x' * 1997}end"
    assert seen.pop("command") == [sys.executable, "it.py", "a", "3"]
    assert seen == {
        **{"capture_output": True, "text": True, "errors": "replace"},
        **{"timeout": processes.TIMEOUT, "check": False},
    }


@pytest.mark.parametrize("said", [None, b"\xff last words\n"])
def test_a_process_that_does_not_end(said, monkeypatch):
    def run(*args, **kwargs):
        raise subprocess.TimeoutExpired("it", 1, stderr=said)

    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(processes, "TIMEOUT", 12.5)
    with pytest.raises(processes.RunError) as error:
        processes._call(["it.py"])
    assert error.value.reason == "it gave no answer in 12.5 seconds"
    assert error.value.stderr == ("" if said is None else "\ufffd last words")
    assert not error.value.crashed


# LiteRT


class Serving:
    notes = ("of the model",)

    def __init__(self, outputs):
        self.outputs = outputs

    def predict(self, inputs):
        assert inputs == {"x": 1}
        return self.outputs


RIGHT = np.tile([[0.0, 1.0], [1.0, 0.0]], (10, 1))
SAMPLES = Samples({"x": 1}, "64 of your samples")


@pytest.fixture
def checked(monkeypatch, tmp_path):
    """Checks a file whose outputs are given, by file, call, process and runtime."""
    written, dense = tmp_path / "w.tflite", tmp_path / "d.tflite"
    written.write_bytes(bytes(77))

    def checked(off, rule=None, twin=False, quantization=None, source=None):
        seen = []

        def run(program, inputs, runtime, rounds, *files):
            assert (program, inputs, rounds) == ("run_litert", {"x": 1}, 0)
            assert files == ((written, dense) if twin else (written,))
            start = sum(1 for one in seen if one == runtime)
            seen.append(runtime)
            found = {}
            for file in range(len(files)):
                found[f"{file}/"] = np.zeros(0)
                for call in range(2):
                    key = f"{'again/' * call}{file}/y/z"
                    found[key] = RIGHT + off(file, call, start, runtime)
            return found

        monkeypatch.setattr(processes, "run", run)
        runtimes = ("xnnpack", "builtin")
        exported = litert_check.check(
            *(written, pathlib.Path("to.tflite"), Serving({"y/z": RIGHT}), SAMPLES),
            *(quantization, rule or Rule(0.1), runtimes, dense if twin else None),
            source=source,
        )
        assert seen == [name for name in runtimes for _ in range(2)]
        return exported

    return checked


class TestLiteRT:
    def test_the_worst_of_all_runtimes_is_told(self, checked):
        found = checked(
            lambda file, call, start, runtime: 0.05 * (runtime == "builtin")
        )
        assert (found.path, found.size) == (pathlib.Path("to.tflite"), 77)
        assert found.max_error == pytest.approx(0.05)
        assert found.agreement == 1
        assert found.notes == ("of the model",)
        assert found.compared == "64 of your samples"
        assert found.typical_error is None

    def test_a_file_that_rounds_says_its_typical_error(self, checked):
        off = np.zeros_like(RIGHT)
        off[0], off[1:] = 0.3, 0.02
        found = checked(lambda *_: off, Rule(0.1, rounded=True))
        assert found.typical_error == pytest.approx(0.02)
        with pytest.raises(ExportError):
            checked(lambda *_: off)

    @pytest.mark.parametrize("runtime", ["xnnpack", "builtin"])
    @pytest.mark.parametrize("start", [0, 1])
    def test_each_process_in_each_runtime_counts(self, runtime, start, checked):
        def off(file, call, now, in_runtime):
            return 0.5 * ((now, in_runtime) == (start, runtime))

        text = text_of(checked, off, Rule(0.1, deterministic=False))
        named = {"xnnpack": "with XNNPACK", "builtin": "without XNNPACK"}[runtime]
        assert text.startswith(
            f"The .tflite file written for to.tflite, run {named}, differs from the "
            "model: output 'y/z' by 0.5"
        )
        assert "Use another quantization, or raise tolerance if" in text

    def test_a_second_call_has_to_agree(self, checked):
        text = text_of(checked, lambda file, call, *_: 0.01 * call)
        assert "does not repeat itself" in text
        found = checked(lambda _, call, *__: 0.01 * call, Rule(0.1, False, False))
        assert found.notes[1].startswith("two calls differ by 0.01")

    @pytest.mark.parametrize(
        ("quantization", "near"),
        [(None, 1e-4), ("float16", 1e-3), ("dynamic", 1e-2), ("int8", 2e-2)],
    )
    def test_a_sparse_file_is_near_its_dense_twin(self, quantization, near, checked):
        for part, refused in ((0.9, False), (1.1, True)):

            def off(file, *_, part=part):
                return part * near * file

            arguments = (off, Rule(0.1), True, quantization)
            if refused:
                text = text_of(checked, *arguments)
                assert "differs from the dense one: output 'y/z'" in text
                assert (
                    "Use sparse=False, or fallback=True, which does it for you." in text
                )
            else:
                assert checked(*arguments).max_error == 0

    def test_first_calls_of_the_first_process_are_compared_with_the_twin(self, checked):
        checked(lambda file, call, *_: 0.05 * file * call, None, True)
        rule = Rule(0.1, deterministic=False)
        checked(lambda file, _, start, __: 0.05 * start * (1 - file), rule, True)
        text = text_of(
            *(checked, lambda file, _, start, __: 0.05 * (1 - start) * (1 - file)),
            *(rule, True),
        )
        assert "differs from the dense one" in text

    @pytest.mark.parametrize(
        ("rule", "off", "refused"),
        [
            (Rule(0.1, True), 0.9e-4, False),
            (Rule(0.1, True), 1.1e-4, True),
            (Rule(0.1, True, False), 0.05, False),
            (Rule(0.1, True, False), 0.2, True),
            (Rule(1e-5, True, False), 0.9e-4, False),
            (Rule(0.1), 0.5, False),  # a file that does not round
        ],
    )
    def test_what_is_quantized_has_to_be_the_model(
        self, rule, off, refused, checked, monkeypatch
    ):
        def serve(x):
            return {"y/z": tf.constant(RIGHT + off)}

        loaded = types.SimpleNamespace(signatures={"serving_default": serve})
        monkeypatch.setattr(tf.saved_model, "load", {"from": loaded}.__getitem__)
        arguments = (lambda *_: 0, rule, False, "int8", "from")
        if refused:
            text = text_of(checked, *arguments)
            assert text.startswith(
                "What to.tflite was to be quantized from differs from the model: output"
            )
        else:
            assert checked(*arguments).max_error == 0

    def test_a_sparse_file_that_differs_from_the_model(self, checked):
        text = text_of(checked, lambda *_: 0.5, Rule(0.1), True)
        assert "differs from the model" in text
        assert "Use sparse=False" in text

    def test_a_file_that_does_not_run(self, checked, monkeypatch):
        def off(*_):
            raise processes.RunError("exit code 1", "why")

        text = text_of(checked, off)
        assert text.startswith(
            "The .tflite file written for to.tflite, run with XNNPACK, does not run: "
            "exit code 1. Use another quantization"
        )
        assert "Use sparse=False" in text_of(checked, off, None, True)

    def test_outputs_and_seconds_by_file(self, monkeypatch):
        stored = {"0/": [1], "1/": [2], "0/y/z": 3, "1/y/z": 4}
        again = {"again/0/y/z": 5, "again/1/y/z": 6}

        def run(*arguments):
            assert arguments == ("run_litert", {"x": 1}, "builtin", rounds, "a", "b")
            return {**stored, **again}

        monkeypatch.setattr(processes, "run", run)
        rounds = 7
        found = litert_check.run(["a", "b"], {"x": 1}, "builtin", 7)
        assert found == [({"y/z": 3}, [1]), ({"y/z": 4}, [2])]
        rounds = 0
        assert litert_check.run(["a", "b"], {"x": 1}, "builtin") == found

    def test_versions_of_what_is_installed(self, monkeypatch):
        def version(name):
            if name == "tensorflow":
                return "2.21.0"
            raise importlib.metadata.PackageNotFoundError(name)

        monkeypatch.setattr(importlib.metadata, "version", version)
        assert litert_check.versions() == {"tensorflow": "2.21.0"}
        monkeypatch.setattr(importlib.metadata, "version", lambda name: f"{name} 1")
        assert litert_check.versions() == {
            "tensorflow": "tensorflow 1",
            "ai-edge-litert": "ai-edge-litert 1",
        }


INSTALLED = {"tensorflow": "2.21.1", "ai-edge-litert": "2.3.0"}


class TestKnownFaults:
    @pytest.fixture(autouse=True)
    def installed(self, monkeypatch):
        monkeypatch.setattr(litert_check, "versions", lambda: INSTALLED)

    def refuse(self, weights, quantization="dynamic", runtimes=known_faults.RUNTIMES):
        litert_check.refuse_known(weights, quantization, runtimes, "to.tflite")

    def weight(self, name="a;b", type="int8", block=4, width=8):
        fields = {
            **{"name": name, "type": type, "block": block, "width": width},
            "operation": "FULLY_CONNECTED",
        }
        names = EncodedWeight.__dataclass_fields__
        others = {key: 0 for key in names if key not in fields}
        return EncodedWeight(**fields, **others)

    def test_what_is_known_is_refused_with_all_there_is_to_say(self):
        weights = [self.weight(f"w{i};merged") for i in range(6)]
        text = text_of(self.refuse, weights)
        assert text.startswith(
            "A sparse dynamic file for to.tflite would not be right: XNNPACK reads"
        )
        form = weights[0].form
        assert (
            f"or NaN (with XNNPACK). Weights: 'w0' (int8, {form}, 8 inputs), 'w1' "
        ) in text
        assert "'w3'" in text
        assert "'w4'" not in text
        assert " and 2 more. Use sparse=False" in text
        assert text.endswith(
            "Known of tensorflow 2.21.1, ai-edge-litert 2.3.0; fallback=True writes "
            "the dense file in such a case. Nothing was kept."
        )
        four = text_of(self.refuse, weights[:4])
        assert "'w3' (int8" in four
        assert "more" not in four

    def test_all_reasons_are_given(self):
        text = text_of(
            self.refuse, [self.weight(width=6), self.weight("c", "float32", width=6)]
        )
        assert "(with XNNPACK, without XNNPACK). Weights: 'a' (int8" in text
        assert "6 inputs), 'c' (float32" in text
        assert text.count(" Also, ") == 1
        assert "for to.tflite" in text
        text = text_of(self.refuse, [self.weight(type="float32", width=6)], None)
        assert text.startswith("A sparse float32 file")

    def test_what_is_not_known_passes(self, monkeypatch):
        self.refuse([])
        self.refuse([self.weight(type="float32")])
        self.refuse([self.weight()], runtimes=["builtin"])
        text = text_of(self.refuse, [self.weight(width=6)], runtimes=["builtin"])
        assert "(without XNNPACK)" in text
        assert "reads the blocks" not in text
        monkeypatch.setitem(INSTALLED, "tensorflow", "2.22.0")
        self.refuse([self.weight()])
