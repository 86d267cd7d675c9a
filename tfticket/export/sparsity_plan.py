"""`sparse_plan` finds which convolutions LiteRT will run sparse, and why not others."""

import functools
import math
from collections.abc import Mapping
from typing import Literal, NamedTuple

import keras
import numpy as np

from tfticket.common.arguments import check_choice, check_instance, check_sparsity
from tfticket.export.sparse_report import (
    SparseCluster,
    SparseMend,
    SparsePlan,
    SparsePlanRow,
)
from tfticket.export.tflite import clusters, sparse_rules
from tfticket.export.tflite.sparse_nodes import OUTSIDE, Nodes
from tfticket.keras_models.copies import require_built, require_finite, require_keras_3
from tfticket.keras_models.graph import FlatGraph
from tfticket.keras_models.names import (
    Pattern,
    choose,
    every_layer,
    is_graph,
    named_weights,
)
from tfticket.pruning.masks import get_masks
from tfticket.pruning.prune_strip import strip


def sparse_plan(
    model: keras.Model,
    target: Literal["arm", "web", "x86"] = "arm",
    sparsities: float | Mapping[Pattern, float] | None = None,
) -> SparsePlan:
    """Says which convolutions LiteRT will run sparse, and what prevents the others.

    In float32, LiteRT uses the zeros of 1x1 convolutions at any place if these stand in
    a cluster of layers that follows the rules of XNNPACK, its engine. The plan applies
    these rules to the model (`tfticket.export.tflite.sparse_rules` has them, and the
    commit that they come from) as the file will be written: BatchNormalization is part
    of the convolution before it. Nothing is run or written.

    A plan states what the rules predict. Whether the file is faster depends on the
    device: measure it.

    Args:
        model: A built Sequential or Functional model, wrapped or not. It is not
            changed.
        target: Where the file will run: "arm", "web" (LiteRT.js in a browser) or
            "x86".
        sparsities: The share of zeros to assume before pruning: a number for all 1x1
            kernels, or a dict as in `tfticket.sparsify`, whose keys are paths ("conv"
            or "conv/kernel"), compiled regular expressions or classes of layers; the
            later of two matches counts. `None` counts the present zeros.

    Raises:
        TypeError: If `model` is not a Sequential or Functional model, or an argument
            has the wrong type.
        ValueError: If the model is not built, has NaN weights, or has a batch that is
            fixed to more than 1, or if an argument is out of range or matches nothing.

    Example:

    >>> model = keras.Sequential([
    ...     keras.Input((32, 32, 3), batch_size=1),
    ...     keras.layers.ZeroPadding2D(1),
    ...     keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="first"),
    ...     keras.layers.Conv2D(16, 1, activation="relu", name="mix"),
    ...     keras.layers.GlobalAveragePooling2D(),
    ...     keras.layers.Dense(2),
    ... ])
    >>> plan = tfticket.export.sparse_plan(model, "web", sparsities=0.9)
    >>> [(row.layer, row.runs_sparse) for row in plan.rows]
    [('first', False), ('mix', True), ('dense', False)]
    >>> tfticket.export.sparse_plan(model, "web").summary.split(".")[0]
    '0 of 1 1x1 kernels would run sparse on web'
    """
    check_choice("target", target, tuple(sparse_rules.TARGETS))
    plain = plain_of(model)
    found = Nodes(FlatGraph(plain))
    nodes = found.all
    pointwise = {i: node for i, node in enumerate(nodes) if node.is_pointwise}
    zeros = {i: _zeros(x.kernel) for i, x in enumerate(nodes) if x.kernel is not None}
    zeros.update(_planned(plain, pointwise, sparsities))
    counts = {i: (zeros[i], math.prod(nodes[i].kernel.shape)) for i in pointwise}
    now = clusters.find(nodes, found.outputs, counts)
    runs = sparse_rules.TARGETS[target].runs
    rows = tuple(
        _row(i, nodes, zeros[i], now, runs)
        for i, node in enumerate(nodes)
        if node.kernel is not None
    )
    mends: tuple[SparseMend, ...] = ()
    if runs:
        flops = {i: x.flops for i, x in pointwise.items() if x.flops is not None}
        known = len(flops) == len(pointwise)
        costs = flops if known else {i: size for i, (_, size) in counts.items()}
        steps = clusters.steps(nodes, found.outputs, counts, costs)
        mends = tuple(_mend(step, nodes, costs if known else None) for step in steps)
    described = functools.partial(_cluster, nodes=nodes, counts=counts, now=now)
    return SparsePlan(
        target,
        sparse_rules.XNNPACK,
        rows,
        tuple(described(members) for members in now.clusters) if runs else (),
        mends,
        (*_notes(plain, target), *(_counted(nodes, zeros, now) if runs else ())),
        _wrong(nodes, now) if runs else (),
    )


