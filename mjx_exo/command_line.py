"""A configuration dataclass as a command line: one source for fields, types, help and defaults.

`tyro` builds the parser; here its boxed error messages become the one line that every mistake gets.
"""

from __future__ import annotations

import contextlib
import io
import re
import sys
from typing import TypeVar

import tyro

from mjx_exo.errors import UserError

T = TypeVar("T")


def parse(cls: type[T], default: T, args: list[str], prog: str, description: str) -> T:
    """Parses `args` over `default`. Raises `UserError` with one line for anything that does not fit."""
    if "--help" in args or "-h" in args:
        try:
            return tyro.cli(cls, default=default, args=args, prog=prog, description=description)
        except BrokenPipeError:  # `--help | head` is no error
            raise SystemExit(0) from None
    captured = io.StringIO()
    try:
        with contextlib.redirect_stderr(captured), contextlib.redirect_stdout(captured):
            return tyro.cli(cls, default=default, args=args, prog=prog, description=description)
    except SystemExit as stop:
        if stop.code in (0, None):
            sys.stdout.write(captured.getvalue())
            raise
        raise UserError(_one_line(captured.getvalue(), prog)) from None


def _one_line(text: str, prog: str) -> str:
    """The gist of a boxed message: colours, frames and line ends removed."""
    text = re.sub(r"\x1b\[[0-9;]*m", "", text)
    text = re.sub(r"[─━│╭╮╰╯┌┐└┘├┤]+", " ", text)
    text = re.sub(r"-{5,}", ".", text)
    text = re.sub(r"\s+", " ", text).strip()
    text = re.sub(r"^(Parsing error|Value error|Invalid input)[\s.]*", "", text)
    text = text.split("For full helptext")[0].split("Argument helptext:")[0].split("Similar options:")[0].strip(" -.")
    return f"{text}; see python -m {prog} --help"
