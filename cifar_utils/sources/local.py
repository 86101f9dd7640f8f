"""Images of one's own: folders of image files, NumPy arrays, single image files."""

import numpy as np
import torch

from cifar_utils.errors import CifarError
from cifar_utils.sources import cache
from cifar_utils.sources.cifar10 import CLASSES


def read_folder(root):
    from tqdm import tqdm

    found = {part: _images_in(root / part) for part in ("train", "test")}
    for part in found:
        if not found[part]:
            raise CifarError(
                f"{root / part} holds no images; source 'folder' wants "
                "train/<class>/*.png|jpg and test/<class>/*.png|jpg"
            )
    classes = tuple(sorted({file.parent.name for file in found["train"]}))
    strange = sorted({file.parent.name for file in found["test"]} - set(classes))
    if strange:
        raise CifarError(
            f"{root / 'test'} has classes that train lacks: {', '.join(strange)}; "
            f"train has {', '.join(classes)}"
        )

    def decode():
        tensors = []
        for part in found:
            bar = tqdm(found[part], desc=f"reading {part}", leave=False)
            images = torch.stack([read_image(file) for file in bar])
            labels = torch.tensor([classes.index(file.parent.name) for file in found[part]])
            # Files come class by class. Mixed, the first thousand images are of all classes.
            order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
            tensors += [images[order], labels[order]]
        return tensors

    stamp = f"mixed {cache.stamp_of(found['train'] + found['test'])}"
    return "folder", (*cache.decoded(root, "folder", stamp, decode), classes)


def _images_in(folder):
    """The image files in the class folders of `folder`, sorted; hidden ones are left out."""
    found = []
    for class_folder in sorted(folder.glob("[!.]*/")):
        inside = [file for file in class_folder.iterdir() if not file.name.startswith(".")]
        inside = [file for file in inside if file.suffix.lower() in {".png", ".jpg", ".jpeg"}]
        found += sorted(inside, key=lambda file: file.name)
    return found


def read_arrays(root):
    """fog.npy goes with labels.npy, cifar10.1_v6_data.npy with cifar10.1_v6_labels.npy."""
    is_file = root.suffix == ".npy"
    beside = root.parent if is_file else root
    arrays = (
        [root]
        if is_file
        else sorted(file for file in beside.glob("*.npy") if not file.stem.endswith("labels"))
    )
    if not arrays or not arrays[0].is_file():
        raise CifarError(
            f"there is no array of images at {root}; source 'npy' wants NAME.npy with "
            "labels.npy, or NAME_data.npy with NAME_labels.npy"
        )
    names = () if is_file else ("train_data", "train_images")  # a file given by itself is the test
    train = [file for file in arrays if file.stem in names]
    test = [file for file in arrays if file not in train]
    if len(test) != 1:
        names = ", ".join(file.name for file in test) or "none"
        raise CifarError(
            f"{beside} should hold one array of test images and holds {names}; "
            "give one array's file as the root"
        )
    nothing = torch.zeros(0, 3, 32, 32, dtype=torch.uint8), torch.zeros(0, dtype=torch.int64)
    return "npy", (*(_arrays(train[0]) if train else nothing), *_arrays(test[0]), CLASSES)


def _arrays(file):
    own = file.with_name(file.stem.removesuffix("_data").removesuffix("_images") + "_labels.npy")
    beside = own if own.is_file() else file.with_name("labels.npy")
    if not beside.is_file():
        raise CifarError(f"{file} has no labels beside it: neither {own.name} nor labels.npy")
    images, labels = _array(file), _array(beside)
    if images.dtype != np.uint8 or images.ndim != 4 or images.shape[1:] != (32, 32, 3):
        raise CifarError(f"{file} holds {images.dtype} {images.shape}, not uint8 (N, 32, 32, 3)")
    if labels.shape != (len(images),) or labels.dtype.kind not in "iu":
        raise CifarError(
            f"{beside} holds {labels.dtype} {labels.shape}, not {len(images)} whole numbers"
        )
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(CLASSES):
        raise CifarError(f"{beside} holds labels outside 0 to {len(CLASSES) - 1}")
    images = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    return images, torch.from_numpy(labels.astype(np.int64))


def _array(path):
    try:
        array = np.load(path, allow_pickle=False)
    except Exception:  # of many kinds; NumPy's own message may advise to unpickle the file
        array = None
    if not isinstance(array, np.ndarray):
        raise CifarError(f"{path} is no NumPy array of numbers, or it is cut short")
    return array


def read_image(path):
    """Any image file as uint8 (3, 32, 32): turned upright, made RGB, cropped square, resized.

    Transparent pixels become white; 16-bit and float images are scaled to 8 bits. Of an animation
    the first frame is taken. Raises CifarError where the file is missing or is no image.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    try:
        with Image.open(path) as opened:
            image = ImageOps.exif_transpose(opened)
    except FileNotFoundError:
        raise CifarError(f"there is no file {path}") from None
    except UnidentifiedImageError:
        raise CifarError(f"{path} is no image that can be read") from None
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        raise CifarError(f"{path} cannot be read as an image: {error}") from None
    if image.mode[0] in "IF":  # more than 8 bits a pixel: find the scale
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        scales = (65535,) if image.mode.startswith("I;16") else (1, 255, 65535)
        scale = next((top for top in scales if values.max() <= top), values.max())
        image = Image.fromarray((values / scale * 255).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())
