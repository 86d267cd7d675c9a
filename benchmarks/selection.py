"""Times a mask update, from weights to a mask: tfticket, NumPy, TF-MOT, torch.

    pip install '.[tfmot]' torch
    python benchmarks/selection.py
    python benchmarks/selection.py --sizes=10000,2360000 --repeats=51 --global_size=0
    python benchmarks/selection.py --limit_s=60 --json=selection.json

Weights are float32 and normal, and a fifth of them is kept. What is timed:

tfticket: |w| and the mask, of exactly that size, by `keep_largest`.
np.partition, np.sort: |w|, the threshold by that function, `|w| >= threshold`; many
    tensors are concatenated first.
np.partition alone: the function only, of |w| that is there already: the yardstick.
TF-MOT: `Pruning.conditional_mask_update` in a `tf.function`, which is how its layers
    update a mask in training, at a step at which the schedule says so. It assigns
    the mask, floats, to a variable. It has no choice among several tensors jointly.
torch: `prune.l1_unstructured` of a fresh module, or `prune.global_unstructured`.
    It multiplies the weight by the mask as well, which can't be left out.

NumPy and tfticket share a process; TF-MOT, whose import turns tf.keras into tf_keras,
and torch have one each, and only one is ever busy. Each repeat times all contenders
once, in an order that the next one reverses; the table gives medians with quartiles,
and medians of the ratios within repeats. A contender that by its time at the size
before would take longer than `--limit_s` a call is left out and named; one that does
take longer is not called again.

Memory is the peak of what one call allocates over what was there before, as a multiple
of the weights' bytes: for NumPy and tfticket by tracemalloc, in a call that is not
timed; for the others, which keep what they once had, by the growth of resident memory
in the first call of a new process, on Linux and from 10 million weights on, below which
it says little.
"""

import importlib.util
import json
import math
import os
import pathlib
import statistics
import subprocess
import sys
import time
import tracemalloc
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from absl import app, flags

DENSITY = 0.2
TENSORS = 20
LEAST_RSS_SIZE = 10**7
ROW_BUDGET_S = 60
QUARTILES = [0.25, 0.5, 0.75]
BASE = "tfticket"
YARDSTICK = "np.partition alone"
PEERS = {
    "tf_keras": ("tensorflow_model_optimization", "TF-MOT", "pip install '.[tfmot]'"),
    "torch": ("torch", "torch", "pip install torch"),
}

_SIZES = flags.DEFINE_list(
    "sizes",
    ["10000", "100000", "1000000", "2360000", "10000000", "100000000"],
    "Numbers of weights in a tensor, ascending.",
)
_GLOBAL = flags.DEFINE_integer(
    "global_size", 10**8, f"Weights in {TENSORS} tensors pruned jointly; 0: none.", 0
)
_REPEATS = flags.DEFINE_integer(
    "repeats", 21, "Calls of each; fewer, but 3, where a size takes minutes.", 3
)
_LIMIT = flags.DEFINE_float("limit_s", 10, "Longest call that is waited for.", 0)
_JSON = flags.DEFINE_string("json", None, "File to write every time to.")
_WORKER = flags.DEFINE_enum("worker", None, ["numpy", *PEERS], "Internal.")


class Contender(NamedTuple):
    """`run(prepare())` is timed; `kept` counts what its result keeps."""

    run: Callable[[Any], Any]
    kept: Callable[[Any], int]
    prepare: Callable[[], Any] = lambda: None


def keep_count(weights: list[np.ndarray]) -> int:
    size = sum(w.size for w in weights)
    return size - round(size * (1 - DENSITY))


