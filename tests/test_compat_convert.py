"""Models that real TF-MOT pruned (`fixtures/make_tfmot_files.py`), in Keras 3."""

import pathlib
import types
import zipfile

import h5py
import keras
import numpy as np
import pytest

import tfticket
from tfticket.compat.convert import convert
from tfticket.compat.old_h5 import load_h5
from tfticket.pruning.masks import get_pruned_weights

FIXTURES = pathlib.Path(__file__).parent / "fixtures"
WHOLE = FIXTURES / "tfmot_whole.h5"
SOME = FIXTURES / "tfmot_weights.h5"
STRIPPED = FIXTURES / "tfmot_stripped.h5"


def network(names="", hidden=5, out="out"):
    """The architecture of the fixtures, `names` put before every name."""
    block = keras.Sequential(
        [
            keras.Input((4, 4, 3)),
            keras.layers.SeparableConv2D(2, 2, name=f"{names}separable"),
            keras.layers.BatchNormalization(name=f"{names}norm"),
        ],
        name=f"{names}block",
    )
    return keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            keras.layers.Conv2D(3, 3, activation="relu", name=f"{names}conv"),
            block,
            keras.layers.Flatten(name=f"{names}flat"),
            keras.layers.Dense(hidden, activation="relu", name=f"{names}hidden"),
            keras.layers.Dense(2, name=f"{names}{out}"),
        ]
    )


@pytest.fixture(scope="module")
def expected():
    with np.load(FIXTURES / "tfmot_predictions.npz") as arrays:
        return dict(arrays)


def saved_masks(path):
    found = {}

    def visit(name, item):
        if name.endswith("/mask:0"):
            layer = name.split("/")[-2].removeprefix("prune_low_magnitude_")
            found[layer] = np.array(item) != 0

    with h5py.File(path) as file:
        file.visititems(visit)
    return found


