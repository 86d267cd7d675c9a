"""What a weight is worth: a criterion gives every weight a score, higher is kept.

A criterion is a function. Its first parameter is the weight's array; the names of the
others ask for evidence (`EVIDENCE`), each an array in the weight's shape. It returns an
array of that shape. It knows nothing of masks or models.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfticket.common import arguments
from tfticket.sparsity.rows import obs, wanda, wide


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


def lamp(weight: np.ndarray) -> np.ndarray:
    """Magnitude for a cut across layers, w^2 / sum of v^2 (Lee et al. 2021).

    The sum is over the weight and all that come after it in its layer, ordered by
    size (arXiv 2010.07611). The largest weight of every layer scores 1, so that
    `scope="global"` empties none, and layers get sparsities that no one has to choose.
    Within a layer it ranks as magnitude does.

    Args:
        weight: Float array of any shape, a layer's whole kernel.

    Returns:
        Array of the same shape, float32 or wider, in [0, 1].

    Example:

    >>> lamp(np.array([-2.0, 1.0, 2.0]))
    array([0.5       , 0.11111111, 1.        ])
    """
    squares = np.square(weight, dtype=np.float64).ravel()
    order = np.argsort(squares, kind="stable")
    sums = np.cumsum(squares[order][::-1])[::-1]
    scores = np.zeros_like(squares)
    scores[order] = np.divide(
        squares[order], sums, out=np.zeros_like(squares), where=sums > 0
    )
    return scores.reshape(np.shape(weight)).astype(wide(weight).dtype, copy=False)


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
        change: That sum, from `tfticket.pruning.evidence.ChangeTracker`.

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
        recent_change: That average, from `tfticket.pruning.evidence.ChangeTracker`.

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


Criterion = Callable[..., np.ndarray]

EVIDENCE = {
    "initial": "the weight before training",
    "change": "sum over the steps of |w_t - w_(t-1)|",
    "recent_change": "the same as an exponential moving average",
    "gradient": "mean gradient of the loss over the data",
    "hessian_gradient": "Hessian of that loss times its gradient",
    "input_norm": "norm over the data of what each weight multiplies",
    "input_hessian": "mean of x x^T over what each row multiplies",
    "flow": "gradient of SynFlow's objective with respect to |w|",
    "generator": "a np.random.Generator",
}

_CRITERIA: dict[str, Criterion] = {
    criterion.__name__: criterion
    for criterion in (
        *(magnitude, lamp, random, movement, magnitude_increase, change),
        *(recent_change, taylor, snip, grasp, synflow, wanda, obs),
    )
}


def register(name: str | Criterion | None = None, *, overwrite: bool = False) -> Any:
    """Gives a criterion a name, as a decorator with or without one.

    Args:
        name: Name to register it by; the function's own if left out.
        overwrite: Whether it may take the name of another function.

    Raises:
        ValueError: If another function has the name, or the function asks for
            evidence that doesn't exist.

    Example:

    >>> @tfticket.criteria.register("positive", overwrite=True)
    ... def positive(weight):
    ...     return weight
    >>> tfticket.criteria.get("positive")(np.array([-1.0, 2.0]))
    array([-1.,  2.])
    """
    arguments.check_bool("overwrite", overwrite)
    if callable(name):
        return register(overwrite=overwrite)(name)
    arguments.optional(arguments.check_instance, "name", name, str, "a text")

    def add(criterion):
        key = name_of(criterion) if name is None else name
        needs(criterion)
        if _CRITERIA.get(key, criterion) is not criterion and not overwrite:
            raise ValueError(
                f"A criterion is named '{key}' already. Choose another name, or "
                "register it with overwrite=True."
            )
        _CRITERIA[key] = criterion
        return criterion

    return add


def get(criterion: str | Criterion) -> Criterion:
    """The criterion of that name, or the function itself.

    Raises:
        ValueError: If no criterion has that name; says which exist.

    Example:

    >>> tfticket.criteria.get("magnitude").__name__
    'magnitude'
    """
    if callable(criterion) and not isinstance(criterion, type):
        return criterion
    if not isinstance(criterion, str) or criterion not in _CRITERIA:
        raise ValueError(
            f"criterion must be one of {sorted(_CRITERIA)} or a function. "
            f"Received: criterion={criterion!r}"
        )
    return _CRITERIA[criterion]


def name_of(criterion: str | Criterion) -> str:
    """The name it is registered by; of another function, the function's name.

    Raises:
        ValueError: If it is a name that no criterion has.

    Example:

    >>> tfticket.criteria.name_of(tfticket.criteria.snip)
    'snip'
    """
    function = get(criterion)
    if isinstance(criterion, str):
        return criterion
    own = getattr(function, "__name__", repr(function))
    return next((n for n, known in _CRITERIA.items() if known is function), own)


def needs(criterion: str | Criterion) -> tuple[str, ...]:
    """The evidence a criterion asks for, names of `EVIDENCE` in its own order.

    A parameter of another name is an option of the criterion and needs a default.

    Raises:
        ValueError: If it takes no weight, or has a parameter that is neither
            evidence nor has a default.

    Example:

    >>> tfticket.criteria.needs("movement")
    ('initial',)
    """
    function = get(criterion)
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except ValueError:  # written in C: it takes the weight and tells no more
        return ()
    if not parameters or parameters[0].kind is inspect.Parameter.KEYWORD_ONLY:
        raise ValueError(
            f"Criterion '{name_of(criterion)}' must take the weight's array as its "
            "first argument."
        )
    rest = [
        p for p in parameters[1:] if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)
    ]
    for parameter in rest:
        if parameter.name not in EVIDENCE and parameter.default is parameter.empty:
            raise ValueError(
                f"Criterion '{name_of(criterion)}' asks for '{parameter.name}', which "
                f"is no evidence. Name one of {list(EVIDENCE)}, or give the parameter "
                "a default."
            )
    return tuple(p.name for p in rest if p.name in EVIDENCE)


def score(
    criterion: str | Criterion,
    weights: Mapping[str, np.ndarray],
    evidence: Mapping[str, Mapping[str, np.ndarray]] | None = None,
    seed: int | None = None,
) -> dict[str, np.ndarray]:
    """Scores of every weight, checked: shape, type, no NaN.

    Args:
        criterion: Name or function.
        weights: Name to float array.
        evidence: Kind of evidence to name to array in the weight's shape. More
            than the criterion needs does no harm.
        seed: Seed of the generator that a random criterion gets. Each weight has a
            generator of its own, by seed and name, so that their order makes no
            difference. `None`: another one each time.

    Returns:
        Name to real array in the weight's shape, float32 or wider.

    Raises:
        ValueError: If evidence is missing or of another shape, or the criterion
            returns anything but finite real numbers in the weight's shape.

    Example:

    >>> weights = {"dense/kernel": np.array([[1.0, -2.0]])}
    >>> tfticket.criteria.score("magnitude", weights)
    {'dense/kernel': array([[1., 2.]])}
    """
    function, name = get(criterion), name_of(criterion)
    kinds = needs(criterion)
    weights = arguments.check_arrays("weights", weights)
    evidence = arguments.check_values("evidence", evidence, _check_kind)
    seed = arguments.optional(arguments.check_integer, "seed", seed, 0)
    if seed is None:
        seed = np.random.SeedSequence().entropy  # type: ignore[assignment]
    scores = {}
    for key, weight in weights.items():
        given = {
            kind: generator_for(key, seed)
            if kind == "generator"
            else _evidence(name, kind, key, np.shape(weight), evidence)
            for kind in kinds
        }
        scores[key] = _checked(name, key, np.shape(weight), function(weight, **given))
    return scores


def generator_for(name: str, *seeds: Any) -> np.random.Generator:
    """A generator of a weight's own, so that the order of weights makes no difference.

    Args:
        name: Name of the weight.
        *seeds: The seed, and what else tells its draws apart: the number of an update.

    Example:

    >>> one, other = (generator_for(name, 0).random() for name in "ab")
    >>> one == other
    False
    """
    seed, *others = seeds
    digest = hashlib.sha256(name.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:16], "big"), *others])


def _check_kind(name, value):
    if name == "evidence['input_hessian']":  # computed when they are asked for
        return arguments.check_instance(name, value, Mapping, "names to Hessians")
    return arguments.check_arrays(name, value)


def _evidence(name, kind, key, shape, evidence):
    if key not in evidence.get(kind, {}):
        raise ValueError(
            f"Criterion '{name}' needs {kind} ({EVIDENCE[kind]}) of weight '{key}'. "
            f"Received evidence: {sorted(k for k in evidence if key in evidence[k])}"
        )
    value = evidence[kind][key]
    if np.shape(value) != shape:
        raise ValueError(
            f"{kind} of weight '{key}' must have the weight's shape {shape}. "
            f"Received: shape {np.shape(value)}"
        )
    return value


def _checked(name, key, shape, scores):
    said = f"Criterion '{name}', weight '{key}': scores must be"
    array = np.asarray(scores)
    if array.shape != shape:
        raise ValueError(
            f"{said} of the weight's shape {shape}. Received: "
            f"{type(scores).__name__} of shape {array.shape}"
        )
    if array.dtype.kind not in "iufV":  # "V": bfloat16 and its like
        raise ValueError(f"{said} real numbers. Received: dtype {array.dtype}")
    real = wide(array)
    if bad := real.size - np.count_nonzero(np.isfinite(real)):
        raise ValueError(
            f"{said} finite. Received: {bad} NaN or infinite of {real.size}. If the "
            "weights have diverged, lower the learning rate or clip gradients."
        )
    return real
