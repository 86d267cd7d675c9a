"""The papers' networks, built for the shape of the images, and how to compile them."""

from collections.abc import Callable
from typing import Any

import keras
from keras import layers

from tfticket import devices
from tfticket.common.arguments import (
    check_choice,
    check_instance,
    check_integer,
    check_list,
    check_number,
)


def lenet_300_100(
    image_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """LeNet-300-100, fully connected, 266,200 weights on MNIST.

    Gaussian Glorot initialisation as in the lottery ticket paper
    (arXiv 1803.03635).

    Args:
        image_shape: (height, width, channels).
        classes: Number of outputs, which are logits.
        width: Factor on the number of hidden units.
        dropout: Fraction of the units of each hidden layer that a training step drops.
    """
    image_shape, classes, width = _checked(image_shape, classes, width)
    hidden = _wide([300, 100], width)
    return keras.Sequential(
        [
            keras.Input(image_shape, name="image"),
            layers.Flatten(name="flatten"),
            *_classifier(hidden, classes, dropout=dropout),
        ],
        name="lenet_300_100",
    )


def lenet_5(
    image_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """LeNet-5 as Han et al. prune it (arXiv 1506.02626), 431K parameters on MNIST.

    Caffe's variant: 5x5 convolutions of 20 and 50 filters without padding, each
    pooled, then 500 hidden units, initialised uniformly over the fan-in as
    Caffe does.

    Raises:
        ValueError: If the images are smaller than 16x16.
    """
    image_shape, classes, width = _checked(image_shape, classes, width)
    if min(image_shape[:2]) < 16:
        raise ValueError(
            "lenet_5 has two unpadded 5x5 convolutions with pooling, which need "
            f"images of at least 16x16. Received: image_shape={tuple(image_shape)}"
        )
    initializer = "lecun_uniform"
    filters = _wide([20, 50, 500], width)

    def conv(filters, name):
        return layers.Conv2D(filters, 5, kernel_initializer=initializer, name=name)

    return keras.Sequential(
        [
            keras.Input(image_shape, name="image"),
            conv(filters[0], "conv1"),
            layers.MaxPooling2D(name="pool1"),
            conv(filters[1], "conv2"),
            layers.MaxPooling2D(name="pool2"),
            layers.Flatten(name="flatten"),
            *_classifier(filters[2:], classes, initializer, dropout),
        ],
        name="lenet_5",
    )


def conv_2(
    image_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """Conv-2 of the lottery ticket paper: 64, 64, pool; 256, 256, classes."""
    return _conv("conv_2", [64], image_shape, classes, width, dropout)


def conv_4(
    image_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """Conv-4 of the lottery ticket paper: Conv-2 and 128, 128, pool."""
    return _conv("conv_4", [64, 128], image_shape, classes, width, dropout)


def conv_6(
    image_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """Conv-6 of the lottery ticket paper: Conv-4 and 256, 256, pool."""
    return _conv("conv_6", [64, 128, 256], image_shape, classes, width, dropout)


def conv_8(
    image_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """Conv-8 of the edge-popup paper (1911.13299): Conv-6 and 512, 512, pool."""
    return _conv("conv_8", [64, 128, 256, 512], image_shape, classes, width, dropout)


def resnet_8(
    image_shape: tuple[int, int, int], classes: int, width: float = 1.0
) -> keras.Model:
    """ResNet-8 of MLPerf Tiny (2106.07597): `resnet_20` with one block per stage."""
    return _resnet("resnet_8", 1, image_shape, classes, width)


def vgg_11(
    image_shape: tuple[int, int, int], classes: int, width: float = 1.0
) -> keras.Model:
    """VGG-11 for small images, 9.2M weights: as `vgg_19`, with 8 convolutions."""
    return _vgg("vgg_11", (1, 1, 2, 2, 2), image_shape, classes, width)


def vgg_16(
    image_shape: tuple[int, int, int], classes: int, width: float = 1.0
) -> keras.Model:
    """VGG-16 for small images, 14.7M weights: as `vgg_19`, with 13 convolutions."""
    return _vgg("vgg_16", (2, 2, 3, 3, 3), image_shape, classes, width)


def vgg_19(
    image_shape: tuple[int, int, int], classes: int, width: float = 1.0
) -> keras.Model:
    """VGG-19 of the lottery ticket paper, for small images: 20.0M weights on CIFAR-10.

    Sixteen 3x3 convolutions, each with BatchNormalization and without a bias, in five
    blocks of 64, 128, 256, 512 and 512 filters, of which four end with pooling. Global
    average pooling and one fully connected layer follow. Gaussian Glorot
    initialisation.

    Raises:
        ValueError: If the images are smaller than 16x16.
    """
    return _vgg("vgg_19", (2, 2, 4, 4, 4), image_shape, classes, width)


def resnet_20(
    image_shape: tuple[int, int, int], classes: int, width: float = 1.0
) -> keras.Model:
    """ResNet-20 for small images (He et al. 2016, arXiv 1512.03385).

    A convolution, three stages of three blocks with 16, 32 and 64 filters, global
    average pooling. Shortcuts that change shape are 1x1 convolutions with
    BatchNormalization. No biases but the classifier's. It is the network that the
    lottery ticket paper (arXiv 1803.03635) calls Resnet-18: 274K parameters, 270K of
    them in convolutions.
    """
    return _resnet("resnet_20", 3, image_shape, classes, width)


MODELS: dict[str, Callable[..., keras.Model]] = {
    function.__name__: function
    for function in (
        lenet_300_100,
        lenet_5,
        conv_2,
        conv_4,
        conv_6,
        conv_8,
        resnet_8,
        resnet_20,
        vgg_11,
        vgg_16,
        vgg_19,
    )
}

# Adam's learning rate and the batch size of the papers' recipes. The papers train
# ResNet-20 and VGG with SGD at 0.1.
LEARNING_RATES = {
    "lenet_300_100": 1.2e-3,
    "lenet_5": 1e-3,
    "conv_2": 2e-4,
    "conv_4": 3e-4,
    "conv_6": 3e-4,
    "conv_8": 3e-4,
    "resnet_8": 1e-3,
    "resnet_20": 1e-3,
    "vgg_11": 1e-3,
    "vgg_16": 1e-3,
    "vgg_19": 1e-3,
}
BATCH_SIZE = 60
# Those with hidden fully connected layers.
DROPOUT = ("lenet_300_100", "lenet_5", "conv_2", "conv_4", "conv_6", "conv_8")
# Beyond these it is a slip, and would be told by the allocator alone.
_WIDEST, _MOST_CLASSES = 1000, 10**6


def build(
    name: str,
    image_shape: tuple[int, int, int],
    classes: int,
    width: float = 1.0,
    dropout: float = 0.0,
) -> keras.Model:
    """Builds the network of that name.

    Args:
        name: One of `MODELS`.
        image_shape: (height, width, channels).
        classes: Number of outputs, which are logits.
        width: Factor on the number of units and filters of every hidden layer.
        dropout: Fraction of the units of every hidden fully connected layer that a
            training step drops, in [0, 1).

    Raises:
        TypeError: If an argument is of the wrong type.
        ValueError: If there is none of that name; says which exist. If `width` is
            not above 0, the images are too small, or there is `dropout` and no hidden
            layer is fully connected.
    """
    check_choice("name", name, sorted(MODELS))
    dropout = check_number("dropout", dropout, 0, below=1)
    if not dropout:
        return MODELS[name](image_shape, classes, width)
    if name not in DROPOUT:
        raise ValueError(
            "dropout is for networks with hidden fully connected layers, "
            f"{', '.join(DROPOUT)}. Received: dropout={dropout}, name={name!r}"
        )
    return MODELS[name](image_shape, classes, width, dropout)


def compile_settings(
    model: keras.Model, steps_per_epoch: int, rewind_step: int = 0
) -> dict[str, Any]:
    """Arguments for `model.compile` that make training fast on a CPU.

    XLA fuses the many small operations of a dense network's step into few. On a CPU
    it slows down convolutions and, much more, dropout, so on TensorFlow it is on only
    where there are neither. Several steps run in one execution: 50 or what divides the
    epoch and the rewind point nearest below it. JAX always compiles. Where several
    devices share a batch, TensorFlow can do neither, and PyTorch never.

    Args:
        model: The model to be compiled.
        steps_per_epoch: Steps of one epoch.
        rewind_step: A step that must fall between two executions.

    Returns:
        `jit_compile` and `steps_per_execution`.

    Example:

    >>> model = tfticket.models.build("lenet_300_100", (28, 28, 1), 10)
    >>> tfticket.models.compile_settings(model, steps_per_epoch=100)
    {'jit_compile': True, 'steps_per_execution': 50}
    """
    check_instance("model", model, keras.Model, "a keras.Model")
    steps_per_epoch = check_integer("steps_per_epoch", steps_per_epoch, 1)
    rewind_step = check_integer("rewind_step", rewind_step, 0)
    slow_in_xla = any(
        "conv" in type(layer).__name__.lower() or hasattr(layer, "seed_generator")
        for layer in _leaves(model)
    )
    steps = next(
        n
        for n in range(50, 0, -1)
        if steps_per_epoch % n == 0 and rewind_step % steps_per_epoch % n == 0
    )
    return devices.compile_options(not slow_in_xla, steps)


def _checked(image_shape, classes, width):
    """The arguments of a network, as Python's numbers."""
    sizes = [
        check_integer("image_shape", size, 1)
        for size in check_list("image_shape", image_shape, "3 integers")
    ]
    if len(sizes) != 3:
        raise ValueError(
            "image_shape must be (height, width, channels). "
            f"Received: image_shape={image_shape}"
        )
    width = check_number("width", width, above=0, most=_WIDEST)
    return tuple(sizes), check_integer("classes", classes, 1, _MOST_CLASSES), width


def _leaves(model):
    for layer in model.layers:
        layer = getattr(layer, "layer", layer)
        if isinstance(layer, keras.Model):
            yield from _leaves(layer)
        else:
            yield layer


def _wide(units, width):
    return [max(1, round(n * width)) for n in units]


def _conv(name, blocks, image_shape, classes, width, dropout):
    image_shape, classes, width = _checked(image_shape, classes, width)
    _check_poolings(name, len(blocks), image_shape)
    stack = []
    for i, filters in enumerate(_wide(blocks, width), 1):
        stack += [
            layers.Conv2D(
                filters,
                3,
                padding="same",
                activation="relu",
                kernel_initializer="glorot_normal",
                name=f"conv{i}_{j}",
            )
            for j in (1, 2)
        ]
        stack.append(layers.MaxPooling2D(name=f"pool{i}"))
    return keras.Sequential(
        [
            keras.Input(image_shape, name="image"),
            *stack,
            layers.Flatten(name="flatten"),
            *_classifier(_wide([256, 256], width), classes, dropout=dropout),
        ],
        name=name,
    )


def _resnet(name, blocks, image_shape, classes, width):
    image_shape, classes, width = _checked(image_shape, classes, width)

    def conv(x, filters, size, strides, name):
        x = layers.Conv2D(
            filters,
            size,
            strides=strides,
            padding="same",
            use_bias=False,
            kernel_initializer="he_normal",
            name=name,
        )(x)
        return layers.BatchNormalization(name=f"{name}_norm")(x)

    image = keras.Input(image_shape, name="image")
    filters = _wide([16, 32, 64], width)
    x = layers.ReLU(name="relu0")(conv(image, filters[0], 3, 1, "conv0"))
    for stage, n in enumerate(filters, 1):
        for block in range(1, blocks + 1):
            strides = 2 if stage > 1 and block == 1 else 1
            place = f"stage{stage}_block{block}"
            y = layers.ReLU(name=f"{place}_relu1")(
                conv(x, n, 3, strides, f"{place}_conv1")
            )
            y = conv(y, n, 3, 1, f"{place}_conv2")
            if x.shape[-1] != n or strides != 1:
                x = conv(x, n, 1, strides, f"{place}_shortcut")
            x = layers.Add(name=f"{place}_add")([x, y])
            x = layers.ReLU(name=f"{place}_relu2")(x)
    x = layers.GlobalAveragePooling2D(name="pool")(x)
    return keras.Model(image, layers.Dense(classes, name="fc")(x), name=name)


def _check_poolings(name, count, image_shape):
    smallest = 2**count
    if min(image_shape[:2]) < smallest:
        raise ValueError(
            f"{name} pools {count} times and needs images of at least "
            f"{smallest}x{smallest}. Received: image_shape={tuple(image_shape)}"
        )


def _vgg(name, depths, image_shape, classes, width):
    image_shape, classes, width = _checked(image_shape, classes, width)
    _check_poolings(name, len(depths) - 1, image_shape)
    filters = _wide([64, 128, 256, 512, 512], width)
    stack = []
    for block, (depth, size) in enumerate(zip(depths, filters, strict=True), 1):
        if block > 1:
            stack.append(layers.MaxPooling2D(name=f"pool{block - 1}"))
        for i in range(1, depth + 1):
            conv = layers.Conv2D(
                size,
                3,
                padding="same",
                use_bias=False,
                kernel_initializer="glorot_normal",
                name=f"conv{block}_{i}",
            )
            norm = layers.BatchNormalization(name=f"conv{block}_{i}_norm")
            stack += [conv, norm, layers.ReLU(name=f"relu{block}_{i}")]
    return keras.Sequential(
        [
            keras.Input(image_shape, name="image"),
            *stack,
            layers.GlobalAveragePooling2D(name="pool"),
            layers.Dense(classes, kernel_initializer="glorot_normal", name="fc"),
        ],
        name=name,
    )


def _classifier(hidden, classes, initializer="glorot_normal", dropout=0.0):
    dropout = check_number("dropout", dropout, 0, below=1)
    stack = []
    for i, units in enumerate(hidden, 1):
        stack.append(
            layers.Dense(
                units,
                activation="relu",
                kernel_initializer=initializer,
                name=f"fc{i}",
            )
        )
        if dropout:
            stack.append(layers.Dropout(dropout, name=f"dropout{i}"))
    logits = layers.Dense(
        classes, kernel_initializer=initializer, name=f"fc{len(hidden) + 1}"
    )
    return [*stack, logits]
