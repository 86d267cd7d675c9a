"""The notebooks run from top to bottom, and what they claim holds."""

import pathlib

import numpy as np
import pytest
from fixtures import pages

from tfticket.sparsity.topk import pruned_count

pytest.importorskip("nbclient", reason="notebooks need: pip install 'tfticket[test]'")

from fixtures import notebooks

NOTEBOOKS = pages.ROOT / "notebooks"

# In the notebook's process, what the fixtures `quick` and `without_xla` do here.
_QUICK = f"""
import sys
sys.path.insert(0, {str(pathlib.Path(__file__).parent)!r})
from fixtures import check_here, without_xla
from tfticket import devices
from tfticket.export.checking import processes
processes.run = check_here.run
devices.compile_options = without_xla.compile_options
"""

_COMPRESSED = """{
    "kept": {
        name: int(mask.sum()) for name, mask in tfticket.get_masks(wrapped).items()
    },
    "zeros": int(sum(np.sum(w == 0) for w in map(np.array, sparse.get_weights()[::2]))),
    "accuracies": accuracies,
    "model": [test_accuracy(m) for m in (dense, sparse, small.model)],
    "sizes": [exported.size for _, exported, _ in rows],
    "errors": [encoded.max_error, compact.max_error, float(difference)],
    "units": [small.model.get_layer(name).units for name in ("first", "second")],
}"""


def _compress(**how):
    path = NOTEBOOKS / "compress_my_keras_model.ipynb"
    return notebooks.executed(path, after=_COMPRESSED, **how)[1]


def _check_compressed(found):
    kept = {
        "first": (64 * 300, 0.9),
        "second": (300 * 100, 0.9),
        "logits": (1000, 0.45),
    }
    wanted = {
        f"{name}/kernel": size - pruned_count(size, sparsity)
        for name, (size, sparsity) in kept.items()
    }
    assert found["kept"] == wanted
    assert found["zeros"] == 50_200 - sum(wanted.values())
    # SavedModels, and the model itself: the same answers to all test images.
    dense, encoded, _, compact, _ = found["accuracies"].values()
    np.testing.assert_allclose([dense, encoded, compact], found["model"], atol=1e-6)
    assert found["units"] == [90, 30]
    assert max(found["errors"]) < 1e-4
    assert max(found["sizes"][1:]) < found["sizes"][0] / 3


@pytest.mark.slow
def test_compress_my_keras_model():
    _check_compressed(_compress(before=_QUICK, epochs=3, prune_until=40))


@pytest.mark.slow
def test_compress_my_keras_model_as_it_stands():
    found = _compress()
    _check_compressed(found)
    assert min(found["accuracies"].values()) > 0.95


_REPRODUCED = """{
    "parts": [
        [r.part.seed, r.part.branch, r.part.round, r.parameters] for r in results
    ],
    "accuracies": [r.test["accuracy"] for r in results],
    "early": [[r.part.branch, r.part.round, r.early_stop_iteration] for r in results],
    "same": [same_masks, same_counts],
    "drawn": sorted(figures.written),
}"""


def _reproduce(**how):
    path = NOTEBOOKS / "reproduce_the_lottery_ticket.ipynb"
    return notebooks.executed(path, after=_REPRODUCED, **how)[1]


def _check_reproduced(found, rounds, controls_at):
    left, kept = [19_200, 30_000, 1_000], []
    for _ in range(rounds + 1):
        kept.append(sum(left))
        rates = (0.4, 0.4, 0.2)
        left = [n - pruned_count(n, r) for n, r in zip(left, rates, strict=True)]
    wanted = []
    for seed in (0, 1):
        wanted += [[seed, "ticket", i, kept[i]] for i in range(rounds + 1)]
        for branch in ("reinit", "shuffled"):
            wanted += [[seed, branch, i, kept[i]] for i in controls_at]
    assert found["parts"] == wanted
    assert found["same"] == [True, True]
    assert "accuracy" in found["drawn"]


@pytest.mark.slow
def test_reproduce_the_lottery_ticket():
    found = _reproduce(before=_QUICK, iterations=20, rounds=1, controls_at=[1])
    _check_reproduced(found, rounds=1, controls_at=[1])


@pytest.mark.slow
def test_reproduce_the_lottery_ticket_as_it_stands():
    found = _reproduce()
    _check_reproduced(found, rounds=6, controls_at=[2, 4, 6])
    assert min(found["accuracies"]) > 0.94

    def early(branch):
        return np.mean([n for b, i, n in found["early"] if (b, i) == (branch, 6)])

    assert early("ticket") < min(early("reinit"), early("shuffled"))


_FASTER = """{
    "parameters": [model.count_params() for model in networks.values()],
    "files": [file.size for file in files.values()],
    "accuracies": list(accuracies.values()),
    "flops": [x.flops_after / x.flops_before for x in compacted.values()],
}"""


def _faster(**how):
    path = NOTEBOOKS / "a_faster_resnet.ipynb"
    return notebooks.executed(path, after=_FASTER, **how)[1]


def _check_faster(found):
    for name in ("parameters", "files"):
        assert found[name] == sorted(found[name], reverse=True)
        assert len(set(found[name])) == len(found[name])
    assert all(
        0.7 * target < left <= target
        for left, target in zip(found["flops"], (0.5, 0.25), strict=False)
    )


@pytest.mark.slow
def test_a_faster_resnet():
    _check_faster(_faster(before=_QUICK, epochs=2))


@pytest.mark.slow
def test_a_faster_resnet_as_it_stands():
    found = _faster()
    _check_faster(found)
    assert min(found["accuracies"]) > 0.9


@pytest.mark.parametrize(
    "path", sorted(NOTEBOOKS.glob("*.ipynb")), ids=lambda p: p.stem
)
def test_stored_outputs_are_complete_and_clean(path):
    nbformat = pytest.importorskip("nbformat")
    cells = nbformat.read(path, as_version=4).cells
    code = [cell for cell in cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    outputs = [output for cell in code for output in cell.outputs]
    # Where tfticket is not installed, the first cell of code installs it.
    assert "%pip install --quiet tfticket" in code[0].source
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert all(output.get("name") != "stderr" for output in outputs)
    assert all(output.output_type != "error" for output in outputs)
    assert not any("/tmp" in str(output.get("text")) for output in outputs)
