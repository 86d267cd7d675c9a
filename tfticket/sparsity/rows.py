"""Kernels as rows over input features, and criteria that know these features."""

import dataclasses
import math
from typing import Any

import numpy as np


@dataclasses.dataclass(frozen=True)
class KernelRows:
    """How the axes of a kernel make rows: one output each, over its input features.

    Args:
        shape: Shape of the kernel.
        axes: Its axes of groups, of outputs and of features. Groups are what has
            features of its own, as each channel of a depthwise convolution.
        groups: How many groups the outputs fall into.

    Example:

    >>> rows = KernelRows((2, 3), ((), (1,), (0,)))  # of a Dense layer
    >>> rows.of(np.arange(6).reshape(2, 3))
    array([[[0, 3],
            [1, 4],
            [2, 5]]])
    """

    shape: tuple[int, ...]
    axes: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]]
    groups: int = 1

    @property
    def size(self) -> int:
        """Number of features."""
        return math.prod(self.shape[i] for i in self.axes[2])

    def of(self, kernel: np.ndarray) -> np.ndarray:
        """An array of the kernel's shape as (groups, outputs, features)."""
        order = [i for axes in self.axes for i in axes]
        return np.transpose(kernel, order).reshape(self.groups, -1, self.size)

    def back(self, rows: np.ndarray) -> np.ndarray:
        """What `of` has made, in the kernel's shape."""
        order = [i for axes in self.axes for i in axes]
        moved = rows.reshape([self.shape[i] for i in order])
        return np.transpose(moved, np.argsort(order))


@dataclasses.dataclass(frozen=True)
class InputHessian:
    """The Hessian of a layer's squared output error, which its inputs alone decide.

    Args:
        rows: The kernel.
        moments: Mean of x x^T over the inputs, of (groups, features, features).

    Example:

    >>> inputs = np.array([[[1.0, 0.5], [0.5, 1.0]]])
    >>> hessian = InputHessian(KernelRows((2, 3), ((), (1,), (0,))), inputs)
    >>> hessian.inverse_diagonal().round(2)
    array([[1.31, 1.31, 1.31],
           [1.31, 1.31, 1.31]])
    """

    rows: KernelRows
    moments: np.ndarray

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the kernel."""
        return self.rows.shape

    def inverse_diagonal(self) -> np.ndarray:
        """The diagonal of the damped inverse for each weight, in the kernel's shape.

        Damped by 1 % of the mean diagonal, as in SparseGPT (arXiv 2301.00774).
        """
        outputs = math.prod(self.shape) // (self.rows.groups * self.rows.size)
        found = [np.diag(np.linalg.inv(damp(np.array(x)))) for x in self.moments]
        wide = np.broadcast_to(
            np.array(found)[:, None], (len(found), outputs, self.rows.size)
        )
        return self.rows.back(wide)


# Part of the mean diagonal that is added to the moments, for their inverse to exist.
DAMPING = 0.01


def damp(moments: np.ndarray) -> np.ndarray:
    """Changes moments so that an inverse exists, and returns them.

    Args:
        moments: Mean of x x^T, (features, features); changed in place.
    """
    diagonal = np.einsum("ii->i", moments)
    mean = float(np.mean(diagonal))
    diagonal += DAMPING * mean if mean > 0 else 1.0
    return moments


def obs(weight: np.ndarray, input_hessian: InputHessian) -> np.ndarray:
    """Output error without it, w^2 / [H^-1]_jj, once the others make up for it.

    Optimal Brain Surgeon (Hassibi & Stork 1992), of each layer by itself as in
    SparseGPT (arXiv 2301.00774).

    Args:
        weight: Float array, a kernel.
        input_hessian: Of the inputs that it multiplies.

    Returns:
        Float64 array of the same shape.

    Example:

    >>> inputs = np.array([[[1.0, 0.0], [0.0, 4.0]]])
    >>> hessian = InputHessian(KernelRows((2, 1), ((), (1,), (0,))), inputs)
    >>> obs(np.array([[2.0], [1.0]]), hessian).round(1)
    array([[4.1],
           [4. ]])
    """
    return np.square(weight, dtype=np.float64) / input_hessian.inverse_diagonal()


def wanda(weight: np.ndarray, input_norm: np.ndarray) -> np.ndarray:
    """|w| times the norm of what it multiplies (Sun et al. 2023, arXiv 2306.11695).

    Args:
        weight: Float array of any shape. The paper ranks it within each output.
        input_norm: L2 norm over the data of the weight's input, in its shape.

    Example:

    >>> wanda(np.array([-2.0, 1.0]), np.array([1.0, 3.0]))
    array([2., 3.])
    """
    return np.abs(wide(weight)) * wide(input_norm)


def wide(array: Any) -> np.ndarray:
    """At least float32: products of float16 weights would overflow or vanish."""
    array = np.asarray(array)
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)
