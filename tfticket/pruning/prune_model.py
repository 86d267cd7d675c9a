"""`prune`: wrap a model, and prune it at once if a target is given."""

import inspect
from collections.abc import Collection, Mapping
from typing import Any

import keras

from tfticket.common.arguments import check_bool, shown
from tfticket.keras_models.names import Pattern
from tfticket.pruning.follower import remember_model
from tfticket.pruning.in_place import take_masks_off
from tfticket.pruning.one_shot import sparsify
from tfticket.pruning.prune_strip import wrap
from tfticket.pruning.targets import check_target
from tfticket.pruning.wrapper import Prune
from tfticket.sparsity.criteria import Criterion
from tfticket.sparsity.schedules import Schedule
from tfticket.sparsity.scopes import Scope
from tfticket.sparsity.structures import Channel, Unstructured

# What `sparsify` takes beside the target, at its defaults.
_DEFAULTS = {
    name: parameter.default
    for name, parameter in inspect.signature(sparsify).parameters.items()
    if name not in ("model", "structure", "sparsity", "flops", "parameters")
}


def prune(
    model_or_layer: keras.Model | keras.layers.Layer,
    exclude: Collection[Pattern] = (),
    include: Collection[Pattern] = (),
    schedule: Schedule | None = None,
    structure: Unstructured | None = None,
    in_place: bool = False,
    keep_dense: bool = False,
    *,
    sparsity: float | None = None,
    flops: float | None = None,
    parameters: float | None = None,
    criterion: str | Criterion = "magnitude",
    scope: Scope = "layerwise",
    sparsities: Mapping[Pattern, float] | None = None,
    output_factor: float = 1.0,
    rounds: int = 1,
    data: Any = None,
    loss: Any = None,
    batches: int | None = None,
    seed: int | None = None,
    allow_empty: bool = False,
) -> keras.Model | Prune:
    """Copies a model with a mask for every prunable weight, and prunes the copy.

    With a target (`sparsity`, `flops` or `parameters`) the copy is pruned at once.
    Without one, all masks start as True: the copy computes what the original computes,
    and a callback such as `GradualPruning` prunes it while it trains. A `fit` that
    nothing prunes warns you once. The original is left untouched and shares nothing
    with the copy. Compile the copy with an optimizer of its own.

    Prunable are the kernels of Dense, EinsumDense, convolutions and recurrent cells,
    wherever they are (in MultiHeadAttention, Bidirectional, TimeDistributed, a nested
    model), and what a layer's method `get_prunable_weights()` returns. An Embedding is
    pruned where `include` asks for it, and where whole channels are.
    `tfticket.summary` lists what is not pruned, and why.

    Args:
        model_or_layer: A built `keras.Model`, or a single layer, built or not. In a
            Sequential or Functional model, nested ones included, each layer is
            wrapped; a subclassed one is wrapped whole, in a Functional model of the
            inputs it was built for. To keep a subclass's own methods, wrap its layers
            in its `__init__`.
        exclude: Layers that stay dense: paths ("block/dense" for the layer `dense`
            of a nested model `block`, "block" for all of it), compiled regular
            expressions searched for in the path, or classes.
        include: Embedding layers to prune, chosen in the same way.
        schedule: A schedule that each wrapper keeps, for `GradualPruning` to follow.
        structure: What is pruned together; each wrapper keeps it. With `flops` or
            `parameters` the default is `Channel()`.
        in_place: Whether to put the masks on the layers of the model itself, with no
            copy and no wrapper: its class, methods, variables and optimizer stay, and
            so do its files, which hold no masks. Use it for KerasHub's models,
            subclassed models and what can't be copied. `strip(model, in_place=True)`
            takes the masks off.
        keep_dense: Whether pruned weights keep their values behind the mask, as of
            `Prune`, so that `TopKTraining` can bring them back. `strip` returns the
            sparse model.
        sparsity: Fraction of the weights (or blocks, or channels) to prune at once, in
            [0, 1).
        flops: Fraction of the model's operations to keep, in (0, 1], by pruning whole
            channels at once.
        parameters: Fraction of the model's parameters to keep, in the same way.
        criterion: Which weights go, as in `sparsify`; needs a target, like all
            arguments below.
        scope: As in `sparsify`.
        sparsities: As in `sparsify`.
        output_factor: As in `sparsify`.
        rounds: As in `sparsify`.
        data: As in `sparsify`.
        loss: As in `sparsify`. Default: the loss that the original is compiled with.
        batches: As in `sparsify`.
        seed: As in `sparsify`.
        allow_empty: As in `sparsify`.

    Returns:
        A model of the same kind, layer names unchanged; or, for a layer, a
        `Prune` around a copy of it. With `in_place` the model or layer itself.

    Raises:
        TypeError: If the model is not a Keras 3 one (tf_keras, TF-MOT), or is a
            subclass with methods that a copy would lose.
        ValueError: If the model is not built, is wrapped already, is quantized, has
            nothing to prune, `exclude` or `include` names a layer that isn't there, a
            target is out of range, or an argument of `sparsify` has no target; with
            both `in_place` and `keep_dense`.

    Example:

    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    >>> pruned = tfticket.prune(model, sparsity=0.75)
    >>> int(tfticket.get_masks(pruned)["dense/kernel"].sum())
    2
    """
    given: dict[str, Any] = {
        "criterion": criterion,
        "scope": scope,
        "sparsities": sparsities,
        "output_factor": output_factor,
        "rounds": rounds,
        "data": data,
        "loss": loss,
        "batches": batches,
        "seed": seed,
        "allow_empty": allow_empty,
    }
    target: dict[str, Any] = {
        "sparsity": sparsity,
        "flops": flops,
        "parameters": parameters,
    }
    if all(value is None for value in target.values()):
        _require_no_arguments(exclude, given)
        wrapped = wrap(
            *(model_or_layer, exclude, include, schedule, structure),
            *(in_place, keep_dense),
        )
        if isinstance(wrapped, keras.Model):
            remember_model(wrapped)
        return wrapped
    check_target(**target)
    _require_model(model_or_layer, schedule)
    check_bool("in_place", in_place)
    if sparsity is None and structure is None:
        structure = Channel()
    if loss is None:
        given["loss"] = _compiled_loss(model_or_layer)
    wrapped = wrap(
        model_or_layer, exclude, include, None, structure, in_place, keep_dense
    )
    try:
        sparsify(wrapped, **target, **given)
    except Exception:
        if in_place:
            take_masks_off(model_or_layer)
        raise
    return wrapped


