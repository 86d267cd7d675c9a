"""Finds the npm package LiteRT.js and the files that a page needs of it."""

import json
import os
import pathlib
from typing import NamedTuple

VARIABLE = "TFTICKET_LITERTJS"
"""The environment variable with the path of the package."""

INSTALL = "npm install @litertjs/core"

_PACKAGE = pathlib.PurePath("node_modules", "@litertjs", "core")

# Each build of the engine is a script and the file that it loads. The browser decides
# which one runs: the second has no relaxed SIMD.
_BUILDS = ("litert_wasm_internal", "litert_wasm_compat_internal")


class LiteRTJS(NamedTuple):
    """An installed package.

    Args:
        version: The version in its package.json.
        files: Maps a path under the page to the file.
    """

    version: str
    files: dict[str, pathlib.Path]


def find(folder: str | os.PathLike | None = None) -> LiteRTJS:
    """Finds the package in a given folder, or in and above the working directory.

    Args:
        folder: Folder of `@litertjs/core`, or one that contains
            `node_modules/@litertjs/core`. `None` reads the environment variable
            `TFTICKET_LITERTJS`, then searches `node_modules` of the working directory
            and of each folder above.

    Raises:
        FileNotFoundError: If the package is missing or incomplete.
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
        f"LiteRT.js is not {where}. Run `{INSTALL}` there, or pass its path as "
        f"litertjs= (--litertjs) or {VARIABLE}."
    )


def _read(core):
    # npm puts a dependency next to the package, or inside it if versions differ.
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
