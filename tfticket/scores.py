"""The criteria of the papers: functions from a weight and evidence to scores.

Higher is kept. What a parameter asks for by its name is in `criteria.EVIDENCE`.
"""

import numpy as np


def magnitude(weight: np.ndarray) -> np.ndarray:
    """Absolute value, |w| (Han et al. 2015, arXiv 1506.02626).

    Args:
        weight: Float array of any shape.

    Returns:
        Array of the same shape, float32 or wider.

    Example:

    >>> magnitude(np.array([-2.0, 1.0]))
    array([2., 1.])
    """
    return np.abs(wide(weight))


def random(weight: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    """Uniform in [0, 1): the control that every other criterion has to beat.

    Args:
        weight: Float array; only its shape counts.
        generator: Where the numbers come from.

    Returns:
        Float32 array of the same shape.

    Example:

    >>> random(np.ones(3), np.random.default_rng(0)).shape
    (3,)
    """
    return generator.random(np.shape(weight), np.float32)


def movement(weight: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """How far training took it, |w_T - w_0| (Zhou et al. 2019, arXiv 1905.01067).

    Args:
        weight: Float array of any shape, the trained weight.
        initial: The same before training.

    Returns:
        Array of the same shape, float32 or wider.

    Example:

    >>> movement(np.array([-2.0, 1.0]), np.array([1.0, 0.5]))
    array([3. , 0.5])
    """
    return np.abs(wide(weight) - wide(initial))


def magnitude_increase(weight: np.ndarray, initial: np.ndarray) -> np.ndarray:
    """How much larger it got, |w_T| - |w_0| (Zhou et al. 2019, arXiv 1905.01067).

    Args:
        weight: Float array of any shape, the trained weight.
        initial: The same before training.

    Returns:
        Array of the same shape, float32 or wider; negative where it shrank.

    Example:

    >>> magnitude_increase(np.array([-2.0, 1.0]), np.array([1.0, 1.5]))
    array([ 1. , -0.5])
    """
    return np.abs(wide(weight)) - np.abs(wide(initial))


def change(weight: np.ndarray, change: np.ndarray) -> np.ndarray:
    """The way it went, the sum of |w_t - w_(t-1)|: weights that hardly move go.

    Other than `movement`, it counts a weight that moves and comes back.

    Args:
        weight: Float array; only its shape counts.
        change: That sum, from `tfticket.evidence.ChangeTracker`.

    Returns:
        Array of the same shape, float32 or wider.

    Example:

    >>> change(np.zeros(2), np.array([0.5, 3.0]))
    array([0.5, 3. ])
    """
    return wide(change)


def recent_change(weight: np.ndarray, recent_change: np.ndarray) -> np.ndarray:
    """How fast it moves now, the moving average of |w_t - w_(t-1)|: slow ones go.

    Args:
        weight: Float array; only its shape counts.
        recent_change: That average, from `tfticket.evidence.ChangeTracker`.

    Returns:
        Array of the same shape, float32 or wider.

    Example:

    >>> recent_change(np.zeros(2), np.array([0.5, 3.0]))
    array([0.5, 3. ])
    """
    return wide(recent_change)


def taylor(weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """First-order change of the loss without it, |w g| (Molchanov et al. 2019).

    The paper (arXiv 1906.10771) squares it, which ranks the same.

    Args:
        weight: Float array of any shape, the trained weight.
        gradient: Mean gradient of the loss.

    Returns:
        Array of the same shape, float32 or wider.

    Example:

    >>> taylor(np.array([-2.0, 1.0]), np.array([0.5, 3.0]))
    array([1., 3.])
    """
    return np.abs(wide(weight) * wide(gradient))


def snip(weight: np.ndarray, gradient: np.ndarray) -> np.ndarray:
    """Connection sensitivity |w g|, for untrained weights (Lee et al. 2019).

    The effect on the loss of turning the connection off (arXiv 1810.02340). The
    paper divides by the sum over all weights, which ranks the same, and prunes all
    layers by one cut.

    Args:
        weight: Float array of any shape, the weight before training.
        gradient: Mean gradient of the loss.

    Returns:
        Array of the same shape, float32 or wider.

    Example:

    >>> snip(np.array([-2.0, 1.0]), np.array([0.5, 3.0]))
    array([1., 3.])
    """
    return taylor(weight, gradient)


def grasp(weight: np.ndarray, hessian_gradient: np.ndarray) -> np.ndarray:
    """Gradient signal preservation, w (H g), sign kept (Wang et al. 2020).

    Without the weight, the squared norm of the gradient changes by
    -2 w (H g) to first order. The paper (arXiv 2002.07376) scores -w (H g) and
    prunes the highest, so that the gradients of what stays are largest; its released
    code does the same. Here higher is kept, so the score is w (H g). It has a sign: a
    weight that holds the gradient down is worth less than one that does nothing. The
    released code divides the logits by 200; do so in the loss to follow it.

    Args:
        weight: Float array of any shape, the weight before training.
        hessian_gradient: Hessian of the loss times its gradient.

    Returns:
        Array of the same shape, float32 or wider.

    Example:

    >>> grasp(np.array([-2.0, 1.0]), np.array([0.5, 3.0]))
    array([-1.,  3.])
    """
    return wide(weight) * wide(hessian_gradient)


def synflow(weight: np.ndarray, flow: np.ndarray) -> np.ndarray:
    """Synaptic flow |w dR/d|w||, which needs no data (Tanaka et al. 2020).

    R is the sum of the outputs for an input of ones, every weight taken by its size
    (arXiv 2006.05467). The paper prunes all layers by one cut, a little at a time
    over 100 rounds: at once, whole layers go.

    Args:
        weight: Float array of any shape.
        flow: Gradient of R with respect to |w|.

    Returns:
        Array of the same shape, float32 or wider.

    Example:

    >>> synflow(np.array([-2.0, 1.0]), np.array([0.5, 3.0]))
    array([1., 3.])
    """
    return np.abs(wide(weight) * wide(flow))


def wide(array):
    """At least float32: products of float16 weights would overflow or vanish."""
    array = np.asarray(array)
    return array.astype(np.result_type(array.dtype, np.float32), copy=False)
