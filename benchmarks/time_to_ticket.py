"""Times a lottery-ticket experiment against a plain PyTorch loop of the same recipe.

    pip install torch
    python benchmarks/time_to_ticket.py
    python benchmarks/time_to_ticket.py --iterations=10000 --repeats=5 --cores=2
    python benchmarks/time_to_ticket.py --whole --cores=2 --replicates=4

LeNet-300-100 on images of MNIST's size and number, Adam at 1.2e-3, batches of 60, a
validation on 5,000 images every 100 steps, rounds of pruning 20 % and rewinding. The
PyTorch loop masks as open_lth does, multiplying every masked parameter by its mask
before each forward pass; its data lie in memory as tensors that a permutation indexes.
Each way runs in a process of its own, tied to the same cores, and they take turns.
Keras alone, with the same model, steps and validation, is there for the peak of memory.

A step's time is that of the last rounds with their validations, by steps; compiling
falls into the first round, which is left out. Time between rounds is what an experiment
does beside `fit`: evaluate on the test part, prune, save, rewind.

With --whole it is the wall time of the whole experiment, all replicates and the imports
included: one after another with all cores, and side by side, a core each, by
`processes` and by as many processes of the PyTorch loop.
"""

import itertools
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
from absl import app, flags
from timing import in_a_process

LEAST_FASTER, MOST_BETWEEN, MOST_MEMORY = 3.0, 0.01, 1.3
LEAST_WHOLE = 3.0
CLASSES, HIDDEN, BATCH, EVERY, RATE = 10, (300, 100), 60, 100, 0.2

_ITERATIONS = flags.DEFINE_integer("iterations", 5000, "Steps in a round.", 100)
_FULL = flags.DEFINE_integer(
    "full_iterations",
    15_000,
    "Steps in a round that the time between rounds is a part of.",
)
_ROUNDS = flags.DEFINE_integer("rounds", 2, "Prunings of a run.", 1)
_REPEATS = flags.DEFINE_integer("repeats", 3, "Runs of each way.", 1)
_CORES = flags.DEFINE_integer("cores", 1, "Cores that each process may use.", 1)
_WHOLE = flags.DEFINE_bool("whole", False, "Time whole experiments.")
_REPLICATES = flags.DEFINE_integer("replicates", 1, "With --whole: how many.", 1)
_SEED = flags.DEFINE_integer("seed", 0, "Seed of the first replicate.", 0)
_WAY = flags.DEFINE_enum(
    "way",
    None,
    ["tfticket", "torch", "keras", "tfticket_side_by_side", "torch_side_by_side"],
    "One way only, in this process.",
)


def images():
    random = np.random.default_rng(0)

    def part(count):
        x = random.standard_normal((count, 28, 28, 1), np.float32)
        return x, random.integers(CLASSES, size=count).astype(np.int32)

    return part(55_000), part(5_000), part(10_000)


def run_tfticket(iterations, rounds, processes=None):
    from tfticket import data, lottery

    train, validation, test = images()
    ones = np.ones(1)
    dataset = data.Dataset(
        "noise", train, validation, test, CLASSES, mean=0 * ones, std=ones
    )
    recipe = lottery.Recipe(iterations=iterations, evaluate_every=EVERY)
    experiment = lottery.LotteryExperiment(
        recipe,
        rounds=rounds,
        dataset=dataset,
        replicates=_REPLICATES.value,
        seed=_SEED.value,
    )
    ended = [time.perf_counter()]
    with tempfile.TemporaryDirectory() as folder:
        results = experiment.run(
            folder,
            processes=processes,
            on_part=lambda *_: ended.append(time.perf_counter()),
        )
    train = [r.seconds["train"] for r in results]
    if processes is not None:
        return {"train": train}
    # All that is not `fit`, and the writing of files too, which no result can know.
    return {"train": train, "between": list(np.diff(ended) - train)}


