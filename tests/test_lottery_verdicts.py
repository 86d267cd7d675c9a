"""Intervals against SciPy and known values, and what they make of the claims."""

import csv
import dataclasses
import itertools
import math
import pathlib
import re

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy import stats

from tfticket import lottery
from tfticket.common.files import write_csv
from tfticket.lottery.figures import tables
from tfticket.lottery.figures.trainings import END, STOP, read_trainings
from tfticket.lottery.measures.intervals import (
    Interval,
    Region,
    difference,
    mean_interval,
    quantile,
    seeds_to_decide,
)
from tfticket.lottery.paper import claims, han, page

RESULTS = pathlib.Path(__file__).parents[1] / "docs" / "results"
PAGES = [
    *("conv_2", "find_ticket", "han_lenet_300_100", "han_lenet_5"),
    *("lottery", "resnet_20"),
]


@pytest.mark.parametrize(
    ("probability", "degrees", "known"),
    [(0.975, 1, 12.706), (0.975, 2, 4.303), (0.975, 4, 2.776), (0.975, 30, 2.042)],
)
def test_quantiles_of_the_printed_tables(probability, degrees, known):
    assert quantile(probability, degrees) == pytest.approx(known, abs=5e-4)


def arm(values, start=0):
    return dict(enumerate(values, start))


accuracies = st.lists(st.integers(0, 400), min_size=2, max_size=7)


@settings(max_examples=25)
@given(accuracies, accuracies)
def test_intervals_are_those_of_scipy(first, second):
    assume(len(set(first)) > 1 or len(set(second)) > 1)
    welch = difference(arm(first), arm(second, 100))
    known = stats.ttest_ind(first, second, equal_var=False).confidence_interval()
    assert welch.kind == "Welch"
    assert [welch.low, welch.high] == pytest.approx([known.low, known.high])
    apart = np.subtract(first[:2], second[:2])
    assume(len(set(apart)) > 1)
    paired = difference(arm(first[:2]), arm(second[:2]))
    known = stats.ttest_rel(first[:2], second[:2]).confidence_interval()
    assert paired.kind == "paired"
    assert [paired.low, paired.high] == pytest.approx([known.low, known.high])
    one = mean_interval(apart)
    assert [one.mean, one.low, one.high] == [paired.mean, paired.low, paired.high]


def test_three_seeds_of_the_mnist_page_by_hand():
    """13.5 % against dense at the end, and the early stops of 51.3 %."""
    end = difference(arm([98.12, 98.20, 98.37]), arm([97.54, 98.01, 98.15], 9))
    assert [round(x, 2) for x in (end.mean, end.low, end.high)] == [0.33, -0.36, 1.02]
    stop = difference(arm([3600, 3700, 5600]), arm([3700, 3700, 4700], 9))
    assert stop.mean == pytest.approx(266.67, abs=0.01)
    assert stop.high - stop.mean == pytest.approx(2300, rel=0.02)


def test_an_interval_is_around_the_true_difference_in_95_of_100():
    random = np.random.default_rng(0)
    hits = 0
    for _ in range(2000):
        paired = random.normal(0, 2, 4)
        first = arm(1 + paired + random.normal(0, 1, 4))
        found = difference(first, arm(paired + random.normal(0, 1, 4)))
        hits += found.low <= 1 <= found.high
    assert hits / 2000 == pytest.approx(0.95, abs=0.015)


@pytest.mark.parametrize(
    ("effect", "paired", "welch"), [(0.5, 34, 64), (0.8, 15, 26), (1.0, 10, 17)]
)
def test_seeds_to_decide_are_those_of_the_power_tables(effect, paired, welch):
    """Power 0.8 at 0.05, two-sided: the sizes that G*Power and Cohen (1988) print."""
    above = Region(low=0.0)
    one = Interval(effect, -9, 9, (1.0,), 3, "paired")
    assert seeds_to_decide(one, above) == paired
    two = Interval(effect, -9, 9, (1.0, 1.0), 3, "Welch")
    assert seeds_to_decide(two, above) == welch
    nothing = Interval(0.0, -9, 9, (1.0,), 3)
    assert seeds_to_decide(nothing, above) is None
    assert seeds_to_decide(Interval(1e-3, -9, 9, (1.0,), 3), above) is None


def test_two_bounds_take_more_seeds_than_one():
    found = Interval(0.0, -9, 9, (1.0,), 3)
    both = seeds_to_decide(found, Region(-0.5, 0.5))
    assert both > seeds_to_decide(found, Region(-0.5))
    random = np.random.default_rng(0)
    inside = [
        Region(-0.5, 0.5).verdict(mean_interval(random.normal(0, 1, both)))
        for _ in range(2000)
    ]
    assert inside.count("reproduced") / 2000 == pytest.approx(0.8, abs=0.03)


