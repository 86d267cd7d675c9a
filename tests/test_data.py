"""Data that is normalised, split without leaks, shuffled, and the same again."""

import os
import subprocess
import sys
import tracemalloc
import types

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND
from sklearn.datasets import load_digits

from tfticket import data
from tfticket.common.augmentation import check_augment

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


@pytest.fixture
def bytes_of_images(monkeypatch):
    """A set of 6,000 and 1,000 images of bytes, in the place of one of TFDS."""
    random = np.random.default_rng(0)
    parts = {
        name: (
            random.integers(0, 256, (count, 28, 28, 1), np.uint8),
            random.integers(0, 10, count),
        )
        for name, count in (("train", 6000), ("test", 1000))
    }
    read = {name: (x.copy(), y.copy()) for name, (x, y) in parts.items()}
    monkeypatch.setattr(data, "_from_tfds", lambda *_: (read.pop, 10))
    return parts


def test_values_are_those_of_the_formula_in_little_memory(bytes_of_images, monkeypatch):
    monkeypatch.setattr(data, "_CHUNK", 100)  # as small a part as of 60,000
    monkeypatch.setattr(data, "_PIXELS", 2**16)
    tracemalloc.start()
    try:
        found = data.load("bytes")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    arrays = sum(
        x.nbytes for p in (found.train, found.validation, found.test) for x in p
    )
    # What was read was there before.
    assert peak + bytes_of_images["train"][0].nbytes <= 1.5 * arrays
    images, labels = bytes_of_images["train"]
    order = np.random.default_rng(1).permutation(6000)
    held_out, train = np.sort(order[:500]), np.sort(order[500:])
    scaled = images / np.float32(255)
    mean = scaled[train].mean(axis=(0, 1, 2), dtype=np.float64)
    std = scaled[train].std(axis=(0, 1, 2), dtype=np.float64)
    np.testing.assert_array_equal(found.mean, mean)
    np.testing.assert_array_equal(found.std, std)
    for (x, y), numbers in ((found.train, train), (found.validation, held_out)):
        want = ((scaled[numbers] - mean) / std).astype(np.float32)
        np.testing.assert_array_equal(x, want)
        np.testing.assert_array_equal(y, labels[numbers])


@pytest.mark.parametrize("shape", [(70, 28, 28, 1), (50, 9, 7, 3), (3, 5, 5, 1)])
def test_the_variance_is_numpys_bit_for_bit(shape, monkeypatch):
    monkeypatch.setattr(data, "_PIXELS", 1024)
    images = np.random.default_rng(0).random(shape, np.float32)
    mean = images.mean(axis=(0, 1, 2), dtype=np.float64)
    want = images.var(axis=(0, 1, 2), dtype=np.float64)
    np.testing.assert_array_equal(data._variance(images, mean), want)


def test_inputs_from_0_to_1(digits):
    unit = data.load(normalize="unit")
    assert (unit.mean.tolist(), unit.std.tolist()) == ([0.0], [1.0])
    for part, other in ((unit.train, digits.train), (unit.test, digits.test)):
        assert set(np.unique(part[0] * 16)) <= set(range(17))
        scaled = ((part[0] - digits.mean) / digits.std).astype("float32")
        np.testing.assert_array_equal(scaled, other[0])
        np.testing.assert_array_equal(part[1], other[1])


def test_a_part_of_the_training_images(digits):
    few, again = (data.load(train_size=100, seed=seed) for seed in (3, 3))
    other = data.load(train_size=100, seed=4)
    assert few.train[0].shape == (100, 8, 8, 1)
    np.testing.assert_array_equal(few.train[0], again.train[0])
    assert (few.train[1] != other.train[1]).any()
    # Normalised by what is left of them; the other parts are whole.
    assert few.train[0].mean() == pytest.approx(0, abs=1e-5)
    assert [len(few.validation[1]), len(few.test[1])] == [200, 300]

    def raw(part, of):
        values = np.round((part[0] * of.std + of.mean) * 16).astype(int)
        return {(x.tobytes(), y) for x, y in zip(values, part[1], strict=True)}

    assert raw(few.train, few) < raw(digits.train, digits)
    assert raw(few.validation, few) == raw(digits.validation, digits)


def test_labels_that_are_wrong(digits):
    noisy = data.load(label_noise=0.3, seed=5)
    other = data.load(label_noise=0.3, seed=6)
    changed = noisy.train[1] != digits.train[1]
    assert changed.sum() == round(0.3 * 1297)
    assert (changed != (other.train[1] != digits.train[1])).any()
    # Any other class, about as often as each other.
    by = (noisy.train[1] - digits.train[1])[changed] % 10
    assert set(by) == set(range(1, 10))
    for name in ("validation", "test"):
        for new, old in zip(getattr(noisy, name), getattr(digits, name), strict=True):
            np.testing.assert_array_equal(new, old)
    np.testing.assert_array_equal(noisy.train[0], digits.train[0])
    everyone = data.load(label_noise=1.0).train[1]
    assert (everyone != digits.train[1]).all()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"normalize": "whiten"}, "normalize must be one of"),
        ({"train_size": 0}, "train_size must be at least 1"),
        ({"train_size": 1298}, "train_size must be at most 1297"),
        ({"label_noise": 1.5}, "label_noise must be at least 0 and at most 1"),
        ({"seed": -1}, "seed must be at least 0"),
    ],
)
def test_bad_options(arguments, message):
    with pytest.raises(ValueError, match=message):
        data.load(**arguments)


