"""LiteRT.js in headless Chromium: what the page answers is what Keras answers.

    python -m pytest -m browser

Needs Chromium, and LiteRT.js: `npm install @litertjs/core` at or above the working
directory, or `TFTICKET_LITERTJS`.
"""

import asyncio
import contextlib
import dataclasses

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter
from fixtures import benchmark
from fixtures.devtools import Page
from keras import layers

from tfticket import export
from tfticket.export.browser import chromium, comparison, litertjs
from tfticket.export.browser.server import Server
from tfticket.export.browser.trial import prepare
from tfticket.export.sparsity_plan import expectation

pytestmark = pytest.mark.browser


@pytest.fixture(scope="module", autouse=True)
def browser():
    try:
        litertjs.find()
        return chromium.find()
    except FileNotFoundError as error:
        pytest.skip(str(error))


after_cluster = benchmark.load("after_cluster")


def mobile(head):
    """A small MobileNet that obeys XNNPACK's rules, 96x96, pruned."""
    image = keras.Input((96, 96, 3), batch_size=1, name="image")
    x = layers.ZeroPadding2D(1)(image)
    x = layers.Conv2D(16, 3, strides=2, use_bias=False)(x)
    x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    for strides, width in ((1, 32), (2, 64), (2, 128)):
        x = layers.ZeroPadding2D(1)(x)
        x = layers.DepthwiseConv2D(3, strides=strides, use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
        x = layers.Conv2D(width, 1, use_bias=False)(x)
        x = layers.ReLU(6.0)(layers.BatchNormalization()(x))
    return after_cluster.pruned(keras.Model(image, head(x)))


@pytest.fixture(scope="module")
def right(tmp_path_factory):
    """The model, samples, and its dense and sparse files."""
    keras.utils.set_random_seed(1)
    model = mobile(
        lambda x: layers.Dense(10, name="logits")(layers.GlobalAveragePooling2D()(x))
    )
    folder = tmp_path_factory.mktemp("right")
    files = [
        export.litert(model, folder / f"{name}.tflite", sparse=name == "sparse").path
        for name in ("dense", "sparse")
    ]
    x = np.random.default_rng(2).standard_normal((3, 96, 96, 3)).astype("float32")
    return model, x, files


def test_outputs_are_the_keras_models(right):
    model, x, files = right
    found = export.compare_in_browser(files, x, repeats=10)
    want = np.concatenate([model(x[i : i + 1]) for i in range(len(x))])
    for row in found.rows:
        got = row.outputs["logits"]
        assert got.shape == want.shape
        assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    assert found.same, found
    dense, sparse = found.rows
    assert sparse.agreement == 1.0
    assert sparse.difference <= 1e-5
    assert sparse.bytes < dense.bytes / 2
    # It takes some 0.6 of the time. A busy machine is no reason to fail.
    assert sparse.speedup > 1.1
    assert "Chrome" in found.browser
    assert found.engine.startswith("WebAssembly with ")
    assert found.threads > 0
    assert "3 of 3 1x1 kernels run sparse" in expectation(model)[0]


def test_a_head_that_is_answered_wrong_is_told(tmp_path):
    """Right in LiteRT on x86; in the browser something else, and no error."""
    keras.utils.set_random_seed(1)

    def head(x):
        x = layers.GlobalAveragePooling2D(keepdims=True)(x)
        return layers.Flatten()(layers.Conv2D(10, 1, use_bias=False)(x))

    model = mobile(head)
    files = after_cluster.written(model, tmp_path)
    found = export.compare_in_browser(files, repeats=3)
    dense, sparse = found.rows
    assert not found.same
    assert sparse.difference > 0.5
    assert "'sparse' " in found.warnings[0]
    (x,) = prepare(files).inputs.values()
    want = np.concatenate([model(x[i : i + 1]) for i in range(len(x))])
    (got,) = dense.outputs.values()
    assert np.abs(got - want).max() <= 1e-5 * np.abs(want).max()
    native = Interpreter(str(files["sparse"])).get_signature_runner("serving_default")
    (got,) = native(image=x[:1]).values()
    assert np.abs(got - want[:1]).max() <= 1e-5 * np.abs(want).max()


def test_several_inputs_and_types_and_names(tmp_path):
    """A batch of two, an integer input, and names in another order than they sort."""
    a = keras.Input((3,), batch_size=2, name="b_first")
    n = keras.Input((2,), batch_size=2, name="a_second", dtype="int32")
    sums = layers.Dense(4, name="z")(a)
    more = keras.ops.cast(n, "float32") * 2.0
    model = keras.Model([a, n], {"z": sums, "y": layers.Identity(name="y")(more)})
    path = after_cluster.written(model, tmp_path)["dense"]
    random = np.random.default_rng(0)
    inputs = {
        "b_first": random.standard_normal((6, 3)).astype("float32"),
        "a_second": random.integers(0, 9, (6, 2)).astype("int32"),
    }
    (row,) = export.compare_in_browser([path], inputs, repeats=2).rows
    kernel, bias = model.get_layer("z").get_weights()
    want = {"z": inputs["b_first"] @ kernel + bias, "y": inputs["a_second"] * 2.0}
    assert set(row.outputs) == set(want)
    for name, value in want.items():
        np.testing.assert_allclose(row.outputs[name], value, rtol=1e-5, atol=1e-6)


def test_a_file_that_litertjs_cannot_load(right, browser):
    """The page says so, and what it says comes back."""
    trial = dataclasses.replace(prepare([right[2][0]]), contents=(b"no model",))
    with (
        Server(trial, litertjs.find(), "127.0.0.1", 0) as server,
        chromium.opened(browser, server.url) as process,
        pytest.raises(export.BrowserError, match=r"Loading dense: .*Chrome"),
    ):
        comparison.answer(server, 120, process)


async def _look(port_file, picture):
    """What the page is like at 390 pixels, once it is done."""
    page = await Page.of(port_file)
    await page.resize(390, 844, mobile=True)
    await page.until("document.getElementById('status').textContent == 'Done.'")
    found = {
        "width": await page.evaluate("document.documentElement.scrollWidth"),
        "text": await page.evaluate("document.querySelector('main').innerText"),
        "light": await page.evaluate("getComputedStyle(document.body).backgroundColor"),
        "error": await page.evaluate("document.getElementById('error').hidden"),
    }
    await page.screenshot(picture)
    await page.prefer("dark")
    found["dark"] = await page.evaluate(
        "getComputedStyle(document.body).backgroundColor"
    )
    return found


def test_the_page_on_a_phone(right, browser, tmp_path, monkeypatch):
    _, _, files = right
    profile = tmp_path / "profile"
    flags = (*chromium._FLAGS, "--remote-debugging-port=0")
    monkeypatch.setattr(chromium, "_FLAGS", flags)
    here = contextlib.nullcontext(tmp_path)
    monkeypatch.setattr(chromium, "temporary_folder", lambda: here)
    with (
        comparison.serving(files, None, 2, "127.0.0.1", 0, None) as server,
        chromium.opened(browser, server.url),
    ):
        look = _look(profile / "DevToolsActivePort", tmp_path / "page.png")
        found = asyncio.run(asyncio.wait_for(look, 180))
    assert found["width"] == 390
    assert found["error"]  # hidden
    assert found["light"] == "rgb(255, 255, 255)"
    assert found["dark"] == "rgb(20, 23, 26)"
    assert "times as fast as dense" in found["text"]
    assert "LiteRT.js 2" in found["text"]


@pytest.mark.parametrize("name", after_cluster.CASES)
def test_what_may_follow_a_sparse_cluster(name, tmp_path):
    """The table of docs/results/after_cluster.md, found again."""
    row = after_cluster.measure(name, tmp_path, repeats=2)
    assert row["answer"] == after_cluster.CASES[name].answer, row


@pytest.mark.parametrize(
    "name", [x for x, case in after_cluster.CASES.items() if case.answer != "right"]
)
def test_what_goes_wrong_is_right_once_it_is_rewritten(name, tmp_path):
    """Or it is refused, with the reason."""
    model = after_cluster.pruned(after_cluster.CASES[name].build())
    if name.startswith("middle") or name == "pixel_square_flatten_dense":
        with pytest.raises(ValueError, match="can't be written to run sparse"):
            export.litert(model, tmp_path / "m.tflite", sparse=True, target="web")
        return
    path = export.litert(model, tmp_path / "m.tflite", sparse=True, target="web").path
    x = np.random.default_rng(1).standard_normal((3, *model.input_shape[1:]))
    x = x.astype("float32")
    (row,) = export.compare_in_browser([path], x, repeats=2).rows
    wanted = keras.tree.flatten(model.predict(x, batch_size=1, verbose=0))
    for old, new in zip(wanted, row.outputs.values(), strict=True):
        np.testing.assert_allclose(
            new.reshape(old.shape), old, atol=1e-5 * np.abs(old).max()
        )
