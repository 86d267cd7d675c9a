"""Puts the page that compares files in LiteRT.js into the site, with two small files.

LiteRT.js comes from the npm package: `npm install @litertjs/core` before the build.
Where it is not there, the build says so once, and the page says how to get it.
"""

import array
import importlib.util
import json
import logging
import math
import pathlib
import random

from mkdocs.structure.files import File

ROOT = pathlib.Path(__file__).parents[2]
BROWSER = ROOT / "tfticket" / "export" / "browser"
FOLDER = "try"
MARK = "<!-- side by side -->"
LINK = f"""<p><a class="md-button md-button--primary" href="{FOLDER}/page.html">
Run them in this browser</a></p>
"""
WITHOUT = """!!! note

    This copy of the site was built without LiteRT.js, so that the page is not in it.
    `tfticket try` serves the same page.
"""
log = logging.getLogger("mkdocs.hooks.browser_page")
_found = {}


def _litertjs():
    # By its file: tfticket itself takes the seconds of TensorFlow's import.
    spec = importlib.util.spec_from_file_location("litertjs", BROWSER / "litertjs.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    try:
        return module.find(ROOT)
    except FileNotFoundError:
        return module.find()  # by the variable, or above the working directory


def on_files(files, config):
    plan_file = files.get_file_from_path(f"{FOLDER}/plan.json")
    try:
        litertjs = _litertjs()
    except FileNotFoundError as error:
        log.info("The page that runs LiteRT.js is left out. %s", error)
        _found["page"] = WITHOUT
        return files
    _found["page"] = LINK

    def add(path, **content):
        files.append(File.generated(config, f"{FOLDER}/{path}", **content))

    for name in ("page.html", "page.css", "page.js"):
        add(name, abs_src_path=str(BROWSER / name))
    for name, path in litertjs.files.items():
        add(name, abs_src_path=str(path))
    add("litertjs/LICENSE", abs_src_path=str(ROOT / "LICENSE"))  # the same, Apache-2.0
    plan = json.loads(pathlib.Path(plan_file.abs_src_path).read_text())
    files.remove(plan_file)
    plan["litertjs"] = litertjs.version
    add("plan.json", content=json.dumps(plan))
    numbers = random.Random(0)
    for entry in plan["inputs"]:
        count = plan["calls"] * math.prod(entry["shape"])
        values = array.array("f", (numbers.gauss(0, 1) for _ in range(count)))
        add(entry["url"], content=values.tobytes())
    return files


def on_page_markdown(markdown, page, **_):
    return markdown.replace(MARK, _found["page"])
