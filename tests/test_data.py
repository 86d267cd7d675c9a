"""Data that is normalised, split without leaks, shuffled, and the same again."""

import os
import sys
import types

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tfticket import data

PREPARED = os.environ.get("TFTICKET_DATA_DIR", "")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_digits_are_all_there_once(digits):
    images = [
        np.round((part[0] * digits.std + digits.mean) * 16).astype(int)
        for part in (digits.train, digits.validation, digits.test)
    ]
    assert [len(x) for x in images] == [1297, 200, 300]
    labels = np.concatenate(
        [p[1] for p in (digits.train, digits.validation, digits.test)]
    )
    want = load_digits()
    got = {
        (x.tobytes(), y) for x, y in zip(np.concatenate(images), labels, strict=True)
    }
    want = {
        (x[..., None].astype(int).tobytes(), y)
        for x, y in zip(want.images, want.target, strict=True)
    }
    assert got == want


def test_normalised_by_the_training_part(digits):
    assert digits.train[0].dtype == np.float32
    assert digits.train[0].mean() == pytest.approx(0, abs=1e-5)
    assert digits.train[0].std() == pytest.approx(1, abs=1e-5)
    assert f"mean {digits.mean[0]:.4f} and std {digits.std[0]:.4f}" in digits.describe()


def batches(dataset, count, **kwargs):
    pipeline = dataset.training_pipeline(**kwargs)
    return [(x.numpy(), y.numpy()) for x, y in pipeline.take(count)]


def test_an_epoch_has_every_image_once_with_its_label(digits):
    got = batches(digits, 1297, batch_size=1, seed=0)
    order = {(x.tobytes(), int(y[0])) for x, y in got}
    want = {(x[None].tobytes(), int(y)) for x, y in zip(*digits.train, strict=True)}
    assert order == want
    assert [int(y[0]) for _, y in got] != list(digits.train[1])


def test_the_order_is_the_seeds(digits):
    first, again, other = (
        [y.tolist() for _, y in batches(digits, 30, batch_size=60, seed=seed)]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other
    assert {len(y) for y in first} == {60}  # also across the end of an epoch
    assert sorted(first[:21]) != sorted(first[21:])


def test_pipelines_do_not_autotune(digits):
    for pipeline in (
        digits.training_pipeline(60, 0),
        digits.evaluation_pipeline("validation"),
    ):
        assert pipeline.options().autotune.enabled is False


def test_evaluation_is_in_order(digits):
    got = np.concatenate(
        [y for _, y in digits.evaluation_pipeline("test", 70).as_numpy_iterator()]
    )
    np.testing.assert_array_equal(got, digits.test[1])


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A directory with a set that TFDS itself has prepared: 24 images of 3x2."""
    import tensorflow_datasets as tfds

    class TinyImages(tfds.core.GeneratorBasedBuilder):
        VERSION = tfds.core.Version("1.0.0")

        def _info(self):
            image = tfds.features.Image(shape=(3, 2, 3), encoding_format="png")
            label = tfds.features.ClassLabel(num_classes=4)
            features = tfds.features.FeaturesDict({"image": image, "label": label})
            return tfds.core.DatasetInfo(builder=self, features=features)

        def _split_generators(self, _):
            train = self._generate_examples(0, 18)
            return {"train": train, "test": self._generate_examples(18, 24)}

        def _generate_examples(self, first, end):
            for i in range(first, end):
                image = np.full((3, 2, 3), 10 * i, np.uint8)
                yield i, {"image": image, "label": i % 4}

    folder = tmp_path_factory.mktemp("tfds")
    TinyImages(data_dir=folder).download_and_prepare()
    return folder


def test_a_set_that_tfds_prepared(prepared):
    tiny = data.load("tiny_images", prepared, download=False, validation_size=6)
    assert (tiny.image_shape, tiny.classes) == ((3, 2, 3), 4)
    parts = (tiny.train, tiny.validation, tiny.test)
    assert [len(labels) for _, labels in parts] == [12, 6, 6]
    raw = [np.round((x * tiny.std + tiny.mean) * 255)[:, 0, 0, 0] for x, _ in parts]
    np.testing.assert_array_equal(np.sort(np.concatenate(raw)), np.arange(0, 240, 10))
    assert set(raw[2]) == set(range(180, 240, 10))
    for numbers, (_, labels) in zip(raw, parts, strict=True):
        np.testing.assert_array_equal(numbers // 10 % 4, labels)


def test_tfds_that_does_not_load_says_what_to_do(monkeypatch):
    broken = types.ModuleType("tensorflow_datasets")
    monkeypatch.setitem(sys.modules, "tensorflow_datasets", broken)
    with pytest.raises(ImportError, match=r"pip install 'tensorflow-metadata<1.18'"):
        data.load("mnist")


@pytest.mark.skipif(
    not os.path.isdir(os.path.join(PREPARED, "mnist")),
    reason="set TFTICKET_DATA_DIR to a directory where TFDS has prepared mnist",
)
def test_mnist_from_a_prepared_directory():
    mnist = data.load("mnist", data_dir=PREPARED, download=False)
    assert mnist.image_shape == (28, 28, 1)
    assert [len(p[1]) for p in (mnist.train, mnist.validation, mnist.test)] == [
        55_000,
        5_000,
        10_000,
    ]
    assert mnist.mean[0] == pytest.approx(0.1307, abs=5e-4)  # the figures of all 60,000
    assert mnist.std[0] == pytest.approx(0.3081, abs=5e-4)
    assert mnist.classes == 10
    assert mnist.test[1][:5].tolist() == [2, 0, 4, 8, 7]
