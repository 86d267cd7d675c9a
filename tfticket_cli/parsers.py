"""absl flags as argparse parsers, for help and for shell completion.

absl reads the flags of a command, in all its forms (`--nodownload`, `--download=false`,
`--flagfile`). Its help is long, and completion needs argparse.
"""

import argparse
import re
from collections.abc import Mapping

from absl import flags

EXIT_STATUS = (
    "Exit status: 0 done; 1 the work failed; 2 a command or flag is unknown or has a "
    "wrong value; 3 a file or folder is missing, exists, or can't be read or written; "
    "4 a library is not installed; 5 another process uses the run; 6 an exported file "
    "differs from the model or can't be made; 130 interrupted by Ctrl-C. An error is "
    "one line on standard error, and with 2 nothing was trained or written."
)
_SET_UP = """Print a script that completes commands and flags with Tab. In ~/.bashrc:

    source <(PROG completion bash)

and in ~/.zshrc, after compinit:

    eval "$(PROG completion zsh)"
"""
# Flags that name a file; those that end in _dir name a folder.
_FILES = ("model", "out", "flagfile")


class _Formatter(argparse.HelpFormatter):
    """Keeps the lines of descriptions, whose examples are to be copied."""

    def __init__(self, prog: str):
        super().__init__(prog, max_help_position=28)

    def _fill_text(self, text, width, indent):
        if "\n" not in text:
            return super()._fill_text(text, width, indent)
        return "\n".join(indent + line for line in text.splitlines())


def parser_of(
    values: flags.FlagValues,
    prog: str,
    description: str | None,
    arguments: str | None = None,
) -> argparse.ArgumentParser:
    """A parser with the same flags, to print help and to complete.

    Args:
        values: The defined flags.
        prog: What the command is called by.
        description: What it does, with examples.
        arguments: Name of the flag that words without -- go to, files.
    """
    parser = argparse.ArgumentParser(**_settings(prog, description, arguments))
    _add_flags(parser, values, arguments)
    return parser


def parser_of_all(
    commands: Mapping[str, tuple[flags.FlagValues, str | None, str | None]],
    prog: str,
    version: str,
    description: str | None,
) -> argparse.ArgumentParser:
    """The parser of the program, with a sub-parser per command.

    Args:
        commands: Name to flags and description of each, and which of the flags takes
            words without --.
        prog: Name of the program.
        version: What `--version` prints.
        description: What the program does.
    """
    parser = argparse.ArgumentParser(
        **{
            **_settings(prog, description),
            "usage": f"{prog} COMMAND [--flag=value ...]",
        }
    )
    parser.add_argument("--version", action="version", version=version)
    subparsers = parser.add_subparsers(
        title="commands", metavar="COMMAND", dest="command", required=True
    )
    for name, (values, text, arguments) in commands.items():
        first = (text or "").strip().splitlines()[0]
        subparser = subparsers.add_parser(
            name, help=first, **_settings(f"{prog} {name}", text, arguments)
        )
        _add_flags(subparser, values, arguments)
    about = "Print a script that completes commands and flags with Tab."
    for name, text in (
        ("help", "Show this help, or that of a command: help COMMAND."),
        ("version", "Show the version."),
    ):
        subparsers.add_parser(name, help=text)
    completion = subparsers.add_parser(
        "completion",
        help=about,
        usage=f"{prog} completion SHELL",
        description=_SET_UP.replace("PROG", prog),
        formatter_class=_Formatter,
    )
    completion.add_argument("shell", choices=("bash", "zsh"))
    return parser


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """A script for a shell to complete what `parser` reads.

    It is static: pressing Tab starts no Python.

    Args:
        parser: What `parser_of_all` returns.
        shell: "bash" or "zsh".
    """
    import shtab  # for this alone

    text = shtab.complete(parser, shell)
    # What shtab writes expects --flag value, and here --flag=value is usual.
    if shell == "zsh":
        return re.sub(r'^( *"--\w+)(\[.*\]:)', r"\1=\2", text, flags=re.MULTILINE)
    return text + _BASH.replace("PROG", parser.prog)


# Bash takes words apart at "=".
_BASH = """
_PROG_without_equals() {
  local -a words=()
  local i
  for ((i = 0; i < COMP_CWORD; i++)); do
    [[ ${COMP_WORDS[i]} == "=" ]] || words+=("${COMP_WORDS[i]}")
  done
  words+=("${COMP_WORDS[COMP_CWORD]#=}")
  local -a COMP_WORDS=("${words[@]}")
  local COMP_CWORD=$((${#words[@]} - 1))
  _shtab_PROG
}
complete -o bashdefault -F _PROG_without_equals PROG
"""


def _settings(prog, description, arguments=None):
    words = " FILE ..." if arguments else ""
    return {
        "prog": prog,
        "usage": f"{prog}{words} [--flag=value ...]",
        "description": description,
        "epilog": EXIT_STATUS,
        "formatter_class": _Formatter,
    }


def _add_flags(parser, values, arguments):
    if arguments:
        about = values[arguments].help
        files = parser.add_argument(arguments, nargs="*", metavar="FILE", help=about)
        files.complete = "file"
    group = parser.add_argument_group("flags")
    for name in values:
        flag = values[name]
        choices = getattr(flag.parser, "enum_values", None)
        # absl writes the choices into the help, where argparse shows them anyway.
        about = flag.help.removeprefix(f"<{'|'.join(choices or [])}>: ")
        about = about.replace("%", "%%")
        if flag.boolean:
            names = [f"--{name}", f"--no{name}"] if flag.default else [f"--{name}"]
            group.add_argument(*names, action="store_true", help=about)
            continue
        if flag.default not in (None, []):
            default = flag.default
            text = ",".join(default) if isinstance(default, list) else default
            about += f" Default: {text}."
        metavar = None if choices else _metavar(flag)
        action = group.add_argument(
            f"--{name}", choices=choices, metavar=metavar, help=about
        )
        if name.endswith("_dir"):
            action.complete = "directory"
        elif name in _FILES and not choices:
            action.complete = "file"


def _metavar(flag):
    if isinstance(flag.parser, flags.ListParser):
        return "A,B"
    if isinstance(flag.parser, flags.IntegerParser | flags.FloatParser):
        return "N"
    return "DIR" if flag.name.endswith("_dir") else "TEXT"
