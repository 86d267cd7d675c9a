"""The guides run, the reference is complete, links lead somewhere, the site builds."""

import asyncio
import contextlib
import functools
import http.server
import importlib
import inspect
import os
import pathlib
import re
import shlex
import subprocess
import sys
import threading
import zlib

import pytest
from fixtures import pages
from fixtures.devtools import Page

from tfticket import criteria, lottery
from tfticket.export.browser import chromium

DOCS = pages.ROOT / "docs"
GUIDES = [
    *(f"docs/guides/{path.name}" for path in sorted(DOCS.glob("guides/*.md"))),
    "docs/scale.md",
]
PAGES = [
    "README.md",
    *(str(path.relative_to(pages.ROOT)) for path in sorted(DOCS.rglob("*.md"))),
]
COMMANDS = sorted({line for page in PAGES for line in pages.commands(page)})


@pytest.mark.usefixtures("without_xla")
@pytest.mark.parametrize("guide", GUIDES)
def test_python_blocks(guide, tmp_path, monkeypatch, quick):
    if guide == "docs/guides/keras_hub.md":
        pytest.skip("run by tests/test_keras_hub.py, where KerasHub is installed")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(criteria, "_CRITERIA", dict(criteria._CRITERIA))
    monkeypatch.setenv("COLUMNS", "90")  # of tables
    pages.run_python(guide)


@pytest.mark.parametrize("guide", GUIDES)
def test_all_blocks_are_of_a_language_that_is_tested(guide):
    assert {language for language, _ in pages.blocks(guide)} <= pages.LANGUAGES


