"""`PruningSummaries`: sparsity and thresholds for TensorBoard."""

import importlib.util
import os
from typing import Any

import keras
import numpy as np

from tfticket.model_masks import get_masks, get_pruned_weights


class PruningSummaries(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` that also shows how far each weight is pruned.

    At the end of every epoch, `sparsity/<weight>` and `threshold/<weight>` (the least
    magnitude that is kept) go to the folder `metrics` in `log_dir`, by the optimizer's
    iteration, and the sparsity of all masked weights to `sparsity`.

    Args:
        log_dir: Folder for the logs.
        update_freq: As of `keras.callbacks.TensorBoard`.
        **kwargs: Other arguments of it.

    Raises:
        ImportError: If TensorBoard is not installed.
        ValueError: If `log_dir` is empty.

    Example:

    >>> summaries = tfticket.PruningSummaries(log_dir=str(folder))
    """

    def __init__(self, log_dir: str, update_freq: str | int = "epoch", **kwargs: Any):
        if not log_dir:
            raise ValueError(
                f"log_dir must be the folder for the logs. Received: {log_dir!r}"
            )
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "PruningSummaries writes with TensorBoard, which is not installed: "
                "pip install 'tfticket[tensorboard]'"
            )
        super().__init__(log_dir=str(log_dir), update_freq=update_freq, **kwargs)
        self._metrics_dir = os.path.join(str(log_dir), "metrics")
        self._writer = None

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self._write(self._iteration(epoch))

    def on_train_end(self, logs=None):
        super().on_train_end(logs)
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _iteration(self, epoch):
        optimizer = getattr(self.model, "optimizer", None)
        if optimizer is None:
            return epoch
        return int(keras.ops.convert_to_numpy(optimizer.iterations))

    def _write(self, step):
        # What writes TensorBoard's files is TensorFlow, whatever trains.
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._metrics_dir)
        masks, weights = get_masks(self.model), get_pruned_weights(self.model)
        with self._writer.as_default(step=step):
            for name, mask in masks.items():
                tf.summary.scalar(f"sparsity/{name}", 1 - mask.mean())
                if name in weights and mask.any():
                    least = np.abs(weights[name][mask]).min()
                    tf.summary.scalar(f"threshold/{name}", least)
            if masks:
                total = sum(mask.size for mask in masks.values())
                kept = sum(int(mask.sum()) for mask in masks.values())
                tf.summary.scalar("sparsity", 1 - kept / total)
            self._writer.flush()
