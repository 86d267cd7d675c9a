"""`Follower`: whether a callback follows the schedules of a model right now."""

from typing import Any

import keras

from tfticket.keras_models.masked_layer import MaskedLayer
from tfticket.pruning.masks import masked_layers


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


def require_follower(layer: MaskedLayer) -> None:
    """Raises a ValueError if a layer has a schedule that nothing follows."""
    if layer.follower is None or not layer.follower.is_following:
        _require_no_schedule(layer)


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