@pytest.mark.parametrize("command", COMMANDS)
def test_scripts_know_the_flags(command, run_script, tmp_path):
    """What a script then does, its own tests run."""
    words = shlex.split(command)
    if words[0] in ("make", "pip", "saved_model_cli"):
        return  # run by test_readme, by a user, and below
    if words[0] == "python":
        words = [pages.ROOT / words[1], *words[2:]]
    else:
        assert words[0] == "tfticket"
    reader = pathlib.Path(__file__).parent / "fixtures" / "read_flags.py"
    done = run_script(reader, *words, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_wrong_flags_are_noticed(run_script, tmp_path):
    reader = pathlib.Path(__file__).parent / "fixtures" / "read_flags.py"
    script = pages.ROOT / "scripts" / "find_ticket.py"
    for flag in ("--no_such_flag=1", "--rounds=many", "--scope=widest"):
        assert run_script(reader, script, flag, cwd=tmp_path).returncode == 2


def test_folders_of_runs_are_named_as_the_pages_say():
    text = "".join((pages.ROOT / guide).read_text() for guide in GUIDES)
    mnist = lottery.Recipe(dataset="mnist", iterations=50_000)
    names = {
        lottery.LotteryExperiment().name,
        lottery.LotteryExperiment(mnist).name,
    }
    assert set(re.findall(r"runs/(\w+-\w+-[0-9a-f]{10})", text)) == names


def test_what_the_export_guide_looks_at(run_script, tmp_path, monkeypatch):
    commands = pages.commands("docs/guides/export_and_serve.md")
    (make,) = (line for line in commands if "export.py" in line)
    (look,) = (line for line in commands if line.startswith("saved_model_cli"))
    model = pages.ROOT / "saved_models" / "digits.npz"
    flags = [f"--model={model}", "--to=saved_model", "--nocompare"]
    script, *given = shlex.split(make)[1:]
    done = run_script(pages.ROOT / script, *given, *flags, cwd=tmp_path, quick=True)
    assert done.returncode == 0, done.stderr
    tool = pathlib.Path(sys.executable).with_name("saved_model_cli")
    done = run_script(tool, *shlex.split(look)[1:], cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "serving_default" in done.stdout


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_files(page):
    """As a code host follows them; the site's are checked when it is built."""
    text = re.sub(r"```.*?```", "", (pages.ROOT / page).read_text(), flags=re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        if not link.startswith(("http", "#")):
            target = (pages.ROOT / page).parent / link.partition("#")[0]
            assert target.exists(), f"{page}: {link}"


# Modules with no `__all__`, and what in them is for the package itself.
_WHOLE = {
    "tfticket.tickets.controls": set(),
    "tfticket.criteria": {"wide"},
    "tfticket.data": set(),
    "tfticket.devices": {"check_batch_size", "compile_options", "make_deterministic"},
    "tfticket.edge_popup.layers": set(),
    "tfticket.models": set(),
    "tfticket.schedules": {
        *("get", "evaluate", "is_periodic", "final_sparsity"),
    },
    "tfticket.sensitivity": {"masks_by_sensitivity"},
    "tfticket.structures": {"get"},
}
_WITH_ALL = ("tfticket", "tfticket.lottery", "tfticket.export", "tfticket.compat.tfmot")
# What needs no page: a number, and a namespace of names that have one.
_BESIDE = {"tfticket.__version__", "tfticket.compat.tfmot.sparsity"}


def _public_names():
    for name in _WITH_ALL:
        module = importlib.import_module(name)
        for public in module.__all__:
            if not inspect.ismodule(getattr(module, public)):
                yield f"{name}.{public}"
    for name, own in _WHOLE.items():
        module = importlib.import_module(name)
        for public, thing in vars(module).items():
            defined = getattr(thing, "__module__", None) == module.__name__
            if defined and not public.startswith("_") and public not in own:
                yield f"{name}.{public}"


@functools.cache
def _referenced():
    names = set()
    for path in DOCS.glob("reference/*.md"):
        names.update(re.findall(r"^::: (\S+)$", path.read_text(), re.MULTILINE))
    return names


@pytest.mark.parametrize("name", sorted(set(_public_names()) - _BESIDE))
def test_public_names_are_in_the_reference(name):
    thing = _find(name)
    assert any(_find(referenced) is thing for referenced in _referenced())


@pytest.mark.parametrize("name", sorted(_referenced()))
def test_what_the_reference_names_is_documented(name):
    thing = _find(name)
    assert not inspect.ismodule(thing)
    assert isinstance(thing, dict) or inspect.getdoc(thing)


def _find(name):
    module, _, public = name.rpartition(".")
    return getattr(importlib.import_module(module), public)


def _written_names():
    """Dotted names of tfticket that pages, messages and docstrings write out."""
    texts = [(page, (pages.ROOT / page).read_text()) for page in PAGES]
    for path in (pages.ROOT / "tfticket").rglob("*.py"):
        lines = path.read_text().splitlines()
        lines = [x for x in lines if not re.match(r" *(from|import) tfticket", x)]
        texts.append((str(path), "\n".join(lines)))
    for page, text in texts:
        if "results" not in page and "CHANGELOG" not in page:
            for name in re.findall(r"\btfticket(?:\.[A-Za-z_]\w*)+", text):
                yield name.removesuffix(".json").removesuffix(".git")


def test_names_resolve_as_they_are_written():
    """After `import tfticket` alone, in a process of its own."""
    program = """
import sys
import tfticket
for name in sys.stdin.read().split():
    thing = tfticket
    try:
        for part in name.split(".")[1:]:
            thing = getattr(thing, part)
    except AttributeError:
        print(name)
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        input="\n".join(sorted(set(_written_names()))),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == []


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """The site, built with every warning an error."""
    pytest.importorskip(
        "mkdocs",
        reason="the site is built with the extra: pip install 'tfticket[docs]'",
    )
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict"]
    done = subprocess.run(
        [*command, "--site-dir", str(folder)],
        cwd=pages.ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "NO_MKDOCS_2_WARNING": "1"},
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_the_site_builds_without_a_warning(site):
    home = (site / "index.html").read_text()
    assert "results/sparse_convs/speedup.png" in home
    assert (site / "results" / "lottery" / "accuracy.png").is_file()
    for path in pages.ROOT.glob("notebooks/*.ipynb"):
        shown = (site / "notebooks" / f"{path.stem}.html").read_text()
        assert f'href="{path.name}" download' in shown
        assert (site / "notebooks" / path.name).is_file()
        for picture in re.findall(rf'src="({path.stem}_\d+\.png)"', shown):
            assert (site / "notebooks" / picture).read_bytes()[1:4] == b"PNG"
        assert f"{path.stem}_0.png" in shown
    index = (site / "search" / "search_index.json").read_text()
    for word in ("pip install tfticket", "sparsity"):
        assert word in index
    prune = (site / "reference" / "prune.html").read_text()
    assert 'id="tfticket.prune"' in prune


def test_pages_of_the_nav_have_results():
    nav = (pages.ROOT / "mkdocs.yml").read_text().partition("\nnav:")[2]
    shown = [DOCS / path for path in re.findall(r": (results/\S+\.md)", nav)]
    assert DOCS / "results" / "gpu.md" in shown
    for page in shown:
        # What a benchmark's page says until there is a machine to run it on.
        assert "\n\nNot run" not in page.read_text(), page


def test_examples_in_the_reference_are_code(site):
    for page in site.glob("reference/*.html"):
        text = re.sub(r"<pre.*?</pre>", "", page.read_text(), flags=re.DOTALL)
        assert "&gt;&gt;&gt;" not in text, page
        assert "Example:" not in text, page


def test_the_reference_shows_functions_where_modules_have_their_names(site):
    lines = (site / "objects.inv").read_bytes().split(b"\n", 4)[4]
    found = [line.split()[:2] for line in zlib.decompress(lines).decode().splitlines()]
    roles = dict(found)
    assert [name for name in _referenced() if roles[name] == "py:module"] == []


async def _home(port_file, picture):
    """What the site's first page is like on a desktop and on a phone."""
    page = await Page.of(port_file)
    found = {}
    for name, width, height in (("desktop", 1280, 900), ("phone", 390, 844)):
        await page.resize(width, height, mobile=name == "phone")
        await page.until("document.readyState == 'complete'")
        await page.until("[...document.images].every((x) => x.complete)")
        # Without the scroll bar, which some systems draw beside the page.
        found[name] = await page.evaluate(
            "(({scrollWidth, clientWidth}) => scrollWidth - clientWidth)"
            "(document.documentElement)"
        )
        await page.screenshot(picture.with_name(f"{name}.png"))
    broken = "[...document.images].filter((x) => !x.naturalWidth).length"
    found["broken"] = await page.evaluate(broken)
    found["colours"] = []
    for scheme in ("default", "slate"):
        switch = f"document.querySelector('input[data-md-color-scheme={scheme}]')"
        await page.evaluate(f"{switch}.click()")
        await page.until(f"document.body.dataset.mdColorScheme == '{scheme}'")
        found["colours"].append(
            await page.evaluate("getComputedStyle(document.body).backgroundColor")
        )
    for word in ("install", "sparsity"):
        await page.evaluate(
            "(() => { const field = document.querySelector('.md-search__input');"
            f"field.focus(); field.value = '{word}';"
            "field.dispatchEvent(new Event('input', {bubbles: true}));"
            "field.dispatchEvent(new KeyboardEvent('keyup', {bubbles: true})) })()"
        )
        links = "[...document.querySelectorAll('.md-search-result__link')]"
        await page.until(f"{links}.some((x) => x.href.includes('h={word}'))")
        found[word] = await page.evaluate(f"{links}.map((x) => x.href).join(' ')")
    return found


@pytest.mark.browser
def test_the_site_in_a_browser(site, tmp_path, monkeypatch):
    try:
        browser = chromium.find()
    except FileNotFoundError as error:
        pytest.skip(str(error))
    monkeypatch.setattr(
        chromium, "_FLAGS", (*chromium._FLAGS, "--remote-debugging-port=0")
    )
    here = contextlib.nullcontext(tmp_path)
    monkeypatch.setattr(chromium, "temporary_folder", lambda: here)
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=site)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        with chromium.opened(browser, f"http://127.0.0.1:{server.server_port}/"):
            port_file = tmp_path / "profile" / "DevToolsActivePort"
            look = _home(port_file, tmp_path / "home.png")
            found = asyncio.run(asyncio.wait_for(look, 120))
        server.shutdown()
    assert (found["desktop"], found["phone"]) == (0, 0)  # nothing sticks out
    assert found["broken"] == 0
    assert len(set(found["colours"])) == 2
    assert "/install.html" in found["install"]
    assert "/guides/one_shot.html" in found["sparsity"]


def test_the_site_needs_no_network(site):
    for page in site.rglob("*.html"):
        loaded = re.findall(
            r"<(?:script|img|iframe)[^>]* src=\"?(https?:[^\" >]+)"
            r"|<link[^>]* href=\"?(https?:[^\" >]+)[^>]*stylesheet",
            page.read_text(),
        )
        assert loaded == [], page
