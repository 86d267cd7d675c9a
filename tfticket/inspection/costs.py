"""What each weight and layer of a model costs, and what pruning saves of it."""

import dataclasses
from collections.abc import Sequence
from typing import NamedTuple

import keras
import numpy as np

from tfticket.common.arguments import check_instance
from tfticket.keras_models.calls import (
    UNKNOWN,
    LayerCalls,
    computes_as_keras,
    layer_calls,
)
from tfticket.keras_models.kernels import prunable_weights, why_dense
from tfticket.keras_models.masked_layer import carrier, inner_layer
from tfticket.keras_models.names import (
    every_layer,
    join,
    named_layers,
    named_weights,
    weights_by_path,
)
from tfticket.keras_models.quantized import QuantizedWeight, quantized_weights
from tfticket.pruning.masks import get_masks
from tfticket.sparsity.encoded_size import encoded_bytes

# Keras's layers with weights of two dimensions that no product sums over.
_NO_PRODUCTS = (
    keras.layers.BatchNormalization,
    keras.layers.GroupNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.PReLU,
)

_ADDED_OR_SCALED = ("bias", "beta", "gamma", "alpha")
_NEVER = "a kind of weight that is never pruned"
_NO_WEIGHT = "products between activations, which involve no weight"


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One weight that is or could be masked, or one layer or part of it without any.

    Operations are of one sample, two for each product with a weight and place where it
    is used. Sparse means those of the weights that are kept. The products inside an
    attention layer (queries by keys, scores by values) involve no weight, so pruning
    saves none of them: they have a row of the layer's own, which holds no values.
    Biases, activations and normalizations are not counted, nor is what a layer of your
    own computes without weights.

    Sparse bytes are those of `export.saved_model(format="encoded")`, whose rule is in
    `tfticket.sparsity.encoded_size`. The shape and counts of a weight that Keras has
    quantized are of the weight, its bytes are of what is stored for it.

    Args:
        name: "layer/kernel", or the layer's path.
        kind: Class of the layer.
        shape: Shape of the weight; `None` for a layer without one.
        parameters: Values in the weight; of a layer without one, in all of its.
        kept: Those in the subnetwork; of a weight without a mask, those that are not
            zero.
        why_dense: Why there is no mask; empty where there is one.
        masked: Whether there is one.
        output_shape: Shape of the layer's first output for one sample, `None` for an
            open length; `None` where it is not known.
        flops_dense: Operations; `None` if that is not known.
        flops_sparse: The same of the weights kept.
        why_no_flops: Why that is not known.
        bytes_dense: Bytes of the values as they are stored.
        bytes_sparse: Bytes of the same, encoded.
        other_parameters: Values in the layer's other weights (biases), in the row of
            its first weight.
        other_bytes: Bytes of those.
        other_bytes_sparse: Bytes of the same, encoded.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    kept: int
    why_dense: str = ""
    masked: bool = False
    output_shape: tuple[int | None, ...] | None = None
    flops_dense: int | None = None
    flops_sparse: int | None = None
    why_no_flops: str = ""
    bytes_dense: int = 0
    bytes_sparse: int = 0
    other_parameters: int = 0
    other_bytes: int = 0
    other_bytes_sparse: int = 0

    @property
    def density(self) -> float:
        """Fraction of the values that is kept."""
        return self.kept / self.parameters if self.parameters else 1.0


def summary_rows(model: keras.Model) -> list[SummaryRow]:
    """What `summary` prints, as data.

    Args:
        model: A wrapped, popup, stripped or plain model.

    Raises:
        TypeError: If `model` is not a Keras model.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> row = summary_rows(tfticket.prune(model))[0]
    >>> row.kept, row.flops_sparse, row.output_shape
    (8, 16, (2,))
    """
    check_instance("model", model, keras.Model, "a keras.Model")
    quantized = {id(w.variable): w for w in quantized_weights(model).values()}
    counted = _Counted(get_masks(model), layer_calls(model), quantized)
    layers = [
        _LayerWeights.of(path, layer, counted)
        for path, layer in named_layers(model)
        if not isinstance(layer, keras.layers.InputLayer)
    ]
    # For the whole model at once: the bytes of a weight depend on those before it.
    values = [value for layer in layers for value in layer.stored()]
    variables = [variable for layer in layers for variable in layer.variables()]
    covered = {id(variable) for variable in variables}
    # What a layer with masked parts, or a subclassed model, holds itself.
    beside = {k: v for k, v in named_weights(model).items() if id(v) not in covered}
    values += [keras.ops.convert_to_numpy(variable) for variable in beside.values()]
    resting = {
        place: quantized[id(variable)].resting()
        for place, variable in enumerate(variables)
        if id(variable) in quantized
    }
    nbytes = iter(encoded_bytes(values, resting))
    rows = [row for layer in layers for row in layer.rows(nbytes)]
    rows += [_beside_row(name, beside[name], next(nbytes)) for name in beside]
    inside = {id(part) for layer in layers for _, part in every_layer(layer.layer)}
    for path, part in every_layer(model):
        # A layer some of whose parts are wrapped has no rows but those of its parts.
        if id(part) in counted.calls.products and id(part) not in inside:
            rows.append(_products_row(path, part, counted.calls))
    return rows


