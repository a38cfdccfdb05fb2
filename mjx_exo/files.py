"""Writing a file so that what stands under its final name is always whole. Standard library only."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def whole_file(path: str | Path) -> Iterator[Path]:
    """An empty file beside `path` to write to; it takes the name `path` when the block ends without an exception.

    Otherwise `path` stays as it was. The folder is made if missing; the suffix is that of `path`, the permissions are
    those of any new file. Raises OSError where the folder cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}-{secrets.token_hex(6)}{path.suffix}")
    os.close(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666))
    try:
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_atomically(path: str | Path, write: Callable[[Path], object]) -> None:
    """Calls `write(temporary)` and renames: `path` holds a whole file or is not touched (see `whole_file`)."""
    with whole_file(path) as temporary:
        write(temporary)
