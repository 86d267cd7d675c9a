"""Counts what is left of the operations of known networks at half of the channels.

    python benchmarks/channels.py
    python benchmarks/channels.py --models=ResNet50,VGG16

Weights are random, and so are biases, betas and moving means, as after training. In
every group of channels that `tfticket.channel_groups` finds and that is not pinned,
half of the units are set to zero in all weights; `tfticket.export.compact` removes
them. The operations are those of `Compacted`: two for each weight and place. Beside
them stand the figures that Torch-Pruning 1.6.1 has on torchvision's model of the same
name (of EfficientNetV2 on V2-S) at `pruning_ratio=0.5`, quoted, not run here.

The difference is the largest one between outputs of the model with zeros and of the
smaller one, over the largest output.
"""

import os
import time

from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

# Share of the operations that Torch-Pruning leaves.
TORCH_PRUNING = {
    "ResNet50": 0.260,
    "MobileNetV2": 0.294,
    "MobileNetV3Small": 0.330,
    "EfficientNetV2B0": 0.256,
    "DenseNet121": 0.265,
    "ConvNeXtTiny": 0.258,
    "VGG16": 0.252,
}
APPLICATIONS = (
    *("VGG16", "ResNet50", "ResNet50V2", "MobileNet", "MobileNetV2"),
    *("MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "DenseNet121"),
    *("InceptionV3", "Xception", "NASNetMobile", "ConvNeXtTiny"),
)
TRANSFORMERS = ("ViT", "BERT", "GPT")

_MODELS = flags.DEFINE_list("models", [*APPLICATIONS, *TRANSFORMERS], "Which models.")
_SIZE = flags.DEFINE_integer("size", 224, "Pixels of an image's side.", 32)


def application(name: str):
    import keras

    shape = (_SIZE.value, _SIZE.value, 3)
    return getattr(keras.applications, name)(weights=None, input_shape=shape)


def block(x, width, heads, causal=False):
    """A transformer's block: attention and a feed-forward layer, both residual."""
    from keras import layers

    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(heads, width // heads)(y, y, use_causal_mask=causal)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(4 * width, activation="gelu")(y)
    return layers.Add()([x, layers.Dense(width)(y)])


def transformer(name: str, width=192, heads=4, depth=4, length=64, words=1000):
    import keras
    from keras import layers

    if name == "ViT":
        inputs = keras.Input((64, 64, 3))
        x = layers.Conv2D(width, 8, strides=8)(inputs)
        x = layers.Reshape((length, width))(x)
    else:
        inputs = keras.Input((length,), dtype="int32")
        places = keras.ops.cumsum(keras.ops.ones_like(inputs), axis=1) - 1
        x = layers.Embedding(words, width)(inputs)
        x = layers.Add()([x, layers.Embedding(length, width)(places)])
    for _ in range(depth):
        x = block(x, width, heads, causal=name == "GPT")
    x = layers.LayerNormalization()(x)
    if name == "GPT":
        return keras.Model(inputs, layers.Dense(words)(x), name=name)
    x = x[:, 0] if name == "BERT" else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(10)(x), name=name)


def make_random(model, random):
    """Gives every weight a value as after training, none of which is zero."""
    import numpy as np

    for weight in model.weights:
        value = np.array(weight)
        if "variance" in weight.name:
            value = random.uniform(0.5, 1.5, value.shape)
        elif "gamma" in weight.name or "scale" in weight.name:
            value = random.uniform(0.5, 1.0, value.shape)
        elif value.ndim < 2:
            value = random.normal(0, 0.1, value.shape)
        weight.assign(value)


def cut_in_half(model, groups, random):
    """Zeroes half of the units of every group that is not pinned."""
    import numpy as np

    kept = {}
    for name, group in groups.free.items():
        flags = np.ones(group.size, bool)
        flags[random.permutation(group.size)[: group.size // 2]] = False
        kept[name] = flags
    masks = groups.masks(kept)
    variables = {x.path: x.variable for g in groups.values() for x in g.members}
    for path, mask in masks.items():
        variables[path].assign(np.where(mask, np.array(variables[path]), 0))
    return {name: int(flags.sum()) for name, flags in kept.items()}


def measure(name: str) -> dict:
    import numpy as np

    import tfticket

    random = np.random.default_rng(0)
    model = transformer(name) if name in TRANSFORMERS else application(name)
    make_random(model, random)
    start = time.perf_counter()
    groups = tfticket.channel_groups(model)
    found = time.perf_counter()
    left = cut_in_half(model, groups, random)
    cut = time.perf_counter()
    result = tfticket.export.compact(model)
    done = time.perf_counter()
    shape = (1, *model.input_shape[1:])
    tokens = model.inputs[0].dtype == "int32"
    x = random.integers(0, 1000, shape) if tokens else random.normal(size=shape)
    before, after = (np.array(f(x, training=False)) for f in (model, result.model))
    return {
        "groups": len(groups.free),
        "pinned": len(groups) - len(groups.free),
        "left": result.flops_after / result.flops_before,
        "foretold": groups.operations(left) / groups.operations(),
        "find": found - start,
        "compact": done - cut,
        "difference": float(np.abs(before - after).max() / np.abs(before).max()),
        "barriers": [x.name for x in result.layers if x.left],
    }


def main(_):
    print(
        "| model | groups | left | foretold | Torch-Pruning | over it | groups s "
        "| compact s | difference |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name in _MODELS.value:
        row = measure(name)
        quoted = TORCH_PRUNING.get(name)
        print(
            f"| {name} | {row['groups']} | {row['left']:.3f} | {row['foretold']:.3f} | "
            + (f"{quoted:.3f} | {row['left'] / quoted:.3f}x" if quoted else "- | -")
            + f" | {row['find']:.1f} | {row['compact']:.1f} "
            f"| {row['difference']:.0e} |",
            flush=True,
        )
        if row["barriers"]:
            print(f"  left alone: {row['barriers']}", flush=True)


if __name__ == "__main__":
    app.run(main)
