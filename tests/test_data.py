"""Data: a miniature of the official files, a server on loopback, and loops as oracles.

Nothing here reaches the network or the home folder. With $CIFAR10_ROOT set, the real files are
checked too.
"""

import hashlib
import io
import itertools
import os
import pickle
import shutil
import socket
import tarfile
import threading
from collections import Counter
from dataclasses import replace
from fractions import Fraction
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

from cifar_utils import data
from cifar_utils.cli.main import main
from cifar_utils.sources import cache, cifar10, files, local, synthetic

REAL = os.environ.get("CIFAR10_ROOT")


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


def test_validation_is_stratified_and_cut_out_of_train(root):
    whole = data.load(root, validation=0).train
    cifar = data.load(root, validation=30)
    assert (len(cifar.train), len(cifar.val), len(cifar.test)) == (70, 30, 20)
    assert Counter(cifar.val.labels.tolist()) == dict.fromkeys(range(10), 3)
    both = cifar.train.indices.tolist() + cifar.val.indices.tolist()
    assert sorted(both) == list(range(100))
    for part in (cifar.train, cifar.val):
        assert torch.equal(part.images, whole.images[part.indices])
        assert torch.equal(part.labels, whole.labels[part.indices])


def test_validation_depends_on_the_seed_alone(root):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002
    first = data.load(root, validation=30)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002
    torch.manual_seed(2)
    assert same(data.load(root, validation=30), first)
    assert same(data.load(root, validation=30, seed=0), first)
    assert not same(data.load(root, validation=30, seed=1), first)


def test_files_may_lie_in_the_root_itself(root):
    cifar = data.load(root, validation=10)
    assert same(data.load(root / cifar10.BATCHES, validation=10), cifar)


def test_root_is_the_argument_else_the_environment_else_the_home_folder(root, monkeypatch):
    home = Path("~/.cache/cifar_utils").expanduser()
    home.parent.mkdir(parents=True)
    root.rename(home)
    assert data.default_root() == home
    assert data.load(validation=10).source == "cifar10"
    monkeypatch.setenv("CIFAR10_ROOT", "~/elsewhere")
    assert data.default_root() == Path.home() / "elsewhere"
    assert data.load(validation=10).source == "synthetic"
    assert data.load(str(home), validation=10).source == "cifar10"
    assert data.load("~/.cache/cifar_utils", validation=10).source == "cifar10"
    monkeypatch.setenv("CIFAR10_ROOT", "")
    assert data.default_root() == home


def test_unknown_source_names_the_valid_ones(root):
    with pytest.raises(ValueError, match=r"'cifar100'.*auto, cifar10, folder, npy, synthetic"):
        data.load(root, source="cifar100")


@pytest.mark.parametrize("validation", [-1, 100, 5000])
def test_impossible_validation_names_the_valid_range(root, validation):
    with pytest.raises(ValueError, match=f"{validation}.* at least 0, and less than the 100 "):
        data.load(root, validation=validation)


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


def test_published_mirrors_and_digests_are_well_formed():
    digests = [cifar10.ARCHIVE_MD5, *cifar10.MD5.values()]
    assert all(len(digest) == 32 and int(digest, 16) >= 0 for digest in digests)
    assert len(set(digests)) == 8
    assert data.CLASSES[3] == "cat" and len(set(data.CLASSES)) == 10


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
    with pytest.raises(ValueError, match=f"{name} does not have the published MD5.*no mirror"):
        data.load(root, source="cifar10", validation=10)
    assert data.load(root, source="auto", validation=10).source == "synthetic"
    assert not marker.exists()


def test_pickle_that_changes_after_the_check_is_never_opened(root, tmp_path, monkeypatch):
    marker = tmp_path / "marker"
    (root / cifar10.BATCHES / "data_batch_2").write_bytes(pickle.dumps(Harmful(marker)))
    monkeypatch.setattr(files, "md5", lambda path: cifar10.MD5[path.name])
    with pytest.raises(ValueError, match="data_batch_2 does not have the published MD5"):
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


# --- the cache of decoded tensors


def test_second_load_opens_no_pickle(root, monkeypatch):
    first = data.load(root, validation=10)
    forbid_unpickling(monkeypatch)
    second = data.load(root, validation=10)
    assert same(first, second) and second.source == "cifar10"
    assert second.classes == first.classes


def test_file_that_changes_makes_the_cache_invalid(root):
    data.load(root, validation=10)
    (root / cifar10.BATCHES / "data_batch_3").write_bytes(b"changed")
    with pytest.raises(ValueError, match="data_batch_3"):
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