def _require_model(model, schedule):
    """Raises an error if a target can't be reached at once."""
    if isinstance(model, keras.layers.Layer) and not isinstance(model, keras.Model):
        raise TypeError(
            "A target prunes a whole model, and this is a layer. Wrap the layer with "
            "tfticket.prune(layer), and pass the model that you build with it to "
            f"tfticket.sparsify. Received: {shown(model)}"
        )
    if schedule is not None:
        raise ValueError(
            "schedule prunes while the model trains, and sparsity, flops and "
            f"parameters prune it at once. Pass one of them. Received: {schedule!r}"
        )


def _compiled_loss(model):
    """The loss that a model is compiled with, if it is a single one."""
    loss = getattr(model, "loss", None) if getattr(model, "compiled", False) else None
    return loss if isinstance(loss, str) or callable(loss) else None


def _require_no_arguments(exclude, given):
    """Raises an error if an argument says how to prune, and none says how far."""
    if isinstance(exclude, (int, float)) and not isinstance(exclude, bool):
        raise TypeError(
            "exclude must be a collection of patterns. To prune at once, pass the "
            f"sparsity by name: prune(model, sparsity={exclude}). "
            f"Received: exclude={exclude}"
        )
    for name, value in given.items():
        default = _DEFAULTS[name]
        if value is not default and not _equal(value, default):
            raise ValueError(
                f"{name} says how to prune at once, which needs a target: pass "
                "sparsity=, flops= or parameters= too, or give it to the callback that "
                f"prunes. Received: {name}={shown(value)}"
            )


def _equal(value, default):
    """Whether a value, which may be an array, is a default, which is none."""
    return isinstance(value, (str, int, float)) and value == default
