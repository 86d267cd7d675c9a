"""The program `tfticket` and the scripts: flags to command to exit status."""

import contextlib
import importlib.util
import os
import pathlib
import runpy
import sys
import traceback
import warnings
from collections.abc import Sequence
from typing import Any, NoReturn, Protocol, TextIO

from absl import flags, logging

from tfticket_cli import export, find, lottery, parsers, plot, popup, report, try_
from tfticket_cli.output import Output, complain, result_stream, write_result

DONE, FAILED, WRONG_FLAGS, INTERRUPTED = 0, 1, 2, 130


class Command(Protocol):
    """A module of a command: its flags, and what it does with them.

    Words that are no flags are an error, unless the module has a constant `ARGUMENTS`:
    the name of its list flag that takes them.
    """

    __doc__: str | None

    def define(self, values: flags.FlagValues) -> None:
        """Defines the command's flags."""

    def run(self, values: flags.FlagValues, output: Output) -> dict[str, Any]:
        """Does the work, and returns what it came to."""


COMMANDS: dict[str, Command] = {
    "find": find,
    "popup": popup,
    "lottery": lottery,
    "plot": plot,
    "report": report,
    "export": export,
    "try": try_,
}


def main() -> NoReturn:
    """The console entry `tfticket`."""
    name, *args = sys.argv[1:] or [""]
    if name in COMMANDS:
        sys.exit(run(COMMANDS[name], args, f"tfticket {name}"))
    parser = parsers.parser_of_all(
        {
            key: (flag_values(command), command.__doc__, arguments(command))
            for key, command in COMMANDS.items()
        },
        "tfticket",
        f"tfticket {_version()}",
        "Finds, trains and exports lottery tickets: sparse networks in dense ones.",
    )
    asked = parser.parse_args()  # ends the process on --help and mistakes
    print(parsers.completion(parser, asked.shell))
    sys.exit(DONE)


def _version() -> str:
    # Of the sources that would run, read without importing tfticket.
    spec = importlib.util.find_spec("tfticket")
    assert spec is not None
    assert spec.origin is not None
    path = pathlib.Path(spec.origin).with_name("_version.py")
    return runpy.run_path(str(path))["__version__"]


def script(name: str, description: str | None) -> NoReturn:
    """What a script of `scripts/` does: a command, by another name.

    Args:
        name: Of the command.
        description: The script's own, with its examples, for `--help`.
    """
    sys.exit(run(COMMANDS[name], sys.argv[1:], f"python {sys.argv[0]}", description))


def flag_values(command: Command) -> flags.FlagValues:
    """The flags of a command, at their defaults."""
    values = flags.FlagValues()
    command.define(values)
    flags.DEFINE_bool(
        "json",
        False,
        "Print one JSON object of the results, or of the error, to standard output; "
        "all else goes to standard error.",
        flag_values=values,
    )
    return values


def arguments(command: Command) -> str | None:
    """Name of the flag that words without -- go to; `None` if there is none."""
    return getattr(command, "ARGUMENTS", None)


def run(
    command: Command, args: Sequence[str], prog: str, description: str | None = None
) -> int:
    """Runs a command, and returns its exit status.

    Args:
        command: Which.
        args: Its flags.
        prog: What it was called by.
        description: For `--help`; its own if `None`.
    """
    values = flag_values(command)
    if not {"-h", "-help", "--help", "--helpshort", "--helpfull"}.isdisjoint(args):
        parser = parsers.parser_of(
            values, prog, description or command.__doc__, arguments(command)
        )
        parser.print_help()
        return DONE
    try:
        _, *words = values([prog, *args])
        taken = arguments(command)
        if taken is not None:
            values[taken].value = [*(values[taken].value or ()), *words]
        elif words:
            raise flags.Error(f"Unknown arguments: {words}. Flags start with --.")
    except flags.Error as error:
        # What was read before the mistake is not kept, --json neither.
        stream = sys.stdout if "--json" in args else None
        return _fail(WRONG_FLAGS, str(error), error, stream)
    with result_stream() if values.json else contextlib.nullcontext() as stream:
        return _perform(command, values, stream)


def _perform(command: Command, values: flags.FlagValues, stream: TextIO | None) -> int:
    # Before TensorFlow is imported: its start-up notes would hide the progress.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    flags.FLAGS(["tfticket"])  # absl's own, which TFDS reads
    logging.use_absl_handler()
    logging.set_verbosity(logging.WARNING)  # TensorFlow tells how it saves
    output = Output(as_json=stream is not None)
    warnings.showwarning = output.warn
    try:
        result = command.run(values, output)
    except KeyboardInterrupt as error:
        text = f"Interrupted. {getattr(command, 'ON_INTERRUPT', '')}".strip()
        return _fail(INTERRUPTED, text, error, stream)
    except Exception as error:
        return _fail(_status(error, output.begun), str(error), error, stream)
    if stream is not None:
        from tfticket.common.runs import versions

        result["warnings"] = output.warnings
        write_result({**result, "versions": versions()}, stream)
    return DONE


def _status(error: Exception, begun: bool) -> int:
    if isinstance(error, ValueError | TypeError) and not begun:
        return WRONG_FLAGS
    own = type(error).__module__.partition(".")[0] == "tfticket"
    if not own and not isinstance(error, ValueError | OSError | ImportError):
        traceback.print_exc()  # nobody foresaw it
    return FAILED


def _fail(code: int, text: str, error: BaseException, stream: TextIO | None) -> int:
    interrupted = code == INTERRUPTED
    complain(text if interrupted else f"Error: {text}", mild=interrupted)
    if stream is not None:
        write_result({"error": text, "type": type(error).__name__}, stream)
    return code
