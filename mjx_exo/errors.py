"""One way to tell a user that something they gave cannot be used.

Every command raises `UserError` with one line that names the thing, its value and what is allowed, and every
command's `main` runs under `run_command`, so that a mistake ends in that line and exit code 2, never in a traceback.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable


class UserError(Exception):
    """A mistake a user can mend. The message is one line: what is wrong, where, what is allowed."""


def run_command(main: Callable[[], int | None]) -> None:
    """Runs a command's `main` and exits: its own code, or 2 with one line on stderr for a `UserError`.

    A full disk is a user's problem too and gets the same treatment.
    """
    try:
        code = main()
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    except BrokenPipeError:  # somebody reads only the beginning of our output
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        where = f" while writing {error.filename}" if error.filename else ""
        print(f"error: the disk is full{where}; free some space and resume, nothing finished is lost", file=sys.stderr)
        sys.exit(2)
    sys.exit(code or 0)
