"""Measures what pruning whole channels leaves of known networks, and how fast it is.

    python benchmarks/channels.py                       # all of it, then the page
    python benchmarks/channels.py --what=half --models=ResNet50,VGG16
    python benchmarks/channels.py --what=latency
    python benchmarks/channels.py --what=page           # from the figures of before

Torch-Pruning runs in an environment of its own (`pip install torch torchvision
torch-pruning==1.6.1 absl-py`), on torchvision's model of the same architecture:

    python benchmarks/channels.py --what=torch

Each part puts its figures into `docs/results/channels/figures.csv`, a row for each
model, tool and figure; `--what=page` writes `docs/results/channels.md` from that file.

half: Weights are random, and so are biases, betas and moving means, as after training.
`tfticket.prune(model, structure=Channel())`, `sparsify(model, 0.5)` and
`export.compact` are timed together. Operations are those of `Compacted`: two for each
weight and place, and the products inside attention. The difference is the largest one
between outputs of the model with zeros and of the smaller one, over the largest output.
flops: `tfticket.channel_plan(model, flops=0.5)` is timed, and what it foretells is
compared with what `sparsify(model, flops=0.5)` and `compact` leave.
latency: dense and compact models as SavedModel and float32 LiteRT, at batch 1, called
in turns on one thread; the ratios are taken turn by turn.
"""

import csv
import os
import pathlib
import statistics
import subprocess
import sys
import tempfile
import time

import channels_page
from absl import app, flags

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

APPLICATIONS = (
    *("VGG16", "ResNet50", "ResNet50V2", "MobileNet", "MobileNetV2"),
    *("MobileNetV3Small", "EfficientNetB0", "EfficientNetV2B0", "DenseNet121"),
    *("InceptionV3", "Xception", "NASNetMobile", "ConvNeXtTiny"),
)
TRANSFORMERS = ("ViT", "BERT", "GPT")
# Names of torchvision's models. It has no EfficientNetV2-B0; V2-S is the nearest.
TORCH = {
    "VGG16": "vgg16",
    "ResNet50": "resnet50",
    "MobileNetV2": "mobilenet_v2",
    "MobileNetV3Small": "mobilenet_v3_small",
    "EfficientNetB0": "efficientnet_b0",
    "EfficientNetV2B0": "efficientnet_v2_s",
    "DenseNet121": "densenet121",
    "InceptionV3": "inception_v3",
    "ConvNeXtTiny": "convnext_tiny",
}
LATENCY = ("ResNet50", "MobileNetV2", "EfficientNetV2B0")
# A transformer's sizes.
WIDTH, HEADS, DEPTH, LENGTH, WORDS, CLASSES = 192, 4, 4, 64, 1000, 10

_WHAT = flags.DEFINE_multi_enum(
    "what",
    ["half", "flops", "latency", "page"],
    ["half", "flops", "latency", "torch", "page"],
    "Which parts to run.",
)
_MODELS = flags.DEFINE_list("models", [*APPLICATIONS, *TRANSFORMERS], "Which models.")
_SIZE = flags.DEFINE_integer("size", 224, "Pixels of an image's side.", 32)
_REPEATS = flags.DEFINE_integer("repeats", 21, "Timed turns of each file.", 1)
_OUT = flags.DEFINE_string("out", "docs/results", "Folder of the page.")
_INSIDE = flags.DEFINE_bool("inside", False, "Measure in this process, not in others.")


# Models.


def application(name: str):
    import keras

    shape = (_SIZE.value, _SIZE.value, 3)
    return getattr(keras.applications, name)(weights=None, input_shape=shape)


def block(x, causal=False):
    """A transformer's block: attention and a feed-forward layer, both residual."""
    from keras import layers

    y = layers.LayerNormalization()(x)
    y = layers.MultiHeadAttention(HEADS, WIDTH // HEADS)(y, y, use_causal_mask=causal)
    x = layers.Add()([x, y])
    y = layers.LayerNormalization()(x)
    y = layers.Dense(4 * WIDTH, activation="gelu")(y)
    return layers.Add()([x, layers.Dense(WIDTH)(y)])


def transformer(name: str):
    import keras
    from keras import layers

    if name == "ViT":
        inputs = keras.Input((64, 64, 3))
        x = layers.Conv2D(WIDTH, 8, strides=8)(inputs)
        x = layers.Reshape((LENGTH, WIDTH))(x)
    else:
        inputs = keras.Input((LENGTH,), dtype="int32")
        places = keras.ops.cumsum(keras.ops.ones_like(inputs), axis=1) - 1
        x = layers.Embedding(WORDS, WIDTH)(inputs)
        x = layers.Add()([x, layers.Embedding(LENGTH, WIDTH)(places)])
    for _ in range(DEPTH):
        x = block(x, causal=name == "GPT")
    x = layers.LayerNormalization()(x)
    if name == "GPT":
        return keras.Model(inputs, layers.Dense(WORDS)(x), name=name)
    x = x[:, 0] if name == "BERT" else layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(CLASSES)(x), name=name)


