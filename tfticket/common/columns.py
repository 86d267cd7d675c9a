"""Tables as plans, results and commands print them."""

from collections.abc import Collection, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table


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


def print_table(table: Table, console: Console | None = None) -> None:
    """Prints a table of `rich` without cutting a word or a number.

    Where the table does not fit, cells are wrapped between words. If that is not
    enough, the table is wider than the console, which `rich` would shorten to "1,2...".

    Args:
        table: The table.
        console: Where to print it; `None` is the standard output.
    """
    console = console or Console()
    wide = console.options.update(width=10_000)
    whole = Measurement.get(console, wide, table).maximum
    widths, least = [], []
    for column in table.columns:
        cells = [column.header, *column.cells, column.footer]
        sizes = [Measurement.get(console, wide, cell) for cell in cells if cell]
        widths.append(max([size.maximum for size in sizes], default=0))
        least.append(max([size.minimum for size in sizes], default=0))
    room = console.width - (whole - sum(widths))
    while sum(widths) > room:
        spare = [
            width if width > word else 0
            for width, word in zip(widths, least, strict=True)
        ]
        if not any(spare):
            break
        widths[spare.index(max(spare))] -= 1
    for column, width in zip(table.columns, widths, strict=True):
        column.width = width
    if sum(widths) > room:
        # No console prints more than its width.
        console = type(console)(
            file=console.file,
            force_terminal=console.is_terminal,
            width=console.width + sum(widths) - room,
        )
    console.print(table)
