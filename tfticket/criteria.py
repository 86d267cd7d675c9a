"""What a weight is worth: a criterion gives every weight a score, higher is kept.

A criterion is a function. Its first parameter is the weight's array; the names of
the others ask for evidence (`EVIDENCE`), each an array in the weight's shape. It
returns an array of that shape. It knows nothing of masks or models.
"""

import hashlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from tfticket.scores import (
    change,
    grasp,
    magnitude,
    magnitude_increase,
    movement,
    random,
    recent_change,
    snip,
    synflow,
    taylor,
    wide,
)

Criterion = Callable[..., np.ndarray]

EVIDENCE = {
    "initial": "the weight before training",
    "change": "sum over the steps of |w_t - w_(t-1)|",
    "recent_change": "the same as an exponential moving average",
    "gradient": "mean gradient of the loss over the data",
    "hessian_gradient": "Hessian of that loss times its gradient",
    "flow": "gradient of SynFlow's objective with respect to |w|",
    "generator": "a np.random.Generator",
}

_CRITERIA: dict[str, Criterion] = {
    criterion.__name__: criterion
    for criterion in (
        magnitude,
        random,
        movement,
        magnitude_increase,
        change,
        recent_change,
        taylor,
        snip,
        grasp,
        synflow,
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
    if callable(name):
        return register(overwrite=overwrite)(name)

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
    if callable(criterion):
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
    for name, known in _CRITERIA.items():
        if known is function:
            return name
    return getattr(function, "__name__", repr(function))


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
        seed: Of the generator that a random criterion gets. Each weight has its
            own, by seed and name, so that their order makes no difference. `None`:
            another one each time.

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
    evidence = evidence or {}
    if seed is None:
        seed = np.random.SeedSequence().entropy  # type: ignore[assignment]
    scores = {}
    for key, weight in weights.items():
        given = {
            kind: _generator(seed, key)
            if kind == "generator"
            else _evidence(name, kind, key, np.shape(weight), evidence)
            for kind in kinds
        }
        scores[key] = _checked(name, key, np.shape(weight), function(weight, **given))
    return scores


def _generator(seed, key):
    digest = hashlib.sha256(key.encode()).digest()
    return np.random.default_rng([seed, int.from_bytes(digest[:16], "big")])


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
    try:
        real = wide(array)
    except TypeError:  # dates and the like
        real = array
    if array.dtype == bool or not np.issubdtype(real.dtype, np.floating):
        raise ValueError(f"{said} real numbers. Received: dtype {array.dtype}")
    if bad := real.size - np.count_nonzero(np.isfinite(real)):
        raise ValueError(
            f"{said} finite. Received: {bad} NaN or infinite of {real.size}. If the "
            "weights have diverged, lower the learning rate or clip gradients."
        )
    return real
