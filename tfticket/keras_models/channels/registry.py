"""Finds the rule of a layer, including your own rules."""

from collections.abc import Callable
from typing import Any

import keras

from tfticket.keras_models.channels.attention import ATTENTION
from tfticket.keras_models.channels.lookup import LOOKUP
from tfticket.keras_models.channels.merging import MERGING
from tfticket.keras_models.channels.normalization import NORMALIZATION
from tfticket.keras_models.channels.operations import OPERATIONS
from tfticket.keras_models.channels.passing import BY_NAME, PASSING
from tfticket.keras_models.channels.recurrent import RECURRENT, STEPWISE
from tfticket.keras_models.channels.reshaping import RESHAPING
from tfticket.keras_models.channels.rule import Barrier, Rule
from tfticket.keras_models.channels.weighted import WEIGHTED

_RULES: dict[type, Rule] = {
    **PASSING,
    **MERGING,
    **RESHAPING,
    **NORMALIZATION,
    **WEIGHTED,
    **LOOKUP,
    **ATTENTION,
    **RECURRENT,
    **STEPWISE,
    keras.layers.Softmax: OPERATIONS["Softmax"],
}


def rule_of(layer: Any) -> Rule:
    """The rule of a layer or an operation; a `Barrier` if there is none."""
    kind = type(layer)
    rule = _RULES.get(kind)
    if rule is None and kind.__module__.startswith("keras."):
        known = OPERATIONS if ".ops." in kind.__module__ else BY_NAME
        rule = known.get(kind.__name__)
    if rule is None:
        return Barrier("has no channel rule")
    return rule.of(layer, rule_of)


def channel_rule(*kinds: type) -> Callable[[Any], Any]:
    """Decorator that makes a class the channel rule of these layers.

    A rule says which channels the layer's weights read and the layer outputs, so that
    `channel_groups`, pruning by group and `export.compact` can follow channels through
    the layer. A unit whose weights are all zero must contribute nothing.

    Args:
        *kinds: Classes of layers. A rule holds for the class itself, not for its
            subclasses, which may compute something else.

    Raises:
        TypeError: If one is not a class, or the decorated class is not a `ChannelRule`.

    Example:

    >>> class Scaled(keras.layers.Layer):
    ...     def build(self, shape):
    ...         self.scale = self.add_weight(shape=(shape[-1],), name="scale")
    ...     def call(self, x):
    ...         return x * self.scale
    >>> @tfticket.channel_rule(Scaled)
    ... class ScaledRule(tfticket.ChannelRule):
    ...     def members(self, node):
    ...         return [tfticket.Member(node.layer.scale, 0, node.inputs[0].labels)]
    >>> model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(6, name="a"),
    ...     Scaled(name="b"), keras.layers.Dense(2, name="c")])
    >>> [(name, x.size) for name, x in tfticket.channel_groups(model).free.items()]
    [('a', 6)]
    """
    for kind in kinds:
        if not isinstance(kind, type):
            raise TypeError(
                f"channel_rule takes classes of layers. Received: {kind!r}. Write "
                "@channel_rule(MyLayer) above the rule."
            )
    if not kinds:
        raise TypeError("channel_rule takes at least one class of layers.")

    def register(rule):
        made = rule() if isinstance(rule, type) else rule
        if not isinstance(made, Rule):
            raise TypeError(
                "A channel rule must be a subclass of tfticket.ChannelRule. "
                f"Received: {rule!r}"
            )
        _RULES.update(dict.fromkeys(kinds, made))
        return rule

    return register
