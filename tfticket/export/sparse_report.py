"""The result of `sparse_plan`: rows, clusters, fixes, and their table."""

import dataclasses

from tfticket.common.columns import aligned
from tfticket.export.tflite import sparse_rules


@dataclasses.dataclass(frozen=True)
class SparsePlanRow:
    """How a runtime will treat one kernel.

    Args:
        layer: Path of its layer, or of the kernel in a separable convolution.
        kind: "1x1", "depthwise 3x3", "3x3", or the kind of layer.
        zeros: Share of its weights that are zero, or that `sparsities` will make zero.
        needed: The 1x1 kernels of its cluster together need a larger share of zeros
            than this. `None` for kernels that never run sparse.
        runs_sparse: Whether the runtime will compute with its zeros.
        reason: What prevents it, or why such a kernel is always dense; "" if it runs
            sparse.
        mend: How to fix that; "" if nothing can.
        flops: Multiplications and additions per sample, zeros included; `None` if they
            are not known.
    """

    layer: str
    kind: str
    zeros: float
    needed: float | None
    runs_sparse: bool
    reason: str = ""
    mend: str = ""
    flops: int | None = None


@dataclasses.dataclass(frozen=True)
class SparseCluster:
    """Layers that the runtime treats together, as sparse or as dense.

    Args:
        layers: Paths of its operations, in order.
        zeros: Share of zeros among the weights of all its 1x1 kernels.
        runs_sparse: Whether that is enough.
    """

    layers: tuple[str, ...]
    zeros: float
    runs_sparse: bool


@dataclasses.dataclass(frozen=True)
class SparseMend:
    """One rule to follow, after the rules of the fixes before it.

    Args:
        reason: What prevents layers now.
        mend: How to fix that.
        layers: Layers that break the rule; empty for the zeros, which are counted over
            clusters.
        freed: Layers of the 1x1 kernels that run sparse once the rule is followed.
        flops: Operations of these layers; `None` if they are not known.
    """

    reason: str
    mend: str
    layers: tuple[str, ...]
    freed: tuple[str, ...]
    flops: int | None


@dataclasses.dataclass(frozen=True, eq=False)
class SparsePlan:
    """Which kernels a runtime will run sparse. `print` shows a table.

    Args:
        target: The `target` argument.
        xnnpack: The commit of XNNPACK that the rules come from.
        rows: One row per call of a layer with a kernel.
        clusters: The clusters of layers that follow the rules, except perhaps the one
            about zeros.
        mends: Changes after which all 1x1 kernels run sparse, the most useful first.
            Empty if all do, or if nothing helps.
        notes: Anything else to know about the target.
        wrong: Layers that the plan calls dense and for which LiteRT in browsers and on
            ARM gives wrong answers without an error.
    """

    target: str
    xnnpack: str
    rows: tuple[SparsePlanRow, ...]
    clusters: tuple[SparseCluster, ...]
    mends: tuple[SparseMend, ...]
    notes: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()

    @property
    def pointwise(self) -> tuple[SparsePlanRow, ...]:
        """The rows of 1x1 convolutions."""
        return tuple(row for row in self.rows if row.needed is not None)

    @property
    def running(self) -> tuple[SparsePlanRow, ...]:
        """The rows that will run sparse."""
        return tuple(row for row in self.rows if row.runs_sparse)

    @property
    def summary(self) -> str:
        """How many 1x1 kernels run sparse, and what to fix first, in one line."""
        several = self.pointwise
        text = (
            f"{len(self.running)} of {len(several)} 1x1 kernels would run sparse on "
            f"{self.target}"
        )
        if not several:
            return f"{text}: there are none"
        if not sparse_rules.TARGETS[self.target].runs:
            return f"{text}: {sparse_rules.RULES['target'].reason}"
        if not self.mends:
            return text
        first, *others = self.mends
        whole = [row.flops for row in several if row.flops is not None]
        if not first.freed:
            gain = f"frees nothing without the other {len(others)}"
        elif first.flops is None:
            gain = f"frees {len(first.freed)} kernels"
        else:
            gain = f"frees {first.flops / sum(whole):.0%} of their FLOPs"
        more = f"; {len(others)} more to mend" if others and first.freed else ""
        return f"{text}. First mend ({gain}): {first.mend}{more}"

    def __str__(self) -> str:
        cells = [("layer", "kind", "zeros", "needed", "sparse", "what stops it")]
        for row in self.rows:
            needed = "" if row.needed is None else f"> {row.needed:.1%}"
            sparse = "yes" if row.runs_sparse else "no"
            zeros = f"{row.zeros:.1%}"
            cells.append((row.layer, row.kind, zeros, needed, sparse, row.reason))
        lines = aligned(cells)
        lines.insert(1, "-" * lines[0].index(cells[0][-1]))  # reasons are long
        lines.append("")
        for number, cluster in enumerate(self.clusters, 1):
            sparse = "sparse" if cluster.runs_sparse else "dense"
            lines.append(
                f"cluster {number}, {cluster.layers[0]} to {cluster.layers[-1]}: "
                f"{len(cluster.layers)} operations, {cluster.zeros:.1%} of its 1x1 "
                f"weights zero, {sparse}"
            )
        for number, mend in enumerate(self.mends, 1):
            where = _some(mend.layers)
            lines.append(
                f"mend {number}: {mend.reason}{f' ({where})' if where else ''}. "
                f"{mend.mend}; then {len(mend.freed)} more 1x1 kernels run sparse"
            )
        return "\n".join([*lines, *self.notes, self.summary])


def _some(names, most=3):
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"
