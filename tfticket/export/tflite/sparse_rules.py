"""What XNNPACK requires of a network before it uses zeros, as data.

The rules come from the source of XNNPACK, `xnn_check_nchw_compatibility` and
`xnn_subgraph_rewrite_for_nchw` in `src/subgraph.c`, `xnn_is_chw_compatible_config` in
`src/xnnpack/hardware-config.h` and `src/configs/spmm-config.c`. Other releases may have
other rules: read them again before you change `XNNPACK`.
"""

import dataclasses

# The commit that the rules come from, of 12 February 2026, which LiteRT's build files
# name.
XNNPACK = "9d47c4a7fd08"

# More than this share of all 1x1 weights of a cluster must be zero. It is a numerator
# and a denominator, so that the comparison is exact.
NEEDED = (2, 3)


@dataclasses.dataclass(frozen=True)
class Target:
    """Where a file runs.

    Args:
        runs: Whether sparse convolutions are enabled there.
        known: How that is known.
    """

    runs: bool
    known: str


TARGETS = {
    "arm": Target(
        True, "outputs and instructions known from an emulator, times not measured"
    ),
    "web": Target(True, "measured in one trial of LiteRT.js, WebAssembly with SIMD"),
    "x86": Target(False, "XNNPACK disables the sparse path on processors with AVX"),
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """One thing that prevents a cluster of layers from running sparse.

    Args:
        reason: What prevents it, in plain words.
        mend: How to fix it.
    """

    reason: str
    mend: str


RULES = {
    "target": Rule(
        "the runtime disables its sparse path on x86 with AVX",
        "measure on ARM or in a browser; here, prune whole channels and compact, or "
        "Dense layers in blocks",
    ),
    "zeros": Rule(
        "no more than 2/3 of the cluster's 1x1 weights are zero",
        "prune the 1x1 kernels further, to 80 or 90 %",
    ),
    "begin": Rule(
        "no cluster begins before it: it reads the model's input",
        "begin with a 3x3 convolution of stride 2 on the image of 3 channels, after "
        "ZeroPadding2D(1), padding='valid'",
    ),
    "window": Rule(
        "a convolution that is neither 1x1 nor the first (3x3, stride 2, 3 channels)",
        "write it as a depthwise convolution and a 1x1",
    ),
    "first_strides": Rule(
        "the first convolution, 3x3, must have a stride of 2",
        "strides=2 in the first convolution",
    ),
    "padding": Rule(
        "padding other than half the window on each side, as padding='same' at "
        "stride 2",
        "tfticket.export.sparse_ready(model), which flips the image and the kernels; "
        "or build it with ZeroPadding2D(1), for 5x5 ZeroPadding2D(2), and "
        "padding='valid'",
    ),
    "pointwise_strides": Rule(
        "a 1x1 convolution must have a stride of 1",
        "move the stride to the depthwise convolution before it",
    ),
    "pointwise_padding": Rule(
        "a 1x1 convolution must have no padding",
        "leave the ZeroPadding2D before it out",
    ),
    "groups": Rule("a convolution in groups", "groups=1"),
    "dilation": Rule("a dilated convolution", "dilation_rate=1"),
    "depthwise_window": Rule(
        "a depthwise convolution that is neither 3x3 nor 5x5",
        "a kernel of 3x3 or 5x5",
    ),
    "depthwise_strides": Rule(
        "a depthwise convolution must have a stride of 1 or 2, the same both ways",
        "strides of 1 or 2",
    ),
    "multiplier": Rule(
        "a depthwise convolution with a depth_multiplier", "depth_multiplier=1"
    ),
    "channels_first": Rule(
        "channels come first", "build the model with data_format='channels_last'"
    ),
    "dtype": Rule("it does not compute in float32", "build the model in float32"),
    "rank": Rule(
        "an element-wise operation on other than 4 axes (batch, height, width, "
        "channels)",
        "keep 4 axes, as GlobalAveragePooling2D(keepdims=True) does",
    ),
    "constant": Rule(
        "a sum or product with a constant, which has not 4 axes (hard_sigmoid is one)",
        "tfticket.export.sparse_ready(model), where a convolution stands before or "
        "after it",
    ),
    "normalization": Rule(
        "a normalization that can't be folded into a convolution directly before it",
        "BatchNormalization directly after a convolution without activation",
    ),
    "batch": Rule(
        "a Reshape in an open batch, which stays a separate operation",
        "a batch of 1, keras.Input(shape, batch_size=1), or "
        "tfticket.export.sparse_ready(model)",
    ),
    "operation": Rule(
        "an operation that can't stand in a cluster",
        "1x1 and depthwise convolutions, Add, Multiply and activations only; pooling "
        "by strides, and the global average at the end",
    ),
    "unknown": Rule(
        "not one of Keras's own layers, so its operations in the file are unknown",
        "write it with layers of Keras",
    ),
    "shared": Rule(
        "its output is also read outside the cluster",
        "read it only after the global average pooling, or keep its readers in the "
        "cluster",
    ),
    "output": Rule(
        "an output of the model inside a cluster, which LiteRT answers wrongly in "
        "browsers and on ARM",
        "a model without this output; or a dense file, sparse=False",
    ),
    "broadcast": Rule(
        "a sum of maps of different sizes", "a product, or maps of the same size"
    ),
    "exit": Rule(
        "the cluster must end in a global average pooling, and ends here",
        "GlobalAveragePooling2D, then what follows",
    ),
    "head": Rule(
        "a 1x1 convolution or an element-wise operation on the pixel of the last "
        "global pooling, which LiteRT answers wrongly in browsers and on ARM",
        "tfticket.export.sparse_ready(model), which writes it on one axis and the "
        "convolution as a Dense layer",
    ),
}

# Rules whose violation makes LiteRT.js, and LiteRT on ARM, answer wrongly or fail
# instead of running dense: docs/results/after_cluster.md, docs/results/arm.md.
WRONG = ("head", "output")

# Why kernels other than those of 1x1 convolutions stay dense.
DENSE = (
    "a Dense kernel: faster only if it is pruned in blocks along its inputs, for "
    "single samples (docs/results/litert_matrix.md)"
)
NOT_POINTWISE = "only 1x1 kernels run sparse"
