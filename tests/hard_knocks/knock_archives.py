"""The official archive and its batches, damaged or not."""

import gzip
import hashlib
import os

import numpy as np
import pytest
import test_sources_cifar10 as miniature

from cifar_utils import data
from cifar_utils.errors import CifarError
from cifar_utils.sources import cifar10

sealed, official = miniature.sealed, miniature.official  # fixtures: no network, a small archive


@pytest.fixture
def load(tmp_path, official, monkeypatch):
    """A function that loads from tmp_path/root: the data, or the one line that it refuses with.

    It fails if anything is unpickled that is not the official file, or written beside the root.
    """
    opened, unpickle = [], miniature.pickle.loads
    monkeypatch.setattr(
        miniature.pickle, "loads", lambda b, **k: opened.append(b) or unpickle(b, **k)
    )
    (tmp_path / "root").mkdir()
    before = {*tmp_path.rglob("*")}

    def load():
        try:
            found = data.load(tmp_path / "root", source="cifar10", validation=10)
            assert len(found.train) == 90 and len(found.test) == 20
        except (CifarError, ConnectionError) as error:
            found = str(error)
            assert found.isprintable() and str(tmp_path / "root") in found
        assert {*opened} <= {*official.files.values()}
        beside = {*tmp_path.rglob("*")} - before
        assert all((tmp_path / "root") in path.parents for path in beside)
        return found

    return load


def put(tmp_path, monkeypatch, archive):
    """The archive in its place, with its MD5 believed: then only our own reading is tried."""
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    (tmp_path / "root" / cifar10.ARCHIVE).write_bytes(archive)


@pytest.mark.parametrize("part", range(8))
@pytest.mark.parametrize("damage", ["cut", "flipped", "zeros", "doubled"])
def test_an_archive_damaged_before_or_inside_its_compression(
    load, official, tmp_path, monkeypatch, damage, part
):
    """In every eighth of the archive, and in the headers of the files in it."""
    plain, random = gzip.decompress(official.archive), np.random.default_rng(part)
    headers = [place for place in range(0, len(plain), 512) if plain[place + 257 :][:5] == b"ustar"]
    for number in range(6):
        inside = number % 2
        content = bytearray(plain if inside else official.archive)
        place = len(content) * part // 8 + int(random.integers(len(content) // 8))
        if inside:
            place = headers[part % len(headers)] + int(random.integers(512))
        if damage == "cut":
            del content[place:]
        elif damage == "flipped":
            content[place] ^= 1 << int(random.integers(8))
        elif damage == "zeros":
            content[place : place + 600] = bytes(min(600, len(content) - place))
        else:
            content[place:place] = content[place : place + 1024]
        put(tmp_path, monkeypatch, gzip.compress(content) if inside else bytes(content))
        load()
        for path in (tmp_path / "root").rglob("*"):
            if path.is_file() and path.name in official.files:
                assert path.read_bytes() == official.files[path.name]
                path.unlink()


@pytest.mark.parametrize("kind", miniature.HOSTILE)
def test_a_hostile_archive_for_true_and_offline(load, official, tmp_path, monkeypatch, kind):
    archive = dict(miniature.hostile(official))[kind]
    (tmp_path / "root" / cifar10.ARCHIVE).write_bytes(archive)
    assert "MD5" in (said := load()) or "is empty" in said
    put(tmp_path, monkeypatch, archive)
    assert cifar10.ARCHIVE in load()


STATES = {
    "missing": lambda path: None,
    "empty": lambda path: path.touch(),
    "text": lambda path: path.write_text("words"),
    "folder": lambda path: path.mkdir(),
    "pipe": os.mkfifo,
    "device": lambda path: path.symlink_to("/dev/zero"),
    "link to nothing": lambda path: path.symlink_to("nothing"),
    "link to itself": lambda path: path.symlink_to(path),
}


@pytest.mark.parametrize("archive", ["true", "absent"])
@pytest.mark.parametrize("state", [*STATES, "flipped bit", "zeros", "another's", "cut short"])
@pytest.mark.parametrize("name", cifar10.MD5)
def test_a_batch_in_any_state(load, official, tmp_path, name, state, archive):
    """With the archive at hand a file is mended; what is no file, and anything else, is named."""
    no_file = state in ("folder", "pipe", "device")
    batches = tmp_path / "root" / cifar10.BATCHES
    batches.mkdir()
    for other, content in official.files.items():
        (batches / other).write_bytes(content)
    if archive == "true":
        (tmp_path / "root" / cifar10.ARCHIVE).write_bytes(official.archive)
    path, content = batches / name, bytearray(official.files[name])
    path.unlink()
    if state in STATES:
        STATES[state](path)
    elif state == "flipped bit":
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
    else:
        other = official.files["data_batch_2" if name != "data_batch_2" else "test_batch"]
        damaged = {"zeros": bytes(len(content)), "another's": other, "cut short": content[:-1]}
        path.write_bytes(damaged[state])
    found = load()
    if archive == "true" and not no_file:
        assert path.read_bytes() == official.files[name] and not isinstance(found, str)
    else:
        assert isinstance(found, str) and name in found
    assert path.is_dir() == (state == "folder")


@pytest.mark.parametrize("state", STATES)
def test_an_archive_in_any_state(load, official, tmp_path, state):
    STATES[state](tmp_path / "root" / cifar10.ARCHIVE)
    assert cifar10.ARCHIVE in load()
