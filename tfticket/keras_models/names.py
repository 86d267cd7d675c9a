"""Names of layers and weights, and how to choose them by name or class."""

import re
from collections.abc import Collection, Iterable, Iterator, Mapping
from typing import Any

import keras

from tfticket.common.arguments import check_instance, shown
from tfticket.keras_models.internals import attributes
from tfticket.keras_models.masked_layer import carrier, inner_layer

_AUTOMATIC = re.compile(r"variable(_\d+)?")


def is_graph(layer: keras.layers.Layer) -> bool:
    """Whether it is a Sequential or Functional model, whose graph is known."""
    return isinstance(layer, keras.Model) and (
        isinstance(layer, keras.Sequential) or hasattr(layer, "operations")
    )


def student_of(model: keras.Model) -> keras.Model:
    """The network that a model trains: a `Distiller`'s student, else the model itself.

    Args:
        model: A model, which may be a `keras.distillation.Distiller`.
    """
    distillation = getattr(keras, "distillation", None)  # since Keras 3.12
    if distillation and isinstance(model, distillation.Distiller):
        return model.student
    return model


def sublayers(layer: keras.layers.Layer) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (name, layer) for the direct sublayers, each once.

    Layers of a Sequential or Functional model have their own names. Those of any other
    layer have the name of the attribute that holds them, which is the same in every
    copy, unlike an automatic name; members of a list have their index, and members of a
    dict their key.

    Args:
        layer: A layer or model.

    Example:

    >>> inner = keras.layers.LSTM(2)
    >>> [name for name, _ in tfticket.keras_models.names.sublayers(inner)]
    ['cell']
    """
    if is_graph(layer):
        yield from ((x.name, x) for x in layer.layers)
        return
    seen = set()
    for attribute, value in attributes(layer).items():
        for name, part in _layers_in(attribute.lstrip("_"), value):
            if id(part) not in seen:
                seen.add(id(part))
                yield name, part


def _layers_in(name, value):
    if isinstance(value, keras.layers.Layer):
        yield name, value
    elif isinstance(value, Mapping):
        for key, part in value.items():
            yield from _layers_in(f"{name}/{key}", part)
    elif isinstance(value, (list, tuple)):
        for i, part in enumerate(value):
            yield from _layers_in(f"{name}/{i}", part)


def every_layer(
    layer: keras.layers.Layer, path: str = ""
) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path, layer) for a layer and all its sublayers at any depth, each once.

    Args:
        layer: A layer or model.
        path: The path of the layer itself.
    """
    seen = set()

    def walk(path, layer):
        if id(layer) in seen:
            return
        seen.add(id(layer))
        yield path, layer
        for name, part in sublayers(layer):
            yield from walk(join(path, name), part)

    yield from walk(path, layer)


def weights_by_path(
    layer: keras.layers.Layer, path: str = ""
) -> dict[str, keras.Variable]:
    """Every weight of a layer by its path, such as "cell/recurrent_kernel".

    Args:
        layer: A built layer.
        path: What the names begin with.

    Returns:
        Name to variable, each variable once. The second of two weights with one
        name in one layer gets its index there: "kernel:1".
    """
    weights = {}
    taken = set()
    inner_first = list(every_layer(layer, path))[::-1]
    for at, part in inner_first:
        own = [w for w in part.weights if id(w) not in taken]
        for i, weight in enumerate(own):
            key = join(at, name_of(weight, part, i))
            weights[key if key not in weights else f"{key}:{i}"] = weight
            taken.add(id(weight))
    # In the order in which the layer lists them.
    order = {id(w): i for i, w in enumerate(layer.weights)}
    return dict(sorted(weights.items(), key=lambda item: order[id(item[1])]))


def name_of(weight: keras.Variable, layer: keras.layers.Layer, index: int) -> str:
    """The weight's name, or the attribute that holds it if it got no name.

    Keras names such weights by a counter, so the names differ in every copy.
    """
    if not _AUTOMATIC.fullmatch(weight.name):
        return weight.name
    for attribute, value in vars(layer).items():
        if value is weight:
            return attribute.lstrip("_")
    return f"variable:{index}"


def join(*parts: str) -> str:
    """The path of these parts, without empty ones."""
    return "/".join(part for part in parts if part)


Pattern = str | re.Pattern | type


