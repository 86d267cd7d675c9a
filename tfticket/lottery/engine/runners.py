"""Where the chains of an experiment run: here, in processes, or on a Ray cluster."""

import dataclasses
import functools
import importlib
import warnings
from collections.abc import Callable, Sequence
from typing import Any

from tfticket.lottery.engine.chains import MAIN, Chain, Setting
from tfticket.lottery.engine.processes import Processes, done_by
from tfticket.lottery.engine.together import Together
from tfticket.lottery.engine.worker import Stopwatch, Worker
from tfticket.lottery.results import Part, PartResult


class _Waiting:
    """Chains that are still to be run, each handed out when its tickets are there.

    Args:
        chains: In any order.
    """

    def __init__(self, chains: Sequence[Chain]):
        # Others wait for what the main ones make.
        self._chains = sorted(chains, key=lambda chain: chain.branch != MAIN)
        self._missing = {part for c in chains if c.branch == MAIN for part in c.parts}

    def take(self) -> Chain | None:
        """The next that can be run; `None` if there is none now."""
        for chain in self._chains:
            if not self._needs(chain) & self._missing:
                self._chains.remove(chain)
                return chain
        return None

    def done(self, part: Part) -> None:
        """Takes note that a part is finished."""
        self._missing.discard(part)

    def _needs(self, chain):
        """A control needs the ticket of its round, and a round the one before."""
        last = chain.rounds[-1] + 1 if chain.branch != MAIN else chain.rounds[0]
        return {Part(chain.seed, round=number) for number in range(last)}


def run_local(
    setting: Setting,
    chains: Sequence[Chain],
    worker: Worker,
    on_part: Callable[[PartResult, bool], None],
) -> None:
    """Runs chains one after another in this process.

    Args:
        setting: What the experiment sets.
        chains: In an order in which each comes after what it needs.
        worker: The worker of this process.
        on_part: Called with each result, and whether it was missing.
    """
    for chain in chains:
        worker.run(chain, on_part)


def run_ray(
    setting: Setting,
    chains: Sequence[Chain],
    worker: Worker,
    on_part: Callable[[PartResult, bool], None],
) -> None:
    """Runs chains on a Ray cluster, those of a replicate after its main one.

    The cluster is the one that `ray.init` finds (`RAY_ADDRESS`), or a local one that
    is started. Every machine has to see the run's folder. The part of a worker that
    dies is run again by another, from its last checkpoint.

    Args:
        setting: What the experiment sets.
        chains: In an order in which each comes after what it needs.
        worker: The worker of this process, unused.
        on_part: Called with each result, and whether it was missing.

    Raises:
        ImportError: If Ray is not installed.
    """
    ray = _import_ray()
    started = not ray.is_initialized()
    if started:
        ray.init(log_to_driver=False, include_dashboard=False)
    try:
        # A worker that dies (killed, out of memory, its machine gone) is no error of
        # the part's own; such an error is raised here at once.
        remote = ray.remote(max_retries=-1, retry_exceptions=False)(_run_chain)
        waiting, running = _Waiting(chains), []
        while True:
            while (chain := waiting.take()) is not None:
                running.append(remote.remote(setting, chain))
            if not running:
                break
            ready, running = ray.wait(running)
            for result, fresh in ray.get(ready[0]):
                waiting.done(result.part)
                on_part(result, fresh)
    finally:
        if started:
            ray.shutdown()


def run_processes(
    setting: Setting,
    chains: Sequence[Chain],
    worker: Worker,
    on_part: Callable[[PartResult, bool], None],
    processes: int,
    on_evaluation: Callable[[Part, int, int], None] | None = None,
) -> None:
    """Runs the parts of chains side by side in processes of this machine.

    A part begins as soon as the parts that it is made from are there, those of main
    chains first. What is finished is reported here; only what is missing is sent.

    Args:
        setting: What the experiment sets.
        chains: In an order in which each comes after what it needs.
        worker: The worker of this process, which trains nothing.
        on_part: Called with each result, and whether it was missing.
        processes: How many processes at most.
        on_evaluation: Called with (part, steps done, steps in all) as trainings go on.

    Raises:
        WorkerDiedError: If one of them dies.
    """
    missing = _missing(chains, worker, on_part)
    if not missing:
        return
    waiting = _Waiting(missing)
    with Processes(min(processes, len(missing)), _start, setting) as pool:
        for kind, *said in done_by(pool, waiting.take):
            if kind == "part":
                waiting.done(said[0].part)
                on_part(*said)
            elif on_evaluation is not None:
                on_evaluation(*said)


def _missing(chains, worker, on_part):
    """Chains of one part each that is missing; the others are reported."""
    missing = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # whoever makes it again tells
        for chain in chains:
            for part in chain.parts:
                result = worker.finished(part)
                if result is None:
                    missing.append(dataclasses.replace(chain, rounds=(part.round,)))
                else:
                    on_part(result, False)
    return missing


def _start(setting):
    """In a process: what does its chains."""
    tell: list[Callable] = []
    worker = Worker(setting, lambda *said: tell[-1]("evaluation", *said))

    def run(chain, say):
        tell[:] = [say]
        worker.run(chain, lambda *said: say("part", *said))

    return run


def run_vmap(
    setting: Setting,
    chains: Sequence[Chain],
    worker: Worker,
    on_part: Callable[[PartResult, bool], None],
) -> None:
    """Trains all parts that can be trained now in one program of JAX, until all are.

    Those of one network and with one beginning go together. Controls that find masks
    while they train are trained alone.

    Args:
        setting: What the experiment sets.
        chains: In any order.
        worker: The worker of this process.
        on_part: Called with each result, and whether it was missing.
    """
    waiting = _Waiting(_missing(chains, worker, on_part))
    together = functools.cache(Together)
    every: Any = setting.recipe.evaluate_every

    def done(result, _=True):
        waiting.done(result.part)
        on_part(result, True)

    while ready := list(iter(waiting.take, None)):
        groups: dict[tuple, list] = {}
        for chain in ready:
            (part,) = chain.parts
            job = worker.job(part)
            if job.callbacks or job.begin % every:
                worker.run(chain, done)
            else:
                key = job.trainer, job.begin
                groups.setdefault(key, []).append((part, job))
        for (trainer, begin), group in groups.items():
            watch = Stopwatch()
            with watch.training():
                found = together(trainer).train(
                    [(job.start.ticket, job.start.optimizer) for _, job in group],
                    [worker.order(part, begin) for part, _ in group],
                    begin,
                )
            shares = {k: x / len(group) for k, x in watch.seconds.items()}
            for (part, job), trained in zip(group, found, strict=True):
                result = worker.finish(part, job, trained, shares.copy)
                done(worker.measured(result))


RUNNERS: dict[str, Callable[..., None]] = {
    "local": run_local,
    "ray": run_ray,
    "vmap": run_vmap,
}

_workers: dict[Setting, Worker] = {}


def _run_chain(setting, chain):
    """Runs in a worker process, which keeps what it compiled for its next chain."""
    if setting not in _workers:
        _workers.clear()
        _workers[setting] = Worker(setting)
    made: list[tuple[PartResult, bool]] = []
    _workers[setting].run(chain, lambda result, fresh: made.append((result, fresh)))
    return made


def _import_ray():
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise ImportError(
            "runner='ray' needs Ray, which is not installed: "
            "pip install 'tfticket[ray]'"
        ) from error
