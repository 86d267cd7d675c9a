"""A ticket is the same after a round trip, and fits only what it came from."""

import keras
import numpy as np
import pytest
from keras import layers

import tfticket
from tfticket.keras_models.names import named_weights
from tfticket.pruning.masks import get_pruned_weights
from tfticket.tickets import ticket as ticket_module


def small(units=8, name="hidden"):
    return keras.Sequential(
        [
            keras.Input((6,)),
            layers.Dense(units, activation="relu", name=name),
            layers.BatchNormalization(name="norm"),
            layers.Dense(3, name="out"),
        ]
    )


@pytest.fixture
def ticket():
    wrapped = tfticket.prune(small())
    random = np.random.default_rng(0)
    masks = {
        k: random.random(m.shape) < 0.4 for k, m in tfticket.get_masks(wrapped).items()
    }
    tfticket.set_masks(wrapped, masks)
    return tfticket.Ticket.from_model(wrapped, seed=7, criterion="magnitude", round=3)


def assert_holds(model, ticket):
    masks = tfticket.get_masks(model)
    assert set(masks) == set(ticket.masks)
    for name, mask in masks.items():
        np.testing.assert_array_equal(mask, ticket.masks[name])
        assert np.all(get_pruned_weights(model)[name][~mask] == 0)
    for name, weight in named_weights(model).items():
        np.testing.assert_array_equal(np.array(weight), ticket.weights[name])


def assert_equal_tickets(loaded, ticket):
    assert loaded.provenance == ticket.provenance
    for mine, theirs in (
        (ticket.masks, loaded.masks),
        (ticket.weights, loaded.weights),
    ):
        assert list(mine) == list(theirs)
        for name, value in mine.items():
            assert value.dtype == theirs[name].dtype
            np.testing.assert_array_equal(value, theirs[name])


def test_round_trip_is_bit_equal(ticket, tmp_path):
    ticket.save(tmp_path / "a.npz")
    loaded = tfticket.Ticket.load(tmp_path / "a.npz")
    assert_equal_tickets(loaded, ticket)
    loaded.save(tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_bfloat16_weights_keep_their_type(tmp_path):
    model = keras.Sequential([keras.Input((4,)), layers.Dense(2, dtype="bfloat16")])
    ticket = tfticket.Ticket.from_model(tfticket.prune(model))
    ticket.save(tmp_path / "t.npz")
    loaded = tfticket.Ticket.load(tmp_path / "t.npz")
    assert loaded.weights["dense/kernel"].dtype.name == "bfloat16"
    np.testing.assert_array_equal(
        loaded.weights["dense/kernel"], ticket.weights["dense/kernel"]
    )


def test_provenance_rebuilds_the_architecture(ticket):
    assert ticket.provenance["seed"] == 7
    model = keras.Sequential.from_config(ticket.provenance["config"]["config"])
    assert_holds(ticket.apply(model), ticket)


def test_apply_to_a_plain_model_leaves_it_alone(ticket):
    model = small()
    before = model.get_weights()
    assert_holds(ticket.apply(model), ticket)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


def test_apply_to_a_wrapped_model_works_in_place_and_clears_older_masks(ticket):
    wrapped = tfticket.prune(small())
    nothing = {k: np.zeros_like(m) for k, m in tfticket.get_masks(wrapped).items()}
    tfticket.set_masks(wrapped, nothing)
    assert ticket.apply(wrapped) is wrapped
    assert_holds(wrapped, ticket)


def test_pruned_weights_are_zero_in_a_ticket_whatever_the_model_has(ticket):
    """Those of a plain model, which went on without its masks, are not."""
    plain = ticket.apply(small())
    plain = tfticket.strip(plain)
    for weight in plain.weights:
        weight.assign(np.ones(weight.shape))
    trained = ticket.with_weights(plain)
    for name, mask in ticket.masks.items():
        np.testing.assert_array_equal(trained.weights[name], mask)


def test_a_ticket_that_masks_some_layers_wraps_just_these(tmp_path):
    wrapped = tfticket.prune(small(), exclude=["out"])
    ticket = tfticket.Ticket.from_model(wrapped)
    applied = ticket.apply(small())
    assert list(tfticket.get_masks(applied)) == ["hidden/kernel"]


@pytest.mark.parametrize(
    ("model", "layer"),
    [
        (lambda: small(units=9), "hidden"),
        (lambda: small(name="other"), "other"),
        (
            lambda: keras.Sequential(
                [keras.Input((6,)), *small().layers, layers.Dense(2, name="more")]
            ),
            "more",
        ),
    ],
    ids=["shape", "name", "extra layer"],
)
def test_a_model_that_differs_is_refused_by_the_first_layer(model, layer, ticket):
    model = model()
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"first differ in layer '{layer}'"):
        ticket.apply(model)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize(
    ("masks", "weights"),
    [
        ({"out/kernel": np.ones((3, 8), bool)}, {}),
        ({"out/kernel": np.full((8, 3), 0.5)}, {}),
        ({}, {"out/kernel": np.full((8, 3), "x")}),
    ],
    ids=["shape of a mask", "values of a mask", "words for weights"],
)
def test_a_ticket_that_is_refused_changes_nothing(masks, weights, ticket):
    model = tfticket.prune(small())
    before = model.get_weights()
    wrong = tfticket.Ticket({**ticket.masks, **masks}, {**ticket.weights, **weights})
    with pytest.raises(ValueError, match="'out/kernel'"):
        wrong.apply(model)
    for value, old in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(value, old)