@pytest.mark.parametrize("names", ["", "other_"])
@pytest.mark.parametrize(
    ("path", "key", "pruned"),
    [
        (
            WHOLE,
            "whole",
            {
                "conv/kernel": "conv",
                "block/separable/pointwise_kernel": "separable",
                "hidden/kernel": "hidden",
                "out/kernel": "out",
            },
        ),
        (SOME, "some", {"hidden/kernel": "hidden"}),
    ],
    ids=["whole model", "weights only"],
)
def test_same_masks_and_predictions(path, key, pruned, names, expected):
    plain = network(names)
    before = plain.get_weights()
    model = convert(path, plain)
    masks = tfticket.get_masks(model)
    there = saved_masks(path)
    renamed = {
        "/".join(f"{names}{part}" for part in name.split("/")[:-1])
        + f"/{name.split('/')[-1]}": layer
        for name, layer in pruned.items()
    }
    assert set(masks) == set(renamed)
    for name, layer in renamed.items():
        np.testing.assert_array_equal(masks[name], there[layer])
        assert not np.all(masks[name])
        weight = get_pruned_weights(model)[name]
        assert np.all(weight[~masks[name]] == 0.0)
    np.testing.assert_allclose(
        model.predict(expected["x"], verbose=0), expected[key], atol=1e-5
    )
    for old, new in zip(before, plain.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_stripped_models_have_masks_only_if_asked(expected):
    with pytest.raises(ValueError, match="masks_from_zeros=True"):
        convert(STRIPPED, network())
    model = convert(STRIPPED, network(), masks_from_zeros=True)
    np.testing.assert_array_equal(
        tfticket.get_masks(model)["hidden/kernel"], saved_masks(SOME)["hidden"]
    )
    assert set(tfticket.get_masks(model)) == {"hidden/kernel"}
    np.testing.assert_allclose(
        model.predict(expected["x"], verbose=0), expected["some"], atol=1e-5
    )


def test_converted_models_train_sparse_and_strip(expected):
    model = convert(WHOLE, network())
    model.compile("adam", "mse")
    model.fit(expected["x"], expected["whole"] * 2, verbose=0)
    for name, mask in tfticket.get_masks(model).items():
        weight = get_pruned_weights(model)[name]
        assert np.all(weight[~mask] == 0.0)
    assert "Prune" not in {type(layer).__name__ for layer in model.layers[1:2]}
    tfticket.strip(model)


class Variable:
    def __init__(self, name, value):
        self.name, self.value = name, value

    def numpy(self):
        return self.value


class TfKerasLayer:
    """What `convert` reads of a tf_keras layer, from a file it wrote."""

    def __init__(self, name, group):
        self.name = name
        names = group.attrs["weight_names"]
        self.trainable_weights = [Variable(n, np.array(group[n])) for n in names]
        self.non_trainable_weights = []


def test_model_object(expected):
    with h5py.File(SOME) as file:
        layers = [TfKerasLayer(name, file[name]) for name in file.attrs["layer_names"]]
    converted = convert(types.SimpleNamespace(layers=layers), network())
    np.testing.assert_allclose(
        converted.predict(expected["x"], verbose=0), expected["some"], atol=1e-5
    )


def test_the_first_layer_that_differs_is_named():
    with pytest.raises(ValueError, match=r"first layer that differs is 'hidden'"):
        convert(WHOLE, network(hidden=7))
    with pytest.raises(ValueError, match=r"'hidden'.*'other_hidden'"):
        convert(WHOLE, network("other_", hidden=7))
    image = keras.Input((6, 6, 1))
    short = keras.Sequential([image, *network().layers[:-1]])
    with pytest.raises(ValueError, match="source has the layer 'out'"):
        convert(WHOLE, short)
    more = keras.layers.Dense(1, name="more")
    longer = keras.Sequential([image, *network().layers, more])
    with pytest.raises(ValueError, match="model has the layer 'more'"):
        convert(WHOLE, longer)


def test_a_layer_pruned_there_that_cannot_be_here():
    @keras.saving.register_keras_serializable(package="tests")
    class Other(keras.layers.Dense):
        def get_prunable_weights(self):
            return []

    model = keras.Sequential(
        [
            keras.Input((6, 6, 1)),
            *network().layers[:-1],
            Other(2, name="out"),
        ]
    )
    with pytest.raises(ValueError, match=r"Layer 'out' \(Other\).*get_prunable"):
        convert(WHOLE, model)


def test_other_sources_are_refused_with_the_way_out(tmp_path):
    with pytest.raises(ValueError, match=r"SavedModel.*model\.save\('model\.keras'\)"):
        convert(tmp_path, network())
    other = tmp_path / "model.keras"
    other.write_bytes(b"PK")
    with pytest.raises(ValueError, match=r"\.keras.*prune_scope"):
        convert(other, network())
    network().save_weights(tmp_path / "new.weights.h5")
    with pytest.raises(ValueError, match="no layer names"):
        convert(tmp_path / "new.weights.h5", network())
    with pytest.raises(FileNotFoundError, match="nowhere"):
        convert(tmp_path / "nowhere.h5", network())
    with pytest.raises(TypeError, match="Keras 3"):
        convert(network(), network())
    with pytest.raises(TypeError, match="source must be"):
        convert(3, network())
    with pytest.raises(ValueError, match="wrapped already"):
        convert(WHOLE, tfticket.prune(network()))


@pytest.fixture(scope="module")
def of_tf_keras():
    with np.load(FIXTURES / "tf_keras_predictions.npz") as arrays:
        return dict(arrays)


def recurrent(kind):
    return keras.Sequential(
        [
            keras.Input((5, 3)),
            getattr(keras.layers, kind)(4, name="rnn"),
            keras.layers.Dense(2, name="out"),
        ]
    )


def attention():
    inputs = keras.Input((5, 3))
    x = keras.layers.Dense(4, name="first")(inputs)
    x = keras.layers.MultiHeadAttention(2, 3, name="attention")(x, x)
    x = keras.layers.Flatten()(x)
    return keras.Model(inputs, keras.layers.Dense(2, name="out")(x))


@pytest.mark.parametrize(
    ("name", "into", "masks"),
    [
        ("lstm", lambda: recurrent("LSTM"), 3),
        ("gru", lambda: recurrent("GRU"), 3),
        ("attention", attention, 6),
    ],
)
def test_keras_files_of_tf_keras(name, into, masks, of_tf_keras):
    """Queries and keys have one shape: only their places tell them apart."""
    converted = convert(FIXTURES / f"tf_keras_{name}.keras", into())
    got = converted.predict(of_tf_keras["x"], verbose=0)
    np.testing.assert_allclose(got, of_tf_keras[name], atol=1e-6)
    found = tfticket.get_masks(converted)
    assert [mask.mean() for mask in found.values()] == [0.5] * masks


def test_keras_files_that_do_not_fit(tmp_path):
    path = FIXTURES / "tf_keras_lstm.keras"
    with pytest.raises(ValueError, match=r"'rnn/cell' of the source"):
        convert(path, recurrent("GRU"))
    without = keras.Sequential([keras.Input((5, 3)), keras.layers.LSTM(4, name="rnn")])
    with pytest.raises(ValueError, match=r"has the layer 'out'.*the model lacks"):
        convert(path, without)
    damaged = tmp_path / "damaged.keras"
    damaged.write_bytes(path.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"damaged\.keras"):
        convert(damaged, recurrent("LSTM"))
    with zipfile.ZipFile(damaged, "w") as file:
        file.writestr("config.json", "[]")
    with pytest.raises(ValueError, match=r"no \.keras file of a Sequential"):
        convert(damaged, recurrent("LSTM"))


def test_h5_files_that_keras_3_refuses(of_tf_keras, tmp_path):
    path = FIXTURES / "tf_keras_plain.h5"
    with pytest.raises(TypeError, match="groups"):
        keras.models.load_model(path, compile=False)
    model = load_h5(path)
    got = model.predict(of_tf_keras["images"], verbose=0)
    np.testing.assert_allclose(got, of_tf_keras["plain"], atol=1e-6)
    with pytest.raises(ValueError, match="still has TF-MOT's wrappers"):
        load_h5(WHOLE)
    with pytest.raises(ValueError, match="holds only weights"):
        load_h5(FIXTURES / "tfmot_weights.h5")
    with pytest.raises(FileNotFoundError):
        load_h5(tmp_path / "none.h5")
    with pytest.raises(ValueError, match=r"is not an \.h5 file"):
        load_h5(FIXTURES / "tf_keras_lstm.keras")
    other = tmp_path / "other.h5"
    other.write_bytes(path.read_bytes())
    with h5py.File(other, "r+") as file:
        config = file.attrs["model_config"]
        text = config.decode() if isinstance(config, bytes) else config
        assert '"time_major": false' in text
        changed = text.replace('"time_major": false', '"time_major": true')
        file.attrs["model_config"] = changed
    with pytest.raises(ValueError, match=r"'gru' \(GRU\).*time_major=True"):
        load_h5(other)
