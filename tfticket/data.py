"""Image classification sets as normalised arrays, and fast pipelines over them."""

import dataclasses
import functools
import os
import pathlib
from typing import TYPE_CHECKING, Any

import numpy as np

from tfticket.common.arguments import (
    check_bool,
    check_choice,
    check_instance,
    check_integer,
    check_number,
    check_path,
    optional,
)
from tfticket.common.augmentation import Augmenter, check_augment
from tfticket.common.on_demand import need

if TYPE_CHECKING:
    import keras
    import tensorflow as tf

EMBEDDED = "digits"
NORMALIZATIONS = ("standard", "unit")
EVALUATION_BATCH = 1000  # images
# In the package: E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten
# Digits", UCI Machine Learning Repository, 1998, doi.org/10.24432/C50P49, CC BY 4.0. It
# is the part that scikit-learn has, in its order: images of 8x8 values from 0 to 16.
_DIGITS = pathlib.Path(__file__).parent / "common" / "digits.npz"

# Images, and pixels of them, that are converted at once.
_CHUNK, _PIXELS = 1000, 2**20


@dataclasses.dataclass(frozen=True, eq=False)
class Dataset:
    """Images and labels in three parts, inputs normalised.

    Args:
        name: Name of the set.
        train: Tuple (images, labels): float32 `(n, height, width, channels)`
            and int32 `(n,)`. `validation` and `test` likewise.
        validation: Held out of the training images, for the early-stop
            iteration.
        test: The set's own test split, for the reported accuracy only.
        classes: Number of classes.
        mean: Mean of each channel over the training images scaled to [0, 1],
            subtracted from every part.
        std: Standard deviation of each channel, divided by.
    """

    name: str
    train: tuple[np.ndarray, np.ndarray]
    validation: tuple[np.ndarray, np.ndarray]
    test: tuple[np.ndarray, np.ndarray]
    classes: int
    mean: np.ndarray
    std: np.ndarray

    def __getstate__(self):
        # Without the tensors of a pipeline, when it goes to another process.
        return {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """(height, width, channels)."""
        return self.train[0].shape[1:]

    def describe(self) -> str:
        """One line for a person: sizes, and what inputs were normalised with."""
        sizes = [len(part[1]) for part in (self.train, self.validation, self.test)]
        mean = ", ".join(f"{value:.4f}" for value in self.mean)
        std = ", ".join(f"{value:.4f}" for value in self.std)
        return (
            f"{self.name}: {sizes[0]} training, {sizes[1]} validation, {sizes[2]} test "
            f"images of {self.image_shape}, normalised by mean {mean} and std {std}"
        )

    def training_pipeline(
        self,
        batch_size: int,
        seed: int,
        augment: "bool | str | keras.layers.Layer" = False,
        first_step: int = 0,
    ) -> "tf.data.Dataset":
        """Endless shuffled batches of the training part.

        Every image comes once an epoch, in an order that depends on `seed`
        alone. All batches have `batch_size` images (one that crosses the end of
        an epoch takes the rest from the next), so nothing is ever retraced.

        Args:
            batch_size: Images in a batch, from 1 to the size of the part.
            seed: Seed of the order, and of augmentation.
            augment: Whether images are shifted at random by up to an eighth of
                their size (what comes in is 0, the mean) and flipped left to right
                half of the time. Or a Keras layer of your choice, whose random numbers
                `seed` decides too: `keras.layers.RandomTranslation(0.1, 0.1)`. It is
                called with normalised images.
            first_step: How many batches to leave out at the beginning, for a training
                that goes on from there.

        Raises:
            TypeError: If an argument is of the wrong type.
            ValueError: If `batch_size` is out of range.
        """
        tf = _tensorflow("training_pipeline")
        images, labels = self._tensors
        check_integer("batch_size", batch_size, 1, len(labels))
        check_integer("seed", seed, 0)
        augment = check_augment("augment", augment)
        check_integer("first_step", first_step, 0)
        count, first = len(labels), first_step * batch_size

        def order(epoch):
            # Of seed and epoch alone: each iterator begins with the same, while
            # `shuffle` would go on where the one before it was.
            numbers = tf.random.experimental.stateless_shuffle(
                tf.range(count), tf.stack([tf.constant(seed, tf.int64), epoch])
            )
            return numbers[tf.where(epoch == first // count, first % count, 0) :]

        # Cutting up whole orders and gathering whole batches is several times faster
        # than shuffling and stacking single images, and exact.
        orders = tf.data.Dataset.counter(first // count).map(order)
        batches = orders.rebatch(batch_size, drop_remainder=True)
        data = batches.map(lambda i: (tf.gather(images, i), tf.gather(labels, i)))
        if augment:
            numbered = tf.data.Dataset.zip((tf.data.Dataset.counter(first_step), data))
            change = self._augmenter(augment, batch_size)
            data = numbered.map(
                lambda number, batch: (change(batch[0], seed, number), batch[1])
            )
        return _fast(data)

    @functools.cached_property
    def _tensors(self):
        tf = _tensorflow("training_pipeline")
        # Made once: TensorFlow keeps what a pipeline's function captures for as
        # long as the process lives.
        return tuple(tf.constant(values) for values in self.train)

    def check_augment(self, augment: "bool | str | keras.layers.Layer") -> None:
        """Refuses augmentation that `training_pipeline` can't use, before any training.

        Raises:
            TypeError: If it is neither a bool nor a layer.
            ValueError: If the layer changes the shape of images, or draws random
                numbers that a seed does not decide.
        """
        self._augmenter(check_augment("augment", augment), 2)

    def _augmenter(self, augment, batch_size):
        if isinstance(augment, bool):
            return lambda images, *seeds: _augmented(images, seeds)
        return Augmenter(augment, self.train[0][:batch_size])

    def evaluation_pipeline(
        self, part: str, batch_size: int = EVALUATION_BATCH
    ) -> "tf.data.Dataset":
        """The validation or test part in order, for `evaluate` and `predict`."""
        parts = {"validation": self.validation, "test": self.test}
        images, labels = parts[check_choice("part", part, list(parts))]
        check_integer("batch_size", batch_size, 1)
        tf = _tensorflow("evaluation_pipeline")
        data = tf.data.Dataset.from_tensor_slices((images, labels))
        return _fast(data.batch(min(batch_size, len(labels))).cache())


def load(
    name: str = EMBEDDED,
    data_dir: str | os.PathLike | None = None,
    download: bool = True,
    validation_size: int | None = None,
    normalize: str = "standard",
    train_size: int | None = None,
    label_noise: float = 0.0,
    seed: int = 0,
) -> Dataset:
    """Loads an image classification set into memory.

    It takes about as much memory as the arrays that it returns.

    Args:
        name: `"digits"`, 1,797 real 8x8 images that come with tfticket (1,297
            training, 200 validation, 300 test images, split by a fixed seed); or the
            name of any TensorFlow Datasets image set with fixed-size images and a
            train and test split, such as `"mnist"`.
        data_dir: Directory that holds prepared TFDS sets, or that they are
            downloaded to. `None` is TFDS's own.
        download: Whether TFDS may download. `False` wants `data_dir` prepared.
        validation_size: Images held out of the training split, chosen by a
            fixed seed. Default: 200 of digits, 5,000 of mnist and cifar10 as in
            the lottery ticket paper, else a twelfth.
        normalize: `"standard"`: by the mean and the standard deviation of each channel
            over the training images; `"unit"`: inputs from 0 to 1.
        train_size: Training images to keep, drawn by `seed`. Default: all.
        label_noise: Fraction of the training labels, drawn by `seed`, that are replaced
            by another class; in [0, 1].
        seed: Of these two.

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is no such set, it is not prepared and `download`
            is off, or it is not one of fixed-size labelled images.
        ImportError: If TFDS is not installed (`pip install 'tfticket[datasets]'`) or
            can't be loaded.

    Example:

    >>> digits = tfticket.data.load("digits")
    >>> digits.image_shape
    (8, 8, 1)
    """
    check_instance("name", name, str, "the name of a data set")
    check_bool("download", download)
    optional(check_path, "data_dir", data_dir)
    if not name or "\0" in name:
        raise ValueError(f"name must be that of a data set. Received: name={name!r}")
    if validation_size is not None:
        check_integer("validation_size", validation_size, 1)
    check_choice("normalize", normalize, NORMALIZATIONS)
    if train_size is not None:
        train_size = check_integer("train_size", train_size, 1)
    label_noise = check_number("label_noise", label_noise, 0, 1)
    seed = check_integer("seed", seed, 0)
    if name == EMBEDDED:
        read, classes = _digits().__getitem__, 10
    else:
        read, classes = _from_tfds(name, data_dir, download)
    images, labels = read("train")
    if validation_size is None:
        known = {EMBEDDED: 200, "mnist": 5000, "cifar10": 5000}
        validation_size = known.get(name, len(labels) // 12)
    train, validation = _parts(len(labels), validation_size, train_size, seed)
    white = 16 if name == EMBEDDED else 255
    normalise = _Normaliser(images, train, white, normalize)
    parts = {
        "train": (
            normalise.train,
            _noisy(labels[train].astype("int32"), classes, label_noise, seed),
        ),
        "validation": (
            normalise(images, validation),
            labels[validation].astype("int32"),
        ),
    }
    del images, labels  # before the test part takes its place
    images, labels = read("test")
    parts["test"] = normalise(images), labels.astype("int32")
    return Dataset(
        name=name, classes=classes, mean=normalise.mean, std=normalise.std, **parts
    )


def _digits():
    with np.load(_DIGITS) as file:
        images, labels = file["images"][..., None], file["labels"]
    order = np.random.default_rng(0).permutation(len(labels))
    parts = {"train": order[300:], "test": order[:300]}
    return {name: (images[some], labels[some]) for name, some in parts.items()}


def _parts(count, held_out, train_size, seed):
    """Which images of the training split are for training, and which for validation."""
    # Training images have to be left.
    check_integer("validation_size", held_out, 1, count - 1)
    order = np.random.default_rng(1).permutation(count)
    validation, train = np.sort(order[:held_out]), np.sort(order[held_out:])
    if train_size is not None:
        check_integer("train_size", train_size, 1, len(train))
        random = np.random.default_rng([seed, 1])
        train = np.sort(random.permutation(train)[:train_size])
    return train, validation


def _noisy(labels, classes, fraction, seed):
    """Labels, an exact fraction of which are those of another class."""
    count = round(fraction * len(labels))
    if not count:
        return labels
    random = np.random.default_rng([seed, 2])
    places = random.permutation(len(labels))[:count]
    noisy = labels.copy()
    noisy[places] = (labels[places] + random.integers(1, classes, count)) % classes
    return noisy


class _Normaliser:
    """Makes inputs of images, a few at a time.

    Args:
        images: The training split.
        train: Numbers of those that mean and standard deviation are taken over.
        white: The highest value of a pixel.
        how: One of `NORMALIZATIONS`.

    Attributes:
        train: The inputs of these images, float32.
    """

    def __init__(self, images, train, white, how):
        self._white = np.float32(white)
        channels = images.shape[-1]
        self.mean, self.std = np.zeros(channels), np.ones(channels)
        self.train = self(images, train)
        if how == "unit":
            return
        self.mean = self.train.mean(axis=(0, 1, 2), dtype=np.float64)
        self.std = np.sqrt(_variance(self.train, self.mean))
        for some in _chunks(np.arange(len(train))):
            self.train[some] = self._inputs(self.train[some])

    def __call__(self, images, numbers=None):
        """The inputs, float32, of the images of these numbers, or of all."""
        if numbers is None:
            numbers = np.arange(len(images))
        found = np.empty((len(numbers), *images.shape[1:]), np.float32)
        first = 0
        for some in _chunks(numbers):
            inputs = self._inputs(images[some] / self._white)
            found[first : first + len(some)] = inputs
            first += len(some)
        return found

    def _inputs(self, images):
        return ((images - self.mean) / self.std).astype(np.float32)


def _variance(images, mean):
    """`images.var(axis=(0, 1, 2), dtype=np.float64)` bit for bit, in little memory.

    NumPy adds squares of one channel in pairs, and those of several one after another.
    """
    rows = images.reshape(-1, images.shape[-1])

    def squares(first, last):
        apart = rows[first:last] - mean
        return apart * apart

    def in_pairs(first, count):
        if count <= _PIXELS:
            return np.add.reduce(squares(first, first + count).ravel())
        half = count // 2
        half -= half % 8
        return in_pairs(first, half) + in_pairs(first + half, count - half)

    if images.shape[-1] == 1:
        return np.array([in_pairs(0, len(rows))]) / len(rows)
    total = np.zeros((1, images.shape[-1]))
    for first in range(0, len(rows), _PIXELS):
        some = squares(first, first + _PIXELS)
        total = np.add.reduce(np.concatenate([total, some]), axis=0, keepdims=True)
    return total[0] / len(rows)


def _chunks(numbers):
    return np.array_split(numbers, max(1, len(numbers) // _CHUNK))


def _tensorflow(who: str) -> Any:
    return need(f"Dataset.{who}, a tf.data.Dataset,", "tensorflow")


def _from_tfds(name, data_dir, download):
    tfds = _import_tfds()
    try:
        builder = tfds.builder(name, data_dir=data_dir)
    except tfds.core.DatasetNotFoundError as error:
        raise ValueError(
            f"No data set is named '{name}'. It must be '{EMBEDDED}' or one of "
            "TensorFlow Datasets, 'mnist' or 'cifar10' for example. "
            f"TFDS says: {str(error).strip().splitlines()[0]}"
        ) from error
    features = builder.info.features
    if "image" not in features or "label" not in features:
        raise ValueError(
            f"'{name}' is not an image classification set: it has the features "
            f"{sorted(features)}, and 'image' and 'label' are needed."
        )
    if None in features["image"].shape:
        raise ValueError(
            f"The images of '{name}' differ in size (shape {features['image'].shape}), "
            "and these networks want one size. Resize them in a data set of your own."
        )
    prepared = builder.info.dataset_size > 0
    if not prepared:
        if not download:
            raise ValueError(
                f"'{name}' is not prepared in data_dir={str(builder.data_path)!r} and "
                "downloading is off. Allow the download, or point data_dir at a "
                "directory that TFDS has prepared."
            )
        builder.download_and_prepare()
    if missing := {"train", "test"} - set(builder.info.splits):
        raise ValueError(
            f"'{name}' has no split {sorted(missing)}. "
            f"Its splits: {sorted(builder.info.splits)}"
        )
    read = functools.partial(_read, tfds, builder)
    return read, features["label"].num_classes


def _read(tfds, builder, split):
    """Images and labels of a split, in arrays that are filled batch by batch."""
    batches = builder.as_dataset(
        split=split,
        batch_size=_CHUNK,
        # Its cache would be all images once more.
        read_config=tfds.ReadConfig(try_autocache=False),
    )
    count, first = builder.info.splits[split].num_examples, 0
    feature = builder.info.features["image"]
    images = np.empty((count, *feature.shape), feature.np_dtype)
    labels = np.empty(count, np.int64)
    for batch in tfds.as_numpy(batches):
        end = first + len(batch["label"])
        images[first:end], labels[first:end] = batch["image"], batch["label"]
        first = end
    return images, labels


def _import_tfds():
    try:
        # Slow to import, and not needed for digits.
        tfds: Any = need("Every data set but 'digits'", "tensorflow_datasets")
        _ = tfds.core  # what failed to load is missing here in some versions
    except ModuleNotFoundError:
        raise
    except Exception as error:
        raise ImportError(
            f"tensorflow_datasets does not load: {error}\n"
            "Where it is about protobuf (TensorFlow before 2.20 with the newest "
            "tensorflow-metadata): pip install 'tensorflow-metadata<1.18'."
        ) from error
    return tfds


def _augmented(images, seed):
    tf = _tensorflow("training_pipeline")
    count, height, width, _ = images.shape
    flip_seed, *shift_seeds = tf.unstack(
        tf.random.experimental.stateless_split(tf.cast(seed, tf.int32), 3)
    )
    flip = tf.random.stateless_uniform((count, 1, 1, 1), flip_seed) < 0.5
    images = tf.where(flip, tf.reverse(images, [2]), images)
    for axis, (size, shift_seed) in enumerate(
        zip((height, width), shift_seeds, strict=True), 1
    ):
        most = max(1, size // 8)
        padding = [[most, most] if i == axis else [0, 0] for i in range(4)]
        first = tf.random.stateless_uniform(
            (count, 1), shift_seed, 0, 2 * most + 1, tf.int32
        )
        places = first + tf.range(size)
        images = tf.gather(tf.pad(images, padding), places, axis=axis, batch_dims=1)
    return images


def _fast(data):
    tf = _tensorflow("training_pipeline")
    # Autotuning makes the end of every iterator wait for its tuning thread's
    # next period, up to a second and once an epoch.
    options = tf.data.Options()
    options.autotune.enabled = False
    # One thread more than the training step's own would only get in its way.
    options.threading.private_threadpool_size = 1
    options.deterministic = True
    return data.prefetch(8).with_options(options)
