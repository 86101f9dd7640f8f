"""Where data is kept: the default folder, a folder to write to, and the cache of decoded images."""

import hashlib
import os
import warnings
from pathlib import Path

from cifar_utils.sources import files

CACHE = "~/.cache/cifar_utils"  # where data goes that has no other place


def default_root():
    """$CIFAR10_ROOT, else ~/.cache/cifar_utils."""
    return Path(os.environ.get("CIFAR10_ROOT") or CACHE).expanduser()


def where_to_write(root):
    """`root`, or ~/.cache/cifar_utils where it cannot be written to."""
    nearest = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return root if os.access(nearest, os.W_OK) else Path(CACHE).expanduser()


def decoded(root, name, stamp, decode):
    """The four tensors of decode(), kept in a file beside the data until `stamp` changes.

    The file goes to ~/.cache/cifar_utils where the data's folder cannot be written to.
    """
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]
    path = where_to_write(root) / f"decoded-{name}-{key}.safetensors"
    names = ("train_images", "train_labels", "test_images", "test_labels")
    tensors = cached(path, stamp, lambda: dict(zip(names, decode(), strict=True)))
    return tuple(tensors[name] for name in names)


def cached(path, stamp, make):
    """The dict of tensors that make() returns, kept in the safetensors file `path`.

    The file is used for as long as `stamp`, a string, stays the same. Where it cannot be written, a
    warning says so.
    """
    from safetensors import SafetensorError, safe_open
    from safetensors.torch import load_file, save_file

    try:
        with safe_open(path, framework="pt") as held:
            fresh = (held.metadata() or {}).get("stamp") == stamp
        if fresh:
            return load_file(path)
    except (OSError, SafetensorError):
        pass  # not there yet, or cut short: make it again
    tensors = make()
    try:
        files.write_whole(path, lambda temporary: save_file(tensors, temporary, {"stamp": stamp}))
    except (OSError, SafetensorError) as error:
        warnings.warn(f"the decoded images could not be cached: {error}", stacklevel=2)
    return tensors


def stamp_of(paths):
    """A string that changes when one of `paths` is moved, resized or written to."""
    digest = hashlib.sha256()
    for path in paths:
        about = path.stat()
        digest.update(f"{path} {about.st_size} {about.st_mtime_ns}\n".encode())
    return digest.hexdigest()