def test_auto_with_damaged_files_and_no_network_says_which_file(root, capsys):
    (root / cifar10.BATCHES / "data_batch_4").write_bytes(b"damaged")
    assert data.load(root, validation=10).source == "synthetic"
    err = capsys.readouterr().err
    assert "THIS IS NOT CIFAR-10" in err and "data_batch_4" in err


def test_stand_in_that_was_asked_for_is_announced_too_and_downloads_nothing(root, mirror, capsys):
    assert data.load(root, source="synthetic", validation=10).source == "synthetic"
    assert "THIS IS NOT CIFAR-10" in capsys.readouterr().err and mirror.asked == []


def test_stand_in_draws_test_images_from_another_seed(tmp_path):
    cifar = data.load(tmp_path, source="synthetic", validation=20)
    assert (len(cifar.train), len(cifar.val), len(cifar.test)) == (80, 20, 20)
    assert cifar.train.images.unique().tolist() != cifar.test.images.unique().tolist()


def test_stand_in_is_drawn_once_for_each_version(tmp_path, monkeypatch):
    drawn, draw = [], synthetic.draw
    fake = lambda count, *, seed: drawn.append(count) or draw(count, seed=seed)  # noqa: E731
    monkeypatch.setattr(synthetic, "draw", fake)
    for version, counts in (("a", 2), ("a", 2), ("b", 4)):
        monkeypatch.setattr(synthetic, "VERSION", version, raising=False)
        data.load(tmp_path, source="synthetic", validation=10)
        assert len(drawn) == counts
    assert drawn[:2] == [50_000, 10_000]


# --- folder


@pytest.fixture
def pictures(tmp_path):
    """A folder with 4 train and 2 test pictures of each of two classes, and {path: its pixels}."""
    random, pixels = np.random.default_rng(0), {}
    for part, count in (("train", 4), ("test", 2)):
        for name in ("zebra", "ant"):
            for number in range(count):
                path = tmp_path / "pictures" / part / name / f"{number}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                pixels[path] = random.integers(0, 256, (32, 32, 3), dtype=np.uint8)
                Image.fromarray(pixels[path]).save(path)
    return tmp_path / "pictures", pixels


def test_folder_gives_every_picture_with_the_name_of_its_folder(pictures):
    root, pixels = pictures
    cifar = data.load(root, source="folder", validation=2)
    assert cifar.source == "folder" and cifar.classes == ("ant", "zebra")
    assert (len(cifar.train), len(cifar.val), len(cifar.test)) == (6, 2, 4)
    assert sorted(cifar.val.names) == ["ant", "zebra"]
    assert list(cifar.test.names) != sorted(cifar.test.names), "not class by class"
    got = {(name, image.permute(1, 2, 0).numpy().tobytes())
           for part in (cifar.train, cifar.val, cifar.test)
           for name, image in zip(part.names, part.images, strict=True)}  # fmt: skip
    assert got == {(path.parent.name, image.tobytes()) for path, image in pixels.items()}


def test_folder_is_read_once_until_a_picture_comes_or_changes(pictures, monkeypatch):
    root, pixels = pictures
    read, read_image = [], data.read_image
    monkeypatch.setattr(local, "read_image", lambda path: read.append(path) or read_image(path))

    def load():
        read.clear()
        cifar = data.load(root, source="folder", validation=0)
        return len(read), len(cifar.train)

    assert (load(), load()) == ((12, 8), (0, 8))
    shutil.copy(next(iter(pixels)), root / "train" / "ant" / "new.JPG")
    (root / "train" / "ant" / "notes.txt").write_text("no picture")
    assert (load(), load()) == ((13, 9), (0, 9))
    os.utime(root / "train" / "ant" / "0.png", ns=(0, 0))
    assert load() == (13, 9)


def test_folder_with_a_broken_picture_names_it(pictures):
    root, pixels = pictures
    broken = list(pixels)[5]
    broken.write_bytes(broken.read_bytes()[:200])
    with pytest.raises(ValueError, match=str(broken)):
        data.load(root, source="folder", validation=0)


def test_folder_without_pictures_says_what_is_wanted(pictures, tmp_path):
    root, _ = pictures
    shutil.rmtree(root / "test")
    with pytest.raises(ValueError, match=r"test holds no images.*train/<class>"):
        data.load(root, source="folder")
    with pytest.raises(ValueError, match="train holds no images"):
        data.load(tmp_path / "absent", source="folder")


def test_folder_whose_test_has_a_class_of_its_own_names_it(pictures):
    root, _ = pictures
    (root / "test" / "ant").rename(root / "test" / "newt")
    with pytest.raises(ValueError, match="lacks: newt; train has ant, zebra"):
        data.load(root, source="folder")


# --- npy


