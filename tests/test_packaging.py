"""What is packed and how: metadata, files, and an install away from the sources."""

import configparser
import importlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tarfile
import venv
import zipfile

import pytest

import tfticket

ROOT = pathlib.Path(__file__).parents[1]
PACKAGES = ("tfticket", "tfticket_cli")


@pytest.fixture(scope="module")
def config():
    parser = configparser.ConfigParser()
    parser.read(ROOT / "setup.cfg")
    return parser


def test_metadata(config):
    metadata, options = config["metadata"], config["options"]
    assert metadata["version"] == "attr: tfticket._version.__version__"
    assert importlib.import_module("tfticket._version").__version__ == (
        tfticket.__version__
    )
    assert f"## {tfticket.__version__}" in (ROOT / "CHANGELOG.md").read_text()
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {tfticket.__version__}\n" in citation
    assert metadata["author"] == "tfticket contributors"
    assert metadata["license"] == "Apache-2.0"
    text = (ROOT / metadata["license_files"]).read_text()
    assert "Apache License" in text
    assert "Copyright 2026 The tfticket authors" in text
    assert options["python_requires"] == ">=3.10"
    extras = config["options.extras_require"]
    wanted = {
        "test",
        "datasets",
        "docs",
        "ray",
        "served",
        "tensorboard",
        "tfmot",
        "onnx",
        "jax",
        "torch",
        "openvino",
    }
    assert set(extras) == wanted
    _, _, entry = config["options.entry_points"]["console_scripts"].rpartition("=")
    module, _, function = entry.strip().partition(":")
    assert callable(getattr(importlib.import_module(module), function))


def test_every_file_of_the_packages_is_packed(config):
    patterns = config["options.package_data"]["tfticket"].split()
    assert (ROOT / "tfticket" / "py.typed").is_file()
    for package in PACKAGES:
        for path in (ROOT / package).rglob("*"):
            if "__pycache__" in path.parts:
                continue
            if path.is_dir():
                assert (path / "__init__.py").is_file(), path
            elif path.suffix != ".py":
                inside = path.relative_to(ROOT / package)
                assert any(inside.match(pattern) for pattern in patterns), path


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The source distribution, and the wheel made from it."""
    folder = tmp_path_factory.mktemp("built")
    source = folder / "source"  # where building may leave what it likes
    ignore = shutil.ignore_patterns(".*", "runs", "build", "dist", "*.egg-info")
    shutil.copytree(ROOT, source, ignore=ignore)
    subprocess.run(
        [sys.executable, "-m", "build", "--outdir", folder / "dist", source],
        check=True,
        capture_output=True,
    )
    (wheel,) = (folder / "dist").glob("*.whl")
    (sdist,) = (folder / "dist").glob("*.tar.gz")
    return sdist, wheel


@pytest.mark.slow
def test_what_is_in_the_distributions(built):
    sdist, wheel = built
    sources = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    with zipfile.ZipFile(wheel) as file:
        packed = set(file.namelist())
        info = f"tfticket-{tfticket.__version__}.dist-info"
        metadata = file.read(f"{info}/METADATA").decode()
    assert {name for name in packed if not name.startswith(info)} == sources
    assert f"{info}/licenses/LICENSE" in packed
    assert "\nLicense: Apache-2.0\n" in metadata
    with tarfile.open(sdist) as file:
        members = [member.name for member in file.getmembers() if member.isfile()]
    packed = {name.partition("/")[2] for name in members}
    needed = {"setup.cfg", "pyproject.toml", "ruff.toml", "Makefile", "README.md"}
    needed |= {
        "CITATION.cff",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "saved_models/digits.npz",
    }
    needed |= {
        path.relative_to(ROOT).as_posix()
        for folder in ("tests", "scripts", "docs", "benchmarks", "examples")
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert not (sources | needed) - packed
    assert not [name for name in packed if "__pycache__" in name]


@pytest.mark.slow
def test_installed_away_from_the_sources(built, tmp_path):
    sdist, wheel = built
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    binaries = home / ("Scripts" if os.name == "nt" else "bin")
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}

    def run(program, *args):
        return subprocess.run(
            [binaries / program, *args],
            cwd=tmp_path,
            env=environment,
            check=True,
            capture_output=True,
            text=True,
        ).stdout

    run("python", "-m", "pip", "install", "--quiet", wheel)
    where = "import tfticket; print(tfticket.__file__)"
    assert pathlib.Path(run("python", "-c", where).strip()).is_relative_to(home)
    told = run("tfticket", "find", "--rounds=1", "--iterations=20", "--json")
    result = json.loads(told)
    assert result["density"] < 0.81
    assert all((tmp_path / path).exists() for path in result["files"].values())
    model = result["files"]["trained"]
    told = run(
        "tfticket", "export", f"--model={model}", "--to=litert", "--name=x", "--json"
    )
    assert (tmp_path / json.loads(told)["files"]["litert"]).is_file()
    assert "complete" in run("tfticket", "completion", "bash")
    # What is installed has types, for a checker that is not.
    script = tmp_path / "script.py"
    script.write_text("import tfticket\ntfticket.lottery.Recipe(iterations='many')\n")
    checker = [sys.executable, "-m", "mypy", f"--cache-dir={tmp_path / 'cache'}"]
    checker += [
        "--ignore-missing-imports",
        f"--python-executable={binaries / 'python'}",
    ]
    done = subprocess.run(
        [*checker, script.name],
        cwd=tmp_path,
        env=environment,
        check=False,
        capture_output=True,
        text=True,
    )
    assert "script.py:2: error:" in done.stdout
    assert "Found 1 error" in done.stdout
    # The source distribution installs as well, over what is there.
    force = ("--no-deps", "--force-reinstall")
    run("python", "-m", "pip", "install", "--quiet", *force, sdist)
    assert run("tfticket", "--version") == f"tfticket {tfticket.__version__}\n"
