"""The official files: a miniature of them, a server on loopback, and every kind of damage.

Nothing here reaches the network or the home folder.
"""

import gzip
import hashlib
import io
import os
import pickle
import shutil
import socket
import tarfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cli_helpers import posix

from cifar_utils import data
from cifar_utils.cli.main import main
from cifar_utils.errors import CifarError
from cifar_utils.sources import cifar10, files, synthetic


@pytest.fixture(autouse=True)
def sealed(tmp_path, monkeypatch):
    """No home folder, no environment and no network; what the stand-in draws costs nothing."""
    for name in ("CIFAR10_ROOT", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    for name in ("HOME", "USERPROFILE"):
        monkeypatch.setenv(name, str(tmp_path / "home"))

    def draw(count, *, seed=0):
        count //= 500
        images = torch.full((count, 3, 32, 32), 100 + seed, dtype=torch.uint8)
        return images, torch.arange(count) % 10

    monkeypatch.setattr(synthetic, "draw", draw)
    with socket.socket() as held:  # bound and not listening: every connection is refused
        held.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{held.getsockname()[1]}/{cifar10.ARCHIVE}"
        monkeypatch.setattr(cifar10, "MIRRORS", (url,))
        yield


@pytest.fixture
def official(monkeypatch):
    """Seven files as the official ones, with 20 images each, and the MD5 that they should have."""
    random = np.random.default_rng(0)
    contents, rows, labels = {}, [], []
    for name in cifar10.MD5:
        if name == "batches.meta":
            contents[name] = pickle.dumps({b"label_names": [c.encode() for c in data.CLASSES]})
            continue
        rows.append(random.integers(0, 256, (20, 3072), dtype=np.uint8))
        labels.append(random.permutation(np.arange(20) % 10).tolist())
        contents[name] = pickle.dumps({b"data": rows[-1], b"labels": labels[-1]})
    archive = tar_of({f"{cifar10.BATCHES}/{name}": content for name, content in contents.items()})
    digests = {name: hashlib.md5(content).hexdigest() for name, content in contents.items()}
    for name, digest in digests.items():
        monkeypatch.setitem(cifar10.MD5, name, digest)
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    monkeypatch.setattr(cifar10, "ARCHIVE_SIZE", len(archive))
    return SimpleNamespace(files=contents, archive=archive, rows=rows, labels=labels)


def tar_of(contents):
    held = io.BytesIO()
    with tarfile.open(fileobj=held, mode="w:gz") as tar:
        for name, content in contents.items():
            about = tarfile.TarInfo(name)
            about.size = len(content)
            tar.addfile(about, io.BytesIO(content))
    return held.getvalue()


@pytest.fixture
def root(official, tmp_path):
    """A folder that holds the miniature official files."""
    folder = tmp_path / "root" / cifar10.BATCHES
    folder.mkdir(parents=True)
    for name, content in official.files.items():
        (folder / name).write_bytes(content)
    return tmp_path / "root"


@pytest.fixture
def mirror(official, tmp_path, monkeypatch):
    """A server that delivers the archive, as the second mirror after one that lacks it."""
    asked = []

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, *_):
            asked.append(self.path)

    folder = tmp_path / "served"
    folder.mkdir()
    (folder / cifar10.ARCHIVE).write_bytes(official.archive)
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=folder))
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    url = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(cifar10, "MIRRORS", (f"{url}/lacking", f"{url}/{cifar10.ARCHIVE}"))
    yield SimpleNamespace(asked=asked, folder=folder)
    server.shutdown()
    thread.join()
    server.server_close()


def forbid_unpickling(monkeypatch):
    def loads(*_, **__):
        raise AssertionError("a pickle was opened")

    monkeypatch.setattr(pickle, "loads", loads)


def same(one, two):
    """Whether two data sets hold the same splits."""
    return all(
        torch.equal(getattr(getattr(one, part), field), getattr(getattr(two, part), field))
        for part in ("train", "val", "test")
        for field in ("images", "labels", "indices")
    )


