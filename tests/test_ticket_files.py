"""A file of NumPy's is refused or gives what was written, whatever was done to it."""

import io
import json
import os
import tracemalloc
import warnings
import zipfile

import numpy as np
import pytest

import tfticket
from tfticket.lottery.engine.checkpoint import Checkpoint


@pytest.fixture
def ticket():
    random = np.random.default_rng(0)
    masks = {"hidden/kernel": random.random((5, 3)) < 0.4}
    weights = {
        "hidden/kernel": random.normal(size=(5, 3)).astype(np.float32),
        "hidden/bias": np.arange(3, dtype=np.float32),
    }
    return tfticket.Ticket(masks, weights, {"seed": 7})


@pytest.fixture
def path(ticket, tmp_path):
    ticket.save(tmp_path / "t.npz")
    return tmp_path / "t.npz"


def members_of(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def write(path, members):
    """All checksums right: what is wrong was meant."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, content in members:
            file.writestr(name, content)


def replaced(path, **changes):
    """The file again, with some members other arrays or bytes, or another header."""
    members = members_of(path)
    header = json.loads(np.load(path)["header"].tobytes())
    for name, change in changes.pop("header", {}).items():
        header[name] = change
    text = json.dumps(header).encode()
    members["header.npy"] = stored(np.frombuffer(text, np.uint8))
    members.update(changes)
    write(path, members.items())


def stored(array):
    content = io.BytesIO()
    np.save(content, array)
    return content.getvalue()


def assert_same(found, wanted):
    assert list(found) == list(wanted)
    for name, value in wanted.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value)


def assert_refused(path, match=""):
    with pytest.raises(ValueError, match=rf"t\.npz' is damaged or is not.*{match}"):
        tfticket.Ticket.load(path)


MASK, KERNEL = "mask:hidden/kernel.npy", "weight:hidden/kernel.npy"


@pytest.mark.parametrize(
    ("member", "value", "match"),
    [
        (MASK, np.zeros(1, np.uint8), "shape"),
        (MASK, np.zeros(0, np.uint8), "shape"),
        (MASK, np.zeros(3, np.uint8), "shape"),
        (MASK, np.zeros((2, 1), np.uint8), "shape"),
        (MASK, np.zeros(2, np.int8), "int8"),
        (KERNEL, np.zeros((5, 3), np.int32), "int32"),
        (KERNEL, np.zeros((5, 6), np.float16), "float16"),
        (KERNEL, np.zeros((3, 5), np.float32), "shape"),
        (KERNEL, np.array([{}]), "plain numbers"),
        (KERNEL, np.zeros(15, "f4,f4"), "plain numbers"),
        ("weight:hidden/bias.npy", np.zeros(4, np.float32), "shape"),
    ],
)
def test_a_member_is_what_the_header_says(member, value, match, path):
    replaced(path, **{member: stored(value)})
    assert_refused(path, match)


@pytest.mark.parametrize(
    ("header", "match"),
    [
        ({"shapes": {"hidden/kernel": [5, 4]}}, "shape"),
        ({"shapes": {"hidden/kernel": [-5, -3]}}, "no shape"),
        ({"shapes": {"hidden/kernel": ["5", 3]}}, "no shape"),
        ({"shapes": {"hidden/kernel": [5.0, 3]}}, "no shape"),
        ({"shapes": {"hidden/kernel": 15}}, ""),
        ({"shapes": {"hidden/kernel": [0, 10**30]}}, ""),
        ({"shapes": []}, "no dictionary"),
        ({"dtypes": {"hidden/kernel": "object"}}, ""),
        ({"dtypes": {"hidden/kernel": "no type", "hidden/bias": "float32"}}, ""),
        ({"dtypes": {"hidden/kernel": "int32", "hidden/bias": "float32"}}, "int32"),
        ({"weight_shapes": {"hidden/kernel": [3, 5], "hidden/bias": [3]}}, "shape"),
        ({"provenance": 3}, "no dictionary"),
    ],
)
def test_a_header_that_says_something_else_is_refused(header, match, path):
    replaced(path, header=header)
    assert_refused(path, match)


def test_a_type_in_a_members_header_does_not_reinterpret_its_bytes(path):
    content = members_of(path)[KERNEL].replace(b"<f4", b"<i4")
    replaced(path, **{KERNEL: content})
    assert_refused(path, "int32")


def test_a_member_that_is_there_twice_is_refused(path):
    members = list(members_of(path).items())
    with pytest.warns(UserWarning, match="Duplicate name"):
        write(path, [*members, (MASK, stored(np.zeros(2, np.uint8)))])
    assert_refused(path, "twice")


@pytest.mark.parametrize("shape", [[10**5, 10**5], [2**40], [2**31, 2**31, 2**31]])
def test_a_mask_beyond_the_file_is_refused_before_memory_is_taken(shape, path):
    count = int(np.prod([float(n) for n in shape]))
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': ({count // 8},), }}"
    text = (text.ljust(117) + "\n").encode()
    content = b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text
    # Once a member that is short, once one that says it has all of these bytes.
    for claimed in (None, min(len(content) + count // 8, 2**32 - 2)):
        replaced(
            path,
            header={"shapes": {"hidden/kernel": shape}},
            **{MASK: content + bytes(1000)},
        )
        if claimed is not None:
            claim(path, MASK, claimed)
        tracemalloc.start()
        try:
            assert_refused(path)
            assert tracemalloc.get_traced_memory()[1] < 1e7
        finally:
            tracemalloc.stop()


def claim(path, member, size):
    """Writes another uncompressed size into the table of contents."""
    content = bytearray(path.read_bytes())
    at = content.rindex(member.encode()) - 46
    assert content[at : at + 4] == b"PK\x01\x02"
    content[at + 24 : at + 28] = size.to_bytes(4, "little")
    path.write_bytes(content)


def test_members_nobody_asked_for_are_not_read(path, ticket):
    members = members_of(path)
    write(path, [*members.items(), ("more.npy", stored(np.zeros(10**7, np.uint8)))])
    tracemalloc.start()
    try:
        loaded = tfticket.Ticket.load(path)
        assert tracemalloc.get_traced_memory()[1] < 5e6
    finally:
        tracemalloc.stop()
    assert_same(loaded.weights, ticket.weights)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "t.npz")
    # Opened, it would wait for somebody to write.
    assert_refused(tmp_path / "t.npz", "not a regular file")


def test_a_folder_is_no_ticket(tmp_path):
    (tmp_path / "t.npz").mkdir()
    assert_refused(tmp_path / "t.npz", "not a regular file")


def test_a_ticket_without_shapes_of_weights_loads(path, ticket):
    members = members_of(path)
    header = json.loads(np.load(path)["header"].tobytes())
    del header["weight_shapes"]
    members["header.npy"] = stored(np.frombuffer(json.dumps(header).encode(), np.uint8))
    write(path, members.items())
    loaded = tfticket.Ticket.load(path)
    assert_same(loaded.weights, ticket.weights)
    assert_same(loaded.masks, ticket.masks)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ([15, 1], "'hidden/kernel' and its mask have different shapes"),
        ([5, -3], r"'hidden/kernel' has no shape in its header but \[5, -3\]"),
    ],
)
def test_a_weight_of_another_shape_than_its_mask_is_refused(shape, message, path):
    shapes = {"hidden/kernel": shape, "hidden/bias": [3]}
    replaced(path, header={"weight_shapes": shapes})
    assert_refused(path, message)


def damaged(written, every):
    """Bytes changed, in one bit, in two and in all; and cut short."""
    for i in range(0, len(written), every):
        for flip in (0x01, 0x06, 0xFF) if every == 1 else ((0x01, 0x06, 0xFF)[i % 3],):
            yield written[:i] + bytes([written[i] ^ flip]) + written[i + 1 :]
        yield written[:i]


# All of them take half a minute.
EVERY = pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])


@EVERY
@pytest.mark.filterwarnings("error")
def test_no_changed_byte_and_no_cut_gives_another_ticket(every, path, ticket):
    refused = 0
    written = path.read_bytes()
    for content in damaged(written, every):
        path.write_bytes(content)
        try:
            loaded = tfticket.Ticket.load(path)
        except ValueError as error:
            refused += "t.npz' is damaged or is not a ticket" in str(error)
        else:  # some bytes mean nothing: a date, an attribute
            assert_same(loaded.masks, ticket.masks)
            assert_same(loaded.weights, ticket.weights)
            assert loaded.provenance == ticket.provenance
    assert refused > len(written) / every


@EVERY
def test_no_changed_byte_and_no_cut_gives_another_checkpoint(every, tmp_path):
    path = tmp_path / "checkpoint.npz"
    arrays = {"best:a": np.ones(3, np.float32), "variable:0": np.arange(4.0)}
    checkpoint = Checkpoint(path, "key", 0)
    checkpoint.save({"best": 1}, arrays)
    refused = 0
    written = path.read_bytes()
    for content in damaged(written, every):
        path.write_bytes(content)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            found = checkpoint.load()
        told = [str(w.message) for w in caught]
        if found is None:
            assert len(told) == 1, told
            assert "checkpoint.npz' is damaged" in told[0]
            refused += 1
        else:
            assert not told
            assert found[0] == {"best": 1}
            assert_same(found[1], arrays)
    assert refused > len(written) / every


def test_a_checkpoint_of_before_loads(tmp_path):
    text = json.dumps({"key": "key", "header": {"best": 1}}).encode()
    np.savez(
        tmp_path / "c.npz", header=np.frombuffer(text, np.uint8), **{"best:a": [1.0]}
    )
    header, arrays = Checkpoint(tmp_path / "c.npz", "key", 0).load()
    assert header == {"best": 1}
    assert_same(arrays, {"best:a": np.ones(1)})


def test_a_path_that_is_none_is_named():
    with pytest.raises(TypeError, match=r"^path must"):
        tfticket.Ticket.load(3)
