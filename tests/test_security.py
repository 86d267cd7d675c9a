"""What files of strangers can't do: name other files, run code."""

import base64
import io
import json
import marshal
import pathlib
import struct
import zipfile

import h5py
import keras
import numpy as np
import pytest

from tfticket.compat.convert import convert
from tfticket.compat.hdf5 import open_h5
from tfticket.compat.old_h5 import load_h5

SECRET = np.full(8, 7.0, np.float32)


def dense():
    return keras.Sequential([keras.Input((4,)), keras.layers.Dense(2, name="d")])


def links(folder):
    """Name to what reads another file when it stands in place of a kernel."""
    other = folder / "secret.h5"
    with h5py.File(other, "w") as file:
        file["kernel"] = SECRET.reshape(4, 2)
    raw = folder / "secret.bin"
    raw.write_bytes(SECRET.tobytes())
    layout = h5py.VirtualLayout((4, 2), np.float32)
    layout[...] = h5py.VirtualSource(other, "kernel", (4, 2))
    return {
        "external link": lambda g, n: g.__setitem__(
            n, h5py.ExternalLink(other, "kernel")
        ),
        "soft link": lambda g, n: g.__setitem__(n, h5py.SoftLink("/secret")),
        "external storage": lambda g, n: g.create_dataset(
            n, (4, 2), np.float32, external=[(str(raw), 0, h5py.h5f.UNLIMITED)]
        ),
        "virtual": lambda g, n: g.create_virtual_dataset(n, layout),
    }


def every_dataset(group):
    found = []
    group.visititems(
        lambda name, item: (
            found.append(name) if isinstance(item, h5py.Dataset) else None
        )
    )
    return found


@pytest.mark.parametrize(
    "kind", ["external link", "soft link", "external storage", "virtual"]
)
@pytest.mark.parametrize("reader", [load_h5, lambda path: convert(path, dense())])
def test_no_other_file_is_read_by_an_h5_file(kind, reader, tmp_path):
    path = tmp_path / "model.h5"
    dense().save(path)
    with h5py.File(path, "r+") as file:
        weights = file["model_weights"]
        (kernel,) = (x for x in every_dataset(weights) if "kernel" in x)
        del weights[kernel]
        links(tmp_path)[kind](weights, kernel)
    with pytest.raises(ValueError, match=r"kernel.*(link|stored in another)") as found:
        reader(path)
    assert str(path) in str(found.value)


def test_no_other_file_is_read_by_a_keras_file(tmp_path):
    content = io.BytesIO()
    (tmp_path / "secret.h5").touch()
    with h5py.File(content, "w") as file:
        links(tmp_path)["external link"](file, "layers")
    path = tmp_path / "model.keras"
    config = {"class_name": "Sequential", "config": {"name": "s", "layers": []}}
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("config.json", json.dumps(config))
        file.writestr("model.weights.h5", content.getvalue())
    with pytest.raises(ValueError, match="/layers' is a link"):
        convert(path, dense())


def test_a_circle_of_groups_ends(tmp_path):
    path = tmp_path / "model.h5"
    dense().save(path)
    with h5py.File(path, "r+") as file:
        file["model_weights/again"] = file["model_weights"]
    with pytest.raises(ValueError, match="deeper than 100"):
        load_h5(path)


@pytest.mark.parametrize("reader", [load_h5, lambda path: convert(path, dense())])
def test_no_code_of_a_file_is_run(reader, tmp_path):
    ran = tmp_path / "ran"
    code = compile(
        f"lambda x: open({str(ran)!r}, 'w').close() or x", "file", "eval"
    ).co_consts[0]
    path = tmp_path / "model.h5"
    dense().save(path)
    text = base64.b64encode(marshal.dumps(code)).decode()
    layer = {
        "class_name": "Lambda",
        "config": {
            "name": "evil",
            "function": {
                "class_name": "__lambda__",
                "config": {"code": text, "defaults": None, "closure": None},
            },
        },
    }
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"].append(layer)
        file.attrs["model_config"] = json.dumps(config)
    # `convert` reads weights alone, and finds no masks among them.
    with pytest.raises(ValueError, match=r"[Ll]ambda|no pruned layer"):
        reader(path)
    assert not pathlib.Path(ran).exists()


@pytest.mark.parametrize("length", [0, 8, 2**64 - 16, 2**63])
def test_a_heap_of_texts_without_end_is_refused(length, tmp_path):
    """HDF5 itself reads on for good, in a call that nothing interrupts."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["one", "another"]
    with open_h5(path, "a.h5") as file:
        assert list(file.attrs["layer_names"]) == ["one", "another"]
    content = bytearray(path.read_bytes())
    place = content.index(b"GCOL") + 16
    while content[place : place + 2] != bytes(2):  # a text; the gap has number 0
        (size,) = struct.unpack_from("<Q", content, place + 8)
        place += 16 + -(-size // 8) * 8
    struct.pack_into("<Q", content, place + 8, length)
    path.write_bytes(content)
    with (
        pytest.raises(ValueError, match=r"a\.h5': the texts of its heap at byte"),
        open_h5(path, "a.h5"),
    ):
        pass


def test_lists_of_anything_but_letters_are_refused(tmp_path):
    """One changed byte makes a text such a list, and HDF5 ends the process."""
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        file.create_group("layers").attrs["version"] = "3.15"
    content = path.read_bytes()
    place = content.index(b"version\0") + 8
    place = content.index(b"\x19\x01", place)  # class 9 of version 1: a text
    path.write_bytes(content[: place + 1] + b"\x07" + content[place + 2 :])
    with (
        pytest.raises(ValueError, match=r"'/layers/version' holds neither numbers"),
        open_h5(path, "a.h5"),
    ):
        pass
