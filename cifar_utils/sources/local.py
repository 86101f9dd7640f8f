"""Images of your own: folders of image files, and single image files."""

import hashlib
import os
import sys
import unicodedata
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from cifar_utils.errors import CifarError, did_you_mean, reason, shown
from cifar_utils.sources import cache, files

if TYPE_CHECKING:
    import PIL.Image

LARGEST = 160_000_000  # pixels that an image may have; the largest cameras make 151 million
LARGE = 1 << 25  # an image with more pixels is averaged in blocks first, to save memory
NAMED = 3  # how many of the files that are left out are named

# Endings that Pillow knows, though it cannot read such files, or only with other programs' help.
UNREAD = {
    ".eps", ".ps", ".mpg", ".mpeg", ".h5", ".hdf", ".grib", ".bufr", ".wmf", ".emf",
}  # fmt: skip

# Files that Pillow reads only with a plug-in begin with a length, "ftyp" and one of these.
HEIF = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1", b"avif", b"avis")

MAC = "__MACOSX"  # a folder that a Mac puts into its zip files, beside what was packed
# What others call the images that we look for in val/.
VALIDATION = ("valid", "validation", "dev")

Found = dict[str, list[Path]]  # the image files of each class, by its name


def read(root: Path) -> cache.Decoded:
    """Images from train/<class>/ and test/<class>/, and from val/<class>/ if there is a val/.

    All that Pillow reads is taken, from sub-folders too, resized to 32×32 and put in mixed order.
    What is left out is counted and named on stderr. Raises CifarError for a class folder without
    images, for a single class, and for a class that only test or val has.
    """
    parts = ["train", "test", "val"] if (root / "val").exists() else ["train", "test"]
    _check_parts(root)
    found, left_out = {}, {}
    for part in parts:
        found[part], left_out[part] = _find(root / part)
    classes = tuple(found["train"])
    _check_classes(root, found)
    _tell_left_out(root, left_out)

    def decode():
        return tuple(_decode(found[part], classes, part) for part in parts)

    paths = [path for part in parts for inside in found[part].values() for path in inside]
    stamp = _stamp(root, paths)
    return cache.decoded(root, "folder", classes, stamp, decode)


def _check_parts(root: Path) -> None:
    """Raise CifarError if train/ or test/ is missing; print a notice if other folders are there.

    Either names what is there instead: an archive often holds one folder more than one would think,
    and others call val/ by another name.
    """
    if not root.is_dir():
        raise CifarError(
            f"there is no folder {root}; source 'folder' wants one with train/<class>/*.png and "
            "test/<class>/*.png, or other image files"
        )
    ours = [root / part for part in ("train", "test", "val") if (root / part).is_dir()]
    beside = [
        path.name
        for path in _inside(root)
        # Not by name: a Mac and Windows take Val/ for val/.
        if path.is_dir() and path.name != MAC and not any(path.samefile(one) for one in ours)
    ]
    names = _some(beside)
    missing = [part for part in ("train", "test") if not (root / part).is_dir()]
    if missing:
        hint = f", but {names}" if beside else ""
        if missing == ["test"] and (root / "val").is_dir():
            hint += "; to test on val, rename it test"
        raise CifarError(
            f"{root} has no folder {' and no folder '.join(missing)}{hint}; source 'folder' wants "
            "train/<class>/*.png and test/<class>/*.png, or other image files"
        )
    if beside:
        other = next((name for name in beside if name.lower() in VALIDATION), "")
        rename = other and not (root / "val").exists()
        remedy = f"; to validate on {other}, rename it val" if rename else ""
        _notice(f"{root}: only train, test and val are read, not {names}{remedy}")


