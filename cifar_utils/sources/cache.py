"""Where data is kept, what a reader returns, and the file that saves decoding it twice."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from cifar_utils.errors import reason
from cifar_utils.sources import files

FALLBACK = "~/.cache/cifar_utils"  # for data that has no other place

Labelled = tuple[Tensor, Tensor]  # images, uint8 (N, 3, 32, 32), and labels, int64 (N,)


class Decoded(NamedTuple):
    """All the images of a source, as its reader returns them; `data.load` makes Splits of them."""

    source: str  # "cifar10", "folder", "npy" or "synthetic"
    classes: tuple[str, ...]
    train: Labelled
    test: Labelled


def default_root() -> Path:
    """$CIFAR10_ROOT, else ~/.cache/cifar_utils."""
    return Path(os.environ.get("CIFAR10_ROOT") or FALLBACK).expanduser()


def writable(root: Path) -> Path:
    """`root`, or ~/.cache/cifar_utils if `root` cannot be written to."""
    nearest = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return root if os.access(nearest, os.W_OK) else Path(FALLBACK).expanduser()


def decoded(
    root: Path,
    source: str,
    classes: tuple[str, ...],
    stamp: str,
    decode: Callable[[], tuple[Labelled, Labelled]],
) -> Decoded:
    """What decode() returns for train and test, kept in a file until `stamp` changes.

    The file lies beside the data, or in ~/.cache/cifar_utils if that folder cannot be written to.
    """

    def make():
        train, test = decode()
        names = ("train_images", "train_labels", "test_images", "test_labels")
        return dict(zip(names, (*train, *test), strict=True))

    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    path = writable(root) / f"decoded-{source}-{key}.safetensors"
    held = cached(path, stamp, make)
    train = held["train_images"], held["train_labels"]
    test = held["test_images"], held["test_labels"]
    return Decoded(source, classes, train, test)


def cached(path: Path, stamp: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that make() returns, kept in the safetensors file `path`.

    The file is used as long as `stamp` stays the same. If it cannot be written, a warning says so.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file

    try:
        with safe_open(path, framework="pt") as file:
            fresh = (file.metadata() or {}).get("stamp") == stamp
        if fresh:
            return load_file(path)
    except (OSError, SafetensorError):
        pass  # not there yet, or cut short: make it again
    tensors = make()
    try:
        files.write_whole(path, lambda temporary: save_file(tensors, temporary, {"stamp": stamp}))
    except (OSError, SafetensorError) as error:
        warnings.warn(f"the decoded images could not be cached: {reason(error)}", stacklevel=2)
    return tensors


def stamp_of(paths: Iterable[Path]) -> str:
    """A string that changes when one of the files is moved, resized or written to."""
    digest = hashlib.sha256()
    for path in paths:
        about = path.stat()
        line = f"{path} {about.st_size} {about.st_mtime_ns}\n"
        digest.update(os.fsencode(line))  # a name on disk need not be UTF-8
    return digest.hexdigest()
