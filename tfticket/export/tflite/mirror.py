"""Windows and their padding along one axis, seen in a mirror.

A 3x3 window of stride 2 with `padding="same"` on an even size pads nothing before and
one after. XNNPACK wants one on each side, which computes what one before and nothing
after computes: the same window in a mirror. These are the numbers of that.
"""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Window:
    """How a window moves along one axis.

    Args:
        length: Pixels that it moves over, without padding.
        size: Pixels under it, from the first to the last, dilation counted.
        stride: Pixels from one place to the next.
        before: Pixels of padding before the first; negative where it starts inside.
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
        """Pixels of padding that the last place reads; negative: that none reads."""
        return (self.count - 1) * self.stride + self.size - self.length - self.before

    def mirrored(self) -> "Window":
        """The same window on the same pixels in reverse."""
        return dataclasses.replace(self, before=self.after)

    @property
    def is_even(self) -> bool:
        """Whether half the window as padding on each side gives the same places."""
        half = self.size // 2
        places = (self.length + 2 * half - self.size) // self.stride + 1
        return self.size % 2 == 1 and self.before == half and places == self.count


def valid(
    length: int, size: int, stride: int, before: int = 0, after: int = 0
) -> Window:
    """The window of a layer with `padding="valid"`, behind padding of zeros.

    Args:
        length: Pixels without that padding.
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
