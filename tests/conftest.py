import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests run beside each other, a process a core.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # PyTorch's
# XLA compiles much and runs little here.
os.environ.setdefault(
    "XLA_FLAGS",
    "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true",
)

import functools
import gc

import keras
import numpy as np
import pytest
from fixtures import check_here
from fixtures.backends import BACKEND
from fixtures.scripts import Scripts
from fixtures.without_xla import compile_options as without_xla_settings

from tfticket import devices

# TensorFlow's graphs are many small objects that live on: looking through them again
# and again, and through all that was imported, is a tenth of the tests' time.
gc.collect()
gc.freeze()
gc.set_threshold(100_000, 50, 50)

# What depends on the backend. Export is for TensorFlow, programs end with an export,
# and the rest knows none.
_CORE = (
    *("bad_input", "callbacks", "copies", "criteria", "data", "devices"),
    *("dynamic", "every_layer", "guards"),
    *(
        "evidence",
        "gradual",
        "lottery",
        "gene_network",
        "in_place",
        "lottery_measures",
        "lottery_together",
        "models",
        "popup",
    ),
    *("protocols", "selection", "sensitivity", "structures", "tickets", "transform"),
    "zero_after_every_step",
)


# Files that take longest begin first, so that all cores end at the same time.
_LONG = (
    *("find_ticket", "docs", "lottery_kill", "lottery", "train_popup", "backends"),
    *("callbacks", "gradual", "litert", "docstrings", "saved_model_formats", "popup"),
)


def pytest_configure(config):
    # Grappler rewrites each graph before its first run: a sixth of the time of tests,
    # whose graphs run a few times. The slow tests and all subprocesses keep it.
    if BACKEND == "tensorflow" and "not slow" in config.option.markexpr:
        import tensorflow as tf

        tf.config.optimizer.set_experimental_options({"disable_meta_optimizer": True})


def pytest_collection_modifyitems(items):
    order = {f"test_{name}.py": number for number, name in enumerate(_LONG)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))


def pytest_ignore_collect(collection_path):
    name = collection_path.name.removeprefix("test_").removesuffix(".py")
    other = collection_path.suffix == ".py" and name not in _CORE
    return True if BACKEND != "tensorflow" and other else None


@pytest.fixture(autouse=True)
def _fresh_names_and_seed():
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


@pytest.fixture(scope="session")
def run_script():
    """`subprocess.run` of a script, without the seconds that TensorFlow's import takes.

    At least one run of each script should do without it.
    """
    scripts = Scripts()
    yield scripts
    scripts.close()


@pytest.fixture(scope="module")
def without_xla():
    """For short trainings in this process."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(devices, "compile_options", without_xla_settings)
        if BACKEND == "tensorflow":
            plain = functools.partialmethod(keras.Model.compile, jit_compile=False)
            patch.setattr(keras.Model, "compile", plain)
        yield


@pytest.fixture(scope="module")
def quick_collection():
    """For tests of what deletes weights: Keras collects garbage for each of them.

    What is there by then is left out, which is all that earlier tests have made.
    """
    gc.collect()
    gc.freeze()


@pytest.fixture
def quick(monkeypatch):
    """For tests of what is around the check of a SavedModel, done in this process."""
    check_here.install(monkeypatch.setattr)


@pytest.fixture
def mlp():
    return keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(8, activation="relu", name="hidden"),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(3, name="out"),
        ]
    )


@pytest.fixture
def data():
    random = np.random.default_rng(0)
    x = random.standard_normal((48, 6)).astype("float32")
    return x, random.integers(0, 3, 48)