@pytest.fixture
def shifted():
    layers = keras.layers
    flip = layers.RandomFlip("horizontal")
    return keras.Sequential([flip, layers.RandomTranslation(0.2, 0.2, "constant")])


@pytest.mark.skipif(BACKEND != "tensorflow", reason="layers in tf.data pipelines")
class TestAugmentationByALayer:
    def test_seed_and_number_decide_what_becomes_of_a_batch(self, digits, shifted):
        asked = {"batch_size": 50, "augment": shifted}
        first = batches(digits, 6, seed=1, **asked)
        again = batches(digits, 6, seed=1, **asked)
        later = batches(digits, 2, seed=1, first_step=4, **asked)
        other = batches(digits, 6, seed=2, **asked)
        plain = batches(digits, 6, seed=1, batch_size=50)
        for (x, y), (x2, y2) in zip(first, again, strict=True):
            np.testing.assert_array_equal(x, x2)
            np.testing.assert_array_equal(y, y2)
        np.testing.assert_array_equal(later[1][0], first[5][0])
        assert (first[0][0] != other[0][0]).any()
        for (x, y), (x2, y2) in zip(first, plain, strict=True):
            assert (x != x2).any()
            np.testing.assert_array_equal(y, y2)

    def test_flips_differ_from_batch_to_batch(self, digits):
        flip = keras.layers.RandomFlip("horizontal")
        pairs = zip(
            batches(digits, 8, batch_size=20, seed=0, augment=flip),
            batches(digits, 8, batch_size=20, seed=0),
            strict=True,
        )
        flipped = []
        for (x, _), (plain, _) in pairs:
            was = [np.array_equal(a, b[:, ::-1]) for a, b in zip(x, plain, strict=True)]
            kept = [np.array_equal(a, b) for a, b in zip(x, plain, strict=True)]
            assert all(np.logical_or(was, kept))
            flipped.append(tuple(was))
        assert len(set(flipped)) == 8
        assert 0.3 < np.mean(flipped) < 0.7

    def test_equal_layers_are_one_text(self, shifted):
        text = check_augment("augment", shifted)
        again = keras.Sequential(
            [
                keras.layers.RandomFlip("horizontal", name="other"),
                keras.layers.RandomTranslation(0.2, 0.2, "constant"),
            ]
        )
        again(np.zeros((1, 8, 8, 1), "float32"))  # built, which makes no difference
        assert check_augment("augment", again) == text
        assert check_augment("augment", text) == text
        far = keras.layers.RandomTranslation(0.3, 0.3)
        assert check_augment("augment", far) != text
        assert check_augment("augment", np.bool_(True)) is True

    def test_what_is_no_layer(self):
        for value, error in [("flip", ValueError), ("{}", ValueError), (1, TypeError)]:
            with pytest.raises(error, match="augment must be"):
                check_augment("augment", value)
        with pytest.raises(TypeError, match="True, False or a Keras layer"):
            check_augment("augment", keras.layers.RandomFlip)

    def test_layers_that_no_seed_decides(self, digits):
        @keras.saving.register_keras_serializable("test_data")
        class Unseeded(keras.layers.Layer):
            def call(self, x, training=False):
                import tensorflow as tf

                return x + tf.random.uniform(tf.shape(x))

        with pytest.raises(ValueError, match="augment must draw its random numbers"):
            digits.check_augment(Unseeded())
        with pytest.raises(ValueError, match="augment must keep images of shape"):
            digits.check_augment(keras.layers.Resizing(4, 4))


_MEASURE = """
import resource, sys
import tensorflow, tensorflow_datasets
from tfticket import data
from tfticket.common.augmentation import check_augment
status = open("/proc/self/status").read().split()
before = int(status[status.index("VmRSS:") + 1])
found = data.load(sys.argv[1], sys.argv[2], download=False)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
parts = (found.train, found.validation, found.test)
print((peak - before) * 1024 / sum(x.nbytes for part in parts for x in part))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("name", ["mnist", "cifar10"])
def test_memory_of_real_sets(name):
    if not os.path.isdir(os.path.join(PREPARED, name)):
        pytest.skip("set TFTICKET_DATA_DIR to a directory where TFDS has prepared it")
    done = subprocess.run(
        [sys.executable, "-c", _MEASURE, name, PREPARED],
        capture_output=True,
        text=True,
        check=True,
    )
    assert float(done.stdout) <= 1.5


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