def test_bad_arms_are_refused():
    with pytest.raises(ValueError, match="first must hold one seed or more"):
        difference({}, {0: 1.0})
    with pytest.raises(ValueError, match="values must be those of one seed or more"):
        mean_interval([])


ORDER = ["refuted", "undecided", "reproduced"]


@given(accuracies, accuracies, st.integers(1, 200), st.booleans())
def test_a_verdict_only_rises_with_the_difference(first, second, more, same_seeds):
    """A claim "more than 20" goes from refuted over undecided to reproduced."""
    size = min(len(first), len(second))
    first, second = first[:size], arm(second[:size], 0 if same_seeds else 100)
    region = Region(low=20.0)
    verdicts = [
        region.verdict(difference(arm([x + shift for x in first]), second))
        for shift in (0, more, 10_000)
    ]
    places = [ORDER.index(verdict) for verdict in verdicts]
    assert places == sorted(places)
    assert verdicts[-1] == "reproduced"


@given(accuracies, accuracies, st.integers(-50, 50))
def test_swapped_arms_mirror_the_verdict(first, second, bound):
    one, other = arm(first), arm(second, 100)
    ahead = Region(low=bound).verdict(difference(one, other))
    behind = Region(low=-bound, closed=True).verdict(difference(other, one))
    mirrored = {"reproduced": "refuted", "refuted": "reproduced"}
    assert behind == mirrored.get(ahead, ahead)


def training(branch, round_, density, seed, moment, accuracy, stop, copy=0):
    return {
        "branch": branch,
        "seed": seed,
        "copy": copy,
        "round": round_,
        "moment": moment,
        "density": density,
        "parameters": None,
        "iteration": stop if moment == STOP else 50_000,
        "accuracy": accuracy,
        "validation_loss": None,
    }


PAPER = {
    ("ticket", 0): (1.0, 0.9800, 4000),
    ("ticket", 3): (0.513, 0.9810, 3400),
    ("reinit", 7): (0.211, 0.9770, 5000),
    ("ticket", 7): (0.211, 0.9830, 2400),
    ("ticket", 9): (0.135, 0.9840, 2800),
    ("ticket", 11): (0.087, 0.9835, 2800),
    ("ticket", 15): (0.036, 0.9800, 4000),
    ("ticket", 16): (0.029, 0.9770, 4400),
}
FASTER, BETTER, EARLIER, REINIT, REINIT_FALLS, PEAK, ABOVE, BACK, BELOW = range(9)
# Spread of the seeds: a few hundredths of a point, and some steps.
NOISE = [(-2, 9), (1, -6), (2, 4), (-1, -7), (0, 0)]


def checked(changes=None, seeds=5, noise=1.0):
    """Claims by name; accuracies are the same at both moments."""
    trained = [
        training(
            *(branch, round_, density, seed, moment),
            accuracy + noise * 1e-4 * points * (-1) ** round_,
            round(stop + noise * steps * (-1) ** round_),
        )
        for (branch, round_), (density, accuracy, stop) in (
            PAPER | (changes or {})
        ).items()
        for seed, (points, steps) in enumerate(NOISE[:seeds])
        for moment in (STOP, END)
    ]
    found = {}
    for claim in claims.check(trained):
        found.setdefault(claim.paper, []).append(claim)
    for same in found.values():
        assert len({claim.mark for claim in same}) == 1
    return [same[0] for same in found.values()]


def test_the_papers_numbers_bear_its_claims_out():
    found = checked()
    assert {claim.mark for claim in found} == {"reproduced"}
    assert found[EARLIER].found.startswith("earlier by +40 % (+40 to +40, paired): ")
    assert found[REINIT].found.endswith(": 98.30 against 97.70")
    assert "minus that at 8.7 %, the highest other: +0.05" in found[PEAK].found


