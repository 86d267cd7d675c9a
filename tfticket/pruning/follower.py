"""`Follower`: whether a callback follows the schedules of a model right now.

And `DenseNotice`, for a model without schedules that no callback prunes.
"""

import warnings
import weakref
from typing import Any

import keras

from tfticket.keras_models.internals import entry_layer, jax_state_sync
from tfticket.keras_models.masked_layer import MaskedLayer
from tfticket.keras_models.variables import host_copy
from tfticket.pruning.masks import masked_layers

# The model that a masked layer was made in: on JAX a layer can't see which one trains.
_MADE_IN: "weakref.WeakKeyDictionary[MaskedLayer, weakref.ref[keras.Model]]" = (
    weakref.WeakKeyDictionary()
)


class Follower:
    """Says that a callback follows a model's schedules, as long as it does.

    Layers ask when they are called, which a compiled step no longer does: from its
    second execution on, and in every later `fit`. So the model's compiled step is
    guarded too, and asks whether the callback had its turn before this execution. A
    `fit` that ends by an exception or Ctrl-C tells no callback. The next one has
    another `History`, by which it is told apart.

    Args:
        model: The model that trains.
    """

    def __init__(self, model: keras.Model):
        self.model = model
        self.layers = [layer for _, layer in masked_layers(model)]
        self._history = getattr(model, "history", None)
        self._active = True
        self._had_turn = False
        for layer in self.layers:
            layer.follower = self
        self._guard()

    @property
    def is_following(self) -> bool:
        return self._active and getattr(self.model, "history", None) is self._history

    def turn(self) -> None:
        """The callback has its turn before a step."""
        self._active = self._had_turn = True

    def end(self) -> None:
        """The training is over, and nothing follows any longer."""
        self._active = self._had_turn = False
        self._guard()

    def take_turn(self) -> bool:
        """Whether the callback had its turn since the last time this was asked."""
        had, self._had_turn = self._had_turn, False
        return had and self.is_following

    def lost(self) -> None:
        """A step has failed, so the training is over without a word."""
        self._active = False

    def _guard(self):
        step = getattr(self.model, "train_function", None)
        if isinstance(step, _GuardedStep):
            step = step.step
        elif step is not None and any(x.schedule is not None for x in self.layers):
            # If it was called before, a layer refused, and TensorFlow lets no function
            # that failed when it was first traced make the optimizer's slots.
            self.model.make_train_function(force=True)
            step = self.model.train_function
        if step is not None:
            self.model.train_function = _GuardedStep(step, self)


class _GuardedStep:
    """A model's compiled step, which trains only where its schedules are followed."""

    def __init__(self, step: Any, follower: Follower):
        self.step = step
        self.follower = follower

    def __call__(self, *args, **kwargs):
        if not self.follower.take_turn():
            for layer in self.follower.layers:
                _require_no_schedule(layer)
        try:
            return self.step(*args, **kwargs)
        except BaseException as error:
            # The first two are how data says that an epoch is over.
            if type(error).__name__ not in ("StopIteration", "OutOfRangeError"):
                self.follower.lost()
            raise


class DenseNotice:
    """Says, once, that a `fit` trains a wrapped model which nothing prunes.

    Layers ask when they are called, where neither the values of masks nor the callbacks
    can be seen, so the notice goes to the `History` that every `fit` makes: when the
    second step begins, or the fit ends, all other callbacks have had a turn.

    Args:
        model: The model that trains.
        history: Its `History`.
    """

    def __init__(self, model: keras.Model, history: keras.callbacks.History):
        self.layers: list[MaskedLayer] = []
        self._model = model
        self._history = history
        history.on_train_batch_begin = history.on_train_end = self

    def __call__(self, *args: Any, logs: Any = None) -> None:
        """What `History` is called with."""
        if self._history.on_train_batch_begin is self:
            del self._history.on_train_batch_begin
            del self._history.on_train_end
        if any(layer.has_pruner for layer in self.layers):
            return
        for layer in self.layers:
            layer.has_pruner = True  # so that nobody is told twice
        jax_state_sync(self._model)
        masks = [x.mask for layer in self.layers for x in layer.masked_weights()]
        if all(host_copy(mask).all() for mask in masks):
            warnings.warn(
                f"Model '{self._model.name}' is wrapped, but nothing prunes it: all of "
                f"its {len(masks)} masks keep every weight, and this fit has no "
                "callback that prunes, so it trains dense. To prune while it trains, "
                "pass tfticket.GradualPruning(schedule) to fit; to prune at once, call "
                "tfticket.prune(model, sparsity=0.9) instead, or "
                "tfticket.sparsify(model, 0.9) after this fit.",
                stacklevel=2,
            )


def remember_model(model: keras.Model) -> None:
    """Notes which model the masked layers of a new model are in."""
    for _, layer in masked_layers(model):
        _MADE_IN[layer] = weakref.ref(model)


def notice_if_dense(layer: MaskedLayer) -> None:
    """Sees to it that a `fit` says so if nothing prunes the model of this layer.

    Args:
        layer: A masked layer, while it is called to train.
    """
    if layer.has_pruner or layer.schedule is not None:
        return
    model = entry_layer(layer.inner_layer())
    if not isinstance(model, keras.Model) and layer in _MADE_IN:
        model = _MADE_IN[layer]()
    history = getattr(model, "history", None)
    if not isinstance(history, keras.callbacks.History):
        return  # a loop of the user's own
    notice = vars(history).get("on_train_end")
    if not isinstance(notice, DenseNotice):
        notice = DenseNotice(model, history)
    if layer not in notice.layers:
        notice.layers.append(layer)


def require_follower(layer: MaskedLayer) -> None:
    """Raises a ValueError if a layer has a schedule that nothing follows.

    Without a schedule, the fit says so if nothing prunes the model in another way.

    Args:
        layer: A masked layer, while it is called to train.
    """
    if layer.follower is None or not layer.follower.is_following:
        _require_no_schedule(layer)
    notice_if_dense(layer)


def _require_no_schedule(layer):
    if layer.schedule is None:
        return
    raise ValueError(
        f"Layer '{layer.name}' has a pruning schedule that nothing follows, so "
        "it would train dense. Pass the callback tfticket.GradualPruning() "
        "to fit; in a loop of your own call its set_model(model) and "
        "on_train_begin(), and on_train_batch_begin(step) every step. To train "
        "under the masks as they are, set the layer's schedule to None."
    )