def total(
    rows: Sequence[SummaryRow], name: str = "whole model", others: bool = True
) -> SummaryRow:
    """The sum of some rows.

    Args:
        rows: From `summary_rows`.
        name: What to call the sum.
        others: Whether to add the layers' other weights, biases for example.

    Returns:
        A row. Operations that are not known are left out of it, and its `why_no_flops`
        says why they are not: without one, the numbers are complete.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> whole = tfticket.inspection.costs.total(tfticket.summary_rows(model))
    >>> whole.parameters, whole.flops_dense
    (10, 16)
    """
    unmasked = sum(row.other_parameters for row in rows) if others else 0
    beside = sum(row.other_bytes for row in rows) if others else 0
    beside_sparse = sum(row.other_bytes_sparse for row in rows) if others else 0
    reasons = dict.fromkeys(row.why_no_flops for row in rows if row.why_no_flops)
    return SummaryRow(
        name=name,
        kind="",
        shape=None,
        parameters=sum(row.parameters for row in rows) + unmasked,
        kept=sum(row.kept for row in rows) + unmasked,
        masked=True,
        flops_dense=sum(row.flops_dense or 0 for row in rows),
        flops_sparse=sum(row.flops_sparse or 0 for row in rows),
        why_no_flops="; ".join(reasons),
        bytes_dense=sum(row.bytes_dense for row in rows) + beside,
        bytes_sparse=sum(row.bytes_sparse for row in rows) + beside_sparse,
    )


class _Counted(NamedTuple):
    """What is known of the whole model: masks, calls, and quantized weights by `id`."""

    masks: dict[str, np.ndarray]
    calls: LayerCalls
    quantized: dict[int, QuantizedWeight]