def run_keras(iterations, rounds):
    import keras

    from tfticket import data, models

    train, validation, test = images()
    ones = np.ones(1)
    dataset = data.Dataset(
        "noise", train, validation, test, CLASSES, mean=0 * ones, std=ones
    )
    model = models.build("lenet_300_100", (28, 28, 1), CLASSES)
    model.compile(
        keras.optimizers.Adam(1.2e-3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
        **models.compile_settings(model, EVERY),
    )
    seconds = []
    for _ in range(rounds + 1):
        start = time.perf_counter()
        model.fit(
            dataset.training_pipeline(BATCH, 0),
            epochs=iterations // EVERY,
            steps_per_epoch=EVERY,
            validation_data=dataset.evaluation_pipeline("validation"),
            shuffle=False,
            verbose=0,
        )
        seconds.append(time.perf_counter() - start)
        model.evaluate(dataset.evaluation_pipeline("test"), verbose=0)
    return {"train": seconds}


def run_tfticket_side_by_side(iterations, rounds):
    return run_tfticket(iterations, rounds, processes="auto")


def run_torch_side_by_side(iterations, rounds):
    """A process for each core, which does its share of the replicates."""
    shares = np.array_split(np.arange(_REPLICATES.value), _CORES.value)
    started = [
        subprocess.Popen(
            [
                *(sys.executable, __file__, "--way=torch", "--cores=1"),
                *(f"--iterations={iterations}", f"--rounds={rounds}"),
                *(f"--seed={share[0]}", f"--replicates={len(share)}"),
            ],
            # Not tied to the first core, as `child` would.
            env={**os.environ, "TIME_TO_TICKET_CORE": str(core)},
            stdout=subprocess.DEVNULL,
        )
        for core, share in enumerate(shares)
        if len(share)
    ]
    codes = [process.wait() for process in started]
    if any(codes):
        raise RuntimeError("A process of the PyTorch loop failed.")
    return {"train": []}


def run_torch(iterations, rounds):
    import torch

    torch.set_num_threads(_CORES.value)
    seconds = []
    for replicate in range(_REPLICATES.value):
        seconds += replicate_in_torch(_SEED.value + replicate, iterations, rounds)
    return {"train": seconds}


def replicate_in_torch(seed, iterations, rounds):
    import torch
    from torch import nn

    torch.manual_seed(seed)
    (x, y), (x_val, y_val), _ = (
        (torch.from_numpy(a), torch.from_numpy(b).long()) for a, b in images()
    )
    sizes = [28 * 28, *HIDDEN, CLASSES]
    stack: list[nn.Module] = [nn.Flatten()]
    for i, o in itertools.pairwise(sizes):
        stack += [nn.Linear(i, o), nn.ReLU()]
    model = nn.Sequential(*stack[:-1])
    for layer in model:
        if isinstance(layer, nn.Linear):
            nn.init.xavier_normal_(layer.weight)
            nn.init.zeros_(layer.bias)
    initial = {k: v.clone() for k, v in model.state_dict().items()}
    masked = {k: p for k, p in model.named_parameters() if k.endswith("weight")}
    masks = {k: torch.ones_like(p) for k, p in masked.items()}
    loss_of = nn.CrossEntropyLoss()
    output = list(masked)[-1]

    def forward(batch):
        for name, parameter in masked.items():
            parameter.data *= masks[name]
        return model(batch)

    def validate():
        model.eval()
        with torch.no_grad():
            out = [forward(part) for part in x_val.split(1000)]
            logits = torch.cat(out)
            float(loss_of(logits, y_val)), float((logits.argmax(1) == y_val).sum())
        model.train()

    seconds = []
    for _ in range(rounds + 1):
        optimizer = torch.optim.Adam(model.parameters(), lr=1.2e-3)
        start = time.perf_counter()
        step = 0
        while step < iterations:
            order = torch.randperm(len(x))
            for rows in order[: len(x) // BATCH * BATCH].split(BATCH):
                optimizer.zero_grad()
                loss_of(forward(x[rows]), y[rows]).backward()
                optimizer.step()
                step += 1
                if step % EVERY == 0:
                    validate()
                if step == iterations:
                    break
        seconds.append(time.perf_counter() - start)
        for name, parameter in masked.items():
            rate = RATE / 2 if name == output else RATE
            alive = parameter.detach().abs()[masks[name] > 0]
            threshold = alive.kthvalue(max(1, round(rate * len(alive)))).values
            masks[name] *= (parameter.detach().abs() > threshold).float()
        model.load_state_dict(initial)
    return seconds


STEPS = {"tfticket": run_tfticket, "torch": run_torch, "keras": run_keras}
SIDE_BY_SIDE = {
    "tfticket_side_by_side": run_tfticket_side_by_side,
    "torch_side_by_side": run_torch_side_by_side,
}
WAYS = {**STEPS, **SIDE_BY_SIDE}


def child(way):
    """Runs one way in this process, and prints what it took."""
    first = int(os.environ.get("TIME_TO_TICKET_CORE", 0))
    cores = sorted(os.sched_getaffinity(0))[first : first + _CORES.value]
    os.sched_setaffinity(0, cores)
    found = WAYS[way](_ITERATIONS.value, _ROUNDS.value)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**found, "peak_mib": peak}))