def build(name: str):
    """A model whose weights have values as after training, none of them zero."""
    import numpy as np

    model = transformer(name) if name in TRANSFORMERS else application(name)
    random = np.random.default_rng(0)
    for weight in model.weights:
        value = np.array(weight)
        if "variance" in weight.name:
            value = random.uniform(0.5, 1.5, value.shape)
        elif "gamma" in weight.name or "scale" in weight.name:
            value = random.uniform(0.5, 1.0, value.shape)
        elif value.ndim < 2:
            value = random.normal(0, 0.1, value.shape)
        weight.assign(value)
    return model


# Parts.


def half(name: str) -> dict[str, float]:
    """What half of the channels leaves."""
    import numpy as np

    import tfticket

    model = build(name)
    start = time.perf_counter()
    wrapped = tfticket.prune(model, structure=tfticket.structures.Channel())
    tfticket.sparsify(wrapped, 0.5)
    result = tfticket.export.compact(wrapped)
    seconds = time.perf_counter() - start
    random = np.random.default_rng(1)
    shape = (1, *model.input_shape[1:])
    tokens = model.inputs[0].dtype == "int32"
    x = random.integers(0, WORDS, shape) if tokens else random.normal(size=shape)
    before, after = (np.array(f(x, training=False)) for f in (wrapped, result.model))
    for row in result.layers:
        if row.left:
            print(f"  {name}: '{row.name}' {row.left}", flush=True)
    return {
        "operations": result.flops_before,
        "left": result.flops_after / result.flops_before,
        "parameters left": result.parameters_after / result.parameters_before,
        "difference": float(np.abs(before - after).max() / np.abs(before).max()),
        "seconds": seconds,
        "left alone": sum(1 for row in result.layers if row.left),
    }


def target(name: str) -> dict[str, float]:
    """What `flops=0.5` comes to."""
    import tfticket

    model = build(name)
    start = time.perf_counter()
    plan = tfticket.channel_plan(model, flops=0.5)
    seconds = time.perf_counter() - start
    wrapped = tfticket.prune(model, structure=tfticket.structures.Channel())
    tfticket.sparsify(wrapped, flops=0.5)
    result = tfticket.export.compact(wrapped)
    return {
        "target sparsity": plan.sparsity,
        "target foretold": plan.flops[1] / plan.flops[0],
        "target left": result.flops_after / result.flops_before,
        "target seconds": seconds,
    }


def latency(name: str) -> dict[str, float]:
    """Milliseconds and ratios of a call with one sample, before and after."""
    import numpy as np
    import tensorflow as tf

    import tfticket
    from tfticket.export.checking.timing import runner, timed

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    dense = build(name)
    wrapped = tfticket.prune(dense, structure=tfticket.structures.Channel())
    tfticket.sparsify(wrapped, 0.5)
    models = {"dense": dense, "compact": tfticket.export.compact(wrapped).model}
    x = np.random.default_rng(1).normal(size=(1, *dense.input_shape[1:]))
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        for form, suffix in (("litert", ".tflite"), ("saved_model", "")):
            write = getattr(tfticket.export, form)
            runs = {
                key: runner(write(model, pathlib.Path(folder, key + suffix)).path)
                for key, model in models.items()
            }
            times = timed(runs, {"x": x.astype("float32")}, _REPEATS.value)
            ratios = np.divide(times["compact"], times["dense"])
            for part, value in zip(
                channels_page.PARTS, np.quantile(ratios, [0.25, 0.5, 0.75]), strict=True
            ):
                found[f"{form} {part}"] = float(value)
            for key, taken in times.items():
                found[f"{form} {key} ms"] = 1e3 * statistics.median(taken)
    return found


def torch_half(name: str) -> dict[str, float]:
    """What Torch-Pruning leaves at `pruning_ratio=0.5`."""
    import torch
    import torch_pruning

    torch.set_num_threads(1)  # more only wait for each other
    torch.manual_seed(0)
    model, x, own = torch_model(name)
    last = [m for m in model.modules() if isinstance(m, torch.nn.Linear)][-1]
    start = time.perf_counter()
    before, _ = torch_pruning.utils.count_ops_and_params(model, x)
    pruner = torch_pruning.pruner.MetaPruner(
        model,
        x,
        importance=torch_pruning.importance.MagnitudeImportance(p=2),
        pruning_ratio=0.5,
        ignored_layers=[last],
        unwrapped_parameters=own or None,
        # The width of attention is shared out to heads.
        round_to=HEADS if name in TRANSFORMERS else None,
    )
    pruner.step()
    if name == "ViT":
        model.hidden_dim = model.conv_proj.out_channels
    seconds = time.perf_counter() - start
    after, _ = torch_pruning.utils.count_ops_and_params(model, x)
    with torch.no_grad():
        model(x)
    return {"operations": 2 * before, "left": after / before, "seconds": seconds}


