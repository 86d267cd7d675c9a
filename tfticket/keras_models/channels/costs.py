"""Operations and parameters of a model for any number of units in each group."""

import dataclasses
import math
from collections.abc import Mapping

import keras

from tfticket.keras_models.calls import kernels, layer_calls, positions
from tfticket.keras_models.graph import FlatGraph
from tfticket.keras_models.masked_layer import inner_layer


def uses(graph: FlatGraph) -> tuple[dict[int, int | None], int | None]:
    """How often a sample uses each kernel value, and the FLOPs without a kernel.

    For layers with one kernel, shapes in the graph are enough. A pass through the whole
    model takes longer and is made only for others, such as attention and recurrent
    layers.

    Args:
        graph: The model, flat.

    Returns:
        Counts by the `id` of the variable, `None` if a count is not known; missing
        weights are not kernels. Then the FLOPs of the products inside attention; `None`
        if they are not known.
    """
    found: dict[int, int | None] = {}
    for call in graph.calls:
        layer = inner_layer(call.operation)
        if _without_products(layer):
            continue
        count = positions(layer, call.in_shapes[0], call.out_shapes[0])
        if count is None:
            return _traced_uses(graph.model)
        for kernel in kernels(layer):
            before = found.get(id(kernel), 0)
            found[id(kernel)] = None if before is None else before + count
    return found, 0


def _traced_uses(model):
    calls = layer_calls(model)
    other = None if calls.failure else 0
    counts = {
        id(weight): use
        if isinstance(use := calls.uses.get(id(weight), other), int)
        else None
        for weight in model.weights
    }
    products = list(calls.products.values())
    known = all(isinstance(x, int) for x in products)
    return counts, sum(products) if known else None


def _without_products(layer):
    if isinstance(layer, (keras.layers.Attention, keras.layers.AdditiveAttention)):
        return False
    return isinstance(layer, _NO_PRODUCTS) or all(
        len(x.shape) < 2 for x in getattr(layer, "weights", ())
    )


_NO_PRODUCTS = (keras.layers.Embedding, keras.layers.PReLU, keras.layers.Normalization)


@dataclasses.dataclass(frozen=True)
class Weight:
    """A weight, or a product of tensors, and how its axes depend on groups.

    Args:
        shape: Its shape with all units.
        axes: Maps an axis to how often each unit of a group is on it, by the group's
            name.
        uses: How often a sample uses each value; `None` if that is not known.
        parameters: Whether its values are weights of the model.
    """

    shape: tuple[int, ...]
    axes: Mapping[int, Mapping[str, int]]
    uses: int | None
    parameters: bool = True


class Costs:
    """Counts operations and parameters, weight by weight, from numbers of units alone.

    Args:
        weights: Weights of the model, and products inside attention.
        sizes: Units of each group.
    """

    def __init__(self, weights: list[Weight], sizes: Mapping[str, int]):
        self._sizes = dict(sizes)
        self._weights = weights
        self._of_group: dict[str, list[int]] = {name: [] for name in sizes}
        for i, weight in enumerate(weights):
            for name in {x for axis in weight.axes.values() for x in axis}:
                self._of_group[name].append(i)
        self._full = [math.prod(x.shape) for x in weights]
        self._all_parameters = sum(
            n for n, x in zip(self._full, weights, strict=True) if x.parameters
        )
        self._all_flops = sum(
            2 * (x.uses or 0) * n for n, x in zip(self._full, weights, strict=True)
        )
        self._known = all(x.uses is not None for x in weights)

    def flops(self, left: Mapping[str, int]) -> int | None:
        """Operations if the given numbers of units are kept in the named groups."""
        if not self._known:
            return None
        return self._all_flops - self._gone(left, flops=True)

    def parameters(self, left: Mapping[str, int]) -> int:
        """Parameters if the given numbers of units are kept in the named groups."""
        return self._all_parameters - self._gone(left, flops=False)

    def saved(self, group: str) -> int | None:
        """Operations that removing one unit of a group saves; `None` if not known."""
        if any(self._weights[i].uses is None for i in self._of_group[group]):
            return None
        return self._gone({group: self._sizes[group] - 1}, flops=True)

    def _gone(self, left, flops):
        for name, count in left.items():
            if name not in self._sizes:
                raise KeyError(f"No group is named '{name}': {list(self._sizes)}")
            if not 0 <= count <= self._sizes[name]:
                raise ValueError(
                    f"Group '{name}' has {self._sizes[name]} units. Received: {count} "
                    "units left"
                )
        gone = {name: self._sizes[name] - n for name, n in left.items()}
        touched = {i for name in left for i in self._of_group[name]}
        total = 0
        for i in touched:
            weight = self._weights[i]
            factor = 2 * (weight.uses or 0) if flops else int(weight.parameters)
            if factor:
                total += factor * (self._full[i] - self._living(weight, gone))
        return total

    def _living(self, weight, gone):
        sizes = list(weight.shape)
        for axis, groups in weight.axes.items():
            sizes[axis] -= sum(n * gone.get(name, 0) for name, n in groups.items())
        return math.prod(sizes)
