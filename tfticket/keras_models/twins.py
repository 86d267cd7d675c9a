"""Copies of layers that share no weight, even if no configuration can make them.

All parts of a layer are in this process, so a copy needs no configuration. A layer
without one, or whose configuration lacks a name or has unregistered functions, is
copied attribute by attribute.
"""

import functools
import types
import warnings
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from tfticket.keras_models.internals import bare_twin, carry_over, tracked
from tfticket.keras_models.masked_layer import MaskedLayer, carrier
from tfticket.keras_models.names import is_graph

_PLAIN = (str, bytes, int, float, complex, type(None), type, types.ModuleType)


def live_config(layer: Any) -> dict[str, Any]:
    """The layer's configuration, with functions that are not serialized.

    Args:
        layer: A layer or an operation.
    """
    with warnings.catch_warnings():
        # Keras refuses a lambda as unsafe in a file, but this is not a file.
        warnings.filterwarnings("ignore", message=".*includes a `lambda`")
        config = layer.get_config()
    for key in config:
        value = getattr(layer, key, None)
        if isinstance(value, (types.FunctionType, functools.partial)) and not (
            value.__module__.startswith("keras.")
            if isinstance(value, types.FunctionType)
            else False
        ):
            config[key] = value
    return config


def copy_layer(layer: Any) -> Any:
    """A layer with the same configuration and name that shares no weight with it.

    Args:
        layer: A layer, a subclassed model, or an operation of a graph.

    Returns:
        The copy, which is not built if its configuration made it. Values are not
        copied.

    Raises:
        TypeError: If neither its configuration nor its attributes make a copy.
    """
    if isinstance(layer, keras.layers.Lambda):
        return twin(layer)  # its configuration is bytecode
    try:
        copy = type(layer).from_config(live_config(layer))
    except Exception as error:
        # This runs users' code, and Keras raises many types of errors here.
        return twin(layer, error)
    same = copy.name == layer.name and type(copy) is type(layer)
    return copy if same or is_graph(layer) else twin(layer)


def twin(layer: Any, reason: Exception | None = None) -> Any:
    """A copy made attribute by attribute, built if the layer is.

    Args:
        layer: A layer, a subclassed model, or an operation of a graph.
        reason: Why its configuration made no copy, for the error.

    Raises:
        TypeError: If it holds something that can't be copied. The error says what, and
            what to do.
    """
    try:
        return _Copying().layer(layer)
    except _SharedError as found:
        kind = "Model" if isinstance(layer, keras.Model) else "Layer"
        said = "" if reason is None else f" Keras says: {str(reason).splitlines()[0]}"
        raise TypeError(
            f"{kind} '{layer.name}' ({type(layer).__name__}) can't be copied by its "
            f"configuration, nor by its attributes: {found}. Let its __init__ take "
            "**kwargs and pass them to super().__init__, and give it get_config() with "
            f"its arguments; or wrap its layers in its __init__.{said}"
        ) from reason


class _SharedError(Exception):
    """Something that a copy would share with its source."""


class _Copying:
    """One copy, in which a shared object stays one object."""

    def __init__(self):
        self._made: dict[int, Any] = {}

    def layer(self, layer):
        if id(layer) in self._made:
            return self._made[id(layer)]
        copy = self._by_its_kind(layer)
        if copy is None:
            copy = self._made[id(layer)] = bare_twin(layer)
            known = set(vars(copy))
            variables, layers = tracked(layer)
            # First in their order, independent of their attributes.
            carry_over(
                copy,
                [self.variable(x) for x in variables],
                [self.layer(x) for x in layers],
            )
            masks = carrier(layer)
            left_out = () if masks is None else masks.attributes
            for name, value in vars(layer).items():
                if name not in known and name not in left_out:
                    setattr(copy, name, self.value(value, name))
            carry_over(copy, like=layer)
        self._made[id(layer)] = copy
        return copy

    def _by_its_kind(self, layer):
        """A copy by the rule for its kind; `None` for other kinds."""
        if isinstance(layer, MaskedLayer):
            return layer.twin(self.layer)
        if is_graph(layer):
            return keras.models.clone_model(layer, clone_function=self.layer)
        if type(layer).__module__.startswith("keras.") and not isinstance(
            layer, keras.layers.Lambda
        ):
            try:
                copy = type(layer).from_config(live_config(layer))
            except Exception:
                return None  # it holds another layer, as a Bidirectional does
            if layer.built and not copy.built:
                copy.build_from_config(layer.get_build_config())
            return copy if copy.name == layer.name else None
        return None

    def variable(self, variable):
        if id(variable) not in self._made:
            copy = keras.Variable(
                np.array(keras.ops.convert_to_numpy(variable)),
                dtype=variable.dtype,
                trainable=variable.trainable,
                name=variable.name,
            )
            for name in ("constraint", "regularizer", "overwrite_with_gradient"):
                if getattr(variable, name, None) is not None:
                    setattr(copy, name, getattr(variable, name))
            self._made[id(variable)] = copy
        return self._made[id(variable)]

    def value(self, value, name):
        """A copy of the value of an attribute."""
        if isinstance(value, _PLAIN):
            return value
        if id(value) in self._made:
            return self._made[id(value)]
        if isinstance(value, keras.layers.Layer):
            return self.layer(value)
        if isinstance(value, keras.Variable):
            return self.variable(value)
        if isinstance(value, Mapping):
            return {self.value(k, name): self.value(x, name) for k, x in value.items()}
        if isinstance(value, (list, set, frozenset, tuple)):
            parts = [self.value(part, name) for part in value]
            if isinstance(value, tuple):
                fields = hasattr(value, "_fields")
                return type(value)(*parts) if fields else tuple(parts)
            kinds = (list, set, frozenset)
            return next(kind for kind in kinds if isinstance(value, kind))(parts)
        if isinstance(value, np.ndarray):
            return value.copy()
        if isinstance(value, types.MethodType) and id(value.__self__) in self._made:
            return types.MethodType(value.__func__, self._made[id(value.__self__)])
        return self._other(value, name)

    def _other(self, value, name):
        """Any other object, which is shared unless it holds weights."""
        if isinstance(value, keras.random.SeedGenerator):
            copy = keras.random.SeedGenerator(0)
            copy.state.assign(np.array(keras.ops.convert_to_numpy(value.state)))
        elif isinstance(value, keras.metrics.Metric):
            copy = type(value).from_config(value.get_config())
        else:
            for held in _held_by(value):
                if isinstance(held, (keras.Variable, keras.layers.Layer)):
                    raise _SharedError(
                        f"its attribute '{name}' is {value!r}, which holds "
                        f"'{held.name}' that both would share"
                    )
            return value
        self._made[id(value)] = copy
        return copy


def _held_by(value):
    """What a function, or an object that is not Keras's, holds itself."""
    held = []
    if isinstance(value, types.MethodType):
        held += [value.__self__]
    elif isinstance(value, functools.partial):
        held += [*value.args, *value.keywords.values(), *_held_by(value.func)]
    elif isinstance(value, types.FunctionType):
        held += [*(value.__defaults__ or ()), *(value.__kwdefaults__ or {}).values()]
        for cell in value.__closure__ or ():
            try:
                held.append(cell.cell_contents)
            except ValueError:
                continue  # not filled yet
    else:
        held += getattr(value, "__dict__", {}).values()
    return [x for found in held for x in _flat(found)]


def _flat(value):
    if isinstance(value, Mapping):
        return [x for part in value.values() for x in _flat(part)]
    if isinstance(value, (list, tuple, set)):
        return [x for part in value for x in _flat(part)]
    return [value]
