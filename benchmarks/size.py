"""Weighs the pruning of a model of 10^8 weights: memory at its peak, and seconds.

    python benchmarks/size.py
    KERAS_BACKEND=jax python benchmarks/size.py --layers=16

Square Dense layers without biases, and plain SGD, which has no slots. Each
way to wrap runs in a process of its own: layers wrapped as they are made
(`tfticket.Prune(layer)`), and a copy by `tfticket.prune(model)`, after which the model
it was made of is let go. Then all layers are pruned by one cut: by `sparsify`, and by
`GradualPruning` to two sparsities more, whose second pruning runs what the first
compiled. Nothing is trained.

Memory is the process's resident memory, as Linux counts it: at its peak within each
step, and after it, less the baseline, in multiples of the weights' bytes. The baseline
is taken when everything is imported and a small model has been pruned. So the weights
count 1 and the masks 0.25, and what TensorFlow keeps of freed tensors for later ones
counts wherever it lies.
"""

import gc
import json
import math
import os
import pathlib
import time

from absl import app, flags
from timing import in_a_process

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

MOST_MEMORY = 3.0
WAYS = ("layers", "model")
SPARSITIES = (0.9, 0.95, 0.97)
SMALL = 200_000

_WEIGHTS = flags.DEFINE_integer("weights", 10**8, "Weights of the model.", 1000)
_LAYERS = flags.DEFINE_integer("layers", 4, "Layers that they are in.", 1)
_SCOPE = flags.DEFINE_enum(
    "scope", "global", ["global", "layerwise"], "What is cut together."
)
_WAY = flags.DEFINE_enum("way", None, WAYS, "One way only, in this process.")


def status(key: str) -> int:
    """A line of /proc/self/status in bytes: VmRSS is now, VmHWM the peak."""
    lines = pathlib.Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(key)).split()[1]) * 1024


def reset_peak() -> None:
    pathlib.Path("/proc/self/clear_refs").write_text("5")


def wrapped(way: str, weights: int, layers: int):
    import keras

    import tfticket

    side = math.isqrt(weights // layers)
    dense = [keras.layers.Dense(side, use_bias=False) for _ in range(layers)]
    if way == "layers":
        dense = [tfticket.Prune(layer) for layer in dense]
    model = keras.Sequential([keras.Input((side,)), *dense])
    if way == "model":
        model = tfticket.prune(model)
    model.compile("sgd", "mse")
    return model


def steps_of(way: str, weights: int, layers: int):
    """Name and function of each step, in the order they are done in."""
    import tfticket

    made = []

    def make():
        made.append(wrapped(way, weights, layers))

    def sparsify():
        tfticket.sparsify(made[0], SPARSITIES[0], scope=_SCOPE.value)

    def gradual(sparsity):
        schedule = tfticket.schedules.ConstantSparsity(sparsity, 0)
        callback = tfticket.GradualPruning(schedule, scope=_SCOPE.value)
        callback.set_model(made[0])
        callback.on_train_begin()
        callback.on_train_batch_begin(0)

    def check():
        masks = tfticket.get_masks(made[0]).values()
        size, kept = (sum(int(f(m)) for m in masks) for f in (lambda m: m.size, sum_of))
        wanted = size - round(size * SPARSITIES[-1])
        if abs(kept - wanted) > (0 if _SCOPE.value == "global" else layers):
            raise RuntimeError(f"{kept} weights are kept, not {wanted}.")

    yield "made and wrapped", make
    yield f"sparsify to {SPARSITIES[0]}", sparsify
    for sparsity in SPARSITIES[1:]:
        yield (
            f"GradualPruning to {sparsity}",
            lambda sparsity=sparsity: gradual(sparsity),
        )
    yield "masks counted", check


def sum_of(mask):
    return mask.sum()


def child(way: str) -> None:
    """Does all steps of one way in this process, and prints what each took."""
    for _, step in steps_of(way, SMALL, _LAYERS.value):
        step()
    gc.collect()
    size = math.isqrt(_WEIGHTS.value // _LAYERS.value) ** 2 * _LAYERS.value
    baseline, bytes_ = status("VmRSS"), 4 * size
    rows = []
    for name, step in steps_of(way, _WEIGHTS.value, _LAYERS.value):
        reset_peak()
        start = time.perf_counter()
        step()
        seconds = time.perf_counter() - start
        peak = (status("VmHWM") - baseline) / bytes_
        gc.collect()
        after = (status("VmRSS") - baseline) / bytes_
        rows.append({"step": name, "s": seconds, "peak": peak, "after": after})
    print(json.dumps({"baseline": baseline, "size": size, "rows": rows}))


def main(_) -> None:
    if not pathlib.Path("/proc/self/clear_refs").exists():
        raise SystemExit("Peaks are read as Linux tells them, and this is no Linux.")
    if _WAY.value:
        child(_WAY.value)
        return
    titles = {
        "layers": "Layers wrapped as they are made",
        "model": "A copy by tfticket.prune, its model let go",
    }
    for way in WAYS:
        found = in_a_process(__file__, way, _WEIGHTS, _LAYERS, _SCOPE)
        mib = found["size"] * 4 / 2**20
        print(f"\n{titles[way]}: {found['size']:,} float32 weights, {mib:,.0f} MiB,")
        print(
            f"in {_LAYERS.value} layers; baseline {found['baseline'] / 2**20:,.0f} MiB"
        )
        print(f"  {'':26}{'s':>7}{'peak':>9}{'after':>9}")
        for row in found["rows"]:
            memory = f"{row['peak']:8.2f}x{row['after']:8.2f}x"
            print(f"  {row['step']:26}{row['s']:7.2f}{memory}")
        if way == "layers":
            peak = max(row["peak"] for row in found["rows"][1:-1])
            outcome = "pass" if peak <= MOST_MEMORY else "FAIL"
            print(f"  {outcome}: peak while pruning {peak:.2f}, at most {MOST_MEMORY}")


if __name__ == "__main__":
    app.run(main)
