"""benchmarks/gpu.py: without a GPU it claims nothing; its parts run on the CPU."""

import importlib.util
import os
import subprocess
import sys

import pytest
from fixtures import pages
from fixtures.backends import BACKEND

pytestmark = pytest.mark.skipif(BACKEND == "torch", reason="it is not measured there")
SCRIPT = pages.ROOT / "benchmarks" / "gpu.py"
DRY = ("--device=cpu", "--quick")


def gpu_is_there():
    if BACKEND == "tensorflow":
        import tensorflow as tf

        return bool(tf.config.list_physical_devices("GPU"))
    import jax

    return jax.default_backend() == "gpu"


@pytest.mark.skipif(gpu_is_there(), reason="there is a GPU")
def test_without_a_gpu_it_says_so_in_one_line_and_writes_nothing(run_script, tmp_path):
    done = run_script(SCRIPT, "--out=gpu.md", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (line,) = done.stdout.splitlines()
    assert line.startswith(f"No GPU was found by {BACKEND}, so nothing was measured")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("part", "says"),
    [
        ("selection", ["counting from the last threshold", "top_k", "on the host"]),
        pytest.param(
            "steps", ["multiplied / dense", "conv_2, batch 8"], marks=pytest.mark.slow
        ),
        pytest.param(
            "popup", ["popup / dense", "conv_2, batch 8"], marks=pytest.mark.slow
        ),
        pytest.param(
            "experiment", ["not CIFAR-10", "| 1 | 68.5% |"], marks=pytest.mark.slow
        ),
    ],
)
def test_a_dry_run(part, says, run_script, tmp_path):
    done = run_script(SCRIPT, *DRY, f"--parts={part}", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "No GPU: this is a dry run on the CPU" in done.stdout
    assert "failed" not in done.stdout
    for words in says:
        assert words in done.stdout
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ((*DRY, "--out=gpu.md"), "--out takes no figures of --quick or --device=cpu"),
        (("--parts=steps,pop",), r"--parts must be of"),
        (("--iterations=25",), "must be a multiple of 10"),
    ],
)
def test_bad_flags(flags, says, run_script, tmp_path):
    done = run_script(SCRIPT, *flags, cwd=tmp_path)
    assert done.returncode == 1
    assert says in done.stdout + done.stderr
    assert not list(tmp_path.iterdir())


WRONG = """
import runpy, sys
from tfticket.sparsity import topk
right = topk.keep_largest
topk.keep_largest = lambda parts, keep: [~mask for mask in right(parts, keep)]
script = sys.argv.pop(1)
sys.path[0] = script.rpartition("/")[0]
runpy.run_path(script, run_name="__main__")
"""


def test_a_mask_that_is_wrong_gets_no_time(run_script, tmp_path):
    program = tmp_path / "wrong.py"
    program.write_text(WRONG)
    flags = (*DRY, "--parts=selection")
    done = run_script(program, SCRIPT, *flags, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    (row,) = (line for line in done.stdout.splitlines() if "failed" in line)
    assert row.startswith("| keep_largest on the host | failed |")
    assert "the mask is wrong in 30,000 entries" in row


BLOCKED = """
import runpy, sys
for name in ("tensorflow", "tensorflow_datasets", "sklearn", "matplotlib"):
    sys.modules[name] = None
sys.argv, script = sys.argv[1:], sys.argv[1]
sys.path[0] = script.rpartition("/")[0]
runpy.run_path(script, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("jax"), reason="needs JAX")
def test_on_jax_where_tensorflow_is_not_installed(tmp_path):
    environment = {k: v for k, v in os.environ.items() if k != "KERAS_BACKEND"}
    done = subprocess.run(
        [sys.executable, "-c", BLOCKED, str(SCRIPT), *DRY],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(pages.ROOT)},
    )
    assert done.returncode == 0, done.stderr
    assert "on the CPU; jax " in done.stdout
    for title in ("## Selection", "## Wrapped", "## Popup", "## A shortened Conv-6"):
        assert title in done.stdout
    assert "failed" not in done.stdout
