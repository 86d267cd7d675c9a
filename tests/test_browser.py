"""`export.compare_in_browser` and `tfticket try` without a browser."""

import contextlib
import http.client
import json
import os
import pathlib
import socket
import stat
import sys
import threading
import time
import urllib.request

import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter
from fixtures import fake_browser

from tfticket import export
from tfticket.export.browser import chromium, comparison, litertjs
from tfticket.export.browser.result import read_post
from tfticket.export.browser.trial import little_endian, prepare
from tfticket.export.tflite import conversion, reader
from tfticket_cli import main, try_


def write(folder, name, function, *specs):
    """A `.tflite` file of a function whose signature is served."""
    module = tf.Module()
    served = tf.function(function, input_signature=specs)
    tf.saved_model.save(module, folder / name, {"serving_default": served})
    path = folder / f"{name}.tflite"
    path.write_bytes(conversion.convert(folder / name, name))
    return path


def spec(*shape, name="x", dtype="float32"):
    return tf.TensorSpec(shape, dtype, name)


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    four = spec(1, 4)
    return {
        "twice": write(folder, "twice", lambda x: {"y": x * 2.0}, four),
        "more": write(folder, "more", lambda x: {"y": x + 1.0}, four),
        "renamed": write(
            folder, "renamed", lambda z: {"w": z * 2.0}, spec(1, 4, name="z")
        ),
        "open": write(folder, "open", lambda x: {"y": x * 2.0}, spec(None, 4)),
        "wide": write(folder, "wide", lambda x: {"y": x * 2.0}, spec(1, 5)),
        "long": write(
            folder, "long", lambda x: {"y": x * 2}, spec(1, 4, dtype="int64")
        ),
        "pair": write(
            folder,
            "pair",
            lambda x, n: {"y": x * 2.0, "m": n + 1},
            spec(2, 3),
            spec(2, name="n", dtype="int32"),
        ),
    }


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with what has the shape of the npm package."""
    folder = tmp_path_factory.mktemp("package")
    scope = folder / "node_modules" / "@litertjs"
    for name in (
        *("core/dist/index.js", "wasm-utils/dist/index.js"),
        *("core/wasm/litert_wasm_internal.js", "core/wasm/litert_wasm_internal.wasm"),
        "core/wasm/litert_wasm_compat_internal.js",
        "core/wasm/litert_wasm_compat_internal.wasm",
    ):
        (scope / name).parent.mkdir(parents=True, exist_ok=True)
        (scope / name).write_text(name)
    (scope / "core" / "package.json").write_text('{"version": "9.8.7"}')
    return folder


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A program that takes Chromium's flags and does what the page does."""
    path = tmp_path_factory.mktemp("bin") / "browser"
    source = pathlib.Path(fake_browser.__file__)
    path.write_text(f'#!/bin/sh\nexec {sys.executable} -I {source} "$@"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return path


@pytest.fixture
def server(files, package):
    pair = [files["twice"], files["more"]]
    with comparison.serving(pair, None, 3, "127.0.0.1", 0, package) as started:
        yield started


def request(server, method, path, body=None, **headers):
    """Status, headers and body of a request whose path is sent as it is."""
    address = server.url.removeprefix("http://").removesuffix("/")
    connection = http.client.HTTPConnection(address, timeout=30)
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    content = response.read()
    connection.close()
    return response.status, response.headers, content


def post(server, body, path="/results", kind="application/octet-stream"):
    status, _, text = request(server, "POST", path, body, **{"Content-Type": kind})
    return status, text.decode()


# What is asked.


def test_signatures_are_those_of_the_interpreter(files):
    for path in files.values():
        runner = Interpreter(str(path)).get_signature_runner("serving_default")
        found = reader.signature(path.read_bytes())
        for entries, want in zip(
            found,
            (runner.get_input_details(), runner.get_output_details()),
            strict=True,
        ):
            assert {name: (of.shape, of.dtype) for name, of in entries.items()} == {
                name: (
                    tuple(details["shape_signature"]),
                    np.dtype(details["dtype"]).name,
                )
                for name, details in want.items()
            }
    with pytest.raises(ValueError, match="TFL3"):
        reader.signature(b"PK\x03\x04nothing")


@pytest.mark.parametrize(
    ("names", "inputs", "says"),
    [
        (["open"], None, "open.tflite leaves an axis of its input 'x' open"),
        (["long"], None, "int64 as its input 'x'"),
        (["twice", "wide"], None, "'wide' has {'x': 'float32 \\(1, 5\\)'}"),
        (["twice", "pair"], None, "must have the same inputs and outputs"),
        ([], None, "one .tflite file or more"),
        (["twice", "twice"], None, "names a file twice"),
        (["twice"], np.ones((3, 5), "float32"), "must be \\(samples, 4\\)"),
        (["twice"], np.ones((0, 4), "float32"), "must be \\(samples, 4\\)"),
        (["twice"], {"z": np.ones((1, 4))}, "the names \\['x'\\]"),
        (["pair"], np.ones((2, 3), "float32"), "a dict by name"),
        (
            ["pair"],
            {"x": np.ones((3, 3), "float32"), "n": np.ones(3, "int32")},
            "a multiple of the batch of 2",
        ),
        (
            ["pair"],
            {"x": np.ones((2, 3), "float32"), "n": np.ones(4, "int32")},
            "as many of each input",
        ),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_served(
    files, names, inputs, says
):
    # Neither the package nor Chromium is there: these come first.
    with pytest.raises(ValueError, match=says):
        comparison.serving(
            [files[name] for name in names], inputs, 1, "127.0.0.1", 0, "/nowhere"
        )


def test_other_wrong_arguments(files, package):
    with pytest.raises(FileNotFoundError, match=r"none\.tflite is not there"):
        prepare(["none.tflite"])
    with pytest.raises(TypeError, match="must be int32"):
        prepare([files["pair"]], {"x": np.ones((2, 3)), "n": np.ones(2)})
    with pytest.raises(ValueError, match="repeats must be at least 1"):
        prepare([files["twice"]], repeats=0)
    with pytest.raises(ValueError, match="timeout must be above 0"):
        export.compare_in_browser([files["twice"]], timeout=0)
    with pytest.raises(ValueError, match="port must be at most 65535"):
        comparison.serving([files["twice"]], None, 1, "127.0.0.1", 65536, package)


def test_a_trial(files):
    x = np.arange(12, dtype="float64").reshape(3, 4)
    trial = prepare([files["twice"], files["renamed"]], x, repeats=2)
    assert trial.names == ("twice", "renamed")
    assert trial.renamed == ({"x": "x", "y": "y"}, {"z": "x", "w": "y"})
    assert (trial.calls, trial.output_bytes) == (3, 3 * 4 * 4)
    assert trial.inputs["x"].dtype == np.float32
    served = trial.served()
    assert served["inputs/0.bin"] == x.astype("<f4").tobytes()
    assert served["files/1.tflite"] == files["renamed"].read_bytes()
    plan = json.loads(json.dumps(trial.plan("9.8.7", "results")))
    assert plan["inputs"][0]["shape"] == [1, 4]
    assert [entry["bytes"] for entry in plan["files"]] == [
        path.stat().st_size for path in (files["twice"], files["renamed"])
    ]
    big = np.arange(3, dtype=">i4")
    assert little_endian(big) == np.arange(3, dtype="<i4").tobytes()


def test_samples_that_are_made_up_are_the_same_each_time(files):
    first, second = (prepare([files["pair"]]).inputs for _ in range(2))
    assert first["x"].shape == (16, 3)
    assert first["n"].dtype == np.int32
    for name, value in first.items():
        np.testing.assert_array_equal(value, second[name])


def test_names_tell_files_apart(files, tmp_path):
    same = tmp_path / "twice.tflite"
    same.write_bytes(files["twice"].read_bytes())
    paths = (files["twice"], same)
    assert prepare(paths).names == tuple(map(str, paths))
    assert prepare({"a": same, "b": same}).names == ("a", "b")


# Where LiteRT.js and Chromium are.


def test_litertjs_is_found(package, monkeypatch, tmp_path):
    monkeypatch.delenv(litertjs.VARIABLE, raising=False)
    core = package / "node_modules" / "@litertjs" / "core"
    assert litertjs.find(package).version == "9.8.7"
    assert litertjs.find(core).files["litertjs/core.js"] == core / "dist" / "index.js"
    inside = package / "a" / "b"
    inside.mkdir(parents=True, exist_ok=True)
    monkeypatch.chdir(inside)
    assert litertjs.find() == litertjs.find(package)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(FileNotFoundError, match="npm install @litertjs/core"):
        litertjs.find()
    monkeypatch.setenv(litertjs.VARIABLE, str(package))
    assert litertjs.find() == litertjs.find(package)
    with pytest.raises(FileNotFoundError, match=str(tmp_path)):
        litertjs.find(tmp_path)  # what is told counts, the variable does not


def test_a_package_that_is_not_whole(tmp_path):
    core = tmp_path / "node_modules" / "@litertjs" / "core"
    core.mkdir(parents=True)
    (core / "package.json").write_text('{"version": "1"}')
    with pytest.raises(FileNotFoundError, match="is not whole"):
        litertjs.find(tmp_path)


def test_no_chromium(files, monkeypatch, tmp_path):
    with pytest.raises(FileNotFoundError, match="chromium=no_such_browser"):
        export.compare_in_browser([files["twice"]], chromium="no_such_browser")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="apt-get install chromium"):
        chromium.find()


# The server.


def test_only_what_is_named_is_served(server, files):
    status, headers, content = request(server, "GET", "/")
    assert status == 200
    assert b"@litertjs/core" in content
    assert headers["Content-Type"] == "text/html; charset=utf-8"
    assert headers["Content-Security-Policy"].startswith("default-src 'self'")
    assert request(server, "GET", "/litertjs/core.js")[2] == b"core/dist/index.js"
    status, headers, _ = request(
        server, "GET", "/litertjs/wasm/litert_wasm_internal.wasm"
    )
    assert (status, headers["Content-Type"]) == (200, "application/wasm")
    assert request(server, "GET", "/files/0.tflite")[2] == files["twice"].read_bytes()
    for path in (
        *("/page.py", "/server.py", "/files/2.tflite", "/files/", "/page.js/"),
        *("/../setup.cfg", "/files/../page.js", "/%2e%2e/setup.cfg", "/./page.js"),
        *("/litertjs/../../etc/passwd", "/files/..%2f0.tflite", str(files["twice"])),
        *("/results", "/errors", "/litertjs/package.json"),
    ):
        assert request(server, "GET", path)[0] == 404, path
    for method in ("PUT", "DELETE", "OPTIONS", "HEAD"):
        assert request(server, method, "/page.js")[0] == 501


def plan_of(server):
    return json.loads(request(server, "GET", "/plan.json")[2])


def test_posts_are_checked(server):
    good = fake_browser.packed(plan_of(server))
    assert post(server, good, path="/page.js")[0] == 404
    # What a page of another site may send without asking.
    assert post(server, good, kind="text/plain")[0] == 415
    size = 2 * 8 * 4 * 4  # files, samples, numbers, bytes
    assert post(server, good + b"x") == (400, f"{size + 1} bytes of outputs")
    huge = {"Content-Length": str(1 << 40), "Content-Type": "application/octet-stream"}
    assert request(server, "POST", "/results", None, **huge)[0] == 413
    huge["Content-Length"] = "-1"
    assert request(server, "POST", "/results", None, **huge)[0] == 411
    for wrong in (b"", b"\0\0\0\0", b"\xff" * 9, good[:-4], good[:20]):
        assert post(server, wrong)[0] == 400
    assert post(server, b"[]", path="/errors")[0] == 400
    assert server.found.empty()
    assert post(server, good)[0] == 204
    assert server.found.get_nowait().browser == "Fake/1.0 [31m"


@pytest.mark.parametrize(
    ("times", "says"),
    [
        ([[1.0] * 3], "times of 1 files"),
        ([[1.0] * 3, [1.0] * 2], "not 3 positive times"),
        ([[1.0] * 3, [1.0, 0.0, 1.0]], "not 3 positive times"),
        ([[1.0] * 3, [1.0, float("nan"), 1.0]], "not 3 positive times"),
        ([[1.0] * 3, "abc"], "could not convert"),
    ],
)
def test_times_are_checked(server, times, says):
    good = fake_browser.packed(plan_of(server))
    size = int.from_bytes(good[:4], "little")
    header = {**json.loads(good[4 : 4 + size]), "times": times}
    text = json.dumps(header).encode()
    body = len(text).to_bytes(4, "little") + text + good[4 + size :]
    status, told = post(server, body)
    assert status == 400
    assert says in told


def test_a_port_that_is_taken(files, package):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=f"port={port}.*Another program has the port"):
            comparison.serving([files["twice"]], None, 1, "127.0.0.1", port, package)
    with pytest.raises(OSError, match=r"host='192\.0\.2\.1'.*address of this machine"):
        comparison.serving([files["twice"]], None, 1, "192.0.2.1", 0, package)


def test_only_another_host_is_for_other_devices(server, files, package):
    assert server.url.startswith("http://127.0.0.1:")
    assert server.url_in_network is None
    with comparison.serving([files["twice"]], None, 1, "0.0.0.0", 0, package) as wide:
        assert wide.url.startswith("http://127.0.0.1:")
        assert request(wide, "GET", "/plan.json")[0] == 200
        shown = wide.url_in_network
        assert shown is None or not shown.startswith("http://0.0.0.0")


# What comes of it.


def test_outputs_come_back_exactly(files):
    trial = prepare({"a": files["pair"], "b": files["pair"]}, repeats=2)
    random = np.random.default_rng(5)
    want = [
        {
            "y": random.standard_normal((16, 3)).astype("float32"),
            "m": random.integers(-(2**31), 2**31, 16).astype("int32"),
        }
        for _ in range(2)
    ]
    header = {
        "times": [[4.0, 6.0], [1.0, 2.0]],
        **{"browser": "b", "device": "d", "engine": "e", "threads": 4},
    }
    body = json.dumps(header).encode()
    body = len(body).to_bytes(4, "little") + body
    for file in want:
        for call in range(8):
            for name in trial.signature.outputs:
                body += file[name][2 * call : 2 * call + 2].tobytes()
    found = read_post(body, trial, "9.8.7")
    for row, file in zip(found.rows, want, strict=True):
        for name, value in file.items():
            np.testing.assert_array_equal(row.outputs[name], value)
            assert row.outputs[name].dtype == value.dtype
    first, second = found.rows
    assert (first.milliseconds, second.milliseconds) == (5.0, 1.5)
    assert (first.speedup, second.speedup) == (1.0, 3.5)  # of 4 and 3
    apart = max(
        np.abs(want[1][k].astype(float) - want[0][k]).max() / np.abs(want[0][k]).max()
        for k in want[0]
    )
    assert second.difference == pytest.approx(apart)
    same = np.mean(want[0]["y"].argmax(1) == want[1]["y"].argmax(1))
    assert second.agreement == same


def rows_of(files, zeros=False, nan=False):
    trial = prepare([files["twice"], files["more"]], repeats=3)
    body = fake_browser.packed(trial.plan("9.8.7", "results"), zeros)
    if nan:
        body = body[:-4] + np.float32("nan").tobytes()
    return read_post(body, trial, "9.8.7")


def test_what_is_wrong_is_said(files):
    found = rows_of(files)
    assert not found.same
    assert found.rows[1].difference == 2.0  # 1.5 against 0.5
    assert "'more' does not compute what 'twice' does" in found.warnings[0]
    found = rows_of(files, zeros=True)
    assert found.rows[1].zeros
    assert "'more' answers only zeros" in str(found)
    found = rows_of(files, nan=True)
    assert not found.same
    assert "largest difference nan" in found.warnings[0]


def test_the_table_and_json(files):
    found = rows_of(files)
    header, first, second, warning, *_, where, browser = str(found).splitlines()
    assert header.split()[:4] == ["file", "kB", "ms", "faster"]
    assert first.split()[-4:] == ["1.00", "1.00x", "0.0e+00", "100.0%"]
    assert second.split()[-4:] == ["2.00", "0.50x", "2.0e+00", "100.0%"]
    assert warning.startswith("Warning: 'more'")
    assert where == "LiteRT.js 9.8.7, no engine; Test, 3 threads"
    assert browser == "Fake/1.0 [31m"  # nothing that moves a cursor
    told = json.loads(json.dumps(found.as_dict()))
    assert told["rows"][1]["times"] == [2.0, 2.0, 2.0]
    assert "outputs" not in told["rows"][1]
    assert told["same"] is False


# With a program in the browser's place.


def test_a_browser_answers(files, package, browser):
    found = export.compare_in_browser(
        [files["twice"], files["more"]],
        repeats=3,
        chromium=browser,
        litertjs=package,
        timeout=60,
    )
    assert found.rows[1].times == (2.0, 2.0, 2.0)
    assert (found.rows[0].outputs["y"] == 0.5).all()
    assert found.rows[0].outputs["y"].shape == (8, 4)


@pytest.mark.parametrize(
    ("what", "timeout", "says"),
    [
        ("end", 60, "ended with exit code 3"),
        ("hang", 1, "No browser has answered in 1 seconds"),
        ("error", 60, "Loading dense: no memory \\(Fake/1.0\\)"),
    ],
)
def test_a_browser_that_does_not(
    files, package, browser, monkeypatch, what, timeout, says
):
    monkeypatch.setenv("FAKE_BROWSER", what)
    started = []
    popen = chromium.subprocess.Popen
    monkeypatch.setattr(
        chromium.subprocess,
        "Popen",
        lambda *args, **more: started.append(popen(*args, **more)) or started[-1],
    )
    with pytest.raises(export.BrowserError, match=says):
        export.compare_in_browser(
            [files["twice"]], chromium=browser, litertjs=package, timeout=timeout
        )
    assert started[0].poll() is not None  # nothing is left behind


def visitor(url):
    """Answers as a browser would, from another thread."""
    plan = json.loads(urllib.request.urlopen(f"{url}plan.json").read())
    fake_browser.post(f"{url}results", fake_browser.packed(plan))


def test_without_headless_the_address_is_printed(files, package, monkeypatch, capsys):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]

    def wait():
        for _ in range(100):
            with contextlib.suppress(OSError):
                visitor(f"http://127.0.0.1:{port}/")
                break
            time.sleep(0.1)

    thread = threading.Thread(target=wait)
    thread.start()
    found = export.compare_in_browser(
        [files["twice"]], headless=False, port=port, litertjs=package, timeout=60
    )
    thread.join()
    assert found.device == "Test"
    assert capsys.readouterr().out == f"Open http://127.0.0.1:{port}/\n"