@dataclasses.dataclass(frozen=True)
class _LayerWeights:
    """A layer, and its weights sorted into those with a row of their own and others."""

    path: str
    layer: keras.layers.Layer
    inner: keras.layers.Layer
    counted: _Counted
    prunable: set[int]
    named: dict[str, keras.Variable]
    others: dict[str, keras.Variable]

    @classmethod
    def of(cls, path, layer, counted):
        inner = inner_layer(layer)
        weights = _lasting_weights(layer)
        prunable = _prunable(inner)
        worth_a_row = prunable | set(counted.calls.uses) | set(counted.quantized)
        of_quantized = any(id(w) in counted.quantized for w in weights.values())
        # The scales and zero points of a quantized kernel are matrices, and no kernels.
        has_rows = not of_quantized and any(
            id(weight) in worth_a_row for weight in weights.values()
        )
        named, others = {}, {}
        for name, weight in weights.items():
            # Matrices beside them, of which nothing is known, are not to be overlooked.
            matrix = len(weight.shape) > 1 and not name.endswith(_ADDED_OR_SCALED)
            own_row = id(weight) in worth_a_row or (has_rows and matrix)
            (named if own_row else others)[name] = weight
        return cls(path, layer, inner, counted, prunable, named, others)

    def variables(self):
        """All weights, in their order."""
        return _lasting_weights(self.layer).values()

    def stored(self):
        """Values of all weights as an export would store them, in their order."""
        for name, variable in _lasting_weights(self.layer).items():
            value = keras.ops.convert_to_numpy(variable)
            mask = self._mask(name)
            yield value if mask is None else value * mask.astype(value.dtype)

    def rows(self, encoded):
        """The rows of the layer.

        Args:
            encoded: Iterator over the bytes of the weights in `stored`.
        """
        nbytes = {name: next(encoded) for name in _lasting_weights(self.layer)}
        kind, calls = type(self.inner).__name__, self.counted.calls
        products = [
            _products_row(path, part, calls)
            for path, part in every_layer(self.inner, self.path)
            if id(part) in calls.products
        ]
        values = [keras.ops.convert_to_numpy(x) for x in self.others.values()]
        size, dense = sum(x.size for x in values), sum(x.nbytes for x in values)
        sparse = sum(nbytes[name] for name in self.others)
        output_shape = calls.outputs.get(id(self.layer))
        if not self.named:
            whole = total(products)
            why = whole.why_no_flops or self._why_no_flops()
            return [
                SummaryRow(
                    name=self.path,
                    kind=kind,
                    shape=None,
                    parameters=size,
                    kept=size,
                    why_dense=why_dense(self.inner),
                    output_shape=output_shape,
                    flops_dense=None if why else whole.flops_dense,
                    flops_sparse=None if why else whole.flops_sparse,
                    why_no_flops=why,
                    bytes_dense=dense,
                    bytes_sparse=sparse,
                )
            ]
        rows = [self._weight_row(name, nbytes[name]) for name in self.named]
        rows[0] = dataclasses.replace(
            rows[0],
            other_parameters=size,
            other_bytes=dense,
            other_bytes_sparse=sparse,
        )
        return [*rows, *products]

    def _weight_row(self, name, nbytes):
        variable, calls = self.named[name], self.counted.calls
        value, mask = keras.ops.convert_to_numpy(variable), self._mask(name)
        stored_bytes = value.nbytes
        quantized = self.counted.quantized.get(id(variable))
        if quantized is not None:
            value = quantized.kept()
        kept = int(np.count_nonzero(value if mask is None else mask))
        uses = calls.uses.get(id(variable), calls.failure or UNKNOWN)
        known = isinstance(uses, int)
        why = ""
        if mask is None:
            prunable = id(variable) in self.prunable
            known_kind = prunable or quantized is not None
            why = why_dense(self.inner) if known_kind else _NEVER
        return SummaryRow(
            name=join(self.path, name),
            kind=type(self.inner).__name__,
            shape=value.shape,
            parameters=value.size,
            kept=kept,
            why_dense=why,
            masked=mask is not None,
            output_shape=calls.outputs.get(id(self.layer)),
            flops_dense=2 * uses * value.size if known else None,
            flops_sparse=2 * uses * kept if known else None,
            why_no_flops="" if known else uses,
            bytes_dense=stored_bytes,
            bytes_sparse=nbytes,
        )

    def _mask(self, name):
        return self.counted.masks.get(join(self.path, name))

    def _why_no_flops(self):
        """Why the operations of a layer without kernels are not none."""
        weights = self.others.values()
        additions = isinstance(self.inner, _NO_PRODUCTS)
        if not weights or (
            computes_as_keras(self.inner)
            and (additions or all(len(w.shape) < 2 for w in weights))
        ):
            return ""
        return self.counted.calls.failure or UNKNOWN


def _lasting_weights(layer):
    """A layer's weights by name, without those that only its training needs."""
    inner = inner_layer(layer)
    weights = weights_by_path(inner) if inner.built else {}
    masks = carrier(layer)
    if masks is not None and inner.built:
        lasting = {id(weight) for weight in masks.lasting_weights()}
        return {k: w for k, w in weights.items() if id(w) in lasting}
    return weights


def _prunable(layer):
    """The `id` of the variables that `prune` can mask."""
    found = prunable_weights(layer) if layer.built else []
    return {id(weight.variable) for weight in found}


def _beside_row(name, variable, nbytes):
    """A weight of a layer that has no row but those of its parts."""
    value = keras.ops.convert_to_numpy(variable)
    matrix = value.ndim > 1
    return SummaryRow(
        name=name,
        kind="weight of a composite layer",
        shape=value.shape,
        parameters=value.size,
        kept=int(np.count_nonzero(value)),
        why_dense=_NEVER,
        flops_dense=None if matrix else 0,
        flops_sparse=None if matrix else 0,
        why_no_flops=UNKNOWN if matrix else "",
        bytes_dense=value.nbytes,
        bytes_sparse=nbytes,
    )


def _products_row(path, layer, calls):
    """The products between activations inside an attention layer."""
    count = calls.products[id(layer)]
    known = isinstance(count, int)
    return SummaryRow(
        name=path,
        kind=type(layer).__name__,
        shape=None,
        parameters=0,
        kept=0,
        why_dense=_NO_WEIGHT,
        output_shape=calls.outputs.get(id(layer)),
        flops_dense=count if known else None,
        flops_sparse=count if known else None,
        why_no_flops="" if known else count,
    )
