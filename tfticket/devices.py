"""The devices that a training runs on: strategies, and what they ask of `compile`."""

import contextlib
import functools
from typing import Any

import keras

from tfticket.common.arguments import check_choice

STRATEGIES = ("none", "mirrored", "data_parallel")


class _OneDevice:
    """A strategy that leaves everything where the backend puts it."""

    def scope(self):
        return contextlib.nullcontext()


def strategy(name: str = "none") -> Any:
    """A strategy whose `scope()` models are made and trained in.

    Args:
        name: `"none"`; `"mirrored"`, a copy of the model on every GPU of this machine,
            or on every logical CPU where there is none (`tf.distribute
            .MirroredStrategy`); `"data_parallel"`, the same on the JAX backend
            (`keras.distribution.DataParallel`).

    Returns:
        An object with a method `scope()`, which can be entered again and again.

    Raises:
        TypeError: If the name is not a text.
        ValueError: If there is no such strategy, or it is another backend's.

    Example:

    >>> with tfticket.devices.strategy("mirrored").scope():
    ...     model = tfticket.prune(
    ...         keras.Sequential([keras.Input((4,)), keras.layers.Dense(2)])
    ...     )
    """
    check_choice("strategy", name, STRATEGIES)
    backend = keras.backend.backend()
    wanted = {"mirrored": "tensorflow", "data_parallel": "jax"}.get(name, backend)
    if backend != wanted:
        raise ValueError(
            f"strategy={name!r} is for the {wanted} backend, and this is {backend}: "
            f"choose another, or set the environment variable KERAS_BACKEND={wanted}."
        )
    if name == "data_parallel":
        return keras.distribution.DataParallel()
    return _mirrored() if name == "mirrored" else _OneDevice()


@functools.cache
def _mirrored():
    """One per process: the collectives of two get in each other's way."""
    import tensorflow as tf

    logical = tf.config.list_logical_devices
    devices = logical("GPU") or logical("CPU")
    return tf.distribute.MirroredStrategy([device.name for device in devices])


def replicas() -> int:
    """How many copies of a model train together in the present scope."""
    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        return tf.distribute.get_strategy().num_replicas_in_sync
    distribution = keras.distribution.distribution()
    if isinstance(distribution, keras.distribution.DataParallel):
        return distribution.device_mesh.devices.size
    return 1


def check_batch_size(batch_size: int) -> None:
    """Refuses a batch that replicas can't share evenly.

    A smaller share would count as much as the others.

    Raises:
        ValueError: If it does not divide.
    """
    count = replicas()
    if batch_size % count:
        raise ValueError(
            f"batch_size={batch_size} can't be shared evenly by {count} devices. "
            f"Choose a multiple of {count}."
        )


def compile_options(xla_on_cpu: bool, steps_per_execution: int) -> dict[str, object]:
    """What `compile` is told for a model, on this backend and strategy.

    Args:
        xla_on_cpu: Whether TensorFlow should compile with XLA.
        steps_per_execution: Steps that one call may take.

    Returns:
        `jit_compile` and `steps_per_execution`.
    """
    backend = keras.backend.backend()
    # With several replicas TensorFlow 2.21 fails with either, whatever the model.
    if backend == "torch" or (backend == "tensorflow" and replicas() > 1):
        return {"jit_compile": False, "steps_per_execution": 1}
    return {
        "jit_compile": backend == "jax" or xla_on_cpu,
        "steps_per_execution": steps_per_execution,
    }


def make_deterministic() -> None:
    """On a GPU, has TensorFlow choose operations that give the same bits each time."""
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    if tf.config.list_physical_devices("GPU"):
        tf.config.experimental.enable_op_determinism()
