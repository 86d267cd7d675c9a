"""The papers' networks have the papers' sizes."""

from inspect import signature

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND, needs_tensorflow

import tfticket
from tfticket import models

MNIST, CIFAR = (28, 28, 1), (32, 32, 3)


@pytest.mark.parametrize(
    ("name", "shape", "weights", "parameters"),
    [
        ("lenet_300_100", MNIST, 266_200, 266_610),
        ("lenet_5", MNIST, 430_500, 431_080),
        ("conv_2", CIFAR, 4_300_992, 4_301_642),
        ("conv_4", CIFAR, 2_425_024, 2_425_930),
        ("conv_6", CIFAR, 2_261_184, 2_262_602),
        ("conv_8", CIFAR, 5_275_840, 5_278_282),
        # Weights, the classifier's biases, four parameters a BatchNorm channel.
        ("resnet_8", CIFAR, 77_360, 77_360 + 10 + 4 * (16 * 3 + 32 * 3 + 64 * 3)),
        ("resnet_20", CIFAR, 270_896, 270_896 + 10 + 4 * (16 * 7 + 32 * 7 + 64 * 7)),
        # Convolutions, then the classifier: 20.0M of VGG-19 in the paper's table.
        ("vgg_11", CIFAR, 9_217_728 + 5_120, 9_222_848 + 10 + 4 * 2_752),
        ("vgg_16", CIFAR, 14_710_464 + 5_120, 14_715_584 + 10 + 4 * 4_224),
        ("vgg_19", CIFAR, 20_018_880 + 5_120, 20_024_000 + 10 + 4 * 5_504),
    ],
)
def test_sizes(name, shape, weights, parameters):
    model = models.build(name, shape, 10)
    assert model.count_params() == parameters
    masks = tfticket.get_masks(tfticket.prune(model))
    assert sum(mask.size for mask in masks.values()) == weights
    assert model.output_shape == (None, 10)


def test_resnet_20_is_the_papers_resnet_18():
    """Of the lottery ticket paper's table: 274K parameters, 270K in convolutions."""
    model = models.build("resnet_20", CIFAR, 10)
    kernels = [
        layer.kernel for layer in model.layers if isinstance(layer, keras.layers.Conv2D)
    ]
    assert round(model.count_params() / 1e3) == 274
    assert round(sum(np.prod(k.shape) for k in kernels) / 1e3) == 270
    # The convolution in front, 18 in blocks, and two shortcuts that change shape.
    assert len(kernels) == 1 + 18 + 2


def test_vgg_19_has_the_papers_convolutions():
    filters = [64] * 2 + [128] * 2 + [256] * 4 + [512] * 8
    model = models.build("vgg_19", CIFAR, 10)
    convs = [x for x in model.layers if isinstance(x, keras.layers.Conv2D)]
    assert [x.filters for x in convs] == filters
    assert all(not x.use_bias and x.kernel_size == (3, 3) for x in convs)
    pools = [x for x in model.layers if isinstance(x, keras.layers.MaxPooling2D)]
    assert len(pools) == 4
    assert model.get_layer("pool").input.shape == (None, 2, 2, 512)
    with pytest.raises(ValueError, match="images of at least 16x16"):
        models.build("vgg_19", (8, 8, 1), 10)


@pytest.mark.parametrize("name", ["lenet_300_100", "conv_2"])
def test_gaussian_glorot_initialisation(name):
    model = models.build(name, MNIST, 10)
    layer = model.get_layer("fc1")
    kernel = np.array(layer.kernel)
    std = np.sqrt(2 / sum(kernel.shape))
    assert kernel.std() == pytest.approx(std, rel=0.02)
    # Keras draws from a truncated normal, on PyTorch from an almost truncated one.
    beyond = np.mean(np.abs(kernel) > 2.3 * std)
    assert beyond < (1e-4 if BACKEND == "torch" else 1e-9)
    assert not np.array(layer.bias).any()


def test_lenet_5_is_uniform_over_the_fan_in():
    kernel = np.array(models.build("lenet_5", MNIST, 10).get_layer("fc1").kernel)
    limit = np.sqrt(3 / kernel.shape[0])
    assert 0.999 * limit < np.abs(kernel).max() <= limit


@needs_tensorflow  # test_devices has the others
@pytest.mark.parametrize(
    ("name", "steps", "rewind", "jit", "per_execution"),
    [
        ("lenet_300_100", 100, 0, True, 50),
        ("lenet_300_100", 100, 30, True, 10),
        ("lenet_300_100", 7, 0, True, 7),
        ("lenet_300_100", 100, 210, True, 10),
        ("conv_2", 90, 0, False, 45),
    ],
)
def test_compile_settings(name, steps, rewind, jit, per_execution):
    model = models.build(name, MNIST, 10)
    for m in (model, tfticket.prune(model)):
        settings = models.compile_settings(m, steps, rewind)
        assert settings == {"jit_compile": jit, "steps_per_execution": per_execution}
        m.compile("adam", keras.losses.SparseCategoricalCrossentropy(True), **settings)


@needs_tensorflow
def test_dropout_is_compiled_without_xla():
    """XLA draws its random numbers many times slower on a CPU."""
    model = models.build("lenet_300_100", MNIST, 10, dropout=0.5)
    for m in (model, tfticket.prune(model)):
        assert not models.compile_settings(m, 100)["jit_compile"]


def test_width_scales_every_hidden_layer():
    sizes = [
        layer.kernel.shape[-1]
        for layer in models.build("conv_2", CIFAR, 10, width=0.5).layers
        if hasattr(layer, "kernel")
    ]
    assert sizes == [32, 32, 128, 128, 10]
    with pytest.raises(ValueError, match="width=0"):
        models.build("conv_2", CIFAR, 10, width=0)


def test_dropout_follows_every_hidden_fully_connected_layer():
    takes = [
        k for k, f in models.MODELS.items() if "dropout" in signature(f).parameters
    ]
    assert sorted(models.DROPOUT) == sorted(takes)
    names = [x.name for x in models.build("conv_2", CIFAR, 10, dropout=0.5).layers]
    assert names[-5:] == ["fc1", "dropout1", "fc2", "dropout2", "fc3"]
    dense = models.build("lenet_300_100", MNIST, 10)
    model = models.build("lenet_300_100", MNIST, 10, dropout=0.25)
    assert [x.rate for x in model.layers if hasattr(x, "rate")] == [0.25, 0.25]
    model.set_weights(dense.get_weights())
    x = np.random.default_rng(0).random((4, *MNIST), np.float32)
    np.testing.assert_array_equal(model(x), dense(x))
    assert not np.allclose(model(x, training=True), dense(x))
    with pytest.raises(ValueError, match=r"conv_8\. Received: dropout=0\.5, name='re"):
        models.build("resnet_20", CIFAR, 10, dropout=0.5)
