"""Two questions that the lottery ticket paper leaves open, on LeNet-300-100 and MNIST.

    python benchmarks/open_questions.py --data_dir=DIR --processes=auto
    python benchmarks/open_questions.py --data_dir=DIR --seeds=2 --runs=dropout
    python benchmarks/open_questions.py --what=page

Does dropout add to what a ticket gains? And does a larger network hold better tickets
of the same size? Four experiments answer: the paper's network, the same with dropout,
one of half and one of twice its width. They can be stopped and go on. The results are
written to `docs/results/open_questions/`, a table for each experiment with a row for
each training and moment, and the page beside it is made of them.
"""

import pathlib

from absl import app, flags
from open_questions_page import RUNS, SMALL_DENSE, missing, write, write_tables

_PAGE = pathlib.Path(__file__).parents[1] / "docs" / "results" / "open_questions.md"
_RECIPE = {"dataset": "mnist", "iterations": 8000, "evaluate_every": 100}

_WHAT = flags.DEFINE_enum("what", "all", ["all", "page"], "All, or the page alone.")
_DATA = flags.DEFINE_string("data_dir", None, "Directory of TFDS data.")
_DIR = flags.DEFINE_string("runs_dir", "runs", "Folder of the experiments.")
_SEEDS = flags.DEFINE_integer("seeds", 5, "Replicates of each experiment.", 2)
_RUNS = flags.DEFINE_list("runs", list(RUNS), "Which experiments to go on with.")
_PROCESSES = flags.DEFINE_string("processes", None, "What `tfticket lottery` takes.")


def experiment(name):
    """One of the four experiments."""
    from tfticket import lottery

    changed, rounds = RUNS[name]
    small = {"branches": ["small_dense"], "branch_rounds": SMALL_DENSE}
    return lottery.LotteryExperiment(
        lottery.Recipe(**_RECIPE, **changed),
        rounds=rounds,
        replicates=_SEEDS.value,
        **(small if name == "width 1" else {}),
    )


def run(name):
    count = _PROCESSES.value
    experiment(name).run(
        _DIR.value,
        data_dir=_DATA.value,
        processes=int(count) if count and count != "auto" else count,
        on_part=lambda result, done, parts, fresh: (
            fresh
            and print(f"{name}: {result.part.path}, {done} of {parts}", flush=True)
        ),
    )


def results():
    """What is finished of each experiment."""
    from tfticket import lottery

    for name in RUNS:
        folder = pathlib.Path(_DIR.value, experiment(name).name)
        if folder.exists():
            yield name, lottery.read_results(folder)


def main(_):
    unknown = set(_RUNS.value) - set(RUNS)
    if unknown:
        raise app.UsageError(f"--runs must be of {list(RUNS)}. Received: {unknown}")
    if _WHAT.value == "all":
        for name in _RUNS.value:
            run(name)
        found = dict(results())
        if lacks := missing(found):
            print(f"No page is written, since results lack {'; '.join(lacks)}.")
            return
        write_tables(found, _PAGE)
    write(_PAGE)


if __name__ == "__main__":
    app.run(main)