def numpy_contenders(weights: list[np.ndarray]) -> dict[str, Contender]:
    from tfticket.sparsity.criteria import magnitude
    from tfticket.sparsity.topk import keep_largest

    keep = keep_count(weights)

    def tfticket(_):
        if len(weights) == 1:
            return keep_largest([magnitude(weights[0])], keep)
        return keep_largest([magnitude(w) for w in weights], keep)

    def magnitudes():
        scores = [np.abs(w) for w in weights]
        return scores, scores[0] if len(scores) == 1 else np.concatenate(scores)

    def partition(_):
        scores, joined = magnitudes()
        cut = joined.size - keep
        threshold = np.partition(joined, cut)[cut]
        return [part >= threshold for part in scores]

    def sort(_):
        scores, joined = magnitudes()
        threshold = np.sort(joined)[-keep]
        return [part >= threshold for part in scores]

    ready = magnitudes()[1]

    def alone(_):
        return np.partition(ready, ready.size - keep)

    def kept(result) -> int:
        return sum(map(np.count_nonzero, result))

    return {
        BASE: Contender(tfticket, kept),
        YARDSTICK: Contender(alone, lambda _: keep),
        "np.partition": Contender(partition, kept),
        "np.sort": Contender(sort, kept),
    }


def tfmot_contenders(weights: list[np.ndarray]) -> dict[str, Contender]:
    import tensorflow as tf
    import tensorflow_model_optimization as tfmot
    from tensorflow_model_optimization.python.core.sparsity.keras import pruning_impl

    if len(weights) > 1:
        return {}
    mask = tf.Variable(tf.ones(weights[0].shape))
    step = tf.Variable(1, dtype=tf.int64)
    schedule = tfmot.sparsity.keras.ConstantSparsity(1 - DENSITY, 0, frequency=1)
    variables = [(tf.Variable(weights[0]), mask, tf.Variable(0.0))]
    pruning = pruning_impl.Pruning(lambda: step, variables, schedule, (1, 1), "AVG")
    update = tf.function(pruning.conditional_mask_update)

    def run(_):
        update()
        return mask

    return {"TF-MOT": Contender(run, lambda m: np.count_nonzero(m.numpy()))}


def torch_contenders(weights: list[np.ndarray]) -> dict[str, Contender]:
    import torch
    from torch.nn.utils import prune

    size, keep = sum(w.size for w in weights), keep_count(weights)

    def prepare():
        modules = []
        for w in weights:
            module = torch.nn.Module()
            module.weight = torch.nn.Parameter(torch.from_numpy(w))
            modules.append(module)
        return modules

    def run(modules):
        if len(modules) == 1:
            prune.l1_unstructured(modules[0], "weight", amount=size - keep)
        else:
            prune.global_unstructured(
                [(module, "weight") for module in modules],
                pruning_method=prune.L1Unstructured,
                amount=size - keep,
            )
        return modules

    def kept(modules) -> int:
        return sum(int(module.weight_mask.count_nonzero()) for module in modules)

    return {"torch": Contender(run, kept, prepare)}


def resident_growth(run: Callable[[], Any]) -> int | None:
    """Bytes by which resident memory grew at its peak; `None` if not to be known."""

    def status(key: str) -> int:
        lines = pathlib.Path("/proc/self/status").read_text().splitlines()
        return int(next(ln for ln in lines if ln.startswith(key)).split()[1]) * 1024

    try:
        pathlib.Path("/proc/self/clear_refs").write_text("5")  # Resets the peak.
        before = status("VmRSS")
    except OSError:
        return None
    run()
    return status("VmHWM") - before


