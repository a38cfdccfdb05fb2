"""A file under its final name is always whole."""

from __future__ import annotations

import os

import pytest

from mjx_exo.files import whole_file, write_atomically


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "result.json"
    path.write_text("old")

    def fail(temporary):
        temporary.write_text("half")
        raise RuntimeError("no more")

    with pytest.raises(RuntimeError, match="no more"):
        write_atomically(path, fail)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_final_name_appears_when_everything_is_written(tmp_path):
    path = tmp_path / "new folder" / "result.npz"
    with whole_file(path) as temporary:
        assert temporary.parent == path.parent and temporary.suffix == ".npz" and not path.exists()
        temporary.write_bytes(b"whole")
    assert path.read_bytes() == b"whole"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600)])
def test_a_file_has_the_permissions_of_any_new_file(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        write_atomically(str(tmp_path / "result"), lambda temporary: temporary.write_text("x"))
    finally:
        os.umask(before)
    assert (tmp_path / "result").stat().st_mode & 0o777 == mode
