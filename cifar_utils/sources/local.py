"""Images of your own: folders of image files, NumPy arrays, and single image files."""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar_utils.errors import CifarError, reason
from cifar_utils.sources import cache
from cifar_utils.sources.cifar10 import CLASSES
from cifar_utils.sources.files import no_bar


def read_folder(root: Path) -> cache.Decoded:
    """Images from train/<class>/*.png|jpg and test/<class>/…, resized to 32×32, in mixed order.

    Raises CifarError if there are none, or if test has a class that train lacks.
    """
    train, test = _image_files(root / "train"), _image_files(root / "test")
    classes = tuple(sorted({file.parent.name for file in train}))
    strange = sorted({file.parent.name for file in test} - set(classes))
    if strange:
        raise CifarError(
            f"{root / 'test'} has classes that train lacks: {', '.join(strange)}; "
            f"train has {', '.join(classes)}"
        )

    def decode():
        return _decode(train, classes, "train"), _decode(test, classes, "test")

    stamp = f"mixed {cache.stamp_of(train + test)}"
    return cache.decoded(root, "folder", classes, stamp, decode)


def _image_files(folder: Path) -> list[Path]:
    """The image files in the class folders of `folder`, sorted; hidden ones are left out."""
    found = []
    for class_folder in sorted(folder.glob("[!.]*/")):
        inside = [file for file in class_folder.iterdir() if not file.name.startswith(".")]
        inside = [file for file in inside if file.suffix.lower() in {".png", ".jpg", ".jpeg"}]
        found += sorted(inside, key=lambda file: file.name)
    if not found:
        raise CifarError(
            f"{folder} holds no images; source 'folder' wants "
            "train/<class>/*.png|jpg and test/<class>/*.png|jpg"
        )
    return found


def _decode(paths: list[Path], classes: tuple[str, ...], part: str) -> cache.Labelled:
    from tqdm import tqdm

    bar = tqdm(paths, desc=f"reading {part}", leave=False, disable=no_bar())
    images = torch.stack([read_image(path) for path in bar])
    labels = torch.tensor([classes.index(path.parent.name) for path in paths])
    # The files come class by class. Mixed, the first thousand images are of all classes.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    return images[order], labels[order]


def read_image(path: str | Path) -> Tensor:
    """Any image file as uint8 (3, 32, 32): turned upright, made RGB, cropped square, resized.

    Transparent pixels become white. Images of 16 bits and of floats are scaled to 8 bits. The first
    frame of an animation is taken. Raises CifarError if the file is missing or is not a readable
    image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
    except FileNotFoundError:
        raise CifarError(f"there is no file {path}") from None
    except UnidentifiedImageError:
        raise CifarError(f"{path} is not a readable image") from None
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        raise CifarError(f"{path} cannot be read as an image: {reason(error)}") from None
    if image.mode[0] in "IF":  # more than 8 bits per pixel: find the scale
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        scales = (65535,) if image.mode.startswith("I;16") else (1, 255, 65535)
        scale = next((top for top in scales if values.max() <= top), values.max())
        image = Image.fromarray((values / scale * 255).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def read_arrays(root: Path) -> cache.Decoded:
    """Images from .npy files: the form of CIFAR-10.1 (arXiv:1806.00451) and of CIFAR-10-C.

    `root` is a folder with one array of test images, and perhaps train_data.npy, or it is the file
    of one array, which is then the test set. The labels of cifar10.1_v6_data.npy are in
    cifar10.1_v6_labels.npy, those of fog.npy in labels.npy. Raises CifarError if an array is
    missing or of the wrong form, or if it is unclear which one is meant.
    """
    alone = root.suffix == ".npy"
    folder = root.parent if alone else root
    every = sorted(file for file in folder.glob("*.npy") if not file.stem.endswith("labels"))
    arrays = [root] if alone else every
    if not arrays or not arrays[0].is_file():
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
    beside = own if own.is_file() else path.with_name("labels.npy")
    if not beside.is_file():
        raise CifarError(f"{path} has no labels beside it: neither {own.name} nor labels.npy")
    images, labels = _array(path), _array(beside)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3):
        raise CifarError(f"{path} holds {images.dtype} {images.shape}, not uint8 (N, 32, 32, 3)")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise CifarError(
            f"{beside} holds {labels.dtype} {labels.shape}, not {len(images)} whole numbers"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise CifarError(f"{beside} holds labels outside 0 to {len(CLASSES) - 1}")
    images = images.transpose(0, 3, 1, 2).copy()
    return torch.from_numpy(images), torch.from_numpy(labels.astype(np.int64))


def _array(path: Path) -> np.ndarray:
    try:
        array = np.load(path, allow_pickle=False)
    except Exception:  # of many kinds; NumPy's own message may advise you to unpickle the file
        array = None
    if not isinstance(array, np.ndarray):
        raise CifarError(f"{path} is not a NumPy array of numbers, or it is cut short")
    return array
