"""`sparse_ready` rewrites a network by the rules that let LiteRT run it sparse."""

import dataclasses
import math
from typing import Any, Literal

import keras
import numpy as np

from tfticket.common.arguments import check_array, check_choice, check_integer, shown
from tfticket.export.sparse_report import SparsePlan
from tfticket.export.sparsity_plan import plain_of, sparse_plan
from tfticket.export.tflite.mirrored_graph import axes_to_flip
from tfticket.export.tflite.rewriting import Rewriter
from tfticket.keras_models.graph import FlatGraph, input_structure

# The share of zeros to try, which is nearly all weights of a cluster.
_SPARSE = 0.99

# Largest allowed difference, relative to the largest output: float32 sums in another
# order differ by less.
_TOLERANCE = 1e-5

_AXES = {1: "height", 2: "width"}


@dataclasses.dataclass(frozen=True)
class SparseReady:
    """A network that follows the rules of LiteRT's sparse path.

    Args:
        model: The network, a plain Keras model with the outputs of the given one.
        changes: The changes, with the names of the layers that they changed.
        flipped: The axes of the image, "height" and "width", that the network reads in
            reverse; may be empty.
        flips_input: Whether `model` flips its images itself. If not, the caller has to
            flip the axes in `flipped`.
        max_error: Largest difference between the outputs of both networks on random
            inputs, relative to the largest output.
        plan: The result of `sparse_plan` for `model` with its present zeros.
    """

    model: keras.Model
    changes: dict[str, tuple[str, ...]]
    flipped: tuple[str, ...]
    flips_input: bool
    max_error: float
    plan: SparsePlan

    def __str__(self) -> str:
        lines = [f"'{self.model.name}', written to run sparse on {self.plan.target}:"]
        for what, names in self.changes.items():
            shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
            lines.append(f"- {what} ({len(names)}): {shown}")
        if self.flipped:
            who = "the model" if self.flips_input else "the caller"
            lines.append(f"- images are flipped in {' and '.join(self.flipped)}: {who}")
        lines.append(
            f"- largest difference on random inputs: {self.max_error:.1e} of the "
            "largest output"
        )
        return "\n".join([*lines, self.plan.summary])


def sparse_ready(
    model: keras.Model,
    target: Literal["arm", "web"] = "web",
    *,
    flip: Literal["model", "caller"] = "model",
    batch_size: int | None = 1,
    inputs: Any = None,
) -> SparseReady:
    """Rewrites a network so that LiteRT can run its 1x1 convolutions sparse.

    Keras's own MobileNets break rules of XNNPACK and gain nothing from zeros. Most
    networks can be rewritten to follow the rules, without training or approximation:

    - `padding="same"` at stride 2 pads more after the image than before it. In a mirror
      image it pads more before the image, and then a padding of half the window on each
      side computes the same. So the kernels and the image are flipped.
    - BatchNormalization and scales are folded into the convolution before them. - A
    separable convolution becomes two convolutions. - A hard sigmoid becomes a ReLU up
    to 6, and its factor of one sixth is folded into the next convolution.
    - A 1x1 convolution after the last pooling becomes a Dense layer, because the
      runtime in browsers answers zeros for the convolution without an error.
    - The batch is fixed to one image.

    The result is compared with the model on random inputs before it is returned. You
    can prune before or after it: zeros stay where they are. `tfticket.export.litert`
    with `sparse=True` and a `target` calls it for you.

    Args:
        model: A built Sequential or Functional model in float32, wrapped or not. It is
            not changed.
        target: Where the file will run, as in `sparse_plan`.
        flip: Who flips the image if that is needed: the `"model"`, by an operation at
            its start, or the `"caller"`, who passes images flipped along the axes in
            `SparseReady.flipped`.
        batch_size: 1, or `None` to leave it open, which LiteRT.js can't take.
        inputs: Arrays to compare on, as for the model's `predict`. `None` draws random
            ones.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model.
        ValueError: If no 1x1 convolution would run sparse even then (the error says
            what prevents most of them), or if the model is not built or has NaN
            weights.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((32, 32, 3)),
    ...     keras.layers.Conv2D(8, 3, strides=2, padding="same", activation="relu"),
    ...     keras.layers.Conv2D(16, 1, activation="relu", name="mix"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(2),
    ... ])
    >>> ready = tfticket.export.sparse_ready(model)
    >>> ready.flipped, ready.model.input_shape
    (('height', 'width'), (1, 32, 32, 3))
    """
    check_choice("target", target, ("arm", "web"))
    check_choice("flip", flip, ("model", "caller"))
    if batch_size is not None and check_integer("batch_size", batch_size, 1) != 1:
        raise ValueError(
            f"batch_size must be 1 or None: sparse convolutions are for single images. "
            f"Received: batch_size={batch_size!r}"
        )
    plain = plain_of(model)
    inputs = None if inputs is None else _checked(inputs, plain)
    graph = FlatGraph(plain)
    axes = axes_to_flip(graph)
    by_caller = flip == "caller" and bool(axes)
    rewriter = Rewriter(graph, axes, batch_size, by_caller)
    made = rewriter.model()
    planned = sparse_plan(made, target, sparsities=_SPARSE)
    if not planned.running:
        # We added the flips, so the reasons are reported without them.
        plain_made = Rewriter(graph, (), batch_size, False).model()
        planned = sparse_plan(plain_made, target, sparsities=_SPARSE)
        raise ValueError(_refusal(model, planned))
    return SparseReady(
        made,
        {what: tuple(names) for what, names in rewriter.changes.items()},
        tuple(_AXES[axis] for axis in axes),
        bool(axes) and not by_caller,
        _compared(plain, made, inputs, axes if by_caller else ()),
        sparse_plan(made, target),
    )


