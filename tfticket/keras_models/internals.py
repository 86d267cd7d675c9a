"""All that this package reads of Keras's private side, one function per attribute.

Everything that may break with a new Keras is here, and tests/test_internals.py tests
each function. All other modules use what Keras documents.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import keras

# Attributes in which Keras (the first) and TensorFlow's checkpoints (the others) keep
# lists of what a layer's own attributes hold.
_BOOKKEEPING = frozenset(
    {
        "_layers",
        "_self_name_based_restores",
        "_self_saveable_object_factories",
        "_self_unconditional_checkpoint_dependencies",
        "_self_unconditional_deferred_dependencies",
        "_self_unconditional_dependency_names",
    }
)


def attributes(layer: keras.layers.Layer) -> dict[str, Any]:
    """What a layer holds, by the name of the attribute.

    Leaves out what Keras and TensorFlow store there, by exact names, because a user's
    names may begin alike: `_layers_out`, `_self_attention_layer`. Seen in Keras 3.7.0
    and 3.15.1 on TensorFlow and JAX. If one of the names goes, nothing breaks; if one
    is added, a layer may be found under a second name, of which the first counts.

    Args:
        layer: A layer or model.
    """
    found = dict(vars(layer))
    # The attribute in which PyTorch keeps assigned modules.
    found |= found.pop("_modules", {})
    return {k: value for k, value in found.items() if k not in _BOOKKEEPING}


def clear_losses(layer: keras.layers.Layer) -> None:
    """Clears the losses that a layer and its sublayers have added since their call.

    Reaches `Layer._clear_losses`, seen in Keras 3.7.0 and 3.15.1. If it goes, this
    raises an AttributeError: the losses of the layer inside a wrapper would be counted
    twice.

    Args:
        layer: A layer or model.
    """
    layer._clear_losses()


def trainable_variables(
    optimizer: keras.optimizers.Optimizer,
) -> list[keras.Variable]:
    """The variables that an optimizer was built for, in the order of its slots.

    Reaches `Optimizer._trainable_variables`, seen in Keras 3.7.0 and 3.15.1. If it
    goes, this raises an AttributeError: otherwise pruned weights would silently keep
    their momentum.

    Args:
        optimizer: A built optimizer; for one that is not built, the list is empty.
    """
    return list(optimizer._trainable_variables)


def slots_by_variable(
    optimizer: keras.optimizers.Optimizer,
) -> Iterator[tuple[keras.Variable, keras.Variable, float]]:
    """Yields (model variable, slot, value at rest) for slots shaped like the weight.

    Keras optimizers keep slots in attributes that are lists parallel to their
    `trainable_variables`, and have no public way from a variable to its slots. Slots of
    another shape (a factored second moment) are left out. Seen in Keras 3.7.0 and
    3.15.1, for all their optimizers. If the lists go, nothing is found, which the tests
    of every optimizer would show.

    The value at rest is that of a weight without gradients: 0.0, except for the
    accumulators of Adagrad and Ftrl, which start above 0.0 because they are divisors.

    Args:
        optimizer: An optimizer, possibly one that wraps others (`LossScaleOptimizer`,
            `MultiOptimizer`). If it is not built, it has no slots.
    """
    for inner in inner_optimizers(optimizer):
        variables = trainable_variables(inner)
        for name, values in vars(inner).items():
            if name in ("_trainable_variables", "_variables"):
                continue  # the variables themselves, and a list of all slots
            if not isinstance(values, list) or len(values) != len(variables):
                continue
            for variable, slot in zip(variables, values, strict=True):
                if isinstance(slot, keras.Variable) and slot.shape == variable.shape:
                    yield variable, slot, _value_at_rest(inner, slot)


def inner_optimizers(
    optimizer: keras.optimizers.Optimizer,
) -> Iterator[keras.optimizers.Optimizer]:
    """Yields the optimizer and those that it wraps, at any depth.

    Args:
        optimizer: Any optimizer of Keras.
    """
    yield optimizer
    # MultiOptimizer's; Keras 3.7 has none.
    wrapped = list(getattr(optimizer, "optimizers", []))
    if getattr(optimizer, "inner_optimizer", None) is not None:
        wrapped.append(optimizer.inner_optimizer)  # LossScaleOptimizer's
    for inner in wrapped:
        yield from inner_optimizers(inner)


def _value_at_rest(optimizer, slot):
    if not slot.name.endswith("accumulator"):
        return 0.0
    return getattr(optimizer, "initial_accumulator_value", 0.0)


def uses_weight_decay(
    optimizer: keras.optimizers.Optimizer, variable: keras.Variable
) -> bool:
    """Whether an optimizer's weight decay applies to a variable.

    Reaches `Optimizer._use_weight_decay`, seen in Keras 3.7.0 and 3.15.1. The arguments
    of `exclude_from_weight_decay` are in no configuration. If it goes, this raises an
    AttributeError.

    Args:
        optimizer: An optimizer, which may have no weight decay at all.
        variable: One of the variables that it trains.
    """
    return optimizer._use_weight_decay(variable)


def has_undecayed_variables(optimizer: keras.optimizers.Optimizer) -> bool:
    """Whether `exclude_from_weight_decay` has named variables to an optimizer.

    Reaches `Optimizer._exclude_from_weight_decay` and its `_pattern`, which are set by
    that call alone, seen in Keras 3.7.0 and 3.15.1. If they go, the answer is False,
    and a run with such an optimizer would decay all of its variables when resumed.

    Args:
        optimizer: Any optimizer of Keras.
    """
    names = ("_exclude_from_weight_decay", "_exclude_from_weight_decay_pattern")
    return any(bool(getattr(optimizer, name, None)) for name in names)


def value_is_there(variable: keras.Variable) -> bool:
    """Whether a variable has a value; on JAX it has none while `fit` trains.

    Reaches `Variable._value`, seen in Keras 3.7.0 and 3.15.1. If it goes, this raises
    an AttributeError.

    Args:
        variable: A variable of a built model.
    """
    return variable._value is not None


def jax_state_sync(model: keras.Model) -> None:
    """Puts the weights back into a model's variables while `fit` runs on JAX.

    Reaches `Model.jax_state_sync`, which has no underscore and no documentation, seen
    in Keras 3.7.0 and 3.15.1. On other backends, which lack it, nothing happens. If
    JAX's goes, this raises an AttributeError.

    Args:
        model: A model.
    """
    if keras.backend.backend() == "jax":
        model.jax_state_sync()


def tracked(layer: Any) -> tuple[list[keras.Variable], list[keras.layers.Layer]]:
    """The variables and layers that a layer itself holds, in Keras's order.

    Reaches `Layer._trainable_variables`, `_non_trainable_variables` and `_layers`, seen
    in Keras 3.7.0 and 3.15.1. If one goes, this raises an AttributeError, because
    weights are copied in that order.

    Args:
        layer: A layer; for an operation without weights both are empty.
    """
    if not isinstance(layer, keras.layers.Layer):
        return [], []
    own = [*layer._trainable_variables, *layer._non_trainable_variables]
    return own, list(layer._layers)


def bare_twin(layer: Any) -> Any:
    """An object of the layer's class and name, initialized only by Keras's part.

    It calls `__new__` without arguments and Keras's own `__init__`, but not the
    class's. Seen in Keras 3.7.0 and 3.15.1.

    Args:
        layer: A layer, a subclassed model, or an operation of a graph.
    """
    kind: Any = type(layer)
    made = kind.__new__(kind)
    if isinstance(layer, keras.layers.Layer):
        base = keras.Model if isinstance(layer, keras.Model) else keras.layers.Layer
        base.__init__(
            made, name=layer.name, dtype=layer.dtype_policy, trainable=layer.trainable
        )
    else:
        keras.Operation.__init__(made, name=layer.name)
    return made


def carry_over(
    made: Any,
    variables: Sequence[keras.Variable] = (),
    layers: Sequence[keras.layers.Layer] = (),
    like: Any = None,
) -> None:
    """Gives a bare twin its parts in order, and Keras's own notes about a layer.

    Reaches `Layer._tracker`, and the flags and shapes that `Layer.__init__` sets, seen
    in Keras 3.7.0 and 3.15.1. If the tracker goes, this raises an AttributeError.

    Args:
        made: What `bare_twin` returned.
        variables: Its variables, as `tracked` orders them.
        layers: Its layers.
        like: The layer whose flags and build shapes it copies; `None` for none.
    """
    for part in (*variables, *layers):
        made._tracker.track(part)
    if not isinstance(like, keras.layers.Layer):
        return
    for name, value in vars(like).items():
        flag = isinstance(value, (bool, str)) and name in vars(made)
        if name in _SHARED_NOTES or (flag and name not in ("_lock", "_called")):
            object.__setattr__(made, name, value)


# Notes of a layer that no copy changes: the arguments of `__init__`, how it was built,
# its inputs, its dtype.
_SHARED_NOTES = (
    *("_auto_config", "_build_shapes_dict", "_dtype_policy", "_input_spec"),
    "activity_regularizer",
)


def entry_layer(layer: keras.layers.Layer) -> keras.layers.Layer:
    """The outermost layer or model in whose call a layer is being called.

    Reaches `Layer._get_call_context`, seen in Keras 3.7.0 and 3.15.1. If it goes, this
    raises an AttributeError.

    Args:
        layer: A layer, while it is called.
    """
    return layer._get_call_context().entry_layer


def is_training(layer: keras.layers.Layer) -> bool:
    """Whether a layer is being called to train, for any arguments of its `call`.

    Reaches `Layer._get_call_context`, seen in Keras 3.7.0 and 3.15.1. If it goes, this
    raises an AttributeError.

    Args:
        layer: A layer, while it is called.
    """
    return bool(layer._get_call_context().get_value("training"))


@contextlib.contextmanager
def open_to_state(layer: keras.layers.Layer) -> Iterator[None]:
    """Lets a built layer add variables, as `enable_lora` does.

    Reaches `Layer._tracker`, seen in Keras 3.7.0 and 3.15.1. If it goes, this raises
    an AttributeError.

    Args:
        layer: A layer.
    """
    locked = layer._tracker.locked
    layer._tracker.unlock()
    try:
        yield
    finally:
        if locked:
            layer._tracker.lock()


def mask_averages(
    optimizer: keras.optimizers.Optimizer, masked: Callable[[Any, Any], Any]
) -> None:
    """Makes an optimizer with `use_ema` mask its averages whenever it updates them.

    Replaces `Optimizer._update_model_variables_moving_average` of this optimizer and
    reads `_model_variables_moving_average`, both seen in Keras 3.7.0 and 3.15.1. If one
    goes, this raises an AttributeError.

    Args:
        optimizer: The optimizer.
        masked: Function of a variable and a value that returns the masked value.
    """
    update = optimizer._update_model_variables_moving_average

    def update_masked(trainable_variables):
        update(trainable_variables)
        averages = optimizer._model_variables_moving_average
        for variable, average in zip(trainable_variables, averages, strict=True):
            if average is not None:
                value = masked(variable, average.value)
                if value is not average.value:
                    average.assign(value)

    optimizer._update_model_variables_moving_average = update_masked
