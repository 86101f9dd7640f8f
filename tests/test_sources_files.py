"""Paths of every kind, verified files, and files that are written in one piece."""

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from collections import namedtuple
from pathlib import Path

import pytest
from cli_helpers import posix, refused
from safetensors import SafetensorError

from cifar_utils import checkpoints, data, runs
from cifar_utils.errors import CifarError
from cifar_utils.history import History
from cifar_utils.models import create_model
from cifar_utils.recipes import RECIPES
from cifar_utils.sources import cache, files


def test_only_an_ordinary_file_is_ever_replaced(tmp_path):
    pipe, link = tmp_path / "pipe", tmp_path / "null"
    os.mkfifo(pipe)
    link.symlink_to(os.devnull)
    for path in (pipe, link, tmp_path, Path()):
        with pytest.raises(OSError, match="is not an ordinary file; choose another name"):
            files.write_whole(path, lambda temporary: pytest.fail("it began to write"))
    assert pipe.is_fifo() and link.is_symlink()


# --- the home folder


@pytest.fixture
def homeless(monkeypatch):
    """No $HOME, and a user without an entry: what a container under a foreign uid looks like."""
    for name in ("HOME", "USERPROFILE", "CIFAR10_ROOT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)


DOORS = {
    "load": lambda path: data.load(path, source="synthetic"),
    "read_image": data.read_image,
    "find_weights": checkpoints.find_weights,
    "RunFolder": runs.RunFolder,
}


def test_a_tilde_is_the_home_folder_for_every_writer_and_reader(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("USERPROFILE", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    files.write_whole("~/a/text", lambda path: path.write_text("x"))
    assert (tmp_path / "a" / "text").read_text() == "x" and not (tmp_path / "~").exists()
    recipe = RECIPES["compact"]
    History(recipe, "npy", (), 1, 0, "CPU", "fp32", "2.6.0").save("~/h.json")
    assert History.load("~/h.json").recipe == recipe
    info = checkpoints.WeightsInfo(recipe, "npy")
    checkpoints.save_weights("~/w.safetensors", create_model("compact", seed=0), info)
    assert checkpoints.load_weights("~/w.safetensors")[1].recipe == recipe


@pytest.mark.parametrize("door", DOORS)
def test_an_unknown_home_folder_is_one_line_at_every_door(door, homeless):
    for path in ("~nobody-of-that-name/x", "~/x", "a\0b"):
        with pytest.raises(CifarError, match=r"home folder ~|NUL character") as caught:
            DOORS[door](path)
        assert path.replace("\0", "\\x00") in str(caught.value)


def test_the_command_line_says_it_too(homeless, capsys):
    said = refused(capsys, "data", "--data", "~nobody-of-that-name/x")
    assert "--data" in said and "write the path in full" in said
    assert "set CIFAR10_ROOT to a folder" in refused(capsys, "data", "--source", "cifar10")


def test_data_in_a_read_only_folder_is_read_without_a_home_folder(homeless, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert cache.writable(tmp_path) == tmp_path


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "setuid") or os.geteuid() != 0, reason="only root becomes any")
def test_a_user_without_an_entry_and_without_home(tmp_path):
    code = "import os; from cifar_utils import data; os.setuid(54321); data.load(source='npy')"
    environment = {"PYTHONPATH": str(Path(data.__file__).parents[1]), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, cwd="/", capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1].endswith("set CIFAR10_ROOT to a folder for the data")


# --- before a file is opened


@posix
def test_what_is_no_file_is_said_before_it_is_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    held = socket.socket(socket.AF_UNIX)
    held.bind(str(tmp_path / "s"))
    (tmp_path / "loop").symlink_to("loop")
    for path, said in (
        (tmp_path, "is a folder"),
        (tmp_path / "pipe", "it is a pipe or a device"),
        (tmp_path / "s", "it is a pipe or a device"),
        (Path("/dev/zero"), "it is a pipe or a device"),
        (tmp_path / "absent", "there is no such file"),
        (tmp_path / "loop", "it cannot be read"),
        (tmp_path / ("x" * 256), r"it cannot be read \(File name too long\)"),
    ):
        with pytest.raises(CifarError, match=said) as caught:
            files.check_file(path)
        assert str(path) in str(caught.value)
    held.close()
    (tmp_path / "file").write_bytes(b"")
    files.check_file(tmp_path / "file")


def test_a_file_that_may_not_be_read_is_said_with_the_reason(tmp_path, monkeypatch):
    def refuse(*_):
        raise PermissionError(13, "Permission denied")

    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(CifarError, match=r"file: it cannot be read \(Permission denied\)"):
        files.check_file(tmp_path / "file")


# --- verified, in one piece


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
        assert files.digest_of(tmp_path / "file") == digest


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


@pytest.mark.parametrize(
    "error, said",
    [
        (OSError(errno.ENOSPC, "any"), "No space left on device; free some space"),
        (OSError(errno.EFBIG, "any"), "File too large"),
        (RuntimeError("unexpected pos 896 vs 790"), "unexpected pos 896 vs 790"),
        (SafetensorError("I/O error: x (os error 28)"), "No space left on device; free some space"),
    ],
    ids=["disk", "size", "torch", "safetensors"],
)
def test_a_failed_write_is_one_line_whatever_the_library_raised(tmp_path, error, said):
    def write(temporary):
        temporary.write_bytes(b"half")
        raise error

    with pytest.raises(OSError) as failed:
        files.write_whole(tmp_path / "file", write)
    assert str(failed.value) == f"{tmp_path / 'file'} cannot be written: {said}"
    assert list(tmp_path.iterdir()) == []


def test_a_library_that_does_not_say_that_the_disk_is_full(tmp_path, monkeypatch):
    def write(temporary):
        raise RuntimeError("unexpected pos 896 vs 790")

    full = namedtuple("usage", "free")(0)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: full)
    with pytest.raises(OSError, match="No space left on device; free some space"):
        files.write_whole(tmp_path / "file", write)


def test_a_writer_removes_what_a_killed_one_left_and_spares_a_live_one(tmp_path):
    temporaries = []

    def write(temporary):
        temporary.write_bytes(b"half")
        temporaries.append(temporary)
        files.write_whole(tmp_path / "other", lambda other: other.write_bytes(b"x"))
        assert temporary.exists()

    files.write_whole(tmp_path / "file", write)
    temporaries[0].write_bytes(b"half")  # as a kill would have left it
    os.utime(temporaries[0], (time.time() - 7200,) * 2)
    files.write_whole(tmp_path / "other", lambda other: other.write_bytes(b"x"))
    assert sorted(tmp_path.iterdir()) == [tmp_path / "file", tmp_path / "other"]


def test_a_name_of_any_length_that_the_drive_takes(tmp_path):
    for name in ("a" * 255, "é" * 127, "飞" * 85):
        files.write_whole(tmp_path / name, lambda temporary: temporary.write_bytes(b"x"))
        assert (tmp_path / name).read_bytes() == b"x"


@pytest.mark.parametrize(
    ("text", "name"),
    [("cat", "cat"), ("a/../b", "a_.._b"), ("..", "__"), ("", "_"), ("a\nb\x1b", "a_b_"),
     ("\udce9", "_"), ("猫 é", "猫 é"), ('<b>:"', "_b___"), ("é" * 200, "é" * 75)],
)  # fmt: skip
def test_any_text_becomes_a_safe_part_of_a_name(text, name):
    assert files.safe_name(text) == name