@pytest.fixture
def save(tmp_path):
    """A function that saves `count` random images and labels under two names, and returns them."""

    def save(images_name, labels_name, count=12, seed=0):
        random = np.random.default_rng(seed)
        images = random.integers(0, 256, (count, 32, 32, 3), dtype=np.uint8)
        labels = random.integers(0, 10, count).astype(np.int32)
        np.save(tmp_path / images_name, images)
        np.save(tmp_path / labels_name, labels)
        return images, labels

    return save


def is_split_of(split, images, labels):
    wanted = torch.from_numpy(np.moveaxis(images, 3, 1).copy())
    return torch.equal(split.images, wanted) and split.labels.tolist() == labels.tolist()


def test_arrays_in_the_manner_of_cifar_10_1(save, tmp_path):
    images, labels = save("cifar10.1_v6_data.npy", "cifar10.1_v6_labels.npy")
    for root in (tmp_path, tmp_path / "cifar10.1_v6_data.npy"):
        cifar = data.load(root, source="npy")
        assert is_split_of(cifar.test, images, labels) and cifar.source == "npy"
        assert len(cifar.train) == len(cifar.val) == 0
        assert cifar.test.labels.dtype == torch.int64 and cifar.classes == data.CLASSES


def test_an_array_that_is_given_by_itself_is_the_test_set(save, tmp_path):
    images, labels = save("train_data.npy", "train_labels.npy")
    cifar = data.load(tmp_path / "train_data.npy", source="npy")
    assert is_split_of(cifar.test, images, labels) and not len(cifar.train)


def test_arrays_in_the_manner_of_cifar_10_c(save, tmp_path):
    save("snow.npy", "labels.npy", seed=1)
    images, labels = save("fog.npy", "labels.npy", seed=2)
    assert is_split_of(data.load(tmp_path / "fog.npy", source="npy").test, images, labels)
    with pytest.raises(ValueError, match=r"holds fog.npy, snow.npy; give one array's file"):
        data.load(tmp_path, source="npy")


def test_arrays_to_train_on_are_split_too(save, tmp_path):
    images, labels = save("train_data.npy", "train_labels.npy", count=40, seed=1)
    test = save("test_data.npy", "test_labels.npy", seed=2)
    cifar = data.load(tmp_path, source="npy", validation=10)
    assert (len(cifar.train), len(cifar.val)) == (30, 10) and is_split_of(cifar.test, *test)
    chosen = cifar.val.indices.numpy()
    assert is_split_of(cifar.val, images[chosen], labels[chosen])


def wrong_arrays():
    images, labels = np.zeros((4, 32, 32, 3), np.uint8), np.arange(4)
    yield "float32", images.astype(np.float32), labels, r"float32 \(4, 32, 32, 3\), not uint8"
    yield "channels first", images.transpose(0, 3, 1, 2), labels, r"\(4, 3, 32, 32\), not uint8"
    yield "one image", images[0], labels, r"uint8 \(32, 32, 3\), not uint8"
    yield "too few labels", images, labels[:3], r"int64 \(3,\), not 4 whole numbers"
    yield "one-hot", images, np.eye(4, dtype=int), r"\(4, 4\), not 4 whole numbers"
    yield "real labels", images, labels / 2, r"float64 \(4,\), not 4 whole numbers"
    yield "label 10", images, labels + 7, "labels outside 0 to 9"
    yield "label -1", images, labels - 1, "labels outside 0 to 9"


@pytest.mark.parametrize(
    "images, labels, said", [pytest.param(*case[1:], id=case[0]) for case in wrong_arrays()]
)
def test_wrong_arrays_are_refused_with_what_was_found(tmp_path, images, labels, said):
    np.save(tmp_path / "x.npy", images)
    np.save(tmp_path / "labels.npy", labels)
    with pytest.raises(ValueError, match=said):
        data.load(tmp_path, source="npy")


def test_array_without_labels_says_which_files_would_do(save, tmp_path):
    save("x_data.npy", "y.npy")
    with pytest.raises(ValueError, match=r"neither x_labels.npy nor labels.npy"):
        data.load(tmp_path / "x_data.npy", source="npy")


@pytest.mark.parametrize("name", [".", "absent", "absent.npy"])
def test_absent_array_says_what_is_wanted(tmp_path, name):
    with pytest.raises(ValueError, match=r"no array of images.*NAME_data.npy with NAME_labels"):
        data.load(tmp_path / name, source="npy")


def test_pickle_inside_an_array_is_never_opened(tmp_path):
    marker = tmp_path / "marker"
    np.save(tmp_path / "x.npy", np.array([Harmful(marker)] * 2, dtype=object), allow_pickle=True)
    np.save(tmp_path / "labels.npy", np.arange(2))
    with pytest.raises(ValueError):
        data.load(tmp_path, source="npy")
    assert not marker.exists()


