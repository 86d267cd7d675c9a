"""Checksums and arrays of files, by independent means."""

import hashlib
import io
import json
import re
import tracemalloc
import zipfile

import numpy as np
import pytest

from tfticket.common import checksums
from tfticket.common.arrays import open_arrays

LARGE = 8 << 20  # bytes; pieces of a file are far smaller


@pytest.fixture
def path(tmp_path):
    return tmp_path / "a file.json"


def peak_of(work):
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("size", [0, 1, 1 << 20, (1 << 20) + 1, 5 << 20])
def test_a_files_checksum_is_sha256_of_all_its_bytes(size, path):
    content = np.random.default_rng(0).bytes(size)
    path.write_bytes(content)
    assert checksums.sha256(path) == hashlib.sha256(content).hexdigest()


def test_a_file_is_not_read_at_once(path):
    path.write_bytes(bytes(LARGE))
    assert peak_of(lambda: checksums.sha256(path)) < LARGE / 2


def test_a_digest_is_of_the_values_in_any_order():
    text = b'{"a":[1,2.5,null],"b":"x"}'
    expected = hashlib.sha256(text).hexdigest()
    assert checksums.digest({"b": "x", "a": [1, 2.5, None]}) == expected
    assert checksums.digest({"a": (1, 2.5, None), "b": "x"}) == expected


def test_seeds_depend_on_each_word_and_its_place():
    seed = checksums.derived_seed
    digest = hashlib.sha256(b'["0","masks"]').hexdigest()
    assert seed(0, "masks") == int(digest[:8], 16)
    assert len({seed(0, "a"), seed("a", 0), seed(1, "a"), seed(0, "b"), seed(0)}) == 5
    assert all(0 <= seed(n) < 2**32 for n in range(100))
    assert seed(0) == seed("0")


def test_a_checked_file_is_what_was_written(path):
    checksums.write_checked(path, {"b": [1], "a": "x"})
    held = json.loads(path.read_text())
    assert held == {
        "b": [1],
        "a": "x",
        "sha256": checksums.digest({"a": "x", "b": [1]}),
    }
    assert checksums.read_checked(path) == {"b": [1], "a": "x"}
    assert checksums.read_json(path) == held
    assert checksums.is_sound(held)
    for wrong in ({**held, "a": "y"}, {**held, "sha256": 0}, {"a": "x"}, {}):
        assert not checksums.is_sound(wrong)
        path.write_text(json.dumps(wrong))
        with pytest.raises(ValueError, match=r"'a file\.json' has another checksum"):
            checksums.read_checked(path)
    path.write_text("[1]")
    with pytest.raises(ValueError, match=r"'a file\.json' holds no dictionary"):
        checksums.read_json(path)


# Arrays


def write_member(path, content, name="a.npy", how=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", how) as file:
        file.writestr(name, content)


def header(**changed):
    values = {"descr": "<f4", "fortran_order": False, "shape": (2,), **changed}
    text = f"{values}"[:-1] + ", }"
    text += " " * (-(len(text) + 11) % 64) + "\n"
    return b"\x93NUMPY\x01\x00" + len(text).to_bytes(2, "little") + text.encode()


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 3, 4), (5, 1, 2, 2)])
@pytest.mark.parametrize("dtype", ["<f4", ">f8", "|b1", "<i2", "<c8", "<U3", "|S2"])
def test_arrays_are_as_numpy_reads_them(dtype, shape, order, path):
    values = np.random.default_rng(0).integers(0, 9, shape)
    value = np.array(values.astype(dtype), order=order)
    with open(path, "wb") as file:
        np.savez_compressed(file, a=value, b=np.ones(2))
    with open_arrays(path) as file:
        assert file.names == ["a", "b"]
        found = file.read("a")
        np.testing.assert_array_equal(file.read("a", dtype, shape), value)
    np.testing.assert_array_equal(found, value)
    assert (found.dtype, found.shape) == (value.dtype, value.shape)


