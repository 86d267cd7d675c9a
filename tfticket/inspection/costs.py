"""What each weight and layer of a model costs, and what pruning saves of it."""

import dataclasses
from typing import Any

import keras
import numpy as np

from tfticket.keras_models.calls import UNKNOWN, computes_as_keras, layer_calls
from tfticket.keras_models.kernels import prunable_weights, why_dense
from tfticket.keras_models.masked_layer import MaskedLayer, inner_layer
from tfticket.keras_models.names import join, named_layers, weights_by_path
from tfticket.pruning.masks import get_masks

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


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One weight that is or could be masked, or one layer without any.

    Operations are of one sample, two for each product with a weight and place where it
    is used; what biases, activations, normalizations and the products inside attention
    take is not counted. Sparse means those of the weights kept alone.

    Encoded, a weight is stored as one bit for each of its values and the values kept,
    or as it is where that is less. `export.saved_model(format="encoded")` also has a
    form that is smaller at low densities.

    Args:
        name: "layer/kernel", or the layer's path.
        kind: Class of the layer.
        shape: Of the weight; `None` for a layer without one.
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
        bytes_dense: Of the values as they are stored.
        bytes_sparse: Of the same, encoded.
        other_parameters: Values in the layer's other weights (biases), in the row of
            its first weight.
        other_bytes: Bytes of those.
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

    @property
    def density(self) -> float:
        """Fraction of the values that is kept."""
        return self.kept / self.parameters if self.parameters else 1.0


def summary_rows(model: keras.Model) -> list[SummaryRow]:
    """What `summary` prints, as data.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> row = summary_rows(tfticket.prune(model))[0]
    >>> row.kept, row.flops_sparse, row.output_shape
    (8, 16, (2,))
    """
    masks, calls = get_masks(model), layer_calls(model)
    rows: list[SummaryRow] = []
    for path, layer in named_layers(model):
        if not isinstance(layer, keras.layers.InputLayer):
            rows += _rows_of(path, layer, masks, calls)
    return rows


def _rows_of(path, layer, masks, calls):
    inner = inner_layer(layer)
    weights = weights_by_path(inner) if inner.built else {}
    if isinstance(layer, MaskedLayer) and inner.built:
        lasting = {id(weight) for weight in layer.lasting_weights()}
        weights = {k: w for k, w in weights.items() if id(w) in lasting}
    prunable = prunable_weights(inner) if inner.built else []
    prunable = {id(weight.variable) for weight in prunable}
    named = {k for k, w in weights.items() if id(w) in prunable or id(w) in calls.uses}
    if named:
        # Matrices beside them, of which nothing is known, are not to be overlooked.
        named |= {
            name
            for name, weight in weights.items()
            if len(weight.shape) > 1 and not name.endswith(_ADDED_OR_SCALED)
        }
    rows, others = [], []
    for name, variable in weights.items():
        value = keras.ops.convert_to_numpy(variable)
        if name not in named:
            others.append(value)
            continue
        mask = masks.get(join(path, name))
        why = why_dense(inner) if id(variable) in prunable else _NEVER
        rows.append(
            _weight_row(
                join(path, name),
                value,
                mask,
                calls.uses.get(id(variable), calls.failure or UNKNOWN),
                kind=type(inner).__name__,
                output_shape=calls.outputs.get(id(layer)),
                why_dense=why if mask is None else "",
            )
        )
    size, nbytes = sum(x.size for x in others), sum(x.nbytes for x in others)
    if rows:
        rows[0] = dataclasses.replace(
            rows[0], other_parameters=size, other_bytes=nbytes
        )
        return rows
    why = _why_no_flops(inner, calls) if weights else ""
    return [
        SummaryRow(
            name=path,
            kind=type(inner).__name__,
            shape=None,
            parameters=size,
            kept=size,
            why_dense=why_dense(inner),
            output_shape=calls.outputs.get(id(layer)),
            flops_dense=None if why else 0,
            flops_sparse=None if why else 0,
            why_no_flops=why,
            bytes_dense=nbytes,
            bytes_sparse=nbytes,
        )
    ]


def _weight_row(
    name: str, value: np.ndarray, mask: np.ndarray | None, uses: int | str, **rest: Any
) -> SummaryRow:
    kept = int(np.count_nonzero(value if mask is None else mask))
    return SummaryRow(
        name=name,
        shape=value.shape,
        parameters=value.size,
        kept=kept,
        masked=mask is not None,
        flops_dense=2 * uses * value.size if isinstance(uses, int) else None,
        flops_sparse=2 * uses * kept if isinstance(uses, int) else None,
        why_no_flops="" if isinstance(uses, int) else uses,
        bytes_dense=value.nbytes,
        bytes_sparse=min(value.nbytes, -(-value.size // 8) + kept * value.itemsize),
        **rest,
    )


def _why_no_flops(layer, calls):
    """Why the operations of a layer without kernels are not none."""
    if computes_as_keras(layer) and (
        isinstance(layer, _NO_PRODUCTS) or all(len(w.shape) < 2 for w in layer.weights)
    ):
        return ""
    return calls.failure or UNKNOWN