def _find(folder: Path) -> tuple[Found, list[Path]]:
    """The classes of `folder`, sorted by name, and the files that are left out.

    The same name may be stored in two forms, composed and decomposed: zip files from a Mac have the
    other one. A class has the composed form (NFC), and its files are read by the name on disk.
    """
    from PIL import Image

    known = Image.registered_extensions()
    reads = {end for end, form in known.items() if form in Image.OPEN} - UNREAD
    found: Found = {}
    left_out = []
    for path in _inside(folder):
        if not path.is_dir() or path.name == MAC:
            left_out.append(path)
            continue
        name = shown(unicodedata.normalize("NFC", path.name))
        if name in found:
            raise CifarError(f"{folder} has two folders whose name is {name}; rename one of them")
        inside, circular = _walk(path)
        found[name] = [file for file in inside if file.suffix.lower() in reads]
        left_out += [file for file in inside if file.suffix.lower() not in reads] + circular
        if not found[name]:
            others = f", though {len(inside)} other files" if inside else ""
            raise CifarError(
                f"{path} holds no images that Pillow reads{others}; put some there, such as PNG or "
                "JPEG files, or remove the folder"
            )
    if not found:
        raise CifarError(
            f"{folder} holds no images in class folders; source 'folder' wants train/<class>/*.png "
            "and test/<class>/*.png, or other image files"
        )
    return dict(sorted(found.items())), left_out


def _walk(folder: Path) -> tuple[list[Path], list[Path]]:
    """All files below `folder`, and the links that are not followed, because they lead in circles.

    As in torchvision's ImageFolder, except that no folder is read twice.
    """
    read = {*folder.resolve().parents, *(folder.parent / "x").resolve().parents}
    found: list[Path] = []
    circular, todo = [], [folder]
    while todo:
        here = todo.pop()
        if here.resolve() in read:
            circular.append(here)
            continue
        read.add(here.resolve())
        for path in _inside(here):
            (todo if path.is_dir() else found).append(path)
    return sorted(found, key=_by_name), sorted(circular, key=_by_name)


def _inside(folder: Path) -> list[Path]:
    """What is in a folder, sorted, without what is hidden."""
    try:
        return sorted((p for p in folder.iterdir() if not p.name.startswith(".")), key=_by_name)
    except OSError as error:
        raise CifarError(f"{folder} cannot be read: {error.strerror}") from None


def _by_name(path: Path) -> str:
    """To sort by: the same on every system, whichever form it stores names in."""
    return unicodedata.normalize("NFC", path.as_posix())


def _check_classes(root: Path, found: dict[str, Found]) -> None:
    """Raise CifarError, or print a notice, if the splits' classes do not fit together."""
    classes = list(found["train"])
    if len(classes) == 1:
        raise CifarError(f"{root / 'train'} holds one class, {classes[0]}; two or more are needed")
    for part, inside in found.items():
        if strange := [name for name in inside if name not in classes]:
            hint = did_you_mean(strange[0], classes)
            raise CifarError(
                f"{root / part} has classes that train lacks: {', '.join(strange)}{hint}; "
                f"train has {', '.join(classes)}"
            )
        if lacking := [name for name in classes if name not in inside]:
            _notice(f"{root / part} has no images of {', '.join(lacking)}, which train has")
    alike = Counter(name.casefold() for name in classes)
    if twice := [name for name in classes if alike[name.casefold()] > 1]:
        names = ", ".join(twice)
        _notice(f"{root / 'train'}: {names} differ only in case; each is a class of its own")


def _tell_left_out(root: Path, left_out: dict[str, list[Path]]) -> None:
    """One notice that counts and names what is not read."""
    parts = []
    for part, paths in left_out.items():
        if paths:
            names = [str(path.relative_to(root / part)) for path in paths]
            parts.append(f"{len(paths)} in {part} ({_some(names)})")
    if parts:
        every = [path.suffix.lower() for paths in left_out.values() for path in paths]
        remedy = "; convert HEIC to JPEG or PNG" if {".heic", ".heif", ".avif"} & {*every} else ""
        _notice(
            f"{root}: files left out, because Pillow does not read them or they are in no class "
            f"folder: {', '.join(parts)}{remedy}"
        )


def _some(names: list[str]) -> str:
    """The first few of the names, and how many more there are."""
    more = f" and {len(names) - NAMED} more" if len(names) > NAMED else ""
    return ", ".join(names[:NAMED]) + more


def _notice(text: str) -> None:
    print(shown(text), file=sys.stderr, flush=True)


