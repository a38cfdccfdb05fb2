"""The device's state as one line a second: renewed in place on a terminal, one below the other in a file."""

from __future__ import annotations

import io
import os

from runtime.console import Console
from runtime.messages import ControllerState

_STYLES = {
    ControllerState.WAITING: "dim",
    ControllerState.DISARMED: "yellow",
    ControllerState.ARMED: "bold green",
    ControllerState.LATCHED: "bold red",
}


class Screen:
    """Prints through the console's outlet, so that the device never waits for a terminal."""

    def __init__(self, console: Console, quiet: bool = False, stdout: int = 1):
        self._console, self.quiet = console, quiet
        self._terminal = os.isatty(stdout)
        self._paint = _painter() if self._terminal else None

    def state(self, time_s: float, state: ControllerState, rest: str) -> None:
        """The line of this second."""
        if self.quiet:
            return
        name = f"{state.name:9s}"
        if self._paint is not None:
            name = self._paint(name, _STYLES[state])
        line = f"{time_s:7.1f} s  {name} {rest}"
        self._console.say(f"\x1b[2K{line}\x1b[A" if self._terminal else line)

    def event(self, time_s: float, text: str) -> None:
        """Something that happened once."""
        if not self.quiet:
            self._console.say(f"{chr(27) + '[2K' if self._terminal else ''}{time_s:7.1f} s  {text}")


def _painter():
    """Colours by `rich` where it is installed, or None."""
    try:
        from rich.console import Console as RichConsole
    except ImportError:
        return None

    def paint(text: str, style: str) -> str:
        page = RichConsole(file=io.StringIO(), force_terminal=True, highlight=False, width=len(text))
        page.print(text, style=style, end="")
        return page.file.getvalue()

    return paint