def main(_):
    if _WAY.value:
        child(_WAY.value)
        return
    if _WHOLE.value:
        whole_experiments()
        return
    found = {way: [] for way in STEPS}
    for repeat in range(_REPEATS.value):
        for way in list(STEPS)[:: -1 if repeat % 2 else 1]:
            found[way].append(in_a_process(__file__, way, _ITERATIONS, _ROUNDS, _CORES))
            print(f"{way}: {json.dumps(found[way][-1])}", flush=True)
    steps = {
        way: [1e3 * np.mean(run["train"][1:]) / _ITERATIONS.value for run in runs]
        for way, runs in found.items()
    }
    print(f"\nLeNet-300-100, {_CORES.value} core(s), {_ITERATIONS.value} steps a round")
    for way, values in steps.items():
        peak = np.median([run["peak_mib"] for run in found[way]])
        print(f"  {way:9}{np.median(values):7.3f} ms/step, peak {peak:,.0f} MiB")
    faster = np.median(np.divide(steps["torch"], steps["tfticket"]))
    verdict("torch / tfticket, a step", faster, faster >= LEAST_FASTER, LEAST_FASTER)
    between = np.median([b for run in found["tfticket"] for b in run["between"][1:]])
    whole = np.median(steps["tfticket"]) * _FULL.value / 1e3
    part = between / (between + whole)
    print(f"  between rounds {between:.2f} s, a round of {_FULL.value}: {whole:.1f} s")
    verdict("between rounds / a round", part, part <= MOST_BETWEEN, MOST_BETWEEN)
    memory = np.median(
        [
            mine["peak_mib"] / plain["peak_mib"]
            for mine, plain in zip(found["tfticket"], found["keras"], strict=True)
        ]
    )
    verdict("peak memory / Keras alone", memory, memory <= MOST_MEMORY, MOST_MEMORY)


def whole_experiments():
    """Times whole experiments, each in a process of its own."""
    ways = ("tfticket", "torch", *SIDE_BY_SIDE)
    seconds = {way: [] for way in ways}
    shared = (_ITERATIONS, _ROUNDS, _CORES, _REPLICATES)
    for repeat in range(_REPEATS.value):
        for way in ways[:: -1 if repeat % 2 else 1]:
            start = time.perf_counter()
            in_a_process(__file__, way, *shared)
            seconds[way].append(time.perf_counter() - start)
            print(f"{way}: {seconds[way][-1]:.1f} s", flush=True)
    print(
        f"\nThe whole experiment: {_REPLICATES.value} replicates of "
        f"{_ROUNDS.value + 1} rounds of {_ITERATIONS.value} steps, "
        f"{_CORES.value} core(s)"
    )
    for way, values in seconds.items():
        print(f"  {way:22}{np.median(values):7.1f} s")
    side = seconds["tfticket_side_by_side"]
    faster = np.median(np.divide(seconds["tfticket"], side))
    print(f"  side by side is {faster:.2f} times as fast as one after another")
    faster = np.median(np.divide(seconds["torch_side_by_side"], side))
    print(f"  torch / tfticket, both side by side: {faster:.2f}")
    faster = np.median(np.divide(seconds["torch"], side))
    passed = faster >= LEAST_WHOLE
    verdict("torch / tfticket side by side", faster, passed, LEAST_WHOLE)


def verdict(what, value, passed, bound):
    print(f"  {'pass' if passed else 'FAIL'}: {what}: {value:.3f} (bound {bound})")


if __name__ == "__main__":
    app.run(main)
