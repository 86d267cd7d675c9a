"""Which operations XNNPACK runs as one sparse cluster, and what prevents the others.

It takes the same steps as XNNPACK, with the rules in `sparse_rules`. Operations that
can be in a cluster are joined to those that they read. An operation that reads anything
else disables its whole cluster, and so does one that is also read outside. XNNPACK does
not check that a cluster ends in a mean and answers wrongly if it does not; here such a
cluster is disabled.
"""

import dataclasses
from collections.abc import Collection, Mapping, Sequence

from tfticket.export.tflite.sparse_nodes import END, INSIDE, OUTSIDE, START, Node
from tfticket.export.tflite.sparse_rules import NEEDED, RULES


@dataclasses.dataclass(frozen=True)
class Cause:
    """What prevents an operation: a rule, and the node that breaks it (`None`: all)."""

    rule: str
    node: int | None


@dataclasses.dataclass(frozen=True)
class Found:
    """The result for some operations.

    Args:
        causes: Maps the number of each node that does not run in a sparse cluster to
            the cause.
        clusters: Numbers of the nodes of each cluster with a 1x1 convolution that
            follows all rules, except perhaps the one about zeros.
    """

    causes: dict[int, Cause]
    clusters: tuple[tuple[int, ...], ...]


def find(
    nodes: Sequence[Node],
    outputs: Collection[int | None],
    counts: Mapping[int, tuple[int, int]],
    mended: Collection[str] = (),
) -> Found:
    """Finds the clusters, as if the whole model followed some rules.

    Args:
        nodes: Operations, in an order in which they can run.
        outputs: Numbers of the operations that make outputs of the model.
        counts: Zeros and weights of each 1x1 convolution, by its number.
        mended: Names of the rules that count as followed.
    """
    leading = _leading(nodes)
    roles = [
        x.mended if x.rule in mended and i in leading else x.role
        for i, x in enumerate(nodes)
    ]
    readers: dict[int, set[int]] = {i: set() for i in range(len(nodes))}
    for i, node in enumerate(nodes):
        for taken in node.inputs:
            if taken is not None:
                readers[taken].add(i)
    heads: dict[int, Cause] = {}
    while True:
        found, ends = _once(nodes, roles, readers, outputs, mended, leading)
        if not ends or "head" not in mended:
            break
        # A head that is rewritten as Dense layers leaves the cluster, and what it reads
        # may be the next head.
        for i in ends:
            roles[i] = OUTSIDE
            heads[i] = Cause("head", i)
    causes, groups = found
    causes.update(heads)
    clusters = []
    for members in groups:
        zeros, size = (
            sum(counts[i][part] for i in members if i in counts) for part in (0, 1)
        )
        clusters.append(tuple(members))
        if zeros * NEEDED[1] <= size * NEEDED[0] and "zeros" not in mended:
            causes.update(dict.fromkeys(members, Cause("zeros", None)))
    return Found(causes, tuple(clusters))


def _once(nodes, roles, readers, outputs, mended, leading):
    """Causes by node, the nodes of each cluster, and the heads."""
    causes, groups = _joined(nodes, roles, mended)
    good, ends = [], []
    for members in groups.values():
        stopped = sorted({causes[i].node: i for i in members if i in causes}.items())
        if stopped:
            # The first obstacle in the network has to be removed first.
            cause = causes[stopped[0][1]]
        else:
            ways = readers, outputs, leading
            cause, own = _way_out(nodes, roles, members, ways, mended)
            ends += own
        if cause:
            causes.update({i: causes.get(i, cause) for i in members})
        elif any(nodes[i].is_pointwise for i in members):
            good.append(sorted(members))
    for i, node in enumerate(nodes):
        if roles[i] == OUTSIDE:
            causes[i] = Cause(node.rule, i)
    return (causes, good), ends


def _joined(nodes, roles, mended):
    """What its inputs prevent, and the members of each group by its first member."""
    causes: dict[int, Cause] = {}
    leaders = list(range(len(nodes)))

    def leader(i):
        while leaders[i] != i:
            i = leaders[i]
        return i

    for i, node in enumerate(nodes):
        if roles[i] not in (INSIDE, END):
            continue
        for taken in node.inputs:
            if taken is None:
                if "begin" not in mended:
                    causes.setdefault(i, Cause("begin", i))
            elif roles[taken] == OUTSIDE:
                causes.setdefault(i, Cause(nodes[taken].rule, taken))
            elif taken in causes:
                causes.setdefault(i, causes[taken])
            else:
                first, second = sorted((leader(taken), leader(i)))
                leaders[second] = first
    groups: dict[int, set[int]] = {}
    for i in range(len(nodes)):
        if roles[i] != OUTSIDE:
            groups.setdefault(leader(i), set()).add(i)
    return causes, groups