# The command.


def run_command(capfd, *args):
    code = main.run(try_, [*map(str, args)], "tfticket try")
    out, err = capfd.readouterr()
    return code, out, err


@pytest.fixture
def as_it_was(monkeypatch):
    """What a command sets for its whole process."""
    monkeypatch.setattr("warnings.showwarning", lambda *_: None)


def test_the_command_with_a_browser(files, package, browser, capfd, as_it_was):
    code, out, err = run_command(
        capfd, files["twice"], files["more"], "--headless", "--json", "--repeats=3",
        f"--chromium={browser}", f"--litertjs={package}",
    )  # fmt: skip
    assert code == main.DONE, err
    result = json.loads(out)
    (found,) = result["results"]
    assert [row["name"] for row in found["rows"]] == ["twice", "more"]
    assert len(found["rows"][0]["times"]) == 3
    assert result["warnings"] == [f"{text}." for text in found["warnings"]]
    assert "2.00   0.50x" in err


def test_the_command_serves_until_enough_have_answered(
    files, package, capfd, as_it_was, monkeypatch
):
    answer = comparison.answer

    def with_visitor(server):
        threading.Thread(target=visitor, args=(server.url,)).start()
        return answer(server)

    monkeypatch.setattr(comparison, "answer", with_visitor)
    told = [files["twice"], f"--litertjs={package}", "--results=2"]
    code, out, err = run_command(capfd, *told)
    assert code == main.DONE, err
    assert out.count("LiteRT.js 9.8.7, no engine") == 2
    assert "Open http://127.0.0.1:" in out
    assert "--host=0.0.0.0" in out


