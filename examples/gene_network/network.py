"""`GeneNetwork`: genes in a row of cells, integrated by fixed-step Runge-Kutta."""

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

START, THRESHOLD = 0.1, 5.0
# The gradient's exponents: by cell, and by unit of time.
_BY_CELL, _BY_TIME = 0.02, 0.04


@keras.saving.register_keras_serializable(package="tfticket")
class GeneNetwork(keras.layers.Layer):
    """A gene network under a moving gradient, in a row of cells that don't touch.

    In cell i = 0, 1, ... the expression x of the genes follows

        dx/dt = sigma(D g_i(t) + x K) - x,    sigma(z) = 1 / (1 + exp(5 - z)),
        g_i(t) = min(exp(0.02 i - 0.04 t), 1),    x(0) = 0.1.

    `K[a, b]` is what gene a does to gene b: inputs before outputs, as in Keras, so
    the transpose of a matrix W that is written for W x. It is the layer's kernel,
    trainable and prunable. D, what the gradient does to each gene, is the input. The
    integrator is the classical Runge-Kutta method of order 4 with a fixed step, which
    gradients go through.

    Input: float (batch, genes), D of every network in the batch. Output: float
    (batch, times, cells, genes).

    Call arguments:
        drive: The input.
        edges: Boolean (batch, genes, genes), in the layout of the kernel: the edges
            that each network of the batch has. So many subnetworks of one kernel are
            integrated at once. `None`: all have all.

    Args:
        times: When to report x: increasing multiples of `step`.
        step: Length of a step, in units of time.
        cells: Number of cells.
        kernel_initializer: Of K.
        **kwargs: Arguments of `keras.layers.Layer`.

    Raises:
        ValueError: If `step` or `cells` is not positive or `times` are not increasing
            multiples of `step`; when called, if an input has another shape.

    Example:

    >>> layer = gene_network.GeneNetwork(times=[1.0, 2.0], cells=5)
    >>> layer(np.zeros((3, 4), "float32")).shape
    TensorShape([3, 2, 5, 4])
    >>> model = keras.Sequential([keras.Input((4,)), layer])
    >>> pruned = tfticket.prune(model)
    >>> tfticket.sparsify(pruned, 0.5)
    >>> [int(mask.sum()) for mask in tfticket.get_masks(pruned).values()]
    [8]
    """

    def __init__(
        self,
        times: Sequence[float] = (50.0, 70.0, 90.0),
        step: float = 0.125,
        cells: int = 100,
        kernel_initializer: Any = "glorot_uniform",
        **kwargs: Any,
    ):
        super().__init__(**kwargs)
        if not step > 0:
            raise ValueError(f"step must be above 0. Received: step={step}")
        if isinstance(cells, bool) or not isinstance(cells, int) or cells < 1:
            raise ValueError(
                f"cells must be an integer of 1 or more. Received: cells={cells!r}"
            )
        self.times = tuple(float(time) for time in times)
        self.step, self.cells = float(step), cells
        self._stops = [round(time / self.step) for time in self.times]
        exact = all(
            abs(stop * self.step - time) <= 1e-6 * self.step
            for stop, time in zip(self._stops, self.times, strict=True)
        )
        if not exact or not self._stops or sorted({0, *self._stops})[1:] != self._stops:
            raise ValueError(
                f"times must be increasing multiples of step={self.step}, above 0. "
                f"Received: times={self.times}"
            )
        self.kernel_initializer = keras.initializers.get(kernel_initializer)

    def build(self, drive_shape):
        if len(drive_shape) != 2 or drive_shape[-1] is None:
            raise ValueError(
                "The input of GeneNetwork must have shape (batch, genes), the number "
                f"of genes known. Received: shape {tuple(drive_shape)}"
            )
        genes = drive_shape[-1]
        self.kernel = self.add_weight(
            name="kernel", shape=(genes, genes), initializer=self.kernel_initializer
        )

    def get_prunable_weights(self) -> list[keras.Variable]:
        """The kernel, for `tfticket.prune`."""
        return [self.kernel]

    def call(self, drive, edges=None):
        kernel = ops.convert_to_tensor(self.kernel)
        if edges is not None:
            if tuple(edges.shape[1:]) != tuple(kernel.shape):
                raise ValueError(
                    "edges must have shape (batch, genes, genes), here (batch, "
                    f"{', '.join(map(str, kernel.shape))}). Received: shape "
                    f"{tuple(edges.shape)}"
                )
            kernel = ops.where(ops.cast(edges, "bool"), kernel, ops.zeros_like(kernel))
        # Cells go last: a row of them is longer than a row of genes, which a compiler
        # can use.
        kernel = ops.swapaxes(kernel, -1, -2)
        drive = ops.expand_dims(ops.convert_to_tensor(drive), -1)
        dtype = kernel.dtype
        by_cell = _BY_CELL * ops.arange(self.cells, dtype=dtype)
        step = self.step

        def rate(time, x):
            gradient = ops.minimum(ops.exp(by_cell - _BY_TIME * time), 1.0)
            total = drive * gradient + ops.matmul(kernel, x)
            return ops.sigmoid(total - THRESHOLD) - x

        def advance(number, x):
            time = ops.cast(number, dtype) * step
            k1 = rate(time, x)
            k2 = rate(time + step / 2, x + step / 2 * k1)
            k3 = rate(time + step / 2, x + step / 2 * k2)
            k4 = rate(time + step, x + step * k3)
            return x + step / 6 * (k1 + 2 * k2 + 2 * k3 + k4)

        x = ops.full_like(drive * by_cell, START)
        reported, done = [], 0
        for stop in self._stops:
            x = ops.fori_loop(done, stop, advance, x)
            reported.append(ops.swapaxes(x, 1, 2))
            done = stop
        return ops.stack(reported, axis=1)

    def compute_output_shape(self, drive_shape):
        return (drive_shape[0], len(self.times), self.cells, drive_shape[-1])

    def get_config(self):
        return {
            **super().get_config(),
            "times": list(self.times),
            "step": self.step,
            "cells": self.cells,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }
