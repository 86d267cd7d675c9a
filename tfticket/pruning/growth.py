"""Where `DynamicSparseTraining` grows: at random, by gradients, by a criterion."""

from collections.abc import Callable, Mapping
from typing import Any

import keras
import numpy as np

from tfticket.keras_models.kernels import MaskedWeight
from tfticket.pruning.dense_gradient import DenseGradient
from tfticket.pruning.evidence import Following, require_data, require_repeatable
from tfticket.sparsity import criteria
from tfticket.sparsity.criteria import Criterion

METHODS = ("rigl", "set", "momentum", "static")
# Those that take the dense gradient.
_BY_GRADIENT = ("rigl", "momentum")
# Evidence that tells pruned weights apart. Changes of theirs are 0, and the others are
# taken of the sparse network.
_OF_PRUNED = ("gradient", "generator", "initial")


def check_method(method: Any) -> str | Criterion:
    """The method, if there is one and it can tell pruned weights apart.

    Args:
        method: One of `METHODS`, the name of a criterion, or a function.

    Raises:
        TypeError: If the method is neither a text nor a function.
        ValueError: If there is no such method, or the criterion scores all pruned
            weights alike.
    """
    if not isinstance(method, str) and (
        isinstance(method, type) or not callable(method)
    ):
        raise TypeError(
            f"method must be one of {list(METHODS)}, the name of a criterion or a "
            f"function. Received: method={method!r} (of type {type(method).__name__})"
        )
    if method not in METHODS:
        _check_criterion(method)
    return method


def check_source(method: str | Criterion, data: Any, loss: Any) -> None:
    """Raises a ValueError if a method lacks data for its gradients, or takes none.

    Args:
        method: What `check_method` returned.
        data: As for `DenseGradient`, or `None`.
        loss: As for `DenseGradient`.
    """
    if not takes_gradients(method):
        if data is not None or loss is not None:
            raise ValueError(
                f"data and loss are for methods that take gradients, such as "
                f"method='rigl', and {shown(method)} takes no gradients. Leave them "
                "out."
            )
        return
    if data is None:
        raise ValueError(
            f"{shown(method)} grows by the dense gradient, which is taken over data. "
            "Pass data=(x, y) or a dataset of such batches, or use method='set'. "
            "Received: data=None"
        )
    require_repeatable(data, shown(method))


def _check_criterion(method):
    try:
        needs = criteria.needs(method)
    except ValueError as error:
        if isinstance(method, str):
            raise ValueError(
                f"method must be one of {list(METHODS)}, the name of a criterion of "
                f"tfticket.criteria or a function. Received: method={method!r}"
            ) from None
        raise ValueError(f"method: {error}") from None
    if set(needs) - set(_OF_PRUNED) or _is_blind(method, needs):
        raise ValueError(
            f"{shown(method)} can't tell pruned weights apart, which are all 0.0. A "
            f"criterion to grow by takes one or more of {list(_OF_PRUNED)} and nothing "
            "else, and does not multiply it by the weight. Methods with names of "
            f"their own are {list(METHODS)}."
        )


def _is_blind(method, needs):
    """Whether a criterion gives weights that are 0.0 the same score, all else apart."""
    if not set(needs) & set(_OF_PRUNED):
        return True
    apart = {"": np.arange(1.0, 17.0).reshape(4, 4)}
    evidence = {kind: apart for kind in needs if kind != "generator"}
    try:
        scores = criteria.score(method, {"": np.zeros((4, 4))}, evidence, 0)[""]
    except Exception:
        return False  # it may be of weights of another shape
    return bool(np.all(scores == scores.flat[0]))


def shown(method: str | Criterion) -> str:
    """The method as an error names it."""
    return f"method='{method if method in METHODS else criteria.name_of(method)}'"


def takes_gradients(method: str | Criterion) -> bool:
    """Whether a method grows by the dense gradient."""
    if method in METHODS:
        return method in _BY_GRADIENT
    return "gradient" in criteria.needs(method)


class Growth:
    """Scores of where to grow, one update after the other.

    Args:
        method: What `check_method` returned, not `"static"`.
        model: A wrapped model, as it is when a `fit` begins.
        weights: Name to masked weight, of those that grow.
        generator: Makes the generator of a weight, of its name and the update's number.
        momentum: Decay rate of the average of `"momentum"`, in (0, 1).
        data: As for `DenseGradient`.
        loss: As for `DenseGradient`.
        batches: As for `DenseGradient`.
    """

    def __init__(
        self,
        method: str | Criterion,
        model: keras.Model,
        weights: Mapping[str, MaskedWeight],
        generator: Callable[[str, int], np.random.Generator],
        momentum: float,
        data: Any = None,
        loss: Any = None,
        batches: int = 1,
    ):
        self._method, self._momentum = method, momentum
        self._names, self._generator = list(weights), generator
        self._gradient: DenseGradient | None = None
        self._average: dict[str, np.ndarray] = {}
        self._following: Following | None = None
        if takes_gradients(method):
            require_data(f"the dense gradient of {shown(method)}", model, data, loss)
            self._gradient = DenseGradient(model, weights, data, loss, batches)
        if method not in METHODS:
            self._following = Following(model, criteria.needs(method), 0.99)

    @property
    def samples(self) -> int:
        """How many samples gradients have been taken of."""
        return 0 if self._gradient is None else self._gradient.samples

    def scores(
        self, step: int, turn: int, values: Mapping[str, np.ndarray]
    ) -> dict[str, Any]:
        """Name to scores, or to a generator that draws them.

        Args:
            step: Step before which the update is due.
            turn: Its number, from 1.
            values: Name to the weight's present values.

        Raises:
            ValueError: If a gradient or a score is NaN or infinite.
        """
        if self._method == "set":
            return {name: self._generator(name, turn) for name in self._names}
        evidence: dict[str, dict[str, Any]] = {}
        if self._gradient is not None:
            evidence["gradient"] = self._dense_gradient(step, turn)
        if self._following is not None:
            evidence |= self._following.evidence()
            seed = int(self._generator("", turn).integers(2**31))
            present = {name: values[name] for name in self._names}
            return criteria.score(self._method, present, evidence, seed)
        found = evidence["gradient"]
        if self._method == "momentum":
            found = self._averaged(found)
        return {name: np.abs(gradient) for name, gradient in found.items()}

    def _dense_gradient(self, step, turn):
        gradients = self._gradient.at_turn(turn - 1)
        for name, gradient in gradients.items():
            if not np.isfinite(gradient).all():
                raise ValueError(
                    f"The dense gradient of '{name}' before step {step} is NaN or "
                    "infinite, so nothing can be grown by it. Look for such values in "
                    "data, lower the learning rate or clip gradients."
                )
        return gradients

    def _averaged(self, gradients):
        decay = self._momentum
        for name, gradient in gradients.items():
            before = self._average.get(name, np.zeros_like(gradient))
            self._average[name] = decay * before + (1 - decay) * gradient
        return self._average
