"""Runs .tflite files side by side in your browser, or on your phone.

    tfticket try dense.tflite sparse.tflite
    tfticket try dense.tflite sparse.tflite --host=0.0.0.0 --results=1
    tfticket try dense.tflite sparse.tflite --headless --json

Serves a page with LiteRT.js (`npm install @litertjs/core`) and prints its address.
Every browser that opens it runs the files in turns, shows the times, and sends them
back. The program prints a table for each browser, until Ctrl-C. With --host=0.0.0.0,
any device in the same network can open the page. --headless opens Chromium without a
window and ends.
"""

import pathlib
from typing import Any

from absl import flags

from tfticket_cli import flag_groups
from tfticket_cli.output import Output, complain

# The flag that words without -- go to.
ARGUMENTS = "files"


def define(values: flags.FlagValues) -> None:
    """Defines the command's flags."""
    about = "A .tflite file of fixed batch. The others are compared with the first."
    flag_groups.define(values, "list", "files", [], about)
    about = "Address to serve at; 0.0.0.0 serves in every network of this machine."
    flag_groups.define(values, "string", "host", "127.0.0.1", about)
    flag_groups.define(values, "integer", "port", 0, "Port; 0 takes a free port.")
    about = "Number of times that each file is timed, in turns."
    flag_groups.define(values, "integer", "repeats", 20, about, 1)
    about = "End after this many answers of browsers. Default: go on until Ctrl-C."
    flag_groups.define(values, "integer", "results", None, about, 1)
    about = "Open Chromium without a window, and end with its answer."
    flag_groups.define(values, "bool", "headless", False, about)
    about = "Name or path of Chromium. Default: search for it."
    flag_groups.define(values, "string", "chromium", None, about)
    about = (
        "Folder of the npm package LiteRT.js. Default: the environment variable "
        "TFTICKET_LITERTJS, then node_modules here and in the folders above."
    )
    flag_groups.define(values, "string", "litertjs", None, about)
    about = "Seconds to wait for --headless."
    flag_groups.define(values, "float", "timeout", 300.0, about, above=0)


def check(values: flags.FlagValues) -> None:
    """Refuses to start without files, or with flags that don't go together."""
    if not values.files:
        raise ValueError("Name .tflite files: tfticket try dense.tflite sparse.tflite")
    if values.headless and values.results is not None:
        raise ValueError("--headless gives one result: leave --results out.")
    for path in values.files:
        if not pathlib.Path(path).is_file():
            raise FileNotFoundError(f"{path} does not exist, or is not a file.")


def run(values: flags.FlagValues, output: Output) -> dict[str, Any]:
    """Serves the files, and prints what each browser found."""
    from tfticket import export
    from tfticket.export.browser import chromium, comparison

    program = chromium.find(values.chromium) if values.headless else None
    found: list[dict[str, Any]] = []

    def tell(result):
        output.say(f"{result}\n")
        for text in result.warnings:
            output.warnings.append(f"{text}.")
        found.append(result.as_dict())

    with comparison.serving(
        values.files, None, values.repeats, values.host, values.port, values.litertjs
    ) as server:
        output.begin()
        if program is not None:
            with chromium.opened(program, server.url) as process:
                tell(comparison.answer(server, values.timeout, process))
            return {"results": found}
        _say_where(server, output)
        try:
            while values.results is None or len(found) < values.results:
                try:
                    tell(comparison.answer(server))
                except export.BrowserError as error:
                    # One browser's: others may do better.
                    complain(f"A browser failed: {error}")
                    output.warnings.append(str(error))
        except KeyboardInterrupt:
            output.say(f"Ended, after {len(found)} results.")
    return {"results": found}


def _say_where(server, output):
    output.say(f"Open {server.url}")
    if server.url_in_network:
        output.say(f"On a phone in the same network: {server.url_in_network}")
    else:
        output.say("For a phone in the same network as well: --host=0.0.0.0")
    output.say("Ctrl-C ends it.\n")