def images_of(rows):
    """Rows of 3,072 bytes as (N, 3, 32, 32), one pixel after the other: red, green, then blue."""
    images = np.zeros((len(rows), 3, 32, 32), np.uint8)
    for channel in range(3):
        for y in range(32):
            for x in range(32):
                images[:, channel, y, x] = rows[:, channel * 1024 + y * 32 + x]
    return torch.from_numpy(images)


# --- the official files


def test_official_files_become_uint8_splits(official, root):
    cifar = data.load(root, source="cifar10", validation=0)
    assert cifar.source == "cifar10" and cifar.classes == data.CLASSES
    assert cifar.train.images.dtype == cifar.test.images.dtype == torch.uint8
    assert cifar.train.labels.dtype == cifar.test.labels.dtype == torch.int64
    assert torch.equal(cifar.train.images, images_of(np.concatenate(official.rows[:5])))
    assert torch.equal(cifar.test.images, images_of(official.rows[5]))
    assert cifar.train.labels.tolist() == np.concatenate(official.labels[:5]).tolist()
    assert cifar.test.labels.tolist() == official.labels[5]
    assert cifar.train.indices.tolist() == list(range(100)) and len(cifar.val) == 0
    assert cifar.test.indices.tolist() == list(range(20))


def test_files_may_lie_in_the_root_itself(root):
    cifar = data.load(root, validation=10)
    assert same(data.load(root / cifar10.BATCHES, validation=10), cifar)


# --- download


def test_missing_files_are_downloaded_and_told_apart_from_the_stand_in(
    official, mirror, tmp_path, capsys
):
    root = tmp_path / "new" / "folder"
    cifar = data.load(root, validation=0)
    assert cifar.source == "cifar10"
    assert torch.equal(cifar.test.images, images_of(official.rows[5]))
    shown = capsys.readouterr().err
    assert "100%" in shown and cifar10.ARCHIVE in shown and "NOT CIFAR-10" not in shown
    assert any("lacking" in line for line in mirror.asked), "the first mirror was not tried first"
    count = len(mirror.asked)
    assert same(data.load(root, validation=0), cifar)
    assert len(mirror.asked) == count, "the second load went to the network"


def test_archive_that_is_there_needs_no_network(official, tmp_path):
    (tmp_path / cifar10.ARCHIVE).write_bytes(official.archive)
    assert data.load(tmp_path, source="cifar10", validation=10).source == "cifar10"


def test_archive_with_wrong_md5_is_replaced(official, mirror, tmp_path):
    (tmp_path / cifar10.ARCHIVE).write_bytes(official.archive[:-100])
    assert data.load(tmp_path, source="cifar10", validation=10).source == "cifar10"
    assert (tmp_path / cifar10.ARCHIVE).read_bytes() == official.archive


def test_archive_with_wrong_md5_is_never_opened(official, tmp_path, monkeypatch):
    (tmp_path / cifar10.ARCHIVE).write_bytes(official.archive[:-100])
    opened = []
    monkeypatch.setattr(tarfile, "open", lambda *a, **k: opened.append(a))
    with pytest.raises(ConnectionError):
        data.load(tmp_path, source="cifar10")
    assert opened == []


def test_only_the_seven_files_leave_the_archive(official, tmp_path, monkeypatch):
    members = {f"{cifar10.BATCHES}/{name}": content for name, content in official.files.items()}
    extra = {
        "../outside": b"",
        f"{cifar10.BATCHES}/../../outside": b"",
        f"{cifar10.BATCHES}/more": b"",
    }
    archive = tar_of(extra | members)
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    root = tmp_path / "a" / "root"
    root.mkdir(parents=True)
    (root / cifar10.ARCHIVE).write_bytes(archive)
    data.load(root, source="cifar10", validation=10)
    assert {path.name for path in (root / cifar10.BATCHES).iterdir()} == set(official.files)
    assert not list(tmp_path.rglob("outside"))


def test_no_mirror_says_which_were_tried_and_what_to_do(official, tmp_path):
    with pytest.raises(ConnectionError) as caught:
        data.load(tmp_path, source="cifar10")
    host = cifar10.MIRRORS[0].split("/")[2]
    for part in (f"{host}: no answer", cifar10.ARCHIVE, str(tmp_path), "source 'synthetic'"):
        assert part in str(caught.value)


