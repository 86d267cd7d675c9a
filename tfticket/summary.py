"""`summary`: what of a model is pruned, how far, what that saves, and what is not."""

import dataclasses
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import keras
import numpy as np
from rich import box
from rich.console import Console
from rich.table import Table

from tfticket.flops import computes_as_keras
from tfticket.layer_calls import UNKNOWN, layer_calls
from tfticket.model_masks import get_masks, named_layers
from tfticket.paths import join, weights_by_path
from tfticket.popup_layers import Popup
from tfticket.prunable import prunable_weights, why_dense
from tfticket.wrappers import Prune

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


class _Column(NamedTuple):
    """A column of the table, left out where a terminal is narrower."""

    name: str
    heading: str
    justify: Literal["left", "right"] = "right"
    least_width: int = 0


_COLUMNS = (
    _Column("name", "weight or layer", "left"),
    _Column("kind", "type", "left", 96),
    _Column("output", "output", least_width=110),
    _Column("weight", "weight", least_width=80),
    _Column("density", "density"),
    _Column("parameters", "parameters\nkept / all"),
    _Column("flops", "FLOPs\nsparse / dense"),
    _Column("bytes", "bytes\nsparse / dense"),
    _Column("note", "note", "left"),
)


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
    inner = layer.layer if isinstance(layer, Prune) else layer
    weights = weights_by_path(inner) if inner.built else {}
    if isinstance(inner, Popup):
        # Scores and what goes with them are of its training.
        lasting = (inner.kernel, inner.bias)
        weights = {k: w for k, w in weights.items() if any(w is x for x in lasting)}
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


def summary(model: keras.Model, console: Console | None = None) -> None:
    """Prints a table: every weight with its density and costs, every layer left dense.

    Numbers are those of `SummaryRow`: FLOPs of one sample, sparse and dense, and bytes,
    encoded and as they are. Notes say why a weight is not pruned, or FLOPs not known.

    Args:
        model: A wrapped, popup, stripped or plain model.
        console: Where to; `None` is the terminal.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a")])
    >>> tfticket.summary(tfticket.prune(model))  # doctest: +SKIP
    """
    console = console or Console()
    rows = summary_rows(model)
    table = Table(
        title=model.name,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        show_edge=False,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    columns = [x for x in _COLUMNS if x.least_width <= console.width]
    for column in columns:
        table.add_column(
            column.heading,
            justify=column.justify,
            overflow="fold",
            min_width=max(map(len, column.heading.split())),
        )
    notes: dict[str, int] = {}
    for row in rows:
        reasons = [row.why_dense]
        if row.why_no_flops:
            reasons.append(f"FLOPs: {row.why_no_flops}")
        numbers = [notes.setdefault(x, len(notes) + 1) for x in reasons if x]
        cells = {**_cells(row), "note": ", ".join(map(str, numbers))}
        table.add_row(*(cells[column.name] for column in columns))
    table.add_section()
    totals = [_total("whole model", rows, others=True)]
    if masked := [row for row in rows if row.masked]:
        totals.insert(0, _total("masked weights", masked))
    for row in totals:
        cells = {**_cells(row), "note": ""}
        table.add_row(*(cells[column.name] for column in columns))
    console.print(table)
    console.print(end="\n" if notes else "")
    for reason, number in notes.items():
        console.print(f"{number:2d}  {reason}", highlight=False)


def _total(name: str, rows: Sequence[SummaryRow], others: bool = False) -> SummaryRow:
    """The sum; operations not known are left out, and that said by `why_no_flops`."""
    unmasked = sum(row.other_parameters for row in rows) if others else 0
    beside = sum(row.other_bytes for row in rows) if others else 0
    return SummaryRow(
        name=name,
        kind="",
        shape=None,
        parameters=sum(row.parameters for row in rows) + unmasked,
        kept=sum(row.kept for row in rows) + unmasked,
        masked=True,
        flops_dense=sum(row.flops_dense or 0 for row in rows),
        flops_sparse=sum(row.flops_sparse or 0 for row in rows),
        why_no_flops="".join(row.why_no_flops for row in rows),
        bytes_dense=sum(row.bytes_dense for row in rows) + beside,
        bytes_sparse=sum(row.bytes_sparse for row in rows) + beside,
    )


def _cells(row):
    if row.flops_dense is None:
        flops = "-"
    else:
        flops = _pair(row.flops_sparse, row.flops_dense, _short)
        # Of a sum: some of it is not known.
        flops = f"≥ {flops}" if row.why_no_flops else flops
    cells = {
        "name": row.name,
        "kind": row.kind,
        "output": _product(row.output_shape),
        "weight": _product(row.shape),
        "density": "",
        "parameters": _pair(row.kept, row.parameters, "{:,}".format),
        "flops": flops,
        "bytes": _pair(row.bytes_sparse, row.bytes_dense, _short),
    }
    if row.masked or row.kept < row.parameters:
        cells["density"] = f"{row.density:.1%}"
    if not row.parameters:
        cells.update(parameters="", flops="", bytes="")
    return cells


def _pair(some, whole, form):
    return form(whole) if some == whole else f"{form(some)} / {form(whole)}"


def _product(shape):
    return "x".join("?" if n is None else str(n) for n in shape or ())


def _short(number):
    """Three digits and a unit: 12.8k."""
    for unit in ("", "k", "M", "G"):
        if number < 999.5:
            return f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g}T"