@pytest.mark.parametrize("source", ["folder", "npy"])
def test_auto_never_puts_the_stand_in_in_the_place_of_ones_own_data(
    source, pictures, save, tmp_path
):
    save("x_data.npy", "x_labels.npy")
    with pytest.raises(ValueError, match=f"choose source '{source}'"):
        data.load(pictures[0] if source == "folder" else tmp_path)


# --- stratified


def some_labels(least=0):
    return st.lists(st.integers(0, 6), min_size=least, max_size=60).map(torch.tensor)


@given(labels=some_labels(1), share=st.fractions(0, 1), seed=st.integers(0, 2**32 - 1))
@example(labels=torch.tensor([0] * 7 + [1] * 2 + [2] * 1), share=Fraction(1, 2), seed=0)
@settings(max_examples=80, deadline=None)
def test_stratified_gives_each_class_its_share_by_largest_remainder(labels, share, seed):
    count = int(share * len(labels))
    chosen = data.stratified(labels, count, seed=seed).tolist()
    assert len(chosen) == count and chosen == sorted(set(chosen))
    assert all(0 <= position < len(labels) for position in chosen)

    got = Counter(labels[chosen].tolist())
    ups, downs = [], []  # the remainders of the classes whose quota was rounded up and down
    for name, size in Counter(labels.tolist()).items():
        whole, rest = divmod(size * count, len(labels))
        assert got[name] in (whole, whole + 1)
        (ups if got[name] > whole else downs).append(rest)
    assert min(ups, default=len(labels)) >= max(downs, default=0)  # ties may go either way
    assert 0 not in ups


@pytest.mark.parametrize(("place", "by"), [(0, 1), (57, 3), (99, 9)])
def test_a_fingerprint_tells_any_other_label_class_order_or_source_apart(random_split, place, by):
    split = random_split(100)
    own = data.fingerprint(split)
    assert own == data.fingerprint(random_split(100)) and len(own) == 64
    labels, classes = split.labels.clone(), list(split.classes)
    labels[place] = (labels[place] + by) % 10
    classes[by] += "s"
    others = (
        replace(split, labels=labels),
        replace(split, classes=tuple(classes)),
        replace(split, indices=split.indices.roll(by)),
        split[:place],
        random_split(100, seed=by),
    )
    assert own not in [data.fingerprint(other) for other in others]


@given(labels=some_labels(10), seed=st.integers(0, 2**32 - 1))
@settings(max_examples=30, deadline=None)
def test_stratified_depends_on_its_seed_only(labels, seed):
    torch.manual_seed(seed)
    first = data.stratified(labels, 5, seed=seed)
    torch.rand(3)
    np.random.rand(3)  # noqa: NPY002
    assert torch.equal(data.stratified(labels.clone(), 5, seed=seed), first)


def test_stratified_draws_otherwise_from_another_seed_and_not_the_first_ones():
    labels = torch.arange(1000) % 10
    draws = {tuple(data.stratified(labels, 100, seed=seed).tolist()) for seed in range(5)}
    assert len(draws) == 5 and all(max(draw) > 900 for draw in draws)


def test_stratified_stays_the_same_for_good():
    """A frozen draw: checkpoints and published numbers count on these very positions."""
    labels = torch.arange(50_000) % 10
    positions = data.stratified(labels, 5000)
    order = np.random.RandomState(0).permutation(50_000)
    wanted = []
    for name in range(10):
        wanted += [position for position in order.tolist() if position % 10 == name][:500]
    assert positions.tolist() == sorted(wanted)
    assert positions[:5].tolist() == [14, 18, 22, 24, 28]


@given(labels=some_labels())
@settings(max_examples=20, deadline=None)
def test_stratified_of_none_or_all(labels):
    assert data.stratified(labels, 0).tolist() == []
    assert data.stratified(labels, len(labels)).tolist() == list(range(len(labels)))


# --- splits


@pytest.fixture
def split():
    """40 images, image i filled with the number i, in classes 0..9 in turn."""
    images = torch.arange(40, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 32, 32).clone()
    return data.Split(images, torch.arange(40) % 10, data.CLASSES, torch.arange(40))


def test_split_can_be_indexed_like_a_tensor(split):
    mask = split.labels == 3
    pairs = [(5, [5]), (-1, [39]), (slice(2, 9, 3), [2, 5, 8]), (slice(40, 50), []), ([], [])]
    pairs += [([7, 7, 1], [7, 7, 1]), (mask, [3, 13, 23, 33]), (mask.numpy(), [3, 13, 23, 33])]
    pairs += [(torch.tensor([4, 2]), [4, 2]), (np.array([4, 2]), [4, 2])]
    for index, wanted in pairs:
        part = split[index]
        assert part.images.shape == (len(wanted), 3, 32, 32) and len(part) == len(wanted)
        assert part.images[:, 0, 0, 0].tolist() == part.indices.tolist() == wanted
        assert part.labels.tolist() == [position % 10 for position in wanted]