def hostile(official):
    """Archives that pretend to be the official one, by name."""
    true = {f"{cifar10.BATCHES}/{name}": content for name, content in official.files.items()}
    place = f"{cifar10.BATCHES}/data_batch_3"

    def with_member(kind, target=""):
        held = io.BytesIO(tar_of({name: true[name] for name in true if name != place}))
        plain = io.BytesIO(gzip.decompress(held.getvalue()))
        with tarfile.open(fileobj=plain, mode="a") as tar:
            about = tarfile.TarInfo(place)
            about.type, about.linkname = kind, target
            tar.addfile(about)
        return gzip.compress(plain.getvalue())

    huge = tarfile.TarInfo(place)
    huge.size = 1 << 40
    yield "symbolic link", with_member(tarfile.SYMTYPE, "/etc/passwd")
    yield "link to another", with_member(tarfile.LNKTYPE, f"{cifar10.BATCHES}/data_batch_2")
    yield "link to nothing", with_member(tarfile.LNKTYPE, "nothing")
    yield "device", with_member(tarfile.CHRTYPE)
    yield "pipe", with_member(tarfile.FIFOTYPE)
    yield "folder", with_member(tarfile.DIRTYPE)
    yield "empty file", tar_of(true | {place: b""})
    yield "other content", tar_of(true | {place: b"x" * 999})
    yield "a terabyte", gzip.compress(huge.tobuf() + bytes(9999))
    yield "missing file", tar_of({name: true[name] for name in true if name != place})
    yield "no files", tar_of({})
    yield "cut short", official.archive[: len(official.archive) // 2]
    yield "cut inside", gzip.compress(gzip.decompress(official.archive)[:99_999])
    yield "nothing", b""
    yield "text", b"<html>please log in</html>"
    yield "gzip of noise", gzip.compress(np.random.default_rng(0).bytes(9999))
    flipped = bytearray(official.archive)
    flipped[len(flipped) // 2] ^= 1
    yield "flipped bit", bytes(flipped)


HOSTILE = [
    "symbolic link", "link to another", "link to nothing", "device", "pipe", "folder", "empty file",
    "other content", "a terabyte", "missing file", "no files", "cut short", "cut inside", "nothing",
    "text", "gzip of noise", "flipped bit",
]  # fmt: skip


@pytest.mark.parametrize("kind", HOSTILE)
def test_an_archive_with_the_right_md5_and_anything_in_it(official, tmp_path, monkeypatch, kind):
    archive = dict(hostile(official))[kind]
    monkeypatch.setattr(cifar10, "ARCHIVE_MD5", hashlib.md5(archive).hexdigest())
    (tmp_path / cifar10.ARCHIVE).write_bytes(archive)
    forbid_unpickling(monkeypatch)
    with pytest.raises(CifarError) as caught:
        data.load(tmp_path, source="cifar10")
    said = str(caught.value)
    assert said.startswith(str(tmp_path / cifar10.ARCHIVE)) and said.endswith("delete it")
    written = [path for path in (tmp_path / cifar10.BATCHES).rglob("*") if path.is_file()]
    assert all(path.read_bytes() == official.files[path.name] for path in written)


@pytest.mark.parametrize("kind", ["cut short", "nothing", "CIFAR-100"])
def test_a_wrong_archive_without_a_network_is_named_as_wrong(official, tmp_path, monkeypatch, kind):
    content = dict(hostile(official)).get(kind, b"other data")
    digest = hashlib.md5(content).hexdigest()
    if kind == "CIFAR-100":
        monkeypatch.setattr(cifar10, "CIFAR_100_MD5", digest)
    (tmp_path / cifar10.ARCHIVE).write_bytes(content)
    with pytest.raises(ConnectionError) as caught:
        data.load(tmp_path, source="cifar10")
    said = {"cut short": f"is not the official archive (its MD5 is {digest}", "nothing": "is empty",
            "CIFAR-100": "is the archive of CIFAR-100"}[kind]  # fmt: skip
    assert f"{tmp_path / cifar10.ARCHIVE} {said}" in str(caught.value)
    assert f"put {cifar10.ARCHIVE} or {cifar10.BATCHES}/ into" in str(caught.value)


def test_an_archive_that_is_replaced_is_named(official, mirror, tmp_path, capsys):
    (tmp_path / cifar10.ARCHIVE).write_bytes(b"")
    data.load(tmp_path, source="cifar10", validation=10)
    assert f"{cifar10.ARCHIVE} is empty; a new one was downloaded to" in capsys.readouterr().err


def test_cifar_100_is_named(tmp_path):
    folder = tmp_path / cifar10.CIFAR_100
    folder.mkdir()
    for name in ("train", "test", "meta"):
        (folder / name).write_bytes(b"")
    for source in ("auto", "cifar10"):
        with pytest.raises(CifarError, match="cifar-100-python is CIFAR-100; give"):
            data.load(folder, source=source)
        with pytest.raises(ConnectionError, match="cifar-100-python is CIFAR-100, and no mirror"):
            data.load(tmp_path, source=source)


def test_cifar_100_beside_it_is_in_nobodys_way(official, mirror, tmp_path):
    (tmp_path / f"{cifar10.CIFAR_100}.tar.gz").write_bytes(b"x")
    assert data.load(tmp_path, validation=10).source == "cifar10"


def test_a_missing_batch_without_a_network_is_named(root):
    (root / cifar10.BATCHES / "data_batch_4").unlink()
    with pytest.raises(ConnectionError, match="cifar-10-batches-py lacks data_batch_4, and no mir"):
        data.load(root, source="cifar10")


@posix
def test_pipes_and_folders_in_the_place_of_files(official, root):
    os.mkfifo(root / cifar10.ARCHIVE)
    batch = root / cifar10.BATCHES / "data_batch_4"
    batch.unlink()
    with pytest.raises(CifarError, match=f"{cifar10.ARCHIVE}: it is a pipe or a device"):
        data.load(root, source="cifar10")
    (root / cifar10.ARCHIVE).unlink()
    (root / cifar10.ARCHIVE).write_bytes(official.archive)
    batch.mkdir()
    with pytest.raises(CifarError, match="data_batch_4: it is a folder, not a file; remove it"):
        data.load(root, source="cifar10")
    batch.rmdir()
    os.mkfifo(batch)
    with pytest.raises(CifarError, match="data_batch_4: it is a pipe or a device"):
        data.load(root, source="cifar10")
    batch.unlink()
    assert data.load(root, source="cifar10", validation=10).source == "cifar10"
    assert batch.read_bytes() == official.files["data_batch_4"]


# --- pickles


class Harmful:
    """Unpickling one makes the file `marker`."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


def test_harmful_pickle_does_harm_when_opened(tmp_path):  # so that its absence below says something
    pickle.loads(pickle.dumps(Harmful(tmp_path / "marker")))
    assert (tmp_path / "marker").exists()


@pytest.mark.parametrize("name", cifar10.MD5)
def test_pickle_with_wrong_md5_is_never_opened(root, tmp_path, name):
    marker = tmp_path / "marker"
    (root / cifar10.BATCHES / name).write_bytes(pickle.dumps(Harmful(marker)))
    with pytest.raises(CifarError, match=f"{name} does not have the published MD5.*no mirror"):
        data.load(root, source="cifar10", validation=10)
    assert data.load(root, source="auto", validation=10).source == "synthetic"
    assert not marker.exists()


def test_pickle_that_changes_after_the_check_is_never_opened(root, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    (root / cifar10.BATCHES / "data_batch_2").write_bytes(pickle.dumps(Harmful(marker)))
    monkeypatch.setattr(files, "digest_of", lambda path: cifar10.MD5[path.name])
    with pytest.raises(CifarError, match="data_batch_2 does not have the published MD5"):
        data.load(root, source="cifar10", validation=10)
    assert not marker.exists()


def test_all_that_is_unpickled_has_the_right_md5(root, monkeypatch):
    opened, loads = [], pickle.loads
    monkeypatch.setattr(pickle, "loads", lambda b, **k: opened.append(b) or loads(b, **k))
    data.load(root, source="cifar10", validation=10)
    assert {hashlib.md5(content).hexdigest() for content in opened} <= set(cifar10.MD5.values())
    assert len(opened) == 6


@pytest.mark.parametrize("damage", [b"", b"other bytes"])
def test_damaged_file_is_mended_from_the_archive(official, root, damage):
    (root / cifar10.ARCHIVE).write_bytes(official.archive)
    (root / cifar10.BATCHES / "test_batch").write_bytes(damage)
    cifar = data.load(root, source="cifar10", validation=0)
    assert torch.equal(cifar.test.images, images_of(official.rows[5]))
    assert (root / cifar10.BATCHES / "test_batch").read_bytes() == official.files["test_batch"]


def test_damaged_or_missing_file_is_mended_from_a_mirror(root, mirror):
    (root / cifar10.BATCHES / "data_batch_1").write_bytes(b"damaged")
    assert data.load(root, validation=10).source == "cifar10"
    (root / cifar10.BATCHES / "data_batch_1").unlink()
    assert data.load(root, validation=10).source == "cifar10"


def test_damaged_files_in_the_root_itself_are_fetched_afresh(root, mirror):
    (root / cifar10.BATCHES / "data_batch_1").write_bytes(b"damaged")
    assert data.load(root / cifar10.BATCHES, source="cifar10", validation=10).source == "cifar10"


# --- the cache of decoded tensors


def test_second_load_opens_no_pickle(root, monkeypatch):
    first = data.load(root, validation=10)
    forbid_unpickling(monkeypatch)
    second = data.load(root, validation=10)
    assert same(first, second) and second.source == "cifar10"
    assert second.classes == first.classes


def test_mended_files_are_cached_like_any(root, mirror, monkeypatch):
    (root / cifar10.BATCHES / "data_batch_1").write_bytes(b"damaged")
    data.load(root, validation=10)
    forbid_unpickling(monkeypatch)
    data.load(root, validation=10)


def test_file_that_changes_makes_the_cache_invalid(root):
    data.load(root, validation=10)
    (root / cifar10.BATCHES / "data_batch_3").write_bytes(b"changed")
    with pytest.raises(CifarError, match="data_batch_3"):
        data.load(root, source="cifar10", validation=10)


def test_file_that_is_touched_is_decoded_anew(root, monkeypatch):
    data.load(root, validation=10)
    os.utime(root / cifar10.BATCHES / "batches.meta", ns=(0, 0))
    forbid_unpickling(monkeypatch)
    with pytest.raises(AssertionError, match="a pickle was opened"):
        data.load(root, validation=10)


@pytest.mark.parametrize("kept", [0, 5, 1000, -1])
def test_cache_that_was_cut_short_is_built_again(root, kept, monkeypatch):
    first = data.load(root, validation=10)
    (cache,) = root.glob("*.safetensors")
    cache.write_bytes(cache.read_bytes()[:kept])
    assert same(data.load(root, validation=10), first)
    forbid_unpickling(monkeypatch)
    assert same(data.load(root, validation=10), first)


def test_read_only_folder_is_cached_in_the_home_folder(root, monkeypatch):
    before = sorted(root.rglob("*"))
    monkeypatch.setattr(os, "access", lambda *_: False)
    first = data.load(root, validation=10)
    assert sorted(root.rglob("*")) == before
    forbid_unpickling(monkeypatch)
    assert same(data.load(root, validation=10), first)


def test_an_archive_in_a_read_only_folder_is_unpacked_in_the_home_folder(
    official, tmp_path, monkeypatch
):
    given = tmp_path / "given"
    given.mkdir()
    (given / cifar10.ARCHIVE).write_bytes(official.archive)
    monkeypatch.setattr(os, "access", lambda *_: False)
    for _ in range(2):
        assert data.load(given, validation=10).source == "cifar10"
    assert [path.name for path in given.iterdir()] == [cifar10.ARCHIVE]
    assert cifar10.official_folder(given) not in (None, given, given / cifar10.BATCHES)


def test_what_a_read_only_folder_lacks_is_downloaded_to_the_home_folder(
    official, mirror, tmp_path, monkeypatch
):
    bare = tmp_path / "bare"
    bare.mkdir()
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert data.load(bare, validation=10).source == "cifar10"
    count = len(mirror.asked)
    assert data.load(bare, validation=10).source == "cifar10" and list(bare.iterdir()) == []
    assert 0 < count == len(mirror.asked)


def test_a_damaged_file_in_a_read_only_folder_is_replaced_in_the_home_folder(
    root, official, monkeypatch, capsys
):
    (root / cifar10.BATCHES / "data_batch_2").write_bytes(b"damaged")
    (root / cifar10.ARCHIVE).write_bytes(official.archive)
    monkeypatch.setattr(os, "access", lambda *_: False)
    assert data.load(root, source="cifar10", validation=10).source == "cifar10"
    assert (root / cifar10.BATCHES / "data_batch_2").read_bytes() == b"damaged"
    assert f"{root} cannot be written to; CIFAR-10 goes to " in capsys.readouterr().err


def test_the_data_command_reads_the_files_although_there_is_a_cache(root, capsys):
    main(["data", "--root", str(root)])
    assert f"7 in {root}" in capsys.readouterr().out
    file = root / cifar10.BATCHES / "data_batch_2"
    about, content = file.stat(), bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))  # so that the cache is still taken
    with pytest.raises(SystemExit, match="2"):
        main(["data", "--root", str(root)])
    assert "published MD5; delete it" in capsys.readouterr().err


def test_two_read_only_folders_do_not_share_a_cache(root, tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    shutil.copytree(root, tmp_path / "twin")
    data.load(root, validation=10)
    data.load(tmp_path / "twin", validation=10)
    forbid_unpickling(monkeypatch)
    assert data.load(root, validation=10).source == "cifar10"


def test_cache_that_cannot_be_written_is_a_warning_and_no_error(root, monkeypatch):
    expected = data.load(root, validation=10)
    for kept in root.glob("*.safetensors"):
        kept.unlink()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files, "write_whole", full)
    with pytest.warns(UserWarning, match="No space left"):
        cifar = data.load(root, validation=10)
    assert same(cifar, expected)


# --- auto and the stand-in


def test_auto_takes_verified_files_without_a_word(root, mirror, capsys):
    assert data.load(root, validation=10).source == "cifar10"
    assert mirror.asked == [] and capsys.readouterr() == ("", "")


def test_auto_without_files_and_network_announces_the_stand_in_every_time(tmp_path, capsys):
    for _ in range(2):  # also when it comes from the cache
        cifar = data.load(tmp_path, validation=10)
        out, err = capsys.readouterr()
        assert cifar.source == "synthetic" and cifar.classes == data.CLASSES
        assert "THIS IS NOT CIFAR-10" in err and "no answer" in err and "NOT" not in out
        assert len([line for line in err.splitlines() if set(line) == {"="}]) == 2
    assert "not CIFAR-10" in data.SOURCE_TITLES[cifar.source]


def test_the_official_archive_counts_whatever_lies_beside_it(official, tmp_path):
    (tmp_path / cifar10.ARCHIVE).write_bytes(official.archive)
    (tmp_path / "train").mkdir()
    assert data.load(tmp_path, validation=10).source == "cifar10"


def test_auto_with_damaged_files_and_no_network_says_which_file(root, capsys):
    (root / cifar10.BATCHES / "data_batch_4").write_bytes(b"damaged")
    assert data.load(root, validation=10).source == "synthetic"
    err = capsys.readouterr().err
    assert "THIS IS NOT CIFAR-10" in err and "data_batch_4" in err


def test_stand_in_that_was_asked_for_is_announced_too_and_downloads_nothing(root, mirror, capsys):
    assert data.load(root, source="synthetic", validation=10).source == "synthetic"
    assert "THIS IS NOT CIFAR-10" in capsys.readouterr().err and mirror.asked == []
