import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# Tests run beside each other, a process a core.
os.environ.setdefault("TF_NUM_INTRAOP_THREADS", "1")
os.environ.setdefault("TF_NUM_INTEROP_THREADS", "1")

import keras
import numpy as np
import pytest


@pytest.fixture(autouse=True)
def _fresh_names_and_seed():
    keras.utils.clear_session(free_memory=False)
    keras.utils.set_random_seed(0)


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