def test_the_command_ends_by_ctrl_c(files, package, capfd, as_it_was, monkeypatch):
    found = [export.BrowserError("one that failed"), KeyboardInterrupt()]

    def answer(server):
        raise found.pop(0)

    monkeypatch.setattr(comparison, "answer", answer)
    code, out, err = run_command(
        capfd, files["twice"], f"--litertjs={package}", "--json"
    )
    assert code == main.DONE, err
    assert json.loads(out)["results"] == []
    assert json.loads(out)["warnings"] == ["one that failed"]
    assert "Ended, after 0 results." in err


@pytest.mark.parametrize(
    ("args", "says"),
    [
        ([], "Name .tflite files"),
        (["x.tflite", "--headless", "--results=1"], "leave --results out"),
        (["x.tflite", "--repeats=0"], "--repeats=0"),
    ],
)
def test_wrong_flags(args, says, capfd, as_it_was):
    code, _, err = run_command(capfd, *args)
    assert code == main.WRONG_FLAGS
    assert says in err


def test_files_may_come_before_and_after_flags(files, capfd, as_it_was):
    code, _, err = run_command(
        capfd, "a.tflite", "--host=127.0.0.1", "b.tflite", "--files=c.tflite"
    )
    assert code == main.FILES
    assert "c.tflite does not exist" in err
    assert os.path.exists(files["twice"])