@pytest.mark.parametrize(
    ("claim", "changes"),
    [
        # Rows that an earlier check passed: each is plainly against its claim.
        (EARLIER, {("ticket", 7): (0.211, 0.983, 3999)}),  # 0.03 % earlier, not 38
        (REINIT, {("reinit", 7): (0.211, 0.980, 5000)}),  # +0.30, not half a point
        (PEAK, {("ticket", 11): (0.087, 0.9899, 2800)}),  # 0.59 higher at 8.7 %
        (BACK, {("ticket", 15): (0.036, 0.9889, 4000)}),  # 0.89 above dense
        (FASTER, {("ticket", 3): (0.513, 0.970, 3999)}),  # a point less accurate
        (BETTER, {("ticket", 3): (0.513, 0.9795, 3400)}),
        (ABOVE, {("ticket", 9): (0.135, 0.9820, 2800)}),
        (BELOW, {("ticket", 16): (0.029, 0.9810, 4400)}),
        (BACK, {("ticket", 15): (0.036, 0.9770, 4000)}),
        (REINIT_FALLS, {("reinit", 7): (0.211, 0.981, 5000)}),
        (FASTER, {("ticket", 3): (0.513, 0.981, 4100)}),
    ],
)
def test_rows_against_a_claim_refute_it(claim, changes):
    assert checked(changes)[claim].verdict == "refuted"


def test_a_spread_that_reaches_the_threshold_decides_nothing():
    found = checked(noise=40.0, seeds=3)
    assert found[ABOVE].verdict == "undecided"
    assert found[ABOVE].mark.startswith("undecided with 3 seeds, about ")
    assert found[ABOVE].mark.endswith(" would decide")
    assert 3 < found[ABOVE].needed <= 1000


def test_seeds_that_would_decide_do():
    """As many seeds with the same mean and spread: decided about as often as said."""
    first, second = arm([0.984, 0.9805, 0.9833]), arm([0.980, 0.9795, 0.9815])
    part = claims.accuracy_points(first, second, Region(low=0.0))
    found = claims.judged("", END, [part])
    assert found.verdict == "undecided"
    interval, random = part.interval(), np.random.default_rng(1)
    decided = [
        Region(low=0.0).verdict(
            mean_interval(random.normal(interval.mean, interval.sds[0], found.needed))
        )
        for _ in range(1000)
    ]
    assert 0.75 < decided.count("reproduced") / 1000 < 0.95


def test_bounds_are_met_in_spite_of_rounding():
    assert 0.978 - 0.98 < -0.002  # in floating point
    back = checked({("ticket", 15): (0.036, 0.978, 4000)}, noise=0.0)
    assert back[BACK].verdict == "reproduced"
    assert 100 * (0.983 - 0.98) > 0.3
    above = checked({("ticket", 9): (0.135, 0.983, 2800)}, noise=0.0)
    assert above[ABOVE].verdict == "refuted"


@pytest.mark.parametrize("changes", [{}, {("ticket", 7): (0.211, 0.9, 9000)}])
def test_one_seed_gives_no_verdict(changes):
    found = checked(changes, seeds=1)
    assert {claim.mark for claim in found} == {"no verdict from one seed"}
    assert all("(" not in claim.found for claim in found)


def test_other_experiments_give_no_verdict():
    trained = [
        training("ticket", round_, density, seed, moment, 0.98, 4000)
        for (round_, density), seed, moment in itertools.product(
            [(0, 1.0), (3, 0.513)], range(3), (STOP, END)
        )
    ]
    marks = {claim.mark for claim in claims.check(trained, judge=False)}
    assert marks == {"no verdict", "not measured"}
    paper = {"dataset": "mnist", "model": "lenet_300_100", "iterations": 50_000}
    assert claims.recipe_differences(paper) == []
    assert claims.recipe_differences({**paper, "drops": []}) == []
    preset = dataclasses.asdict(lottery.Recipe.preset("lenet_mnist"))
    assert claims.recipe_differences(preset) == []
    assert claims.recipe_differences({**preset, "rewind_clock": "restart"}) == []
    for name, value in {
        **{"dataset": "digits", "model": "conv_2", "iterations": 20_000},
        **{"learning_rate": 1e-3, "rewind_to": 500, "optimizer": "sgd", "width": 0.5},
        **{"weight_decay": 1e-4, "drops": [100], "scope": "global", "rate": 0.5},
    }.items():
        (phrase,) = claims.recipe_differences({**paper, name: value})
        assert phrase.startswith(name.replace("_", " "))
    assert len(claims.recipe_differences({})) == 2


