"""The program `tfticket` and the scripts: flags to command to exit status."""

import contextlib
import importlib.util
import os
import pathlib
import runpy
import shlex
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol, TextIO

from absl import app, flags, logging

from tfticket_cli import (
    demo,
    export,
    find,
    lottery,
    parsers,
    plot,
    popup,
    report,
    try_,
)
from tfticket_cli.flag_groups import did_you_mean
from tfticket_cli.output import (
    Output,
    complain,
    quiet_start,
    result_stream,
    write_result,
)

# One for each kind of mistake; `parsers.EXIT_STATUS` and the guide say the same.
DONE, FAILED, WRONG_FLAGS, FILES, NOT_INSTALLED, IN_USE, DIFFERS = range(7)
INTERRUPTED, BROKEN_PIPE = 130, 141

_HELP = ("-h", "-help", "--help", "--helpshort")


class Command(Protocol):
    """A module of a command: its flags, and what it does with them.

    It may have more: a function `check` of the flags, which refuses wrong ones before
    TensorFlow is imported; `ARGUMENTS`, the name of its list flag that takes words
    without --; and `RESUMES`, whether the same command resumes an interrupted one.
    """

    __doc__: str | None

    def define(self, values: flags.FlagValues) -> None:
        """Defines the command's flags."""

    def run(self, values: flags.FlagValues, output: Output) -> dict[str, Any]:
        """Does the work, and returns its results."""


COMMANDS: dict[str, Command] = {
    "demo": demo,
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
    sys.exit(_until_the_pipe_breaks(_main))


def _main() -> int:
    name, *args = sys.argv[1:] or ["--help"]
    if name == "help" and args:
        name, args = args[0], ["--help"]
    if name in COMMANDS:
        return run(COMMANDS[name], args, f"tfticket {name}")
    others = ("completion", "help", "version")
    if not name.startswith("-") and name not in others:
        known = [*COMMANDS, *others]
        complain(
            f"Error: There is no command {name!r}.{did_you_mean(name, known)} "
            f"Commands: {', '.join(known)}. `tfticket help COMMAND` explains one."
        )
        return WRONG_FLAGS
    parser = parsers.parser_of_all(
        {
            key: (flag_values(command), command.__doc__, arguments(command))
            for key, command in COMMANDS.items()
        },
        "tfticket",
        f"tfticket {_version()}",
        "Finds, trains and exports lottery tickets: sparse networks in dense ones.",
    )
    short = {"help": ["--help"], "version": ["--version"]}
    asked = parser.parse_args(short.get(name, [name, *args]))  # ends on --help
    print(parsers.completion(parser, asked.shell))
    return DONE


def _until_the_pipe_breaks(work: Callable[[], int]) -> int:
    """The exit status of some work; a reader that has seen enough is no mistake."""
    try:
        try:
            status = work()
        except SystemExit as end:
            status = end.code if isinstance(end.code, int) else DONE
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes both once more when it ends.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, 1)
        os.dup2(nowhere, 2)
        return BROKEN_PIPE
    return status


def _version() -> str:
    # Read without importing tfticket, from the sources that would run.
    spec = importlib.util.find_spec("tfticket")
    assert spec is not None
    assert spec.origin is not None
    path = pathlib.Path(spec.origin).with_name("_version.py")
    return runpy.run_path(str(path))["__version__"]


def script(name: str, description: str | None) -> NoReturn:
    """What a script of `scripts/` does: a command as a program of absl.

    Its flags are in `flags.FLAGS` with absl's own, `--flagfile`, `--helpfull`,
    `--only_check_args` and `--verbosity` for example.

    Args:
        name: Name of the command.
        description: The script's own text for `--help`, with its examples.
    """
    command, prog = COMMANDS[name], f"python {sys.argv[0]}"
    _define_all(command, flags.FLAGS)

    def parse(argv):
        if "--helpfull" in argv:
            app.usage(writeto_stdout=True)
            sys.exit(DONE)
        status = _parse(command, flags.FLAGS, argv[1:], prog, description)
        if status is not None:
            sys.exit(status)
        return argv

    def work(argv):
        with _results(flags.FLAGS) as stream:
            return _perform(command, flags.FLAGS, stream, [prog, *argv[1:]])

    def whole():
        app.run(work, flags_parser=parse)
        return DONE

    sys.exit(_until_the_pipe_breaks(whole))


def flag_values(command: Command) -> flags.FlagValues:
    """The flags of a command, at their defaults."""
    values = flags.FlagValues()
    _define_all(command, values)
    return values


