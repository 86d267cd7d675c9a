"""A small GPT on bytes of Python's documentation: made, trained, and its perplexity."""

import math
import pathlib

import keras
import minilm
import numpy as np
from keras import layers, ops

CONTEXT, WIDTH, HEADS, DEPTH = 128, 160, 5, 4
# The last part of the texts is held out.
_HELD_OUT = 0.1


def text() -> tuple[np.ndarray, np.ndarray]:
    """Bytes to train on, and bytes that are held out."""
    # Shuffled by file, since the kinds of text follow each other.
    parts = sorted(minilm.texts())
    order = np.random.default_rng(0).permutation(len(parts))
    found = "\n\n".join(parts[i] for i in order).encode("ascii", "ignore")
    data = np.frombuffer(found, np.uint8)
    size = int(len(data) * (1 - _HELD_OUT))
    return data[:size], data[size:]


def windows(data: np.ndarray, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """So many pieces of a context's length, and the bytes that follow each."""
    starts = np.random.default_rng(seed).integers(len(data) - CONTEXT - 1, size=count)
    found = np.stack([data[i : i + CONTEXT + 1] for i in starts]).astype(np.int32)
    return found[:, :-1], found[:, 1:]


def network() -> keras.Model:
    """The untrained network: bytes to logits of the next byte, at every place."""
    given = keras.Input((CONTEXT,), dtype="int32", name="bytes")
    x = layers.Embedding(256, WIDTH, name="tokens")(given)
    x = x + layers.Embedding(CONTEXT, WIDTH, name="places")(
        ops.arange(CONTEXT, dtype="int32")
    )
    for i in range(DEPTH):
        y = layers.LayerNormalization(name=f"attention_norm_{i}")(x)
        y = layers.MultiHeadAttention(HEADS, WIDTH // HEADS, name=f"attention_{i}")(
            y, y, use_causal_mask=True
        )
        x = x + y
        y = layers.LayerNormalization(name=f"norm_{i}")(x)
        y = layers.Dense(4 * WIDTH, activation="gelu", name=f"up_{i}")(y)
        x = x + layers.Dense(WIDTH, name=f"down_{i}")(y)
    x = layers.LayerNormalization(name="norm")(x)
    return keras.Model(given, layers.Dense(256, name="logits")(x), name="gpt")


def trained(path: pathlib.Path, steps: int, batch: int = 24) -> keras.Model:
    """The network of that file, trained first and saved there if there is none."""
    if path.exists():
        return keras.models.load_model(path)
    keras.utils.set_random_seed(0)
    model = network()
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=2e-3, warmup_steps=steps // 20
    )
    model.compile(
        keras.optimizers.AdamW(rate, weight_decay=0.01, global_clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        jit_compile=False,
    )
    data, _ = text()
    x, y = windows(data, steps * batch, 0)
    model.fit(x, y, batch_size=batch, verbose=2)
    path.parent.mkdir(parents=True, exist_ok=True)
    model.save(path)
    return model


def perplexity(model: keras.Model, x: np.ndarray, y: np.ndarray) -> float:
    """e to the mean loss of the next byte."""
    losses = []
    for start in range(0, len(x), 32):
        part = slice(start, start + 32)
        logits = model(x[part], training=False)
        each = keras.losses.sparse_categorical_crossentropy(
            y[part], logits, from_logits=True
        )
        losses.append(keras.ops.convert_to_numpy(each).ravel())
    return math.exp(float(np.concatenate(losses).mean(dtype=np.float64)))