def test_what_the_run_lacks_is_one_line():
    found = claims.check(
        [
            training("ticket", round_, density, seed, moment, 0.98, stop + seed)
            for (round_, density, stop), seed, moment in itertools.product(
                [(0, 1.0, 4000), (7, 0.211, 2000)], range(3), (STOP, END)
            )
        ]
    )
    assert [claim.mark for claim in found].count("reproduced") == 1
    assert [claim.mark for claim in found].count("not measured") == 8
    assert "no re-initialised network at 21.1 %" in found[2 + 1].found
    text = claims.claims_markdown(found)
    assert len(text.splitlines()) == 2 + 9
    assert text.count("| not measured |") == 8
    # Without a density on each side nothing is a peak.
    some = [r for r in _all_rounds() if r["round"] <= 9]
    (peak,) = [c for c in claims.check(some) if "peaks" in c.paper]
    assert peak.found == "this run has no tickets on both sides of 13.5 %"


def _all_rounds():
    return [
        training("ticket", round_, 0.8**round_, seed, moment, 0.98, 4000)
        for round_, seed, moment in itertools.product(range(17), range(2), (STOP, END))
    ]


def test_copies_of_a_seed_are_no_seeds():
    rows = [
        training("ticket", 7, 0.211, seed, END, 0.983 + seed * 1e-4, 1)
        for seed in range(2)
    ]
    rows += [
        training("reinit", 7, 0.211, seed, END, 0.977 + copy * 1e-4, 1, copy)
        for seed, copy in itertools.product(range(2), range(9))
    ]
    twice = [{**row, "moment": moment} for row in rows for moment in (STOP, END)]
    found = [c for c in claims.check(twice) if "half a point" in c.paper]
    assert [claim.seeds for claim in found] == [2, 2]
    assert all("paired" in claim.found for claim in found)


def test_a_number_that_is_none_never_counts_for_a_claim():
    changes = {("ticket", 16): (0.029, math.nan, 4400)}
    assert checked(changes)[BELOW].verdict == "undecided"


def hans_rows(accuracy):
    rows = []
    for (round_, density, mean), seed in itertools.product(
        [(0, 1.0, 0.98), (1, 0.3, 0.99), (2, 0.083, accuracy)], range(4)
    ):
        row = training("ticket", round_, density, seed, END, mean + 1e-5 * seed, 1)
        layers = {"fc1/kernel": 0.08, "fc2/kernel": 0.09, "fc3/kernel": 0.26}
        rows.append(row | {f"density:{name}": kept for name, kept in layers.items()})
    return rows


def test_hans_table_takes_the_round_of_a_twelfth():
    recipe = {"model": "lenet_300_100", "dataset": "mnist", "rewind_to": None}
    recipe |= {"l2": 1e-4, "scope": "sensitivity", "retrain_factor": 0.1}
    assert han.han_differences(recipe) == []
    # What Keras calls weight decay is not what the paper has.
    (phrase,) = han.han_differences({**recipe, "l2": 0.0, "weight_decay": 1e-4})
    assert phrase.startswith("decoupled weight decay")
    for name in ("han_lenet_300_100", "han_lenet_5"):
        preset = dataclasses.asdict(lottery.Recipe.preset(name))
        assert han.han_differences(preset) == []
    text = han.han_markdown(hans_rows(0.9785), recipe)
    assert "| paper | 1.64 | 1.59 | 12x | 8 | 9 | 26 |" in text
    assert "| here, round 2 | 2.15 ± 0.00 (2.15 to 2.15) | 12.0x | 8.0 " not in text
    assert "2.15 ± 0.00 (2.15 to 2.15) | 12.0x | 8.0 | 9.0 | 26.0 |" in text
    (claim,) = han.check(hans_rows(0.9785), recipe)
    assert claim.verdict == "reproduced"
    assert claim.found.startswith("accuracy -0.15 (-0.15 to -0.15, paired)")
    (claim,) = han.check(hans_rows(0.9770), recipe)
    assert claim.verdict == "refuted"
    for name, value in {"l2": 0.0, "scope": "global", "dataset": "x"}.items():
        assert len(han.han_differences({**recipe, name: value})) == 1
    (claim,) = han.check(hans_rows(0.9785), recipe, judge=False)
    assert claim.mark == "no verdict"
    assert han.han_markdown(hans_rows(0.9785), {**recipe, "rewind_to": 0}) is None
    assert han.check(hans_rows(0.9785), {**recipe, "model": "conv_2"}) == []


