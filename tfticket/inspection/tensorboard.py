"""`PruningSummaries`: sparsity, thresholds and pictures of masks for TensorBoard."""

import importlib.util
import math
import os
from typing import Any

import keras
import numpy as np

from tfticket.common.arguments import check_choice, check_integer, check_path
from tfticket.common.on_demand import need
from tfticket.pruning.masks import get_masks, get_pruned_weights

GREY = 64
"""Between the tiles of a picture."""

LONGEST = 256
"""Most pixels of a picture's side."""


class PruningSummaries(keras.callbacks.TensorBoard):
    """`keras.callbacks.TensorBoard` that also shows how far each weight is pruned.

    At the end of every epoch it writes `sparsity/<weight>`, `threshold/<weight>` (the
    smallest magnitude that is kept) and `sparsity`, that of all masked weights, to the
    folder `metrics` in `log_dir`. Their step is the optimizer's iteration. Pictures of
    the masks, as `mask_picture` makes them, are written as `mask/<weight>`. With
    `histogram_freq`, histograms of the kept weights are written as `kept/<weight>`;
    the histograms of Keras include the zeros.

    Args:
        log_dir: Folder for the logs.
        update_freq: As in `keras.callbacks.TensorBoard`.
        mask_images: `True` writes a picture of each mask that has changed since its
            last picture at the end of every epoch, an integer n at the end of every
            n-th epoch, and `False` writes none. A picture takes some 10 ms and 15 kB.
        **kwargs: Other arguments of `keras.callbacks.TensorBoard`.

    Raises:
        ImportError: If TensorBoard is not installed.
        TypeError: If `mask_images` is neither a boolean nor an integer.
        ValueError: If `log_dir` is empty, or `mask_images` is below 1.

    Example:

    >>> summaries = tfticket.PruningSummaries(log_dir=str(folder))
    """

    def __init__(
        self,
        log_dir: str,
        update_freq: str | int = "epoch",
        mask_images: bool | int = True,
        **kwargs: Any,
    ):
        check_path("log_dir", log_dir)
        if isinstance(update_freq, str):
            check_choice("update_freq", update_freq, ("batch", "epoch"))
        else:
            update_freq = check_integer("update_freq", update_freq, 1)
        if importlib.util.find_spec("tensorboard") is None:
            raise ImportError(
                "PruningSummaries writes with TensorBoard, which is not installed: "
                "pip install 'tfticket[tensorboard]'"
            )
        # TensorFlow writes TensorBoard's files, whichever backend trains.
        need("PruningSummaries", "tensorflow")
        if not isinstance(mask_images, bool | np.bool_):
            mask_images = check_integer("mask_images", mask_images, 1)
        self.mask_images = int(mask_images)
        super().__init__(log_dir=str(log_dir), update_freq=update_freq, **kwargs)
        self._metrics_dir = os.path.join(str(log_dir), "metrics")
        self._writer = None
        self._shown: dict[str, bytes] = {}

    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        import tensorflow as tf

        if self._writer is None:
            self._writer = tf.summary.create_file_writer(self._metrics_dir)
        masks = get_masks(self.model)
        with self._writer.as_default(step=self._iteration(epoch)):
            self._write_numbers(masks, epoch)
            if self.mask_images and epoch % self.mask_images == 0:
                self._write_pictures(masks)
            self._writer.flush()

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

    def _write_numbers(self, masks, epoch):
        import tensorflow as tf

        histograms = self.histogram_freq and epoch % self.histogram_freq == 0
        weights = get_pruned_weights(self.model)
        for name, mask in masks.items():
            tf.summary.scalar(f"sparsity/{name}", 1 - mask.mean())
            if name in weights and mask.any():
                kept = weights[name][mask]
                tf.summary.scalar(f"threshold/{name}", np.abs(kept).min())
                if histograms:
                    tf.summary.histogram(f"kept/{name}", kept)
        if masks:
            total = sum(mask.size for mask in masks.values())
            kept = sum(int(mask.sum()) for mask in masks.values())
            tf.summary.scalar("sparsity", 1 - kept / total)

    def _write_pictures(self, masks):
        import tensorflow as tf

        for name, mask in masks.items():
            bits = np.packbits(mask).tobytes()
            if self._shown.get(name) == bits:
                continue
            self._shown[name] = bits
            picture, text = mask_picture(mask)
            tf.summary.image(
                f"mask/{name}", picture[None, :, :, None], description=text
            )


def mask_picture(mask: np.ndarray) -> tuple[np.ndarray, str]:
    """A mask as a picture, white where it keeps a weight, and what its pixels mean.

    Rows and columns are the mask's last two axes: the inputs and units of a Dense
    kernel. The axes before them, the window of a convolution, form a tile at every row
    and column, separated by grey lines; a mask with one axis is a column. A picture
    that would be higher or wider than 256 pixels shows blocks of rows and columns, each
    as bright as the fraction of its weights that is kept.

    Args:
        mask: Boolean, of any shape.

    Returns:
        The picture, uint8, (height, width), and a sentence for its reader.

    Example:

    >>> tfticket.inspection.tensorboard.mask_picture(np.eye(2, dtype=bool))[0].tolist()
    [[255, 0], [0, 255]]
    """
    *window, rows, columns = np.atleast_2d(mask).shape
    *up, across = window if len(window) > 1 else (*window, 1)
    high, wide = math.prod(up), across
    tiles = np.reshape(mask, (high, wide, rows, columns)).transpose(2, 0, 3, 1)
    # A line of grey behind each tile, unless it is one pixel, and none at the end.
    line_below, line_beside = int(high > 1), int(wide > 1)
    height = rows * (high + line_below) - line_below
    width = columns * (wide + line_beside) - line_beside
    if max(height, width) <= LONGEST:
        grid = np.full(
            (rows, high + line_below, columns, wide + line_beside), GREY, np.uint8
        )
        grid[:, :high, :, :wide] = np.where(tiles, 255, 0)
        whole = grid.reshape(rows * grid.shape[1], columns * grid.shape[3])
        text = "A pixel is a weight, white where it is kept. "
        text += "Rows and columns are the kernel's last two axes."
        if window:
            text += f" Tiles of {high} x {wide} are the axes before."
        return whole[:height, :width], text
    fractions = tiles.mean(axis=(1, 3))
    blocks = []
    for axis, length in enumerate((rows, columns)):
        block = -(-length // LONGEST)
        starts = np.arange(0, length, block)
        sums = np.add.reduceat(fractions, starts, axis=axis)
        counts = np.diff(starts, append=length)
        fractions = sums / (counts[:, None] if axis == 0 else counts)
        blocks.append(block)
    text = (
        f"A pixel is a block of {blocks[0]} x {blocks[1]} of the kernel's last two "
        f"axes, {rows} x {columns}: the brighter, the more of its weights are kept."
    )
    return np.rint(255 * fractions).astype(np.uint8), text