def test_indices_survive_every_selection(split):
    assert split[10:][[3, 5]][1].indices.tolist() == [15]


def test_index_beyond_the_end_is_an_index_error_and_a_loop_ends(split):
    with pytest.raises(IndexError):
        split[40]
    assert [image.indices.item() for image in split] == list(range(40))


def test_names_are_the_classes_of_the_labels(split):
    assert split[[0, 3, 19]].names == ["airplane", "cat", "truck"]
    assert split[:0].names == []


def test_first_of_each_is_the_earliest_image_of_each_class_that_occurs(split):
    odd = split[split.labels % 2 == 1]
    firsts = odd.first_of_each(3)
    assert firsts.labels.tolist() == [1, 3, 5]
    for label, index in zip(firsts.labels.tolist(), firsts.indices.tolist(), strict=True):
        assert index == min(i for i, other in enumerate(split.labels.tolist()) if other == label)


def test_to_moves_every_tensor(split):
    moved = split.to("meta")
    assert {moved.images.device.type, moved.labels.device.type, moved.indices.device.type} == {
        "meta"
    }
    assert moved.classes == split.classes and split.images.device.type == "cpu"


def test_hold_out_moves_a_balanced_share(split):
    cifar = data.Cifar(split, split[:0], split[:20]).hold_out(10)
    assert sorted(cifar.val.labels.tolist()) == list(range(10))
    assert sorted(cifar.train.indices.tolist() + cifar.val.indices.tolist()) == list(range(40))
    assert len(cifar.train) == 30 and len(cifar.test) == 20 and cifar.source == "memory"
    assert cifar.val.indices.tolist() == data.stratified(split.labels, 10).tolist()
    assert len(split) == 40, "the split that was given should stay as it was"


def test_limit_keeps_at_most_so_many_of_each_split_and_balances_them(split):
    cifar = data.Cifar(split, split[:5], split[:0]).limit(20)
    assert (len(cifar.train), len(cifar.val), len(cifar.test)) == (20, 5, 0)
    assert Counter(cifar.train.labels.tolist()) == dict.fromkeys(range(10), 2)
    assert torch.equal(cifar.train.images[:, 0, 0, 0].long(), cifar.train.indices)
    assert cifar.source == "memory"


@pytest.mark.parametrize("count", [0, -5])
def test_limit_below_one_names_the_valid_range(split, count):
    with pytest.raises(
        ValueError, match=f"limit is {count}; it must be a whole number of at least 1"
    ):
        data.Cifar(split, split, split).limit(count)


# --- batches and normalize


