"""Verified files, and files that are written in one piece."""

from pathlib import Path

import pytest

from cifar_utils.sources import files


def test_drives_without_permissions_are_written_to(tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(1, "Operation not permitted")

    monkeypatch.setattr(Path, "chmod", refuse)
    files.write_whole(tmp_path / "file", lambda path: path.write_bytes(b"x"))
    assert (tmp_path / "file").read_bytes() == b"x"


def test_md5_of_known_strings(tmp_path):
    known = {b"": "d41d8cd98f00b204e9800998ecf8427e", b"abc": "900150983cd24fb0d6963f7d28e17f72"}
    for content, digest in known.items():  # RFC 1321, A.5
        (tmp_path / "file").write_bytes(content)
        assert files.md5(tmp_path / "file") == digest


def test_write_whole_shows_the_old_file_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "file"
    files.write_whole(path, lambda temporary: temporary.write_bytes(b"old"))
    seen = []

    def write(temporary):
        temporary.write_bytes(b"half of ")
        seen.append(path.read_bytes())
        temporary.write_bytes(b"the new")

    files.write_whole(path, write)
    assert seen == [b"old"] and path.read_bytes() == b"the new"
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError, KeyboardInterrupt])
def test_write_whole_that_fails_leaves_everything_as_it_was(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def write(temporary):
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(error):
        files.write_whole(path, write)
    assert list(tmp_path.iterdir()) == [path] and path.read_bytes() == b"old"