def test_a_page_says_what_iterations_of_rewound_networks_count_from():
    rows = [
        training("ticket", round_, 0.8**round_, seed, moment, 0.98, 4000)
        | {"seconds": None}
        for round_ in (0, 1)
        for seed, moment in itertools.product(range(2), (STOP, END))
    ]
    late = [{**r, "branch": "late_rewind:500"} for r in rows if r["round"]]
    recipe = dataclasses.asdict(lottery.Recipe())

    def text(trained, **changes):
        return page.page(trained, {"recipe": {**recipe, **changes}}, "", {}, {})

    assert "clock" not in text(rows)
    for made in (text(rows, rewind_to=500), text([*rows, *late])):
        assert "that was rewound to its step K begins at K" in made
        assert "K steps after it" not in made
    assert "K steps after it" in text(rows, rewind_to=500, rewind_clock="restart")
    # A run of before does not say.
    del recipe["rewind_clock"]
    assert "K steps after it" in text(rows, rewind_to=500)
    # What means nothing is not among the settings.
    assert "| momentum |" not in text(rows)
    assert "| momentum | 0.9 |" in text(rows, optimizer="sgd")


@pytest.mark.parametrize("name", PAGES)
def test_committed_pages_are_made_of_the_tables_beside_them(name):
    assert (
        page.page_text(RESULTS / f"{name}.md") == (RESULTS / f"{name}.md").read_text()
    )


def test_no_committed_page_judges_by_one_seed_or_another_recipe():
    for name in PAGES:
        text = (RESULTS / f"{name}.md").read_text()
        judged = "| refuted |" in text or "| reproduced |" in text
        assert judged == (name in ("lottery", "han_lenet_300_100")), name


def _table(name):
    with open(RESULTS / f"{name}.csv", newline="") as file:
        return list(csv.DictReader(file))


def test_the_popup_page_has_the_numbers_of_its_table():
    text = (RESULTS / "popup.md").read_text()
    rows = _table("popup")
    for kind, density in dict.fromkeys((r["kind"], r["density"]) for r in rows):
        values = [
            {"seed": None, "accuracy": float(r["test_accuracy"])}
            for r in rows
            if (r["kind"], r["density"]) == (kind, density)
        ]
        cell = tables.accuracy_cell(tables.over_seeds("x", values, "accuracy"), "x")
        (line,) = [x for x in text.splitlines() if x.count(f"| {cell} |")]
        assert line.startswith(f"| {100 * float(density):.0f}")


def test_the_motif_page_has_the_numbers_of_its_table():
    text = (RESULTS / "motif.md").read_text()
    rows = _table("motif")
    names = ("magnitude", "leave_one_edge_out", "random")
    for name in names:
        found = mean_interval(int(row[name]) for row in rows)
        assert (
            f"{found.mean:.1f} ± {found.sds[0]:.1f} "
            f"({found.low:.1f} to {found.high:.1f})"
        ) in text
    for row in rows:
        left = " / ".join(row[name] for name in names)
        assert re.search(rf"^\| {row['seed']} \| .* \| {left} \|$", text, re.MULTILINE)


def edited(tmp_path, **changes):
    row = training("ticket", 0, 1.0, 0, END, 0.98, 1)
    row |= {"loss": 0.1, "validation_accuracy": 0.9, "seconds": 1.0}
    rows = [row, {**row, "moment": STOP} | changes]
    write_csv(rows, tmp_path / "page.csv")
    return tmp_path / "page.csv"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"moment": END},
            r"line 3: the same training and moment are in line 2",
        ),
        ({"moment": "later"}, r"line 3: moment='later' must be one of 'early stop'"),
        ({"accuracy": 98.1}, r"line 3: accuracy='98.1' must be in \[0, 1\]"),
        ({"accuracy": "high"}, r"line 3: accuracy='high' must be a number"),
        ({"seed": -1}, r"line 3: seed='-1' must be a whole number"),
        ({"iteration": 0}, r"line 3: iteration='0' must be 1 or more"),
        ({"branch": ""}, r"line 3: branch must not be empty"),
    ],
)
def test_a_table_that_is_wrong_is_refused_by_its_line(changes, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        read_trainings(edited(tmp_path, **changes))


def test_a_table_that_is_none_is_refused(tmp_path):
    path = tmp_path / "page.csv"
    with pytest.raises(FileNotFoundError):
        read_trainings(path)
    path.write_text("a,b\n1,2\n")
    with pytest.raises(ValueError, match=r"is not a table of trainings: it lacks"):
        read_trainings(path)
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ValueError, match="is not a text file"):
        read_trainings(path)
    text = edited(tmp_path).read_text()
    path.write_text(text + "ticket,0\n")
    with pytest.raises(ValueError, match="line 4: it does not have as many fields"):
        read_trainings(path)
    path.write_text(text)
    (tmp_path / "page.json").write_text('{"title": "x"}')
    with pytest.raises(ValueError, match="not what the report writes beside a page"):
        page.page_text(tmp_path / "page.md")