def test_an_array_is_read_in_pieces(path):
    with open(path, "wb") as file:
        np.savez(file, a=np.zeros(LARGE, np.uint8))
    with open_arrays(path) as file:
        assert LARGE < peak_of(lambda: file.read("a")) < 1.5 * LARGE


def test_headers_of_both_lengths_are_read(path):
    long = header()
    body = np.float32([1, 2]).tobytes()
    second = b"\x93NUMPY\x02\x00" + (len(long) - 10).to_bytes(4, "little") + long[10:]
    for content in (long + body, second + body):
        write_member(path, content)
        with open_arrays(path) as file:
            assert file.read("a").tolist() == [1, 2]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "array 'a' ends in its header"),
        (header()[:9], "array 'a' ends in its header"),
        (header()[:40], "array 'a' ends in its header"),
        (b"\x93NUMPY\x03\x00" + header()[8:], "'a' is no array"),
        (header()[:8] + b"\xff\xff" + bytes(70_000), "array 'a' has 65535 bytes"),
        (header(descr="|O"), "array 'a' is not plain numbers"),
        (header(descr="<f3"), "array 'a' is of no known type"),
        (header(descr="|S0", shape=(3,)), "array 'a' has values of no bytes"),
        (header(shape=(3,)) + bytes(8), "array 'a' is not as large as it says"),
        (header() + bytes(9), "array 'a' is not as large as it says"),
    ],
)
def test_a_member_that_is_no_plain_array_is_named(content, says, path):
    write_member(path, content)
    with open_arrays(path) as file, pytest.raises(ValueError, match=re.escape(says)):
        file.read("a")


def test_what_is_asked_for_has_to_be_there(path):
    write_member(path, header() + bytes(8))
    with open_arrays(path) as file:
        for arguments, says in (
            (("b",), "array 'b' is missing"),
            (("a", np.float64), "array 'a' is float32, and float64 was"),
            (("a", np.float32, [3]), "has shape (2,), and (3,) was"),
            (("a", None, ()), "has shape (2,), and () was"),
        ):
            with pytest.raises(ValueError, match=re.escape(says)):
                file.read(*arguments)
        assert file.read("a", np.float32, [2]).tolist() == [0, 0]


def test_a_longest_header_is_read(path):
    text = header()[10:-1]
    for length, fits in ((10_000, True), (10_001, False)):
        padded = text + b" " * (length - len(text) - 1) + b"\n"
        start = b"\x93NUMPY\x01\x00" + length.to_bytes(2, "little")
        write_member(path, start + padded + bytes(8))
        with open_arrays(path) as file:
            if fits:
                assert file.read("a").shape == (2,)
            else:
                with pytest.raises(ValueError, match="array 'a' has 10001 bytes"):
                    file.read("a")


@pytest.mark.parametrize("how", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_members_that_claim_more_than_there_is(how, path):
    """In the table at the zip's end, which says how large members are."""
    content = header(shape=(4,)) + bytes(16)
    write_member(path, content, how=how)
    stored = bytearray(path.read_bytes())
    table = stored.rindex(b"PK\x01\x02")
    compressed = int.from_bytes(stored[table + 20 : table + 24], "little")
    most = compressed * (1032 if how == zipfile.ZIP_DEFLATED else 1)
    claims = bytearray(stored)
    claims[table + 24 : table + 28] = (most + 1).to_bytes(4, "little")
    path.write_bytes(claims)
    with (
        open_arrays(path) as file,
        pytest.raises(ValueError, match="'a' claims more than its bytes can hold"),
    ):
        file.read("a")
    claims = bytearray(stored)
    claims[table + 20 : table + 24] = (len(stored) + 1).to_bytes(4, "little")
    path.write_bytes(claims)
    with pytest.raises(ValueError, match="members claim more"), open_arrays(path):
        pass


def test_a_name_is_there_once(path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as file:
        file.writestr("a.npy", header() + bytes(8))
        file.writestr("a", header() + bytes(8))
    path.write_bytes(content.getvalue())
    with pytest.raises(ValueError, match="array 'a' is in it twice"), open_arrays(path):
        pass
