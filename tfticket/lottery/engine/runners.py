"""Where the chains of an experiment run: in this process, or on a Ray cluster."""

import importlib
from collections.abc import Callable, Sequence

from tfticket.lottery.engine.chains import MAIN, Chain, Setting
from tfticket.lottery.engine.worker import Worker
from tfticket.lottery.results import PartResult


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
        mains: dict[int, object] = {}
        waiting = []
        for chain in chains:
            done = remote.remote(setting, chain, mains.get(chain.seed))
            if chain.branch == MAIN:
                mains[chain.seed] = done
            waiting.append(done)
        while waiting:
            ready, waiting = ray.wait(waiting)
            for result, fresh in ray.get(ready[0]):
                on_part(result, fresh)
    finally:
        if started:
            ray.shutdown()


RUNNERS: dict[str, Callable[..., None]] = {"local": run_local, "ray": run_ray}

_workers: dict[Setting, Worker] = {}


def _run_chain(setting, chain, after):
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
