"""One table of all forms, its numbers of operations, and the script that prints it."""

import io
import json
import pathlib

import keras
import numpy as np
import pytest
from rich.console import Console

import tfticket
from tfticket import export
from tfticket.inspection.costs import total

ROOT = pathlib.Path(__file__).parents[1]


def test_every_form_is_weighed_scored_and_timed(mlp, quick):
    x = np.random.default_rng(0).standard_normal((40, 6)).astype("float32")
    y = keras.ops.convert_to_numpy(mlp(x)).argmax(-1)
    wrapped = tfticket.prune(mlp)
    tfticket.sparsify(wrapped, 0.9)
    rows = {row.form: row for row in export.compare(wrapped, (x, y), mlp, repeats=2)}
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


# A layer of each kind that has weights, and its operations by hand.
WORDS, SIZE = 12, 8
BY_HAND = {
    "embedding/embeddings": 0,  # it looks rows up
    "conv/kernel": 2 * WORDS * 3 * SIZE * SIZE,
    "separable/depthwise_kernel": 2 * WORDS * 3 * SIZE,
    "separable/pointwise_kernel": 2 * WORDS * SIZE * SIZE,
    **{
        f"many/{part}_dense/kernel": 2 * WORDS * SIZE * 2 * 3
        for part in ("query", "key", "value", "output")
    },
    "many": 2 * 2 * WORDS * WORDS * (3 + 3),
    "grouped/query_dense/kernel": 2 * WORDS * SIZE * 4 * 2,
    "grouped/key_dense/kernel": 2 * WORDS * SIZE * 2 * 2,
    "grouped/value_dense/kernel": 2 * WORDS * SIZE * 2 * 2,
    "grouped/output_dense/kernel": 2 * WORDS * 4 * 2 * SIZE,
    "grouped": 2 * 4 * WORDS * WORDS * (2 + 2),
    "lstm/cell/kernel": 2 * WORDS * SIZE * 4 * 5,
    "lstm/cell/recurrent_kernel": 2 * WORDS * 5 * 4 * 5,
    "dense/kernel": 2 * 5 * 3,
}


def one_of_each():
    layers = keras.layers
    words = keras.Input((WORDS,), dtype="int32", name="words")
    x = layers.Embedding(20, SIZE, name="embedding")(words)
    x = layers.Conv1D(SIZE, 3, padding="same", name="conv")(x)
    x = layers.SeparableConv1D(SIZE, 3, padding="same", name="separable")(x)
    x = layers.MultiHeadAttention(2, 3, name="many")(x, x)
    x = layers.GroupQueryAttention(2, 4, 2, name="grouped")(x, x)
    x = layers.LSTM(5, name="lstm")(x)
    return keras.Model(words, layers.Dense(3, name="dense")(x))


@pytest.mark.slow
def test_all_who_count_operations_count_the_same(tmp_path, quick):
    model = one_of_each()
    wrapped = tfticket.prune(model)
    tfticket.sparsify(wrapped, 0.75)
    masks = tfticket.get_masks(wrapped)
    dense = sum(BY_HAND.values())
    # An integer number of uses for each weight kept; attention saves nothing.
    sparse = sum(
        count * masks[name].sum() // masks[name].size if name in masks else count
        for name, count in BY_HAND.items()
    )
    found = {row.name: row for row in tfticket.summary_rows(wrapped)}
    assert {
        name: row.flops_dense for name, row in found.items() if name in BY_HAND
    } == BY_HAND
    whole = total(found.values())
    assert (whole.flops_dense, whole.flops_sparse) == (dense, sparse)
    path = export.saved_model(wrapped, tmp_path / "m").path
    manifest = json.loads((path / "tfticket.json").read_text())
    assert (manifest["flops_dense"], manifest["flops_sparse"]) == (dense, sparse)
    assert manifest["flops_unknown"] == {}
    assert export.compact(wrapped).flops_before == dense
    rows = export.compare(wrapped, dense=model, forms=["dense", "stripped"], repeats=1)
    assert [(row.flops_dense, row.flops_sparse) for row in rows] == [
        (dense, dense),
        (dense, sparse),
    ]


def test_compact_counts_attention():
    x = keras.Input((16, 8))
    y = keras.layers.Dense(8, name="a")(x)
    y = keras.layers.Attention(name="attention")([y, y])
    hidden = keras.layers.Dense(32, activation="relu", name="b")
    model = keras.Model(x, keras.layers.Dense(4, name="c")(hidden(y)))
    kernel = keras.ops.convert_to_numpy(hidden.kernel).copy()
    kernel[:, 16:] = 0
    hidden.kernel.assign(kernel)
    small = export.compact(model)
    attention = 2 * 16 * 16 * (8 + 8)
    kept = 2 * 16 * 8 * 8 + attention
    assert small.flops_before == kept + 2 * 16 * (8 * 32 + 32 * 4)
    assert small.flops_after == kept + 2 * 16 * (8 * 16 + 16 * 4)
    share = f"{small.flops_after / small.flops_before:.1%}"
    assert share in str(small)


def test_the_table_has_the_operations(mlp, quick):
    rows = export.compare(mlp, forms=["dense"], repeats=1)
    console = Console(file=io.StringIO(), width=200)
    export.print_comparison(rows, console)
    assert "kFLOPs" in console.file.getvalue()


def test_bad_input(mlp):
    with pytest.raises(TypeError, match=r"model must be a keras\.Model"):
        export.compare("model.keras")
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        export.compare(mlp, repeats=0)
    with pytest.raises(ValueError, match="forms must be one of"):
        export.compare(mlp, forms=["zip"])
    two = [keras.Input((3,)), keras.Input((3,))]
    model = keras.Model(two, keras.layers.Add()(two))
    with pytest.raises(ValueError, match="has 2"):
        export.compare(model)


def test_the_script_says_what_is_wrong_before_it_writes(run_script, tmp_path):
    def script(*flags):
        return run_script(ROOT / "scripts" / "export.py", *flags, cwd=tmp_path)

    done = script("--model=nowhere.npz", f"--out_dir={tmp_path}")
    assert done.returncode == 3
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