def traced_growth(run: Callable[[], Any]) -> int:
    tracemalloc.start()
    run()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def serve(kind: str) -> None:
    """Reads requests, a JSON object a line: new weights, a time, or a memory peak."""
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # What libraries print must not mix with the answers.
    makers = {
        "numpy": numpy_contenders,
        "tf_keras": tfmot_contenders,
        "torch": torch_contenders,
    }
    contenders, weights = {}, []

    def answer(request: dict) -> Any:
        nonlocal contenders, weights
        if "sizes" in request:
            contenders = {}
            rng = np.random.default_rng(0)
            weights = [rng.standard_normal(n, np.float32) for n in request["sizes"]]
            contenders = makers[kind](weights)
            return list(contenders)
        run, kept, prepare = contenders[request["contender"]]
        prepared = prepare()
        size = sum(w.size for w in weights)
        if request["what"] == "memory":
            measured = traced_growth if kind == "numpy" else resident_growth
            grown = measured(lambda: run(prepared))
            return grown and grown / sum(w.nbytes for w in weights)
        start = time.perf_counter()
        result = run(prepared)
        elapsed_ms = (time.perf_counter() - start) * 1e3
        wrong = abs(kept(result) - keep_count(weights))
        # The others don't promise more, and TF-MOT counts in float32.
        if wrong > (0 if request["contender"] == BASE else 1e-5 * size):
            raise RuntimeError(f"The mask is {wrong} weights off.")
        return elapsed_ms

    for line in sys.stdin:
        try:
            print(json.dumps({"value": answer(json.loads(line))}), file=answers)
        except Exception as error:  # Whatever it is, the others go on.
            reason = f"{type(error).__name__}: {str(error).strip()[:200]}"
            print(json.dumps({"error": reason}), file=answers)