class Expectation(NamedTuple):
    """What to expect of an unstructured sparse file.

    Args:
        text: A sentence without its end.
        gains: Whether any kernel runs sparse anywhere.
        wrong: Layers for which LiteRT.js gives wrong answers.
    """

    text: str
    gains: bool
    wrong: tuple[str, ...] = ()


def expectation(model: keras.Model) -> Expectation | None:
    """What to expect of an unstructured sparse file of a model.

    Args:
        model: A model that can be exported.

    Returns:
        `None` if the model has no convolutions, or no graph to follow.
    """
    batches = {tensor.shape[0] for tensor in model.inputs}
    if not is_graph(model) or batches - {None, 1}:
        return None
    plan = sparse_plan(model, "arm")
    # A convolution's kind is its window: "1x1", "depthwise 3x3".
    if not any("x" in row.kind for row in plan.rows):
        return None
    several, running = plan.pointwise, plan.running
    if not several:
        return Expectation(
            "it has no 1x1 convolutions, the only layers that run sparse", False
        )
    is_open = None in batches
    where = (
        "arm, and on web once the batch is fixed to 1," if is_open else "arm and web"
    )
    text = (
        f"by XNNPACK's rules its zeros gain nothing on x86; on {where} "
        f"{len(running)} of {len(several)} 1x1 kernels run sparse"
    )
    if plan.mends:
        text = f"{text}, first obstacle: {plan.mends[0].reason}"
    return Expectation(text, bool(running), plan.wrong)


def plain_of(model: keras.Model) -> keras.Model:
    """The plain model of a built graph; otherwise an error that says what is wrong.

    Args:
        model: Any object.

    Raises:
        TypeError: If `model` is not a Keras model with a graph.
        ValueError: If the model is not built, has NaN weights, or has a batch that is
            fixed to more than 1.
    """
    if not isinstance(model, keras.Model):
        if not isinstance(model, keras.layers.Layer):
            require_keras_3(model)
        check_instance("model", model, keras.Model, "a keras.Model")
    if not is_graph(model):
        raise TypeError(
            f"Model '{model.name}' ({type(model).__name__}) is subclassed: its graph, "
            "which decides what runs sparse, is not known. Rebuild it as a Functional "
            "model."
        )
    require_built(model)
    batches = {tensor.shape[0] for tensor in model.inputs} - {None, 1}
    if batches:
        raise ValueError(
            f"The batch of model '{model.name}' is fixed to {max(batches)}. Sparse "
            "convolutions are planned for single samples: build it with "
            "keras.Input(shape, batch_size=1), or leave batch_size out."
        )
    plain = strip(model) if get_masks(model) else model
    require_finite(plain, ". Load weights from before they diverged.")
    return plain


def _zeros(kernel):
    value = keras.ops.convert_to_numpy(kernel)
    return value.size - int(np.count_nonzero(value))