def _define_all(command, values):
    command.define(values)
    flags.DEFINE_bool(
        "json",
        False,
        "Print one JSON object with the results, or the error, to standard output, and "
        "everything else to standard error.",
        flag_values=values,
    )


def arguments(command: Command) -> str | None:
    """Name of the flag that words without -- go to; `None` if there is none."""
    return getattr(command, "ARGUMENTS", None)


def run(
    command: Command, args: Sequence[str], prog: str, description: str | None = None
) -> int:
    """Runs a command, and returns its exit status.

    Args:
        command: The command.
        args: Its flags.
        prog: What the user called it by.
        description: Text for `--help`; the command's own if `None`.
    """
    values = flag_values(command)
    status = _parse(command, values, args, prog, description)
    if status is not None:
        return status
    with _results(values) as stream:
        return _perform(command, values, stream, [prog, *args])


def _results(values):
    """A context of the stream that `--json` writes to, `None` without it."""
    return result_stream() if values.json else contextlib.nullcontext()


def _parse(command, values, args, prog, description):
    """Reads flags; an exit status where the command ends with that."""
    if not {*_HELP, "--helpfull"}.isdisjoint(args):
        parsers.parser_of(
            # Without absl's, which a script has too.
            flag_values(command),
            prog,
            description or command.__doc__,
            arguments(command),
        ).print_help()
        return DONE
    # What was read before a mistake is not kept, --json neither.
    stream = sys.stdout if "--json" in args else None
    try:
        _, *words = values([prog, *args])
        taken = arguments(command)
        if taken is not None:
            values[taken].value = [*(values[taken].value or ()), *words]
        elif words:
            raise flags.Error(f"Unknown arguments: {words}. Flags start with --.")
        check = getattr(command, "check", None)
        if check is not None:
            check(values)
    except (flags.Error, ValueError) as error:
        return _fail(WRONG_FLAGS, str(error), error, stream)
    except OSError as error:
        return _fail(FILES, str(error), error, stream)
    return None


def _perform(
    command: Command,
    values: flags.FlagValues,
    stream: TextIO | None,
    called: Sequence[str],
) -> int:
    output = Output(as_json=stream is not None)
    try:
        _start(values, output)
        result = command.run(values, output)
    except KeyboardInterrupt as error:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # after the terminal's ^C
        text = "Interrupted."
        if getattr(command, "RESUMES", False):
            text += (
                " What is finished is kept. To resume, run the same command: "
                f"{called[0]} {shlex.join(called[1:])}".rstrip()
            )
        return _fail(INTERRUPTED, text, error, stream)
    except BrokenPipeError:
        raise
    except Exception as error:
        return _fail(_status(error, output.begun), str(error), error, stream)
    if stream is not None:
        from tfticket.common.runs import versions

        result["warnings"] = output.warnings
        write_result({**result, "versions": versions()}, stream)
    return DONE


def _start(values, output):
    """Imports what every command needs, without TensorFlow's start-up notes."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    if not flags.FLAGS.is_parsed():
        flags.FLAGS(["tfticket"])  # absl's own, which TFDS reads
    logging.use_absl_handler()
    if not flags.FLAGS["verbosity"].present:
        logging.set_verbosity(logging.WARNING)  # TensorFlow tells how it saves
    wants_gpu = "strategy" in values and values["strategy"].value != "none"
    with quiet_start(keep="(?i)cuda|gpu" if wants_gpu else None):
        import tensorflow as tf

        import tfticket  # noqa: F401

        tf.config.list_logical_devices()  # which looks for CUDA
    warnings.showwarning = output.warn


def _status(error: Exception, begun: bool) -> int:
    kinds = {kind.__name__ for kind in type(error).__mro__}
    for kind, status in (
        ("ImportError", NOT_INSTALLED),
        ("RunInUseError", IN_USE),
        ("ExportError", DIFFERS),
        ("OSError", FILES),
    ):
        if kind in kinds:
            return status
    if isinstance(error, ValueError | TypeError) and not begun:
        return WRONG_FLAGS
    own = type(error).__module__.partition(".")[0] == "tfticket"
    if not own and not isinstance(error, ValueError):
        traceback.print_exc()  # nobody foresaw it
    return FAILED


def _fail(code: int, text: str, error: BaseException, stream: TextIO | None) -> int:
    interrupted = code == INTERRUPTED
    complain(text if interrupted else f"Error: {text}", mild=interrupted)
    if stream is not None:
        write_result({"error": text, "type": type(error).__name__}, stream)
    return code