def torch_model(name: str):
    """A model, a batch for it, and parameters of no module with their channel axis."""
    import torch
    import torchvision
    from torchvision.models import vision_transformer

    if name not in TRANSFORMERS:
        more = {"init_weights": False} if name == "InceptionV3" else {}
        model = getattr(torchvision.models, TORCH[name])(weights=None, **more).eval()
        scales = [
            (m.layer_scale, 0) for m in model.modules() if hasattr(m, "layer_scale")
        ]
        return model, torch.randn(1, 3, _SIZE.value, _SIZE.value), scales
    if name == "ViT":
        model = vision_transformer.VisionTransformer(
            64, 8, DEPTH, HEADS, WIDTH, 4 * WIDTH, num_classes=CLASSES
        ).eval()
        own = [(model.class_token, 2), (model.encoder.pos_embedding, 2)]
        return model, torch.randn(1, 3, 64, 64), own

    class Text(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.words = torch.nn.Embedding(WORDS, WIDTH)
            self.places = torch.nn.Embedding(LENGTH, WIDTH)
            self.blocks = torch.nn.Sequential(
                *(
                    vision_transformer.EncoderBlock(HEADS, WIDTH, 4 * WIDTH, 0.0, 0.0)
                    for _ in range(DEPTH)
                )
            )
            self.norm = torch.nn.LayerNorm(WIDTH)
            self.head = torch.nn.Linear(WIDTH, WORDS if name == "GPT" else CLASSES)

        def forward(self, x):
            x = self.words(x) + self.places(torch.arange(LENGTH)[None])
            x = self.norm(self.blocks(x))
            return self.head(x if name == "GPT" else x[:, 0])

    return Text().eval(), torch.randint(0, WORDS, (1, LENGTH)), []


# Figures, and the page.


def folder() -> pathlib.Path:
    path = pathlib.Path(_OUT.value, "channels")
    path.mkdir(parents=True, exist_ok=True)
    return path


def read() -> dict[tuple[str, str, str], float]:
    """Figures by model, tool and name."""
    path = folder() / "figures.csv"
    if not path.exists():
        return {}
    with path.open(newline="") as file:
        rows = csv.DictReader(file)
        return {(r["model"], r["tool"], r["figure"]): float(r["value"]) for r in rows}


def note(model: str, tool: str, figures: dict[str, float]) -> None:
    """Puts figures into the file, in place of those of before."""
    found = read() | {(model, tool, key): value for key, value in figures.items()}
    order = [*APPLICATIONS, *TRANSFORMERS]
    rows = sorted(found.items(), key=lambda x: (order.index(x[0][0]), *x[0][1:]))
    with (folder() / "figures.csv").open("w", newline="") as file:
        write = csv.writer(file, lineterminator="\n")
        write.writerow(["model", "tool", "figure", "value"])
        write.writerows((*key, f"{value:.6g}") for key, value in rows)


MEASURES = {
    "half": (half, "tfticket"),
    "flops": (target, "tfticket"),
    "latency": (latency, "tfticket"),
    "torch": (torch_half, "Torch-Pruning"),
}


def each(part: str) -> None:
    """Measures one part of each model, each in a process by itself."""
    names = [name for name in _MODELS.value if part != "latency" or name in LATENCY]
    if part == "torch":
        names = [name for name in names if name in {*TORCH, *TRANSFORMERS}]
    run, tool = MEASURES[part]
    for name in names:
        if _INSIDE.value:
            note(name, tool, run(name))
            continue
        command = [sys.executable, __file__, "--inside", f"--what={part}"]
        command += [f"--models={name}", f"--size={_SIZE.value}", f"--out={_OUT.value}"]
        done = subprocess.run(
            [*command, f"--repeats={_REPEATS.value}"], text=True, capture_output=True
        )
        if done.returncode:
            print(f"{name}, {part}: failed\n{done.stderr[-1500:]}", flush=True)
            continue
        print(done.stdout, end="")
        figures = {k[2]: v for k, v in read().items() if k[:2] == (name, tool)}
        print(f"{name}, {part}: {figures}", flush=True)


def main(_):
    for part in _WHAT.value:
        if part == "page":
            names = (*APPLICATIONS, *TRANSFORMERS)
            channels_page.write(read(), names, pathlib.Path(_OUT.value))
        else:
            each(part)


if __name__ == "__main__":
    app.run(main)