def _planned(model, pointwise, sparsities):
    """Number of zeros by node, for the 1x1 kernels that `sparsities` names."""
    if sparsities is None:
        return {}
    if not isinstance(sparsities, Mapping):
        share = check_sparsity("sparsities", sparsities)
        given = dict.fromkeys(pointwise, share)
    else:
        paths = {id(x): name for name, x in named_weights(model).items()}
        layers = {id(x): part for _, part in every_layer(model) for x in part.weights}
        numbers = {}
        for i, node in pointwise.items():
            numbers.setdefault(paths.get(id(node.kernel), node.name), []).append(i)
        kinds = {
            name: [layers.get(id(pointwise[found[0]].kernel))]
            for name, found in numbers.items()
        }
        given = {}
        for pattern, names in choose("sparsities", sparsities, kinds).items():
            share = check_sparsity(f"sparsities[{pattern!r}]", sparsities[pattern])
            given.update({i: share for name in names for i in numbers[name]})
    return {
        i: round(share * math.prod(pointwise[i].kernel.shape))
        for i, share in given.items()
    }


def _row(i, nodes, zeros, now, runs):
    node = nodes[i]
    share = zeros / math.prod(node.kernel.shape)
    needed = sparse_rules.NEEDED[0] / sparse_rules.NEEDED[1]
    make = functools.partial(
        SparsePlanRow, node.name, node.kind, share, flops=node.flops
    )
    if not node.is_pointwise:
        if node.role != OUTSIDE:
            reason, mend = sparse_rules.NOT_POINTWISE, ""
        elif node.kind == "Dense":
            reason, mend = sparse_rules.DENSE, ""
        else:
            rule = sparse_rules.RULES[node.rule]
            reason, mend = rule.reason, rule.mend
        return make(needed=None, runs_sparse=False, reason=reason, mend=mend)
    if not runs:
        rule = sparse_rules.RULES["target"]
        return make(
            needed=needed, runs_sparse=False, reason=rule.reason, mend=rule.mend
        )
    cause = now.causes.get(i)
    if cause is None:
        return make(needed=needed, runs_sparse=True)
    rule = sparse_rules.RULES[cause.rule]
    where = "" if cause.node in (None, i) else f"at '{nodes[cause.node].name}': "
    return make(
        needed=needed,
        runs_sparse=False,
        reason=f"{where}{rule.reason}",
        mend=rule.mend,
    )


def _cluster(members, nodes, counts, now):
    zeros, size = (
        sum(counts[i][part] for i in members if i in counts) for part in (0, 1)
    )
    names = tuple(nodes[i].name for i in members)
    return SparseCluster(names, zeros / size, members[0] not in now.causes)


def _mend(step, nodes, costs):
    rule = sparse_rules.RULES[step.rule]
    return SparseMend(
        rule.reason,
        rule.mend,
        tuple(nodes[i].name for i in step.nodes),
        tuple(nodes[i].name for i in step.freed),
        None if costs is None else sum(costs[i] for i in step.freed),
    )


def _wrong(nodes, now):
    causes = now.causes.values()
    numbers = {x.node for x in causes if x.rule in sparse_rules.WRONG}
    return tuple(nodes[i].name for i in sorted(numbers - {None}))


def _counted(nodes, zeros, now):
    """Notes about Dense layers that may count among the weights of a cluster.

    By XNNPACK's source, a Dense layer that reads the pooling directly belongs to the
    cluster. The networks that we tried ran sparse nevertheless, so this is not a rule
    here.
    """
    for members in now.clusters:
        if members[0] in now.causes:
            continue
        inside = [i for i in members if nodes[i].is_pointwise]
        heads = [
            i
            for i, node in enumerate(nodes)
            if node.kind == "Dense" and set(node.inputs) & set(members)
        ]
        sizes = {i: math.prod(nodes[i].kernel.shape) for i in (*inside, *heads)}
        share = sum(zeros[i] for i in sizes) / sum(sizes.values())
        if heads and share <= sparse_rules.NEEDED[0] / sparse_rules.NEEDED[1]:
            names = ", ".join(nodes[i].name for i in heads)
            yield (
                f"by XNNPACK's source the zeros of '{names}' may count in its cluster, "
                f"{share:.1%} with it, which is too few. Prune it too, to be sure"
            )


def _notes(model, target):
    notes = [f"{target}: {sparse_rules.TARGETS[target].known}"]
    if target == "web" and any(tensor.shape[0] is None for tensor in model.inputs):
        notes.append(
            "LiteRT.js takes no open batch: build the model with "
            "keras.Input(shape, batch_size=1)"
        )
    return tuple(notes)