def _way_out(nodes, roles, members, ways, mended):
    """What disables a cluster at its end, or `None`; and which ends are heads.

    `ways` are the readers of each node, the outputs, and which nodes are `_leading`.
    """
    readers, outputs, leading = ways
    heads = []
    maps = (i for i in members if roles[i] != END and not nodes[i].is_single)
    given = sorted(i for i in maps if i in outputs)
    if given and "output" not in mended and any(roles[i] == END for i in members):
        return Cause("output", given[0]), []
    for i in sorted(members):
        mended_map = "output" in mended and not nodes[i].is_single
        outside = (i in outputs and not mended_map) or any(
            j not in members or roles[j] == START for j in readers[i]
        )
        inside = any(j in members and roles[j] != START for j in readers[i])
        if not outside:
            continue
        # If the cluster could continue, the node in between has to be fixed.
        rules = {j: nodes[j].rule for j in readers[i] if roles[j] == OUTSIDE}
        between = sorted(j for j, rule in rules.items() if rule and j in leading)
        if between and (inside or roles[i] == INSIDE):
            return Cause(nodes[between[0]].rule, between[0]), []
        if inside and "shared" not in mended:
            return Cause("shared", i), []
        if roles[i] != INSIDE or inside:
            continue
        if nodes[i].is_single:
            heads.append(i)
        elif "exit" not in mended:
            return Cause("exit", i), []
    return (Cause("head", heads[0]) if heads else None), heads


@dataclasses.dataclass(frozen=True)
class Step:
    """A rule to follow next.

    Args:
        rule: Name of the rule.
        nodes: Numbers of the operations that break it first; empty for the zeros.
        freed: Numbers of the 1x1 convolutions that run sparse once it is followed, and
            did not before.
    """

    rule: str
    nodes: tuple[int, ...]
    freed: tuple[int, ...]


def steps(
    nodes: Sequence[Node],
    outputs: Collection[int | None],
    counts: Mapping[int, tuple[int, int]],
    costs: Mapping[int, int],
) -> list[Step]:
    """The rules to follow, in order, until every 1x1 convolution runs sparse.

    Each is the one that frees most convolutions; if no single rule frees any, it is the
    one that prevents most.

    Args:
        nodes: As in `find`.
        outputs: As in `find`.
        counts: As in `find`.
        costs: Cost of each 1x1 convolution, by its number.
    """
    mended: list[str] = []
    found: list[Step] = []
    leading = _leading(nodes)
    while True:
        now = find(nodes, outputs, counts, mended)
        stopped: dict[str, set[int]] = {}
        for i in counts:
            if i in now.causes and now.causes[i].rule not in mended:
                stopped.setdefault(now.causes[i].rule, set()).add(i)
        if not stopped:
            return found
        best: tuple[list[int], str, tuple[int, ...]] = ([], "", ())
        for rule in sorted(stopped, key=list(RULES).index):
            then = find(nodes, outputs, counts, [*mended, rule])
            freed = tuple(i for i in counts if i in now.causes and i not in then.causes)
            worth = [sum(costs[i] for i in x) for x in (freed, stopped[rule])]
            if worth > best[0]:
                best = (worth, rule, freed)
        _, rule, freed = best
        first = (now.causes[i].node for i in stopped[rule])
        breakers = {i for i in first if i is not None}
        breakers |= {i for i in leading if nodes[i].rule == rule}
        found.append(Step(rule, tuple(sorted(breakers)), freed))
        mended.append(rule)


def _leading(nodes):
    """Numbers of the nodes that can be in a cluster, or can prevent it.

    Nodes before the start of any cluster, or after all that can be in one, can't.
    """
    leading: set[int] = set()
    for i in reversed(range(len(nodes))):
        node = nodes[i]
        if node.is_pointwise or node.role in (INSIDE, END):
            leading.add(i)
        if i in leading and START not in (node.role, node.mended):
            leading.update(x for x in node.inputs if x is not None)
    return leading
