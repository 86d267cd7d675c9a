"""A first layer's mask as pictures: which pixels it reads, and the matrix itself."""

import math
import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from tfticket.lottery.figures.tables import Row
from tfticket.tickets.pictures import save


def pixel_counts(mask: np.ndarray, image_shape: Sequence[int]) -> np.ndarray:
    """How many connections each input pixel keeps, over all units and channels.

    Args:
        mask: Boolean, (inputs, units): of the first Dense layer after Flatten.
        image_shape: (height, width) or (height, width, channels) of the images.

    Returns:
        Counts, (height, width).

    Raises:
        ValueError: If the mask is no matrix, or its inputs are not that image's.

    Example:

    >>> mask = np.array([[True, True], [False, True], [False, False], [True, True]])
    >>> tfticket.lottery.figures.mask_image.pixel_counts(mask, (2, 2))
    array([[2, 1],
           [0, 2]])
    """
    mask, image_shape = np.asarray(mask), tuple(image_shape)
    if mask.ndim != 2:
        raise ValueError(
            "mask must be a matrix, (inputs, units), as of a Dense kernel. Received a "
            f"mask of shape {mask.shape}"
        )
    if len(image_shape) not in (2, 3):
        raise ValueError(
            "image_shape must be (height, width) or (height, width, channels). "
            f"Received: image_shape={image_shape}"
        )
    if math.prod(image_shape) != mask.shape[0]:
        raise ValueError(
            f"image_shape={image_shape} has {math.prod(image_shape)} values, and the "
            f"mask of shape {mask.shape} has {mask.shape[0]} inputs. Give the mask of "
            "the first Dense layer after Flatten, and the shape that Flatten flattens."
        )
    # Flatten keeps the order: row, column, channel.
    image = mask.sum(axis=1).reshape(*image_shape[:2], -1)
    return image.sum(axis=2)


def pixel_rows(
    masks: Mapping[int, np.ndarray], image_shape: Sequence[int]
) -> list[Row]:
    """`pixel_counts` as rows: `round`, `row`, `column`, `kept`.

    Args:
        masks: Round to mask.
        image_shape: As for `pixel_counts`.
    """
    return [
        {"round": round_, "row": row, "column": column, "kept": int(kept)}
        for round_, mask in masks.items()
        for (row, column), kept in np.ndenumerate(pixel_counts(mask, image_shape))
    ]


def mask_image(
    masks: Mapping[int, np.ndarray],
    image_shape: Sequence[int],
    path: str | os.PathLike | None = None,
    title: str = "",
) -> Figure:
    """A first layer's masks: left the pixels they read, right the matrices.

    Pixels that say nothing lose their connections, which the matrix shows as bands,
    one for each row of the image (Han et al. 2015, arXiv 1506.02626, figure 6).

    Args:
        masks: Round to mask, (inputs, units). A row of panels for each.
        image_shape: (height, width) or (height, width, channels) of the images.
        path: The file to write.
        title: Title of the figure.

    Raises:
        ValueError: If there are no masks, or they don't fit the shape.
    """
    if not masks:
        raise ValueError("masks must hold one round or more. Received: masks={}")
    figure = Figure(figsize=(8, 0.8 + 2.1 * len(masks)), layout="constrained")
    figure.suptitle(title)
    panels = figure.subplots(
        len(masks), 2, squeeze=False, width_ratios=[1, 1.6], sharex="col"
    )
    for (left, right), (round_, mask) in zip(panels, masks.items(), strict=True):
        mask = np.asarray(mask)
        counts = pixel_counts(mask, image_shape)
        image = left.imshow(counts, cmap="magma", vmin=0, interpolation="nearest")
        figure.colorbar(image, ax=left, label="connections kept", pad=0.03)
        left.set_title(f"round {round_}, {100 * mask.mean():.3g} % kept", fontsize=10)
        left.set_ylabel("row of the image")
        # Drawn smoothed: one point in a hundred would else fall between pixels.
        right.imshow(
            mask.T.astype("float32"),
            cmap="gray_r",
            aspect="auto",
            interpolation="antialiased",
        )
        right.set_ylabel("unit")
    panels[-1][0].set_xlabel("column of the image")
    panels[-1][1].set_xlabel("input, row after row of the image")
    return save(figure, path)


def flattened_input(config: Mapping[str, Any]) -> tuple[str, tuple[int, ...]]:
    """The Dense layer that reads the flattened image, and the image's shape.

    Args:
        config: The plain model's, `Ticket.provenance["config"]`.

    Returns:
        Name of its kernel in masks ("fc1/kernel"), and (height, width, channels).

    Raises:
        ValueError: If there is none: where convolutions come first, the inputs of
            the first Dense layer are not pixels.
    """
    shape: Any = None
    flat = False
    for layer in config.get("config", {}).get("layers", ()):
        kind, values = layer["class_name"], layer["config"]
        if kind == "InputLayer" and shape is None:
            shape = tuple(values["batch_shape"][1:])
        elif kind == "Flatten" and shape is not None:
            flat = True
        elif kind == "Dense" and flat and len(shape) in (2, 3):
            return f"{values['name']}/kernel", shape
        elif kind not in ("Dropout", "Rescaling"):
            break
    raise ValueError(
        "the network has no Dense layer that reads the flattened image itself, so its "
        "masks are not of pixels"
    )
