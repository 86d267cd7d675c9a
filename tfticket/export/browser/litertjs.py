"""Where the npm package LiteRT.js is, and which of its files a page needs."""

import json
import os
import pathlib
from typing import NamedTuple

VARIABLE = "TFTICKET_LITERTJS"
"""The environment variable that says where the package is."""

INSTALL = "npm install @litertjs/core"

_PACKAGE = pathlib.PurePath("node_modules", "@litertjs", "core")

# Each build of the engine is a script and what it loads. Which one is taken depends on
# the browser: the second has no relaxed SIMD.
_BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")


class LiteRTJS(NamedTuple):
    """An installed package.

    Args:
        version: As its package.json says.
        files: Path under the page to the file.
    """

    version: str
    files: dict[str, pathlib.Path]


def find(folder: str | os.PathLike | None = None) -> LiteRTJS:
    """Finds the package: where it is told, else above the working directory.

    Args:
        folder: Of `@litertjs/core`, or one with `node_modules/@litertjs/core` in it.
            `None` asks the environment variable `TFTICKET_LITERTJS`, then looks into
            `node_modules` of the working directory and of each folder above.

    Raises:
        FileNotFoundError: If it is not there, or not whole.
    """
    told = folder or os.environ.get(VARIABLE)
    here = pathlib.Path.cwd()
    places = [pathlib.Path(told)] if told else [here, *here.parents]
    candidates = [place / _PACKAGE for place in places]
    if told and pathlib.Path(told).name == "core":
        candidates = [pathlib.Path(told)]
    for core in candidates:
        if (core / "package.json").is_file():
            return _read(core)
    where = f"in {told}" if told else f"in node_modules of {here} or a folder above it"
    raise FileNotFoundError(
        f"LiteRT.js is not {where}. Run `{INSTALL}` there, or say where it is by "
        f"litertjs= (--litertjs) or {VARIABLE}."
    )


def _read(core):
    # Where npm puts a dependency: beside, or inside where versions differ.
    beside = core.parent / "wasm-utils"
    inside = core / "node_modules" / "@litertjs" / "wasm-utils"
    utils = inside if inside.is_dir() else beside
    files = {
        "litertjs/core.js": core / "dist" / "index.js",
        "litertjs/wasm-utils.js": utils / "dist" / "index.js",
    }
    for build in _BUILDS:
        for ending in (".js", ".wasm"):
            name = f"{build}{ending}"
            files[f"litertjs/wasm/{name}"] = core / "wasm" / name
    missing = [str(path) for path in files.values() if not path.is_file()]
    if missing:
        raise FileNotFoundError(
            f"LiteRT.js in {core} is not whole: {missing[0]} is not there. Run "
            f"`{INSTALL}` again."
        )
    with open(core / "package.json", encoding="utf-8") as file:
        return LiteRTJS(json.load(file)["version"], files)
