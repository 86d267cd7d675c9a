"""The protocol of layers that carry masks, and of models that choose masks together.

Layers that mask weights implement it (`Prune`, popup layers), and other code uses it
instead of asking for a type. A new kind of masked layer is one class:

    class MyMasked(MaskedLayer, keras.layers.Dense):
        def masked_weights(self): ...  # which weights have which masks
        def plain(self): ...           # the Keras layer that it replaces, not built def
        copy_to(self, plain): ...  # values into that layer, masks applied
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import keras


class MaskedLayer:
    """A mixin without state for layers with masked weights."""

    # Whether the masks are computed from something trained, such as popup scores.
    chooses_masks = False
    # Whether it computes what its plain Keras layer does, which decides its FLOPs.
    is_plain_inside = True
    # When to prune this layer and to which sparsity, what is pruned as a unit, and the
    # `pruning.follower.Follower` of the callback that last followed its schedule.
    schedule: Any = None
    structure: Any = None
    follower: Any = None
    # Whether its masks were set, a callback has pruned it, or the user was told that
    # nothing does.
    has_pruner = False
    # Attributes of the layer that exist only for its masks.
    attributes: tuple[str, ...] = ()

    def inner_layer(self) -> keras.layers.Layer:
        """The Keras layer that holds the masked weights: itself, if it wraps none."""
        return self

    def masked_weights(self) -> list[Any]:
        """The weights that carry masks, each a `kernels.MaskedWeight`.

        Empty before the layer is built.
        """
        raise NotImplementedError

    def lasting_weights(self) -> list[keras.Variable]:
        """The weights that remain when masks have been applied permanently."""
        return list(self.inner_layer().weights)

    def plain(self) -> keras.layers.Layer:
        """The Keras layer that it replaces, with the same name and not built."""
        raise NotImplementedError

    def twin(self, copy: Callable[[Any], Any]) -> keras.layers.Layer:
        """A copy with its own masks, all True; here, made from the configuration.

        Args:
            copy: Function of a layer inside that returns its copy.
        """
        layer: Any = self
        return type(layer).from_config(layer.get_config())

    def copy_to(self, plain: keras.layers.Layer) -> None:
        """Copies this layer's values to a built plain layer, and applies the masks."""
        raise NotImplementedError

    def copy_from(self, plain: keras.layers.Layer) -> None:
        """Copies the values of a built plain layer to this one."""
        raise NotImplementedError


class MaskedModel:
    """A mixin for models whose layers choose their masks together."""

    @contextlib.contextmanager
    def masks_in_use(self) -> Iterator[None]:
        """A context in which every layer of the model knows its mask."""
        raise NotImplementedError

    def as_plain_model(self) -> keras.Model:
        """A Keras model of the same layers."""
        raise NotImplementedError


# The attribute of a plain layer that holds the masks which were attached in place.
ON_LAYER = "masks_on_layer"


def carrier(layer: Any) -> MaskedLayer | None:
    """The object with the masks of a layer: itself, or what was attached in place.

    Args:
        layer: A layer or operation. The result is `None` if it has no masks.
    """
    if isinstance(layer, MaskedLayer):
        return layer
    return getattr(layer, ON_LAYER, None)


def inner_layer(layer: Any) -> Any:
    """The Keras layer inside a masked layer, or any other layer or operation itself."""
    return layer.inner_layer() if isinstance(layer, MaskedLayer) else layer


def masks_in_use(model: Any) -> contextlib.AbstractContextManager[None]:
    """A context in which layers that choose their masks together know them."""
    if isinstance(model, MaskedModel):
        return model.masks_in_use()
    return contextlib.nullcontext()