def _refusal(model, planned):
    if not planned.pointwise:
        return (
            f"Model '{model.name}' has no 1x1 convolutions, the only layers that run "
            "sparse with zeros at any place. Prune whole channels instead "
            "(structure=Channel() and tfticket.export.compact)."
        )
    text = f"Model '{model.name}' can't be written to run sparse on {planned.target}: "
    if not planned.mends:
        return text + "no rule says why; see tfticket.export.sparse_plan(model)."
    mend = planned.mends[0]
    at = f" ({', '.join(mend.layers[:3])})" if mend.layers else ""
    return f"{text}{mend.reason}{at}. To fix that: {mend.mend}."


def _checked(inputs, model):
    """Samples as arrays, in the order of the model's inputs."""
    arrays = [check_array("inputs", x) for x in keras.tree.flatten(inputs)]
    wanted = [(None, *tensor.shape[1:]) for tensor in model.inputs]
    found = [x.shape for x in arrays]
    if [len(x) for x in found] != [len(x) for x in wanted] or any(
        not x[0] or any(n not in (None, m) for n, m in zip(y[1:], x[1:], strict=True))
        for x, y in zip(found, wanted, strict=True)
    ):
        raise ValueError(
            f"inputs must have shapes {wanted}. Received: shapes {found}, "
            f"inputs={shown(inputs)}"
        )
    return arrays


def _compared(old, new, inputs, flipped):
    """Largest difference of the outputs, relative to the largest output."""
    if inputs is None:
        random = np.random.default_rng(0)
        inputs = [
            random.uniform(-1, 1, (2, *tensor.shape[1:])).astype(tensor.dtype)
            for tensor in old.inputs
        ]
    given = [np.asarray(x) for x in keras.tree.flatten(inputs)]
    turned = [np.flip(x, flipped) if x.ndim == 4 and flipped else x for x in given]
    size = max(1, len(given[0])) if old.inputs[0].shape[0] is None else 1
    wanted = keras.tree.flatten(_outputs(old, given, size))
    found = keras.tree.flatten(_outputs(new, turned, new.inputs[0].shape[0] or size))
    worst = 0.0
    for x, y in zip(wanted, found, strict=True):
        largest = float(np.max(np.abs(x), initial=0.0))
        difference = float(np.max(np.abs(x - y), initial=0.0))
        worst = max(worst, difference / largest if largest else math.inf * difference)
    if not worst <= _TOLERANCE:
        raise AssertionError(
            f"The rewritten model is {worst:.1e} of the largest output away from "
            f"'{old.name}', {_TOLERANCE:.0e} allowed. Please report this network."
        )
    return worst


def _outputs(model, arrays, size):
    given = keras.tree.pack_sequence_as(input_structure(model), arrays)
    return model.predict(given, batch_size=size, verbose=0)
