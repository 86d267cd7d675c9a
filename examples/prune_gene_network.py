"""Prunes a gene network that makes stripes, edge by edge, and says what that costs.

    python examples/prune_gene_network.py
    python examples/prune_gene_network.py --seeds=40
    python examples/prune_gene_network.py --stripes_edges=30,20,10 --stripes_seed=3

Motif 9 is 46 signed edges among 7 genes. Each seed searches a gradient's effect D on
the genes under which the network makes stripes; then edges go one by one, by magnitude,
by leaving each out once, and at random. Prints the table of rewards, writes every
number as CSV, and draws stripes and rewards. A stopped run resumes when it is
started again, and a finished one takes more seeds.
"""

import os
import pathlib

# Before TensorFlow is imported: its start-up notes would hide the progress, and on
# arrays this small a second thread costs more than it brings.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")

import numpy as np
from absl import app, flags
from gene_network import METHODS, MOTIF_9, Motif, MotifExperiment, run
from gene_network.experiment import write_csv
from gene_network.pictures import rewards_plot, rewards_table, stripes_plot
from rich.console import Console

_DEFAULT = MotifExperiment()

_SEEDS = flags.DEFINE_integer(
    "seeds", _DEFAULT.seeds, "How many, from 0 on; each has a D of its own."
)
_POPULATION = flags.DEFINE_integer(
    "population",
    _DEFAULT.population,
    "Of the search for D, in multiples of the 7 genes.",
)
_GENERATIONS = flags.DEFINE_integer(
    "generations", _DEFAULT.generations, "Of the search for D, after the first."
)
_STEP = flags.DEFINE_float(
    "step", _DEFAULT.step, "Of the integration; 10 must be a multiple of it."
)
_STRIPES_EDGES = flags.DEFINE_list(
    "stripes_edges", ["36", "12"], "Numbers of edges kept to draw the stripes at."
)
_STRIPES_SEED = flags.DEFINE_integer("stripes_seed", 0, "Seed to draw the stripes of.")
_OUT_DIR = flags.DEFINE_string(
    "out_dir", "runs/motif_9", "Folder for settings, results, tables and pictures."
)
_OVERWRITE = flags.DEFINE_bool(
    "overwrite", False, "Replace the results of an earlier run with other flags."
)


def main(argv):
    if len(argv) > 1:
        raise app.UsageError(f"Unknown arguments: {argv[1:]}. Flags start with --.")
    console = Console()
    try:
        prune_motif(console)
    except (ValueError, OSError) as error:
        console.print(f"Error: {error}", style="red", markup=False)
        raise SystemExit(1) from error


def prune_motif(console):
    experiment = MotifExperiment(
        seeds=_SEEDS.value,
        population=_POPULATION.value,
        generations=_GENERATIONS.value,
        step=_STEP.value,
    )
    kept = kept_from_flags(np.count_nonzero(MOTIF_9))
    if not 0 <= _STRIPES_SEED.value < experiment.seeds:
        raise ValueError(
            f"--stripes_seed must be one of the {experiment.seeds} seeds from 0 on. "
            f"Received: --stripes_seed={_STRIPES_SEED.value}"
        )
    out_dir = pathlib.Path(_OUT_DIR.value)

    def on_result(result, done, total):
        held = ", ".join(f"{m} {result.held(m, 0.9)}" for m in METHODS)
        console.print(
            f"{done:3d}/{total}: seed {result.seed}, D {result.drive}, reward "
            f"{result.rewards[METHODS[0]][0]:.2f}; 90 % of it held down to edges: "
            f"{held}",
            highlight=False,
            soft_wrap=True,
            markup=False,
        )

    with console.status("Searching and pruning"):
        results = run(experiment, out_dir, _OVERWRITE.value, on_result)
    console.print(rewards_table(results))
    for path in write_csv(results, out_dir):
        console.print(f"Numbers: {path}", highlight=False)
    rewards, stripes = out_dir / "rewards.png", out_dir / "stripes.png"
    rewards_plot(results, rewards)
    motif = Motif(MOTIF_9, experiment.step)
    stripes_plot(motif, results[_STRIPES_SEED.value], kept, stripes)
    for path in (rewards, stripes):
        console.print(f"Picture: {path}", highlight=False)


def kept_from_flags(edges):
    """The numbers of edges to draw at, checked before anything is run."""
    kept = _STRIPES_EDGES.value
    if not kept or not all(n.isdecimal() and 1 <= int(n) < edges for n in kept):
        raise ValueError(
            f"--stripes_edges must be numbers from 1 to {edges - 1} with commas "
            f"between them. Received: --stripes_edges={','.join(kept)}"
        )
    return [int(n) for n in kept]


if __name__ == "__main__":
    app.run(main)