@pytest.mark.parametrize("damage", ["cut", "empty", "other"])
def test_a_damaged_file_is_named_and_refused(damage, ticket, tmp_path):
    path = tmp_path / "t.npz"
    ticket.save(path)
    content = bytearray(path.read_bytes())
    if damage == "cut":
        content = content[: len(content) // 2]
    elif damage == "empty":
        content = b""
    else:
        np.savez(path, x=np.ones(3))
        content = path.read_bytes()
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"t\.npz.*(damaged|not a ticket)"):
        tfticket.Ticket.load(path)


def test_no_flipped_byte_changes_a_ticket_unseen(ticket, tmp_path):
    path = tmp_path / "t.npz"
    ticket.save(path)
    written = path.read_bytes()
    refused = 0
    for i in range(len(written)):
        damaged = bytearray(written)
        damaged[i] ^= 0xFF
        path.write_bytes(damaged)
        try:
            loaded = tfticket.Ticket.load(path)
        except ValueError:
            refused += 1
        else:  # some bytes mean nothing: a date, an attribute
            assert_equal_tickets(loaded, ticket)
    assert refused > len(written) / 2


def test_a_missing_file_is_a_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError):
        tfticket.Ticket.load(tmp_path / "none.npz")


def test_a_failed_save_leaves_the_old_file(ticket, tmp_path, monkeypatch):
    path = tmp_path / "t.npz"
    ticket.save(path)
    before = path.read_bytes()

    def disk_full(*args, **kwargs):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(np.lib.format, "write_array", disk_full)
    with pytest.raises(OSError, match="No space"):
        ticket.save(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["t.npz"]


def test_a_model_that_keras_cannot_write_down_is_described():
    class Odd(layers.Dense):
        def get_config(self):
            raise NotImplementedError("It is odd.\nVery.")

    model = keras.Sequential([keras.Input((6,)), Odd(3, name="odd")], name="model")
    assert ticket_module.plain_config(model) == {
        "class_name": "Sequential",
        "layers": {"odd": "Odd"},
        "without_config": "NotImplementedError: It is odd.",
    }


def test_arguments_of_a_ticket_are_named_in_errors():
    with pytest.raises(TypeError, match=r"^masks must"):
        tfticket.Ticket(3, {})
    with pytest.raises(TypeError, match=r"^weights must"):
        tfticket.Ticket({}, 3)
    with pytest.raises(TypeError, match=r"^provenance must"):
        tfticket.Ticket({}, {}, 3)
