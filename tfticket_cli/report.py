"""Writes the page of a lottery-ticket experiment: table, claims, recipe, pictures.

    tfticket report --run_dir=runs/mnist-lenet_300_100-1a2b3c4d5e
    tfticket report --run_dir=RUN --out=lottery.md --overwrite

Judges the claims of the lottery ticket paper by intervals over the run's seeds.
Also writes NAME.csv, with a row for each training and moment, NAME.json, with the
settings, and a folder NAME of pictures.
"""

from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    flag_groups.run_dir(values)
    about = "The page to write."
    flag_groups.define(values, "string", "out", "docs/results/lottery.md", about)
    about = "Replace a page that exists, its numbers, and the pictures in its folder."
    flag_groups.define(values, "bool", "overwrite", False, about)


def check(values: flags.FlagValues) -> None:
    """Refuses a folder that is not there."""
    flag_groups.check_run_dir(values)


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Writes the page, and says what the run makes of the paper's claims."""
    from tfticket import lottery
    from tfticket.lottery.figures import tables, trainings
    from tfticket.lottery.figures.run import rewound_to
    from tfticket.lottery.paper import page

    drawn = lottery.write_page(values.run_dir, values.out, values.overwrite)
    config = lottery.read_config(values.run_dir)
    step = rewound_to(config)
    verdicts = page.verdicts(trainings.trainings(drawn.results, step), config)
    files = page.numbers_files(values.out)
    numbers = dict(zip(("trainings", "settings"), map(str, files), strict=True))
    for line in verdicts:
        output.say(line)
    for name, why in drawn.skipped.items():
        output.say(f"Not drawn: {name}: {why}")
    output.say(f"Written: {values.out}")
    return {
        "run_dir": values.run_dir,
        "verdicts": verdicts,
        "rows": tables.rows(drawn.results, step),
        "files": {"page": values.out, **numbers, **drawn.written},
        "not_drawn": drawn.skipped,
    }
