"""Every optimizer with every option, in `fit` and by hand, compiled and not.

Zeros are exact, and weights are finite wherever a dense twin's are. By hand nothing
but the wrapped model and the optimizer is there: no callback, no `compile`.
"""

import keras
import numpy as np
import pytest
from fixtures.backends import BACKEND

import tfticket
from tfticket.pruning.optimizer_care import care_for

tf = pytest.importorskip("tensorflow")
if BACKEND != "tensorflow":
    pytest.skip("loops of one's own are TensorFlow's", allow_module_level=True)

OPTIMIZERS = sorted(
    name
    for name in dir(keras.optimizers)
    if isinstance(cls := getattr(keras.optimizers, name), type)
    and issubclass(cls, keras.optimizers.Optimizer)
    and name not in ("Optimizer", "LossScaleOptimizer", "MultiOptimizer")
)
OPTIONS = {
    "plain": {},
    "weight decay": {"weight_decay": 0.05},
    "average": {"use_ema": True, "ema_momentum": 0.5},
    "clipnorm": {"clipnorm": 0.1},
    "global clipnorm": {"global_clipnorm": 0.1},
    "accumulation": {"gradient_accumulation_steps": 2},
    "loss scaling": {},
}
X = np.random.default_rng(0).normal(size=(8, 12)).astype("float32")
Y = np.random.default_rng(1).normal(size=(8, 2)).astype("float32")


def network():
    keras.utils.set_random_seed(0)
    return keras.Sequential(
        [
            keras.Input((12,)),
            keras.layers.Dense(16, activation="tanh", name="hidden"),
            keras.layers.Dense(2, name="out"),
        ]
    )


def optimizer(name, option):
    made = getattr(keras.optimizers, name)(learning_rate=0.01, **OPTIONS[option])
    if option == "loss scaling":
        return keras.optimizers.LossScaleOptimizer(made)
    return made


def masks(model):
    """High sparsity, with dead rows and columns, which share what factors share."""
    random = np.random.default_rng(2)
    found = {}
    for name, mask in tfticket.get_masks(model).items():
        found[name] = random.random(mask.shape) < 0.3
        found[name][1], found[name][:, 0] = False, False
    return found


def train(model, optimizer, way, jit):
    if way == "fit":
        model.compile(optimizer, "mse", jit_compile=jit)
        model.fit(X, Y, batch_size=4, epochs=2, verbose=0)
        return
    optimizer.build(model.trainable_variables)

    @tf.function(jit_compile=jit)
    def step(x, y):
        with tf.GradientTape() as tape:
            loss = keras.losses.mean_squared_error(y, model(x, training=True))
            loss = optimizer.scale_loss(keras.ops.mean(loss))
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply(gradients, model.trainable_variables)

    for i in (0, 4, 0, 4):
        step(X[i : i + 4], Y[i : i + 4])
    optimizer.finalize_variable_values(model.trainable_variables)


def check(name, option, way, jit):
    wrapped = tfticket.prune(network())
    wanted = masks(wrapped)
    tfticket.set_masks(wrapped, wanted)
    made = optimizer(name, option)
    if way == "loop":
        care_for(made)
    before = [np.array(w) for w in wrapped.trainable_variables]
    train(wrapped, made, way, jit)
    after = [np.array(w) for w in wrapped.trainable_variables]
    for path, mask in wanted.items():
        weight = np.array(wrapped.get_layer(path.split("/")[0]).layer.kernel)
        assert not weight[~mask].any(), f"{path}: not zero"
    assert any((a != b).any() for a, b in zip(after, before, strict=True)), "no step"
    if not all(np.isfinite(w).all() for w in after):
        dense = network()
        train(dense, optimizer(name, option), way, jit)
        finite = all(np.isfinite(w).all() for w in dense.get_weights())
        assert not finite, "not finite, and the dense twin is"


CASES = [
    (option, way, jit)
    for option in OPTIONS
    for way in ("fit", "loop")
    for jit in (False, True)
]


@pytest.mark.filterwarnings("ignore:Adafactor")
@pytest.mark.parametrize(
    ("name", "option", "way", "jit"),
    [
        ("Adafactor", "plain", "fit", False),
        ("Adafactor", "plain", "loop", False),
        ("Muon", "average", "fit", False),
        ("Muon", "average", "loop", False),
    ],
)
def test_the_two_that_need_care(name, option, way, jit):
    if name not in OPTIMIZERS:
        pytest.skip(f"this Keras has no {name}")
    check(name, option, way, jit)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:Adafactor")
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_cell(name):
    failed = {}
    for case in CASES:
        try:
            check(name, *case)
        except Exception as error:
            failed[case] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
    assert not failed


def test_adafactor_is_told_of():
    wrapped = tfticket.prune(network())
    wrapped.compile(keras.optimizers.Adafactor(0.01), "mse")
    with pytest.warns(UserWarning, match=r"Adafactor\(epsilon_1=1e-30\) divides 0 by"):
        wrapped.fit(X, Y, verbose=0)
    assert wrapped.optimizer.epsilon_1 == 1e-16
