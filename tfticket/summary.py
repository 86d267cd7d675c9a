"""`summary`: what of a model is pruned, how far, and what is not and why."""

import dataclasses

import keras
from rich.console import Console
from rich.table import Table

from tfticket.model_masks import get_masks, named_layers
from tfticket.paths import join, weights_by_path
from tfticket.popup_layers import Popup
from tfticket.prunable import why_dense
from tfticket.wrappers import Prune


@dataclasses.dataclass(frozen=True)
class SummaryRow:
    """One masked weight, or one layer without any.

    Args:
        name: "layer/kernel", or the layer's path.
        kind: Class of the layer.
        shape: Of the weight; `None` for a layer without a mask.
        parameters: Values in the weight; of a layer without a mask, in all of its.
        kept: Those in the subnetwork.
        why_dense: Why there is no mask; empty where there is one.
    """

    name: str
    kind: str
    shape: tuple[int, ...] | None
    parameters: int
    kept: int
    why_dense: str = ""


def summary_rows(model: keras.Model) -> list[SummaryRow]:
    """What `summary` prints, as data.

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> summary_rows(tfticket.prune(model))[0].kept
    8
    """
    masks = get_masks(model)
    rows = []
    for path, layer in named_layers(model):
        inner = layer.layer if isinstance(layer, Prune) else layer
        names = [join(path, name) for name in weights_by_path(inner)]
        names = [name for name in names if name in masks]
        kind = type(inner).__name__
        for name in names:
            mask = masks[name]
            rows.append(SummaryRow(name, kind, mask.shape, mask.size, int(mask.sum())))
        if not names and not isinstance(layer, (Popup, keras.layers.InputLayer)):
            count = layer.count_params() if layer.built else 0
            reason = why_dense(layer)
            rows.append(SummaryRow(path, kind, None, count, count, reason))
    return rows


def summary(model: keras.Model, console: Console | None = None) -> None:
    """Prints a table: every masked weight with its density, every dense layer with why.

    Args:
        model: A wrapped, popup or plain model.
        console: Where to; `None` is the terminal.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="a")])
    >>> tfticket.summary(tfticket.prune(model))  # doctest: +SKIP
    """
    rows = summary_rows(model)
    table = Table(title=model.name, title_justify="left")
    table.add_column("weight or layer", overflow="fold")
    table.add_column("layer type")
    for column in ("shape", "parameters", "kept", "density"):
        table.add_column(column, justify="right")
    table.add_column("why dense", overflow="fold")
    for row in rows:
        masked = row.shape is not None
        table.add_row(
            row.name,
            row.kind,
            " x ".join(map(str, row.shape)) if masked else "",
            f"{row.parameters:,}",
            f"{row.kept:,}" if masked else "",
            f"{row.kept / row.parameters:.1%}" if masked else "",
            row.why_dense,
        )
    masked = [row for row in rows if row.shape is not None]
    total = sum(row.parameters for row in masked)
    kept = sum(row.kept for row in masked)
    if total:
        table.add_section()
        table.add_row(
            "masked weights", "", "", f"{total:,}", f"{kept:,}", f"{kept / total:.1%}"
        )
    (console or Console()).print(table)
