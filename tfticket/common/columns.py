"""Plain text tables, as plans and results print them."""

from collections.abc import Collection, Sequence


def aligned(rows: Sequence[Sequence[str]], right: Collection[int] = ()) -> list[str]:
    """A line for each row, its cells as wide as their columns.

    Args:
        rows: Cells; the header is one of them.
        right: Numbers of the columns that are aligned to the right.

    Example:

    >>> tfticket.common.columns.aligned([("name", "n"), ("a", "10")], right=[1])
    ['name   n', 'a     10']
    """
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.rjust(n) if i in right else cell.ljust(n)
            for i, (cell, n) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
