"""Where data is kept, what a reader returns, and the file that saves decoding it twice."""

import hashlib
import os
import warnings
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from torch import Tensor

from cifar_utils.errors import CifarError, reason
from cifar_utils.sources import files, sealed

FALLBACK = "~/.cache/cifar_utils"  # for data that has no other place

Labelled = tuple[Tensor, Tensor]  # images, uint8 (N, 3, 32, 32), and labels, int64 (N,)


class Decoded(NamedTuple):
    """All the images of a source, as its reader returns them; `data.load` makes Splits of them."""

    source: str  # "cifar10", "folder", "npy" or "synthetic"
    classes: tuple[str, ...]
    train: Labelled
    test: Labelled
    val: Labelled | None = None  # if the source itself has validation images


def default_root() -> Path:
    """$CIFAR10_ROOT, else ~/.cache/cifar_utils."""
    remedy = "set CIFAR10_ROOT to a folder for the data"
    return files.expanded(os.environ.get("CIFAR10_ROOT") or FALLBACK, remedy)


def writable(root: Path) -> Path:
    """`root`, or ~/.cache/cifar_utils if `root` cannot be written to.

    If there is no home folder either, it is `root`: reading goes on, and a write says what failed.
    """
    nearest = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    if not os.access(nearest, os.W_OK):
        with suppress(CifarError):
            return files.expanded(FALLBACK)
    return root


def decoded(
    root: Path,
    source: str,
    classes: tuple[str, ...],
    stamp: str,
    decode: Callable[[], tuple[Labelled, ...]],
) -> Decoded:
    """What decode() returns for train, test and perhaps val, kept in a file until `stamp` changes.

    The file lies beside the data, or in ~/.cache/cifar_utils if that folder cannot be written to.
    """

    def make():
        return {
            f"{part}_{kind}": tensor
            for part, pair in zip(("train", "test", "val"), decode(), strict=False)
            for kind, tensor in zip(("images", "labels"), pair, strict=True)
        }

    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:8]
    path = writable(root) / f"decoded-{source}-{key}.safetensors"
    held = cached(path, stamp, make)
    parts = [
        (held[f"{part}_images"], held[f"{part}_labels"])
        for part in ("train", "test", "val")
        if f"{part}_images" in held
    ]
    return Decoded(source, classes, *parts)


def cached(path: Path, stamp: str, make: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors that make() returns, kept in the safetensors file `path`.

    The file is used as long as `stamp` stays the same and its digest is right. If it cannot be
    written, a warning says so.
    """
    from safetensors.torch import save_file

    with suppress(CifarError):  # not there yet, of other data, damaged, or from before digests
        return _kept(path, stamp)
    tensors = make()
    about = {"stamp": stamp, "digest": sealed.digest({"stamp": stamp, "tensors": tensors})}
    try:
        files.write_whole(path, lambda temporary: save_file(tensors, temporary, about))
    except OSError as error:
        warnings.warn(f"the decoded images could not be cached: {reason(error)}", stacklevel=2)
    return tensors


def _kept(path: Path, stamp: str) -> dict[str, Tensor]:
    """The tensors in the file, if they are as they were written for this stamp; else CifarError."""
    from safetensors import safe_open

    with sealed.reading(path, "cache", "delete it"), safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        if about.get("stamp") != stamp:
            raise CifarError("it is of other data")
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        sealed.unseal({"stamp": stamp, "tensors": tensors, "digest": about.get("digest")})
    return tensors


def stamp_of(paths: Iterable[Path]) -> str:
    """A string that changes when one of the files is moved, resized or written to."""
    digest = hashlib.sha256()
    for path in paths:
        about = path.stat()
        line = f"{path} {about.st_size} {about.st_mtime_ns}\n"
        digest.update(os.fsencode(line))  # a name on disk need not be UTF-8
    return digest.hexdigest()
