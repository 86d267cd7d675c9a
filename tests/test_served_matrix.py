"""The served matrix: its page is made of its rows, and says why a cell is red."""

import importlib.util
import json
import sys

import numpy as np
import pytest
from fixtures import pages

sys.path.append(str(pages.ROOT / "benchmarks"))
import served_page

SCRIPT = pages.ROOT / "benchmarks" / "served_matrix.py"
RESULTS = pages.ROOT / "docs" / "results"


def row(form, runtime, status="equal", **other):
    return (
        dict.fromkeys(served_page.COLUMNS, "")
        | {"network": "Net", "sparsity": "0.8", "form": form, "runtime": runtime}
        | {"status": status}
        | other
    )


def test_the_page_is_made_of_the_rows():
    rows = served_page.read(RESULTS / "served.csv")
    assert served_page.page(rows) == (RESULTS / "served.md").read_text()
    assert served_page.ordered(rows) == rows


def test_every_runtime_and_form_has_a_row():
    rows = served_page.read(RESULTS / "served.csv")
    networks = {row["network"] for row in rows}
    assert len(networks) == 2
    found = [(row["network"], row["runtime"], row["form"]) for row in rows]
    assert sorted(found) == sorted(
        (network, runtime, form)
        for network in networks
        for runtime in served_page.RUNTIMES
        for form in served_page.FORMS
    )
    for each in rows:
        reads = each["runtime"] in served_page.FORMS[each["form"]]
        assert (each["status"] == "other") is not reads


def test_a_cell_has_the_difference_and_the_ratio():
    notes = []
    good = row("dense", "TensorFlow", difference="1.23e-07", ratio="0.987")
    assert served_page.cell(good, notes) == "1e-7; 0.99"
    exact = row("dense", "TensorFlow", difference="0.00e+00", ratio="1.000")
    assert served_page.cell(exact, notes) == "0; 1.00"
    assert served_page.cell(row("ONNX", "LiteRT", "other"), notes) == "-"
    assert served_page.cell(row("ONNX", "OpenVINO", "not run"), notes) == "not run"
    assert served_page.cell(None, notes) == "not run"
    assert notes == []


def test_a_red_cell_is_explained_or_refused():
    notes = []
    fails = row("encoded", "OpenVINO", "fails", detail="VarHandleOp")
    assert served_page.cell(fails, notes) == "**no** (1)"
    wrong = row("LiteRT int8", "OpenVINO", "different")
    assert served_page.cell(wrong, notes) == "**wrong** (2)"
    assert served_page.cell(row("csr", "OpenVINO", "fails"), notes) == "**no** (1)"
    assert "foldable" in notes[0]
    new = row("dense", "TensorFlow", "fails", detail="out of memory")
    with pytest.raises(ValueError, match=r"out of memory.*no entry in EXPLAINED"):
        served_page.page([new])


def test_what_counts_as_equal():
    assert served_page.status("dense", 9e-4) == "equal"
    assert served_page.status("dense", 2e-3) == "different"
    assert served_page.status("encoded float16", 2e-3) == "equal"
    assert served_page.status("LiteRT int8", float("nan")) == "different"


def test_runtimes_that_are_not_installed_are_listed(tmp_path, run_script, monkeypatch):
    """LiteRT is; the page tells of the others how to install them."""
    monkeypatch.setenv("TFTICKET_LITERTJS", str(tmp_path))  # where it is not
    csv, page = tmp_path / "rows.csv", tmp_path / "page.md"
    missing = [
        runtime
        for runtime, module in (("OpenVINO", "openvino"), ("Triton HTTP", "pytriton"))
        if importlib.util.find_spec(module) is None
    ]
    asked = ",".join(["LiteRT.js", *missing])
    done = run_script(
        SCRIPT,
        *("--network=lenet_300_100", "--repeats=1", f"--runtimes={asked}"),
        *(f"--csv={csv}", f"--page={page}"),
        cwd=tmp_path,
        quick=True,
    )
    assert done.returncode == 0, done.stderr
    for runtime in ["LiteRT.js", *missing]:
        assert f"{runtime}: not run: " in done.stdout
    if "OpenVINO" in missing:
        assert "- OpenVINO: not run: pip install openvino" in page.read_text()
    found = served_page.read(csv)
    assert {row["status"] for row in found} == {"other", "not run"}


@pytest.mark.slow
def test_a_runtime_in_its_process(tmp_path, run_script):
    """One that ends with an error of a file, and one file that runs."""
    import keras

    from tfticket import export

    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3)])
    made = export.litert(model, tmp_path / "a.tflite").path
    (tmp_path / "b.tflite").write_bytes(b"no model")
    files = {"LiteRT float32": str(made), "LiteRT sparse": str(tmp_path / "b.tflite")}
    (tmp_path / "files.json").write_text(json.dumps(files))
    x = np.ones((2, 4), np.float32)
    np.save(tmp_path / "x.npy", x)
    np.save(tmp_path / "y.npy", model.predict(x, verbose=0))
    done = run_script(
        SCRIPT,
        *("--child=LiteRT", f"--folder={tmp_path}", "--repeats=3"),
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["LiteRT float32"]["difference"] < 1e-6
    assert len(found["LiteRT float32"]["ms"]) == 3
    assert "ValueError" in found["LiteRT sparse"]["error"]
