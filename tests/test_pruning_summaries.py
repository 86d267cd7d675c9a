"""What `PruningSummaries` writes, read back from the file; the pictures of masks."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from keras import layers

import tfticket
from tfticket import schedules
from tfticket.inspection.tensorboard import mask_picture
from tfticket.pruning.masks import get_pruned_weights


def fit(model, data, folder, epochs=2, schedule=None, **arguments):
    """Trains so many epochs of 12 steps, and gives what was written."""
    model.compile("adam", "sparse_categorical_crossentropy")
    callbacks = [tfticket.PruningSummaries(folder, **arguments)]
    if schedule is not None:
        callbacks.append(tfticket.GradualPruning(schedule))
    model.fit(*data, batch_size=4, epochs=epochs, callbacks=callbacks, verbose=0)
    return read(folder)


def read(folder):
    """What was written, by tag and step."""
    (file,) = (folder / "metrics").iterdir()
    return {
        (value.tag, event.step): value
        for event in tf.compat.v1.train.summary_iterator(str(file))
        for value in event.summary.value
    }


def number(value):
    return float(tf.make_ndarray(value.tensor))


def picture(value):
    """Of an image summary: its width and height, then the PNG."""
    width, height, png = tf.make_ndarray(value.tensor)
    decoded = tf.io.decode_png(png).numpy()
    assert decoded.shape == (int(height), int(width), 1)
    return decoded[..., 0]


def pictures(written):
    return {key: picture(x) for key, x in written.items() if "mask/" in key[0]}


def test_numbers(mlp, data, tmp_path):
    model = tfticket.prune(mlp)
    written = fit(model, data, tmp_path, schedule=schedules.OneShot(0.5))
    assert {step for _, step in written} == {12, 24}
    for step in (12, 24):
        assert number(written["sparsity", step]) == 0.5
        assert number(written["sparsity/hidden/kernel", step]) == 0.5
    weight = get_pruned_weights(model)["out/kernel"]
    least = np.abs(weight[tfticket.get_masks(model)["out/kernel"]]).min()
    assert number(written["threshold/out/kernel", 24]) == pytest.approx(least)
    assert not any("kept/" in tag for tag, _ in written)


def test_pictures_are_written_when_masks_change(mlp, data, tmp_path):
    model = tfticket.prune(mlp)
    # Before step 0, and before step 24, the first of the third epoch.
    schedule = schedules.PolynomialDecay(0.5, 0.75, 0, 24, frequency=24)
    written = fit(model, data, tmp_path, epochs=4, schedule=schedule)
    shown = pictures(written)
    names = ("mask/hidden/kernel", "mask/out/kernel")
    assert set(shown) == {(name, step) for name in names for step in (12, 36)}
    for name, mask in tfticket.get_masks(model).items():
        np.testing.assert_array_equal(shown[f"mask/{name}", 36], 255 * mask)
        assert (shown[f"mask/{name}", 12] == 255).mean() == 0.5
    text = written["mask/out/kernel", 12].metadata.summary_description
    assert text.startswith("A pixel is a weight")


@pytest.mark.parametrize(("mask_images", "steps"), [(False, set()), (2, {12, 36})])
def test_fewer_pictures(mlp, data, tmp_path, mask_images, steps):
    model = tfticket.prune(mlp)
    schedule = schedules.PolynomialDecay(0.1, 0.8, 0, 48, frequency=6)
    written = fit(model, data, tmp_path, 4, schedule, mask_images=mask_images)
    assert {step for _, step in pictures(written)} == steps


def test_pictures_of_a_popup_model(mlp, tmp_path):
    model = tfticket.popup(mlp, density=0.25)
    summaries = tfticket.PruningSummaries(tmp_path)
    summaries.set_model(model)
    summaries.on_epoch_end(0)
    shown = pictures(read(tmp_path))
    for name, mask in tfticket.get_masks(model).items():
        np.testing.assert_array_equal(shown[f"mask/{name}", 0], 255 * mask)


def test_histograms_are_of_what_is_kept(mlp, data, tmp_path):
    model = tfticket.prune(mlp)
    tfticket.sparsify(model, 0.75)
    written = fit(model, data, tmp_path, histogram_freq=2)
    assert {step for tag, step in written if "kept/" in tag} == {12}
    buckets = tf.make_ndarray(written["kept/hidden/kernel", 12].tensor)
    assert buckets[:, 2].sum() == 12


def test_picture_of_a_convolution():
    mask = np.random.default_rng(0).random((3, 2, 4, 5)) < 0.4
    made, text = mask_picture(mask)
    assert made.shape == (4 * 4 - 1, 5 * 3 - 1)
    want = np.full((16, 15), 64)
    for row, column in np.ndindex(4, 5):
        tile = want[4 * row : 4 * row + 3, 3 * column : 3 * column + 2]
        tile[:] = 255 * mask[:, :, row, column]
    np.testing.assert_array_equal(made, want[:-1, :-1])
    assert "3 x 2" in text


def test_pictures_of_other_ranks():
    mask = np.array([True, False, True])
    np.testing.assert_array_equal(mask_picture(mask)[0], [[255, 0, 255]])
    assert mask_picture(np.array(True))[0].tolist() == [[255]]
    upright = mask_picture(mask.reshape(3, 1, 1))[0]
    np.testing.assert_array_equal(upright, [[255], [0], [255]])
    made, _ = mask_picture(np.ones((2, 3, 4, 2, 2), bool))
    assert made.shape == (2 * 7 - 1, 2 * 5 - 1)


@settings(max_examples=30, deadline=None)
@given(
    rows=st.integers(1, 1100),
    columns=st.integers(257, 700),
    window=st.sampled_from([(), (3, 3), (2,)]),
    seed=st.integers(0, 99),
)
def test_large_masks_are_averaged_by_blocks(rows, columns, window, seed):
    mask = np.random.default_rng(seed).random((*window, rows, columns)) < 0.3
    made, text = mask_picture(mask)
    fractions = mask.reshape(-1, rows, columns).mean(axis=0)
    down, across = -(-rows // 256), -(-columns // 256)
    assert made.shape == (-(-rows // down), -(-columns // across))
    assert f"{down} x {across} of" in text
    for i, j in ((0, 0), (-1, -1), (made.shape[0] // 2, made.shape[1] // 3)):
        i, j = i % made.shape[0], j % made.shape[1]
        block = fractions[i * down : (i + 1) * down, j * across : (j + 1) * across]
        assert abs(made[i, j] - 255 * block.mean()) <= 0.5 + 1e-6


def test_a_plain_model_has_nothing_to_show(mlp, data, tmp_path):
    model = keras.Sequential([keras.Input((6,)), layers.Dense(3)])
    model.compile("adam", "mse")
    summaries = tfticket.PruningSummaries(tmp_path / "logs")
    model.fit(data[0], data[0][:, :3], callbacks=[summaries], verbose=0)


def test_bad_input(tmp_path):
    with pytest.raises(ValueError, match=r"mask_images must be at least 1.*=0"):
        tfticket.PruningSummaries(tmp_path, mask_images=0)
    with pytest.raises(TypeError, match=r"mask_images must be an integer.*'all'"):
        tfticket.PruningSummaries(tmp_path, mask_images="all")
    with pytest.raises(ValueError, match="log_dir must be a path"):
        tfticket.PruningSummaries("")
