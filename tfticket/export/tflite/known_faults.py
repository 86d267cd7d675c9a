"""The known faults of LiteRT with sparse weights, as data.

`scripts/litert_matrix.py` runs every combination and reports where the installed
versions differ from these rules; `docs/results/litert_matrix.md` has its results.
"""

import dataclasses
from collections.abc import Iterable, Mapping

from tfticket.export.tflite.reader import EncodedWeight

# XNNPACK is what an interpreter uses unless told not to; "builtin" are the kernels
# behind it, which also run where XNNPACK is left out of the build.
RUNTIMES = ("xnnpack", "builtin")

# The versions that the rules were found with. They claim nothing about other releases.
MADE_FOR = {"tensorflow": "2.21", "ai-edge-litert": "2.3"}

_DENSE = "sparse=False (the fastest)"


@dataclasses.dataclass(frozen=True)
class Rule:
    """One way in which a sparse weight goes wrong.

    Args:
        outcomes: Maps a runtime to what happens there: "wrong" (a wrong answer or NaN,
            without an error) or "fails" (the file does not load).
        reason: What happens, for the error.
        instead: What to do instead.
        types: Types of stored weights that the rule applies to.
        blocks: Lengths of blocks, 1 for unstructured.
        quantizations: Quantizations of the whole file.
        operations: The operations that use the weight; empty for all.
        undivided: Whether it applies only if the block does not divide the weight's
            inputs.
    """

    outcomes: Mapping[str, str]
    reason: str
    instead: str
    types: tuple[str, ...]
    blocks: tuple[int, ...]
    quantizations: tuple[str | None, ...] = (None, "float16", "dynamic", "int8")
    operations: tuple[str, ...] = ()
    undivided: bool = False

    def applies(self, weight: EncodedWeight, quantization: str | None) -> bool:
        return (
            weight.type in self.types
            and weight.block in self.blocks
            and quantization in self.quantizations
            and (not self.operations or weight.operation in self.operations)
            and (not self.undivided or weight.width % weight.block != 0)
        )


_WRONG = dict.fromkeys(RUNTIMES, "wrong")

RULES = (
    Rule(
        _WRONG,
        "float16 blocks are unpacked as if they were dense, which gives NaN",
        "quantization=None, where 1x4 blocks are right, or sparse=False",
        types=("float16",),
        blocks=(4, 16),
    ),
    Rule(
        _WRONG,
        "rows that no whole number of blocks fills are read wrongly",
        f"layers whose inputs are a multiple of the block, or {_DENSE}",
        types=("float32", "int8"),
        blocks=(4, 16),
        undivided=True,
    ),
    Rule(
        {"xnnpack": "wrong"},
        "XNNPACK reads the blocks of a dynamic-range file as if they were dense, past "
        "their end, and gives noise or NaN",
        f"{_DENSE}, quantization='int8', or runtimes=['builtin'] if nothing that runs "
        "the file has XNNPACK",
        types=("int8",),
        blocks=(4, 16),
        quantizations=("dynamic",),
    ),
    Rule(
        {"xnnpack": "fails"},
        "XNNPACK can't prepare a layer whose int8 weights are unpacked first",
        f"{_DENSE}, quantization='float16', or runtimes=['builtin'] if nothing that "
        "runs the file has XNNPACK",
        types=("int8",),
        blocks=(1,),
        operations=("FULLY_CONNECTED",),
    ),
    Rule(
        {"xnnpack": "fails"},
        "XNNPACK can't prepare a convolution of a dynamic-range file whose int8 "
        "weights are unpacked first",
        f"{_DENSE}, quantization='int8' or 'float16', or runtimes=['builtin'] if "
        "nothing that runs the file has XNNPACK",
        types=("int8",),
        blocks=(1,),
        quantizations=("dynamic",),
        operations=("CONV_2D",),
    ),
)


@dataclasses.dataclass(frozen=True)
class Finding:
    """A weight of a file, and the rule that applies to it."""

    weight: EncodedWeight
    rule: Rule


def known(versions: Mapping[str, str]) -> bool:
    """Whether the rules were found with these versions, apart from patch releases.

    >>> tfticket.export.tflite.known_faults.known({"tensorflow": "2.21.3"})
    True
    """
    return all(
        ".".join(version.split(".")[:2]) == MADE_FOR.get(name)
        for name, version in versions.items()
    )


def findings(
    weights: Iterable[EncodedWeight], quantization: str | None
) -> list[Finding]:
    """Which of a file's sparse weights are known to go wrong, and how."""
    return [
        Finding(weight, rule)
        for weight in weights
        for rule in RULES
        if rule.applies(weight, quantization)
    ]


def outcomes(found: Iterable[Finding]) -> dict[str, str]:
    """Maps a runtime to "works", "wrong" or "fails" for a file with these findings."""
    # A file that does not load can't give a wrong answer.
    severity = ["works", "wrong", "fails"]
    result = dict.fromkeys(RUNTIMES, "works")
    for finding in found:
        for runtime, outcome in finding.rule.outcomes.items():
            result[runtime] = max(result[runtime], outcome, key=severity.index)
    return result
