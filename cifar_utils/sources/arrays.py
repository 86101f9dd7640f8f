"""Images of your own as NumPy arrays."""

from pathlib import Path

import numpy as np
import torch

from cifar_utils.errors import CifarError
from cifar_utils.sources import cache, files
from cifar_utils.sources.cifar10 import CLASSES


def read(root: Path) -> cache.Decoded:
    """Images from .npy files: the form of CIFAR-10.1 (arXiv:1806.00451) and of CIFAR-10-C.

    `root` is a folder with one array of test images, and perhaps train_data.npy, or it is the file
    of one array, which is then the test set. The labels of cifar10.1_v6_data.npy are in
    cifar10.1_v6_labels.npy, those of fog.npy in labels.npy. Raises CifarError if an array is
    missing or of the wrong form, or if it is unclear which one is meant.
    """
    alone = root.suffix == ".npy" and not root.is_dir()
    folder = root.parent if alone else root
    every = sorted(file for file in folder.glob("*.npy") if not file.stem.endswith("labels"))
    arrays = [root] if alone else every
    if not arrays or (alone and not root.exists()):
        raise CifarError(
            f"there is no array of images at {root}; source 'npy' wants NAME.npy with "
            "labels.npy, or NAME_data.npy with NAME_labels.npy"
        )
    train = [file for file in arrays if file.stem in ("train_data", "train_images") and not alone]
    test = [file for file in arrays if file not in train]
    if len(test) != 1:
        names = ", ".join(file.name for file in test) or "none"
        raise CifarError(
            f"{folder} should hold one array of test images and holds {names}; "
            "give one array's file as the root"
        )
    nothing = torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    to_train_on = _images_and_labels(train[0]) if train else nothing
    return cache.Decoded("npy", CLASSES, to_train_on, _images_and_labels(test[0]))


def _images_and_labels(path: Path) -> cache.Labelled:
    own = path.with_name(path.stem.removesuffix("_data").removesuffix("_images") + "_labels.npy")
    beside = own if own.exists() else path.with_name("labels.npy")
    if not beside.exists():
        raise CifarError(f"{path} has no labels beside it: neither {own.name} nor labels.npy")
    images, labels = _array(path), _array(beside)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3):
        raise CifarError(
            f"{path} holds {images.dtype} {images.shape}, not uint8 (N, 32, 32, 3)"
            f"{_images_remedy(images)}"
        )
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise CifarError(
            f"{beside} holds {labels.dtype} {labels.shape}, not {len(images)} whole numbers"
            f"{_labels_remedy(labels, len(images))}"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        from_one = (labels.min(), labels.max()) == (1, len(CLASSES))
        raise CifarError(
            f"{beside} holds labels outside 0 to {len(CLASSES) - 1}"
            f"{'; save labels - 1 in their place' if from_one else ''}"
        )
    images = images.transpose(0, 3, 1, 2).copy()
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _images_remedy(images: np.ndarray) -> str:
    """What to save in place of an array of images that is nearly of the right form, if it is."""
    shape, array = images.shape, "images"
    if shape[1:] == (3, 32, 32):
        array += ".transpose(0, 2, 3, 1)"
    elif shape[1:] in ((32, 32), (32, 32, 1)):
        array += ".reshape(-1, 32, 32, 1).repeat(3, axis=3)"
    elif shape[1:] == (3072,):
        array += ".reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)"
    elif shape == (32, 32, 3):
        array += "[None]"
    elif shape[1:] != (32, 32, 3):
        return ""
    if images.dtype.kind == "f":
        if images.size and np.nanmin(images) < 0:  # normalised: nobody knows how
            return "; save the images as they were before they were normalised"
        array += " * 255" if not images.size or np.nanmax(images) <= 1 else ""
        array = f"({array})" if " " in array else array
        array += ".round()"
    if images.dtype != np.uint8:
        array += ".astype(np.uint8)"
    return f"; save {array} in its place"


def _labels_remedy(labels: np.ndarray, count: int) -> str:
    """What to save in place of an array of labels that is nearly of the right form, if it is."""
    if labels.size == count and labels.dtype.kind in "iuf":
        array = "labels" if labels.shape == (count,) else "labels.reshape(-1)"
        whole = labels.dtype.kind in "iu" or np.array_equal(labels, np.round(labels))
        array += "" if labels.dtype.kind in "iu" else ".astype(np.int64)"
        return f"; save {array} in its place" if whole else ""
    if labels.shape == (count, len(CLASSES)):
        return "; save labels.argmax(1) in its place"
    return ""


def _array(path: Path) -> np.ndarray:
    files.check_file(path)
    try:
        array = np.load(path, allow_pickle=False)
    except Exception:  # of many kinds; NumPy's own message may advise you to unpickle the file
        array = None
    if not isinstance(array, np.ndarray):
        raise CifarError(f"{path} is not a NumPy array of numbers, or it is cut short")
    return array
