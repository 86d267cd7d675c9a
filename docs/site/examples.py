"""Lets the reference show the examples of docstrings as code.

The docstrings set `>>>` flush with their text, as doctest reads it anywhere. Griffe's
Google style wants an indented section.
"""

import re

import griffe

_EXAMPLE = re.compile(r"^(?:Example:\n\n)?((?:>>> .*\n?)(?:.+\n?)*)", re.MULTILINE)


class Examples(griffe.Extension):
    """Turns each block of `>>>` lines into a section "Examples:"."""

    def on_object(self, *, obj, **_):
        if obj.docstring is not None:
            obj.docstring.value = _EXAMPLE.sub(_section, obj.docstring.value)


def _section(match):
    lines = match[1].rstrip("\n").splitlines()
    return "\n".join(["Examples:", *(f"    {line}" for line in lines), ""])