def choose(
    argument: str, patterns: Iterable[Pattern], things: Mapping[str, Iterable[Any]]
) -> dict[Pattern, list[str]]:
    """Finds the paths that each pattern matches.

    Args:
        argument: Name of the argument with the patterns, for the error.
        patterns: Each is a path ("block/dense"; "block" means all inside it), a
            compiled regular expression that is searched for in the path, or a class.
        things: Maps a path to the objects there, which a class is compared with.

    Returns:
        Maps a pattern to the paths that it matches, in the order of `things`.

    Raises:
        TypeError: If `patterns` is a single pattern, or one has another type.
        ValueError: If one matches nothing.

    Example:

    >>> things = {"a/kernel": [1], "b/kernel": ["x"]}
    >>> tfticket.keras_models.names.choose("exclude", ["a", str], things)
    {'a': ['a/kernel'], <class 'str'>: ['b/kernel']}
    """
    single = isinstance(patterns, (str, bytes, re.Pattern, type))
    scalar = getattr(patterns, "shape", None) == ()
    if single or scalar or not isinstance(patterns, Collection):
        raise TypeError(
            f"{argument} must be a collection of patterns, such as a list. "
            f"Received: {argument}={shown(patterns)}"
        )
    chosen = {}
    for pattern in patterns:
        if not isinstance(pattern, (str, re.Pattern, type)):
            raise TypeError(
                f"{argument} takes paths, compiled regular expressions and classes. "
                f"Received: {argument}={shown(patterns)}"
            )
        chosen[pattern] = [
            path for path, objects in things.items() if _matches(pattern, path, objects)
        ]
    if unknown := [pattern for pattern, paths in chosen.items() if not paths]:
        raise ValueError(
            f"{argument} names what the model does not have: {unknown}. "
            f"It has: {list(things)}"
        )
    return chosen


def _matches(pattern, path, objects):
    if isinstance(pattern, str):
        return path == pattern or path.startswith(f"{pattern}/")
    if isinstance(pattern, re.Pattern):
        return pattern.search(path) is not None
    return any(isinstance(thing, pattern) for thing in objects)


def named_layers(model: keras.Model) -> Iterator[tuple[str, keras.layers.Layer]]:
    """Yields (path, layer) for every layer, also in nested models, each once.

    A layer made of others counts as one, unless some of those are wrapped; then each
    counts separately.

    Args:
        model: A model. The layers of a subclassed model have the names of their
            attributes, and those of a `Distiller` are its student's.
    """
    check_instance("model", model, keras.layers.Layer, "a keras.Model")
    seen = set()

    def walk(prefix, parent):
        for name, layer in sublayers(parent):
            if id(layer) in seen:
                continue
            seen.add(id(layer))
            path = join(prefix, "" if is_only(layer, parent) else name)
            if is_graph(layer) or holds_masked(layer):
                yield from walk(path, layer)
            else:
                yield path, layer

    return walk("", student_of(model))


def is_only(layer, parent):
    """Whether a graph holds only a subclassed model, as `prune` wraps it.

    Its weights then have the names that they have in that model alone.

    Args:
        layer: The layer that may be the only layer.
        parent: The model that holds it.
    """
    inner = inner_layer(layer)
    if is_graph(inner) or not isinstance(inner, keras.Model) or not is_graph(parent):
        return False
    return [x for x in parent.layers if x.weights] == [layer]


def holds_masked(layer: keras.layers.Layer) -> bool:
    """Whether a layer without masks has masked layers inside."""
    if carrier(layer) is not None:
        return False
    return any(carrier(part) is not None for _, part in every_layer(layer))


def named_weights(model: keras.Model) -> dict[str, keras.Variable]:
    """Every weight except the masks, with the same names whether wrapped or not.

    Names are "layer/weight", and for a layer made of others the path to the layer
    inside: "attention/query_dense/kernel".
    """
    check_instance("model", model, keras.layers.Layer, "a keras.Model")
    model = student_of(model)
    weights: dict[str, Any] = {}
    known: set[int] = set()
    for path, layer in named_layers(model):
        known.update(id(weight) for weight in layer.weights)
        weights.update(weights_by_path(inner_layer(layer), path))
    # Weights that belong to a layer whose parts are masked, or to a subclassed model
    # itself.
    for path, layer in every_layer(model):
        for i, weight in enumerate(layer.weights):
            if id(weight) not in known and not _within(layer, weight):
                weights[join(path, name_of(weight, layer, i))] = weight
                known.add(id(weight))
    return weights


def _within(layer, weight):
    """Whether the weight belongs to a layer inside this one."""
    return any(weight is w for _, part in sublayers(layer) for w in part.weights)
