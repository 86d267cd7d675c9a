"""The papers' experiments by name; plain data, which the command line reads by path."""

from typing import Any


def _adam(dataset, model, learning_rate, iterations, **more):
    """Of the lottery ticket paper (arXiv 1803.03635), figure 2, layer by layer."""
    adam = {"optimizer": "adam", "learning_rate": learning_rate, "batch_size": 60}
    data = {"dataset": dataset, "model": model, "iterations": iterations}
    return {**data, **adam, "rate": 0.2, "output_rate": 0.1, "rounds": 16, **more}


def _sgd(model, batch_size, iterations, drops, rewind_to, **more):
    """Of the same figure, with one cut, and with the late rewinding of 1903.01611."""
    sgd = {"optimizer": "sgd", "learning_rate": 0.1, "momentum": 0.9, "l2": 1e-4}
    data = {"dataset": "cifar10", "model": model, "augment": True}
    steps = {"iterations": iterations, "drops": drops, "rewind_to": rewind_to}
    cut = {"scope": "global", "rate": 0.2, "output_rate": 0.0, "rounds": 16}
    return {**data, **sgd, **steps, **cut, "batch_size": batch_size, **more}


def _han(model, iterations, rate, rounds):
    """Of Han et al. (1506.02626), with the solver that Caffe trains LeNet-5 with."""
    sgd = {"optimizer": "sgd", "learning_rate": 0.01, "momentum": 0.9, "l2": 5e-4}
    data = {"dataset": "mnist", "model": model, "iterations": iterations}
    cut = {"scope": "sensitivity", "rate": rate, "rounds": rounds}
    tuned = {"rewind_to": None, "retrain_factor": 0.1, "batch_size": 64}
    return {**data, **sgd, **cut, **tuned}


# The paper prunes no shortcut of its ResNet.
_DENSE = {"re:_shortcut": 0.0}
PRESETS: dict[str, dict[str, Any]] = {
    "lenet_mnist": _adam("mnist", "lenet_300_100", 1.2e-3, 50_000),
    "conv_2": _adam("cifar10", "conv_2", 2e-4, 20_000, conv_rate=0.1),
    "conv_4": _adam("cifar10", "conv_4", 3e-4, 25_000, conv_rate=0.1),
    "conv_6": _adam("cifar10", "conv_6", 3e-4, 30_000, conv_rate=0.15),
    "resnet_20": _sgd("resnet_20", 128, 30_000, [20_000, 25_000], 500, rates=_DENSE),
    "vgg_19": _sgd("vgg_19", 64, 112_480, [56_240, 84_360], 100),
    "han_lenet_300_100": _han("lenet_300_100", 10_000, rate=0.392, rounds=5),
    "han_lenet_5": _han("lenet_5", 10_000, rate=0.392, rounds=5),
}
"""Names that `Recipe.preset` and `LotteryExperiment.preset` take, with the arguments of
each: those of `Recipe`, and `rounds`."""