def _stamp(root: Path, paths: list[Path]) -> str:
    """A string that changes with every file that comes, goes or changes.

    The time of the last change of name counts, too: two files of one size and age can be swapped.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            about = path.stat()
        except OSError as error:  # such as a link to nothing
            raise CifarError(f"{path} cannot be read: {error.strerror}") from None
        name = str(path).removeprefix(str(root))
        line = f"{name} {about.st_size} {about.st_mtime_ns} {about.st_ctime_ns}\n"
        digest.update(os.fsencode(line))
    return f"mixed folders {digest.hexdigest()}"


def _decode(found: Found, classes: tuple[str, ...], part: str) -> cache.Labelled:
    from tqdm import tqdm

    pairs = [(path, classes.index(name)) for name, paths in found.items() for path in paths]
    bar = tqdm(pairs, desc=f"reading {part}", leave=False, disable=files.no_bar())
    images = torch.stack([read_image(path) for path, _ in bar])
    labels = torch.tensor([label for _, label in pairs])
    # The files come class by class. Mixed, the first thousand images are of all classes.
    order = torch.from_numpy(np.random.RandomState(0).permutation(len(labels)))
    return images[order], labels[order]


def read_image(path: str | Path) -> Tensor:
    """Any image file as uint8 (3, 32, 32): turned upright, made RGB, cropped square, resized.

    Transparent pixels become white. Images of 16 bits and of floats are scaled to 8 bits. The first
    frame of an animation is taken. Raises CifarError if the file is missing, is not a readable
    image, or has more than LARGEST pixels, which its header tells before they are read.
    """
    from PIL import Image, ImageOps, UnidentifiedImageError

    path = files.expanded(path)
    files.check_file(path)
    too_many = f"{path} has more than {LARGEST:,} pixels; make it smaller"
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # we have LARGEST
            with Image.open(path) as opened:
                if opened.format == "EPS":  # a program, which Pillow would let Ghostscript run
                    raise CifarError(f"{path} is an EPS file; convert it to JPEG or PNG")
                pixels = opened.width * opened.height
                if pixels > LARGEST:
                    raise CifarError(too_many)
                sixteen_bits = opened.mode.startswith("I;16")
                image = _averaged(opened) if pixels > LARGE else ImageOps.exif_transpose(opened)
    except CifarError:
        raise
    except Image.DecompressionBombError:
        raise CifarError(too_many) from None
    except UnidentifiedImageError:
        if _is_heif(path):
            raise CifarError(
                f"{path} is a HEIC, HEIF or AVIF file, which Pillow does not read here; convert it "
                "to JPEG or PNG"
            ) from None
        raise CifarError(f"{path} is not a readable image") from None
    except Exception as error:  # Pillow's readers raise many kinds for damaged files
        raise CifarError(f"{path} cannot be read as an image: {reason(error)}") from None
    if image.mode[0] in "IF":  # more than 8 bits per pixel: find the scale
        values = np.nan_to_num(np.asarray(image, dtype=np.float64), posinf=0, neginf=0)
        scales = (65535,) if sixteen_bits else (1, 255, 65535)
        scale = next((top for top in scales if values.max() <= top), values.max())
        image = Image.fromarray((values / scale * 255).clip(0, 255).round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    image = ImageOps.fit(image.convert("RGB"), (32, 32), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.asarray(image).transpose(2, 0, 1).copy())


def _averaged(image: "PIL.Image.Image") -> "PIL.Image.Image":
    """A large image, upright, made smaller by a whole number: at least 1,024 pixels stay a side.

    It goes strip by strip, because each conversion of the whole would take as much memory again.
    """
    from PIL import Image, ImageOps

    image.draft(None, (1024, 1024))  # JPEG's own decoder does most of it
    ImageOps.exif_transpose(image, in_place=True)
    factor = max(min(image.size) // 1024, 1)
    small: Image.Image | None = None
    for top in range(0, image.height, 64 * factor):
        strip = image.crop((0, top, image.width, min(top + 64 * factor, image.height)))
        if strip.has_transparency_data:
            strip = strip.convert("RGBA")
        elif strip.mode in ("1", "P") or strip.mode.startswith("I;16"):  # without an average
            strip = strip.convert("I" if strip.mode[0] == "I" else "RGB")
        if small is None:
            small = Image.new(strip.mode, [-(-side // factor) for side in image.size])
        small.paste(strip.reduce(factor), (0, top // factor))
    assert small is not None  # no image has a height of 0
    return small


def _is_heif(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head[4:8] == b"ftyp" and head[8:] in HEIF