@given(count=st.integers(1, 40), size=st.integers(1, 50), seed=st.none() | st.integers(0, 99))
@settings(max_examples=40, deadline=None)
def test_batches_are_a_partition(count, size, seed):
    images = torch.arange(count, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
    split = data.Split(images, torch.arange(count) % 10, data.CLASSES, torch.arange(count) + 100)
    generator = None if seed is None else torch.Generator().manual_seed(seed)
    parts = list(data.batches(split, size, generator=generator))

    wanted = [size] * (count // size) + ([count % size] if count % size else [])
    assert [len(part) for part in parts] == wanted
    order = torch.cat([part.indices for part in parts]) - 100
    assert sorted(order.tolist()) == list(range(count))
    if generator is None:
        assert order.tolist() == list(range(count))
    for part in parts:
        position = part.indices - 100
        assert torch.equal(part.images, images[position]) and part.classes == data.CLASSES
        assert torch.equal(part.labels, position % 10)


def test_batches_come_in_a_fresh_order_each_time_and_repeat_from_a_seed(split):
    def order(generator):
        return torch.cat([part.indices for part in data.batches(split, 7, generator=generator)])

    generator, twin = torch.Generator().manual_seed(0), torch.Generator().manual_seed(0)
    first, second = order(generator), order(generator)
    assert first.tolist() != list(range(40)) and not torch.equal(first, second)
    assert torch.equal(order(twin), first) and torch.equal(order(twin), second)


def test_mean_and_std_are_the_published_ones():
    """Those of most CIFAR-10 code; the real files, where there are any, are measured below."""
    assert pytest.approx((0.4914, 0.4822, 0.4465), abs=1e-4) == data.MEAN
    assert pytest.approx((0.2470, 0.2435, 0.2616), abs=1e-4) == data.STD


def test_normalize_equals_a_loop_and_torchvision():
    from torchvision.transforms import v2

    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (2, 3, 5, 4), dtype=torch.uint8, generator=random)
    before, got = images.clone(), data.normalize(images)
    assert got.dtype == torch.float32 and got.shape == images.shape
    for n, channel, y, x in np.ndindex(*images.shape):
        value = images[n, channel, y, x].item() / 255
        wanted = (value - data.MEAN[channel]) / data.STD[channel]
        assert got[n, channel, y, x].item() == pytest.approx(wanted, abs=1e-5)
    theirs = v2.Compose([v2.ToDtype(torch.float32, scale=True), v2.Normalize(data.MEAN, data.STD)])
    torch.testing.assert_close(got, theirs(images), atol=1e-5, rtol=0)
    assert torch.equal(images, before)


# --- read_image


def pixels_of(path):
    image = data.read_image(path)
    assert image.dtype == torch.uint8 and image.shape == (3, 32, 32) and image.is_contiguous()
    return image.permute(1, 2, 0).numpy()


@pytest.fixture
def noise():
    return np.random.default_rng(0).integers(0, 256, (32, 32, 3), dtype=np.uint8)


@pytest.mark.parametrize("as_type", [str, Path])
def test_picture_of_the_right_size_comes_back_exactly(tmp_path, noise, as_type):
    Image.fromarray(noise).save(tmp_path / "x.png")
    assert np.array_equal(pixels_of(as_type(tmp_path / "x.png")), noise)


@pytest.mark.parametrize("size", [(1, 1), (1, 90), (90, 1), (31, 33), (500, 333), (64, 64)])
def test_picture_of_any_size_keeps_its_colour(tmp_path, size):
    Image.new("RGB", size, (10, 200, 90)).save(tmp_path / "x.png")
    assert (pixels_of(tmp_path / "x.png") == (10, 200, 90)).all()


def test_wide_and_tall_pictures_lose_their_borders_and_no_proportion(tmp_path, noise):
    wide = np.pad(noise, ((0, 0), (32, 32), (0, 0)))
    for picture in (wide, wide.swapaxes(0, 1)):
        Image.fromarray(picture).save(tmp_path / "x.png")
        wanted = noise if picture is wide else noise.swapaxes(0, 1)
        assert np.array_equal(pixels_of(tmp_path / "x.png"), wanted)


def test_larger_picture_is_averaged_and_not_sampled(tmp_path):
    board = np.indices((256, 256)).sum(0) % 2 * 255
    Image.fromarray(board.astype(np.uint8)).save(tmp_path / "x.png")
    inner = pixels_of(tmp_path / "x.png")[2:-2, 2:-2].astype(int)
    assert abs(inner - 127).max() <= 3


def test_grey_and_one_bit_pictures_become_rgb(tmp_path, noise):
    grey = noise[:, :, 0]
    Image.fromarray(grey).save(tmp_path / "x.png")
    assert np.array_equal(pixels_of(tmp_path / "x.png"), np.stack([grey] * 3, axis=2))
    Image.fromarray(grey > 99).save(tmp_path / "x.png")
    assert np.array_equal(pixels_of(tmp_path / "x.png"), np.stack([(grey > 99) * 255] * 3, axis=2))


@pytest.mark.parametrize("channels", [2, 4])
def test_transparent_pixels_become_white(tmp_path, channels):
    colours = np.zeros((32, 32, channels), np.uint8)
    colours[..., :-1], colours[..., -1] = 100, 255
    colours[:10, :, -1], colours[10:20, :, -1] = 0, 51  # a fifth
    Image.fromarray(colours).save(tmp_path / "x.png")
    got = pixels_of(tmp_path / "x.png").astype(int)
    assert (got[:10] == 255).all() and (got[20:] == 100).all()
    assert abs(got[10:20] - 224).max() <= 1  # 255 × 0.8 + 100 × 0.2


@pytest.mark.parametrize("suffix", ["png", "gif"])
def test_palette_is_looked_up_and_its_transparent_colour_becomes_white(tmp_path, suffix):
    image = Image.fromarray((np.arange(1024).reshape(32, 32) // 400).astype(np.uint8))
    image.putpalette([250, 0, 0, 0, 250, 0, 0, 0, 250] + [0] * 759)
    colours = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250]])
    image.save(tmp_path / f"x.{suffix}")
    assert np.array_equal(pixels_of(tmp_path / f"x.{suffix}"), colours[np.asarray(image)])
    image.save(tmp_path / f"x.{suffix}", transparency=1)
    colours[1] = 255
    assert np.array_equal(pixels_of(tmp_path / f"x.{suffix}"), colours[np.asarray(image)])


