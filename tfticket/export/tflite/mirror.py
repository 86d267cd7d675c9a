"""Windows and their padding along one axis of a mirror image.

On an even size, a 3x3 window of stride 2 with `padding="same"` pads nothing before and
one pixel after. XNNPACK requires one pixel on each side, which computes the same as one
before and nothing after: the window of the mirror image. This module has the
arithmetic.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Window:
    """How a window moves along one axis.

    Args:
        length: Number of pixels that it moves over, without padding.
        size: Number of pixels from the first to the last under it, with dilation.
        stride: Pixels from one place to the next.
        before: Pixels of padding before the first; negative if it starts inside.
        count: Number of its places.

    Example:

    >>> window = same(length=8, size=3, stride=2)
    >>> window.before, window.after
    (0, 1)
    >>> window.mirrored().before, window.mirrored().after
    (1, 0)
    """

    length: int
    size: int
    stride: int
    before: int
    count: int

    @property
    def after(self) -> int:
        """Pixels of padding that the last place reads; negative if it reads none."""
        return (self.count - 1) * self.stride + self.size - self.length - self.before

    def mirrored(self) -> "Window":
        """The same window on the same pixels in reverse."""
        return dataclasses.replace(self, before=self.after)

    @property
    def is_even(self) -> bool:
        """Whether padding by half the window on each side gives the same places."""
        half = self.size // 2
        places = (self.length + 2 * half - self.size) // self.stride + 1
        return self.size % 2 == 1 and self.before == half and places == self.count


def valid(
    length: int, size: int, stride: int, before: int = 0, after: int = 0
) -> Window:
    """The window of a layer with `padding="valid"` after zero padding.

    Args:
        length: Number of pixels without that padding.
        size: Pixels under the window, dilation counted.
        stride: Pixels from one place to the next.
        before: Padding before the first pixel.
        after: Padding after the last.
    """
    count = (length + before + after - size) // stride + 1
    return Window(length, size, stride, before, count)


def same(
    length: int, size: int, stride: int, before: int = 0, after: int = 0
) -> Window:
    """The window of a layer with `padding="same"`; the arguments are those of `valid`.

    Example:

    >>> same(length=7, size=3, stride=2).before
    1
    """
    padded = length + before + after
    count = -(-padded // stride)
    own = max((count - 1) * stride + size - padded, 0) // 2
    return Window(length, size, stride, before + own, count)
