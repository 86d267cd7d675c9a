"""One table of all forms, and the script that prints it."""

import pathlib

import keras
import numpy as np
import pytest

import tfticket
from tfticket import export

ROOT = pathlib.Path(__file__).parents[1]


def test_every_form_is_weighed_scored_and_timed(mlp, quick):
    x = np.random.default_rng(0).standard_normal((40, 6)).astype("float32")
    y = keras.ops.convert_to_numpy(mlp(x)).argmax(-1)
    wrapped = tfticket.prune(mlp)
    tfticket.sparsify(wrapped, 0.9)
    rows = {row.form: row for row in export.report(wrapped, (x, y), mlp, repeats=2)}
    assert list(rows) == ["dense", "stripped", "compact", "encoded", "litert", "int8"]
    assert rows["dense"].accuracy == 1.0
    pruned = keras.ops.convert_to_numpy(wrapped(x)).argmax(-1)
    for form in ("stripped", "compact", "encoded", "litert"):
        assert rows[form].accuracy == np.mean(pruned == y)
    for row in rows.values():
        assert row.raw_bytes > 0
        assert row.gzip_bytes > 0
        assert set(row.milliseconds) == set(row.ratios) == {1, 64}
    assert rows["dense"].ratios == {1: 1.0, 64: 1.0}


def test_bad_input(mlp):
    with pytest.raises(ValueError, match="forms must be out of"):
        export.report(mlp, forms=["zip"])
    two = [keras.Input((3,)), keras.Input((3,))]
    model = keras.Model(two, keras.layers.Add()(two))
    with pytest.raises(ValueError, match="has 2"):
        export.report(model)


def test_the_script_says_what_is_wrong_before_it_writes(run_script, tmp_path):
    def script(*flags):
        return run_script(ROOT / "scripts" / "export.py", *flags, cwd=tmp_path)

    done = script("--model=nowhere.npz", f"--out_dir={tmp_path}")
    assert done.returncode == 1
    assert "nowhere.npz" in done.stderr
    sample = ROOT / "saved_models" / "digits.npz"
    done = script(f"--model={sample}", "--quantization=int8", f"--out_dir={tmp_path}")
    assert done.returncode == 2
    assert "--dataset" in done.stderr
    assert not list(tmp_path.iterdir())


def test_the_sample_is_a_trained_ticket():
    ticket = tfticket.Ticket.load(ROOT / "saved_models" / "digits.npz")
    assert ticket.density < 0.1
    model = ticket.apply(
        keras.saving.deserialize_keras_object(ticket.provenance["config"])
    )
    x, y = tfticket.data.load("digits").test
    answers = keras.ops.convert_to_numpy(model(x)).argmax(-1)
    assert np.mean(answers == y) > 0.97