def test_cmyk_becomes_rgb(tmp_path):
    Image.new("CMYK", (32, 32), (0, 255, 255, 0)).save(tmp_path / "x.tif")
    assert (pixels_of(tmp_path / "x.tif") == (255, 0, 0)).all()
    Image.new("CMYK", (32, 32), (255, 0, 255, 0)).save(tmp_path / "x.jpg", quality=100)
    assert abs(pixels_of(tmp_path / "x.jpg").astype(int) - (0, 255, 0)).max() <= 5


@pytest.mark.parametrize("suffix", ["png", "tif"])
@pytest.mark.parametrize("top", [65535, 200])
def test_16_bits_are_scaled_to_8_whatever_the_picture_holds(tmp_path, suffix, top):
    deep = np.linspace(0, top, 1024).round().astype(np.uint16).reshape(32, 32)
    Image.fromarray(deep).save(tmp_path / f"x.{suffix}")
    wanted = np.stack([np.round(deep / 257)] * 3, axis=2)  # 65535 = 255 × 257
    assert np.array_equal(pixels_of(tmp_path / f"x.{suffix}"), wanted)


@pytest.mark.parametrize("top", [1, 255])
def test_float_pictures_in_either_range_are_scaled_to_8_bits(tmp_path, top):
    values = np.linspace(0, top, 1024, dtype=np.float32).reshape(32, 32)
    Image.fromarray(values).save(tmp_path / "x.tif")
    wanted = np.stack([values / top * 255] * 3, axis=2)
    assert abs(pixels_of(tmp_path / "x.tif") - wanted).max() <= 0.51


def test_float_pictures_with_strange_values_are_taken(tmp_path):
    for values in ([np.nan, 1], [-5, 0.5], [0, 0], [-3, -2], [0, 1e9]):
        Image.fromarray(np.resize(np.float32(values), (32, 32))).save(tmp_path / "x.tif")
        got = pixels_of(tmp_path / "x.tif")
        assert got[:, 0].max() == 0, values
        assert got[0, 1, 0] == {0.5: 128, 1: 255, 1e9: 255}.get(values[1], 0)