class Worker:
    """A process that holds one library's contenders."""

    def __init__(self, kind: str):
        env = os.environ | {"KERAS_BACKEND": "tensorflow", "TF_CPP_MIN_LOG_LEVEL": "2"}
        env.pop("TF_USE_LEGACY_KERAS", None)
        if kind == "tf_keras":
            env["TF_USE_LEGACY_KERAS"] = "1"
        self.kind = kind
        self.process = subprocess.Popen(
            [sys.executable, __file__, f"--worker={kind}"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=env,
        )

    def ask(self, **request) -> Any:
        print(json.dumps(request), file=self.process.stdin, flush=True)
        line = self.process.stdout.readline()
        if not line:
            raise RuntimeError(f"A worker ended with status {self.process.wait()}.")
        answer = json.loads(line)
        if "error" in answer:
            raise RuntimeError(answer["error"])
        return answer["value"]

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait()


def memory_peak(worker: Worker, contender: str, sizes: list[int]) -> float | None:
    """Multiple of the weights' bytes, or `None` where it can't be told."""
    if worker.kind == "numpy":
        return worker.ask(contender=contender, what="memory")
    if sum(sizes) < LEAST_RSS_SIZE:
        return None
    fresh = Worker(worker.kind)
    try:
        fresh.ask(sizes=sizes)
        return fresh.ask(contender=contender, what="memory")
    finally:
        fresh.close()


def measure(
    sizes: list[int], workers: list[Worker], per_weight_ms: dict[str, float]
) -> dict[str, Any]:
    """Times all contenders at one size, and keeps `per_weight_ms` up to date."""
    size = sum(sizes)
    owners, left_out, memory, first_ms = {}, {}, {}, {}
    for worker in workers:
        for contender in worker.ask(sizes=sizes):
            expected_s = per_weight_ms.get(contender, 0) * size / 1e3
            if expected_s > _LIMIT.value:
                left_out[contender] = f"skipped, would take about {expected_s:.0f} s"
                continue
            try:
                worker.ask(contender=contender, what="time")  # Traces and loads.
                elapsed = worker.ask(contender=contender, what="time")
                if elapsed > _LIMIT.value * 1e3:
                    left_out[contender] = f"{elapsed / 1e3:.0f} s, tried once"
                    continue
                first_ms[contender] = elapsed
                memory[contender] = memory_peak(worker, contender, sizes)
                owners[contender] = worker
            except RuntimeError as error:
                left_out[contender] = f"failed: {error}"
    round_s = sum(first_ms.values()) / 1e3
    repeats = min(_REPEATS.value, max(3, int(ROW_BUDGET_S / round_s)))
    times = {contender: [] for contender in owners}
    for repeat in range(repeats):
        for contender in list(owners)[:: -1 if repeat % 2 else 1]:
            elapsed = owners[contender].ask(contender=contender, what="time")
            times[contender].append(elapsed)
    # Sorting takes a little longer by weight the more there are.
    per_weight_ms |= {c: statistics.median(t) / size * 1.2 for c, t in times.items()}
    ratios = {c: statistics.median(np.divide(t, times[BASE])) for c, t in times.items()}
    return {
        "sizes": sizes,
        "repeats": repeats,
        "ms": times,
        "quartiles_ms": {c: [*np.quantile(t, QUARTILES)] for c, t in times.items()},
        "ratios": ratios,
        "memory": memory,
        "left_out": left_out,
    }


def report(result: dict[str, Any]) -> None:
    sizes = result["sizes"]
    where = "" if len(sizes) == 1 else f" in {len(sizes)} tensors, jointly"
    print(f"\n{sum(sizes):,} weights{where}, {result['repeats']} repeats")
    print(f"{'':20}{'ms':>10}  {'(quartiles)':22}{'of tfticket':>12}{'memory':>9}")
    for contender, (low, middle, high) in result["quartiles_ms"].items():
        spread = f"({low:.4g} to {high:.4g})"
        memory = result["memory"][contender]
        memory = "" if memory is None else f"{memory:.2f}x"
        ratio = f"{result['ratios'][contender]:.2f}x"
        print(f"{contender:20}{middle:10.4g}  {spread:22}{ratio:>12}{memory:>9}")
    for contender, reason in result["left_out"].items():
        print(f"{contender:20}{reason}")


def verdicts(results: list[dict[str, Any]]) -> None:
    """What the figures are to be, where the sizes that say so were measured."""

    def verdict(met: bool, text: str) -> None:
        print(f"{'pass' if met else 'FAIL'}: {text}")

    print()
    for result in results:
        size, ratios = sum(result["sizes"]), result["ratios"]
        many = len(result["sizes"]) > 1
        name = f"{size:,} weights" + (" jointly" if many else "")
        if YARDSTICK in ratios:
            ratio = 1 / ratios[YARDSTICK]
            text = f"{ratio:.2f} of the time of {YARDSTICK}, target at most 2"
            verdict(ratio <= 2, f"{name}: {text}")
        memory = result["memory"][BASE]
        # Small arrays are copied twice, which is faster, and for |w| a little more.
        most = 2 if size > 2_000_000 else 2.5
        text = f"memory {memory:.2f} of the weights, target at most {most}"
        verdict(memory <= most, f"{name}: {text}")
        if size == 2_360_000 and "TF-MOT" in ratios:
            ratio = ratios["TF-MOT"]
            text = f"{ratio:.1f} times as fast as TF-MOT, target at least 20"
            verdict(ratio >= 20, f"{name}: {text}")
        if size == 10**8 and many:
            seconds = result["quartiles_ms"][BASE][1] / 1e3
            verdict(seconds < 3, f"{name}: {seconds:.2f} s, target less than 3")


def unequal_sizes(total: int) -> list[int]:
    """Sizes of `TENSORS` tensors that add up, each 1.5 times the one before."""
    ends = [total * math.expm1(k * math.log(1.5)) for k in range(TENSORS + 1)]
    ends = np.round(np.array(ends) / math.expm1(TENSORS * math.log(1.5))).astype(int)
    return np.diff(ends).tolist()


def main(_) -> None:
    if _WORKER.value:
        serve(_WORKER.value)
        return
    rows = [[size] for size in sorted(map(int, _SIZES.value))]
    if _GLOBAL.value:
        rows.append(unequal_sizes(_GLOBAL.value))
    workers = [Worker("numpy")]
    for kind, (package, name, command) in PEERS.items():
        needed = {package, kind}
        if all(map(importlib.util.find_spec, needed)):
            workers.append(Worker(kind))
        else:
            print(f"{name} is not installed and left out. Install it: {command}")
    results, per_weight_ms = [], {}
    try:
        for row in rows:
            results.append(measure(row, workers, per_weight_ms))
            report(results[-1])
    finally:
        for worker in workers:
            worker.close()
    verdicts(results)
    if _JSON.value:
        pathlib.Path(_JSON.value).write_text(json.dumps(results, indent=2) + "\n")


if __name__ == "__main__":
    app.run(main)