ORIENTATIONS = {  # EXIF's number: what turns the stored pixels upright
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.swapaxes(0, 1),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].swapaxes(0, 1),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("orientation", ORIENTATIONS)
def test_pictures_are_turned_upright(tmp_path, noise, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    Image.fromarray(noise).save(tmp_path / "x.png", exif=exif)
    assert np.array_equal(pixels_of(tmp_path / "x.png"), ORIENTATIONS[orientation](noise))


def test_first_frame_of_an_animation_is_taken(tmp_path):
    frames = [Image.new("RGB", (32, 32), colour) for colour in ("red", "lime", "blue")]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    assert (pixels_of(tmp_path / "x.gif") == (255, 0, 0)).all()


@pytest.mark.parametrize("suffix", ["png", "jpg", "gif", "bmp", "tif", "webp"])
def test_truncated_pictures_are_refused_by_name(tmp_path, noise, suffix):
    path = tmp_path / f"x.{suffix}"
    Image.fromarray(noise).save(path)
    whole = path.read_bytes()
    for share in (0, 0.1, 0.5, 0.9):
        path.write_bytes(whole[: int(share * len(whole))])
        with pytest.raises(ValueError, match=str(path)):
            data.read_image(path)


def test_what_is_no_picture_is_refused_by_name(tmp_path):
    (tmp_path / "text.png").write_text("these are words")
    for name, said in (("absent.png", "no file"), ("text.png", "not a readable image"), (".", "directory")):
        path = tmp_path / name
        with pytest.raises(ValueError, match=f"(?i){said}") as caught:
            data.read_image(path)
        assert str(path) in str(caught.value)


def test_picture_of_too_many_pixels_is_refused(tmp_path, monkeypatch):
    Image.new("L", (100, 100)).save(tmp_path / "x.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match=r"x.png cannot be read"):
        data.read_image(tmp_path / "x.png")


# --- the real files


@pytest.fixture(scope="module")
def real():
    """The real files, decoded afresh; skips without them."""
    folder = cifar10.official_folder(Path(REAL)) if REAL else None
    if folder is None or folder.name != cifar10.BATCHES:
        pytest.skip("$CIFAR10_ROOT holds no official files")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache, "cached", lambda path, stamp, make: make())
        return data.load(folder.parent, source="cifar10", validation=0), folder.parent


def test_real_files_equal_what_torchvision_reads(real):
    from torchvision.datasets import CIFAR10

    cifar, root = real
    for part, train in ((cifar.train, True), (cifar.test, False)):
        theirs = CIFAR10(root, train=train, download=False)
        assert np.array_equal(part.images.permute(0, 2, 3, 1).numpy(), theirs.data)
        assert part.labels.tolist() == theirs.targets and list(part.classes) == theirs.classes


def test_mean_and_std_are_those_of_the_real_training_images(real):
    pixels = real[0].train.images.numpy()
    for channel in range(3):
        counts = np.bincount(pixels[:, channel].ravel(), minlength=256)
        values = np.arange(256) / 255
        mean = (counts * values).sum() / counts.sum()
        std = np.sqrt((counts * (values - mean) ** 2).sum() / counts.sum())
        assert data.MEAN[channel] == pytest.approx(mean, abs=1e-8)
        assert data.STD[channel] == pytest.approx(std, abs=1e-8)


def test_real_classes_are_balanced(real):
    labels = real[0].train.labels
    assert Counter(labels.tolist()) == dict.fromkeys(range(10), 5000)
    held_out = labels[data.stratified(labels, 5000)]
    assert Counter(held_out.tolist()) == dict.fromkeys(range(10), 500)


# --- found by trying to break it ------------------------------------------------------------------


def test_damaged_files_in_the_root_itself_are_fetched_afresh(root, mirror):
    (root / cifar10.BATCHES / "data_batch_1").write_bytes(b"damaged")
    assert data.load(root / cifar10.BATCHES, source="cifar10", validation=10).source == "cifar10"


def test_mended_files_are_cached_like_any(root, mirror, monkeypatch):
    (root / cifar10.BATCHES / "data_batch_1").write_bytes(b"damaged")
    data.load(root, validation=10)
    forbid_unpickling(monkeypatch)
    data.load(root, validation=10)


def test_the_official_archive_counts_whatever_lies_beside_it(official, tmp_path):
    (tmp_path / cifar10.ARCHIVE).write_bytes(official.archive)
    (tmp_path / "train").mkdir()
    assert data.load(tmp_path, validation=10).source == "cifar10"


def test_a_file_as_root_needs_source_npy(tmp_path):
    np.save(tmp_path / "x_data.npy", np.zeros((4, 32, 32, 3), np.uint8))
    np.save(tmp_path / "x_labels.npy", np.arange(4))
    for source in ("auto", "cifar10", "folder", "synthetic"):
        with pytest.raises(ValueError, match="choose source 'npy'"):
            data.load(tmp_path / "x_data.npy", source=source)
    assert len(data.load(tmp_path / "x_data.npy", source="npy").test) == 4


def test_hidden_folders_are_no_classes(tmp_path):
    for part, name in itertools.product(("train", "test"), ("ant", ".ipynb_checkpoints")):
        (tmp_path / part / name).mkdir(parents=True)
        Image.new("RGB", (32, 32)).save(tmp_path / part / name / "a.png")
    assert data.load(tmp_path, source="folder", validation=0).classes == ("ant",)


@pytest.mark.parametrize("content", [b"", b"plain text", b"PK\x03\x04", b"\x93NUMPY\x01\x00cut"])
def test_a_file_that_is_no_array_is_named_and_unpickling_is_not_advised(tmp_path, content):
    (tmp_path / "x.npy").write_bytes(content)
    (tmp_path / "labels.npy").write_bytes(content)
    with pytest.raises(ValueError, match=r"x\.npy is not a NumPy array") as caught:
        data.load(tmp_path / "x.npy", source="npy")
    assert "pickle" not in str(caught.value)


def test_one_number_selects_a_split_of_one(random_split):
    split = random_split(5)
    for number in (3, np.int64(3), torch.tensor(3)):
        assert split[number].images.shape == (1, 3, 32, 32) and split[number].names == ["cat"]
    assert len(split[[]]) == 0 and len(split[torch.zeros(5, dtype=torch.bool)]) == 0


def test_numbers_that_cannot_be_are_refused_with_their_range(random_split):
    split = random_split(20)
    cifar = data.Cifar(split, split[:0], split)
    with pytest.raises(ValueError, match="count is 21; it must be in 0 to 20"):
        data.stratified(split.labels, 21)
    for call in (cifar.hold_out, cifar.limit):
        with pytest.raises(ValueError, match="a whole number"):
            call(0.5)
    with pytest.raises(ValueError, match="5 validation images already"):
        cifar.hold_out(5).hold_out(5)
    with pytest.raises(ValueError, match="batch_size is 0; it must be at least 1"):
        list(data.batches(split, 0))
    assert list(data.batches(split[:0], 4)) == []
    with pytest.raises(ValueError, match="normalize takes uint8 images"):
        data.normalize(split.images / 255)
