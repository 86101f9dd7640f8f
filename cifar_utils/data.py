"""CIFAR-10 as uint8 tensors: loaded, split, batched, normalised.

Images are uint8 (N, 3, 32, 32) everywhere outside a forward pass; `normalize` is what a forward
pass calls first. The readers of files and the downloads are in `sources`.
"""

import functools
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Integral
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from cifar_utils.errors import CifarError, choose, plain, shown, whole
from cifar_utils.sources import arrays, cifar10, local, synthetic
from cifar_utils.sources.cache import Decoded, default_root
from cifar_utils.sources.cifar10 import ARCHIVE, CLASSES, MD5, official_folder  # noqa: F401
from cifar_utils.sources.files import expanded
from cifar_utils.sources.local import read_image  # noqa: F401

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

    def __len__(self) -> int:
        return len(self.labels)

    def __repr__(self) -> str:
        return f"Split({len(self):,} images of {len(self.classes)} classes, {self.source})"

    def __getitem__(self, chosen: int | slice | Sequence[int] | Tensor) -> "Split":
        """The chosen images: `chosen` is a number, a slice, a list, or a tensor or array of either
        positions or a Boolean per image.
        """
        if not isinstance(chosen, slice):
            chosen = torch.as_tensor(chosen)
            positions = chosen.dtype != torch.bool and not chosen.is_floating_point()
            # torch makes [] a float tensor, and would take positions in uint8 for Booleans.
            chosen = chosen.long() if positions or not chosen.numel() else chosen
            chosen = chosen.reshape(1) if chosen.ndim == 0 else chosen  # one number: a Split of one
        images, labels, indices = (t[chosen] for t in (self.images, self.labels, self.indices))
        return replace(self, images=images, labels=labels, indices=indices)

    @property
    def names(self) -> list[str]:
        """The class name of every image."""
        return [self.classes[label] for label in self.labels.tolist()]

    def first_of_each(self, classes: int | Sequence[str]) -> "Split":
        """The first image of each of these classes, in this order.

        classes: names, or how many of the classes that occur. CifarError for a name that is
        unknown, or of which there is no image.
        """
        if isinstance(classes, (int, Integral)):  # mypy does not know int as Integral
            count = whole(classes, "classes")
            classes = [self.classes[label] for label in self.labels.unique()[:count]]
        few: list[int] = []
        for name in classes:
            choose(name, self.classes, "class")
            places = (self.labels == self.classes.index(name)).nonzero()
            if not len(places):
                found = ", ".join(self.classes[label] for label in self.labels.unique())
                raise CifarError(
                    f"there is no {name} among these {len(self):,} images; choose from {found}"
                )
            few.append(int(places[0, 0]))
        return self[few]

    def of_classes(self, names: Sequence[str]) -> "Split":
        """The images of these classes, whose labels then count from 0 in the order of `names`.

        `indices` still say where each image lies in its source. CifarError for a name that is
        unknown or given twice. Used in notebook 09.
        """
        names = tuple(names)
        for name in names:
            choose(name, self.classes, "class")
        if not names or len(set(names)) < len(names):
            raise CifarError(f"classes: {names!r:.100} must be names, each given once")
        number = torch.full((len(self.classes),), -1, device=self.labels.device)
        for new, name in enumerate(names):
            number[self.classes.index(name)] = new
        kept = number[self.labels] >= 0
        few = self[kept]
        return replace(few, labels=number[few.labels], classes=names)

    def to(self, device: str | torch.device) -> "Split":
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
    def classes(self) -> tuple[str, ...]:
        return self.test.classes

    @property
    def source(self) -> str:
        return self.test.source

    @property
    def held_out(self) -> Split:
        """The images to judge on: those for validation or, if there are none, for the test."""
        return self.val if len(self.val) else self.test

    def hold_out(self, count: int, *, seed: int = 0) -> "Cifar":
        """With `count` training images moved to validation, the same share of each class.

        Raises CifarError if there are validation images already, such as those of a folder val/, or
        too few images to move.
        """
        available, count = len(self.train), plain(count)
        if count and len(self.val):
            raise CifarError(
                f"there are {len(self.val):,} validation images already; leave validation out, or, "
                "if they come from a folder val/, rename that"
            )
        if type(count) is not int or not 0 <= count < max(available, 1):
            raise CifarError(
                f"validation is {count}; it must be a whole number of at least 0, and less than "
                f"the {available:,} training images"
            )
        held_out = stratified(self.train.labels, count, seed=seed)
        kept = torch.ones(available, dtype=torch.bool)
        kept[held_out] = False
        return Cifar(self.train[kept], self.train[held_out] if count else self.val, self.test)

    def limit(self, count: int) -> "Cifar":
        """At most `count` images of each split, the same share of each class, for a quick trial.

        Raises CifarError if `count` is below 1.
        """
        count = whole(count, "limit", least=1)
        splits = (self.train, self.val, self.test)
        return Cifar(*(s[stratified(s.labels, min(count, len(s)))] for s in splits))


def load(
    root: str | Path | None = None,
    *,
    source: Literal["auto", "cifar10", "folder", "npy", "synthetic"] = "auto",
    validation: int | None = None,
    seed: int = 0,
) -> Cifar:
    """Train, validation and test splits as uint8 tensors. Used in notebook 01.

    Args:
        root: folder, or file for "npy", that holds the data; else $CIFAR10_ROOT, else
            ~/.cache/cifar_utils.
        source: "cifar10" reads the official files, or downloads them, and checks every file's MD5.
            "folder" reads train/<class>/ and test/<class>/, and val/<class>/ if there is a val/:
            every image that Pillow reads, in sub-folders too, resized to 32×32. "npy" reads
            NAME.npy or NAME_data.npy with its labels (CIFAR-10.1, CIFAR-10-C). "synthetic" draws
            the stand-in. "auto" takes the official files, else downloads them, else draws the
            stand-in and says so.
        validation: how many training images to hold out, the same share of each class. By default
            5,000, or a tenth if there are fewer than 50,000, or none beside a val/.
        seed: picks them.

    Raises:
        CifarError: if the data is missing, damaged or of the wrong form.
        ConnectionError: if no mirror answers.
    """
    choose(source, READERS, "source")
    root = default_root() if root is None else expanded(root)
    there = next(place for place in (root, *root.absolute().parents) if os.path.lexists(place))
    if not there.is_dir() and not (source == "npy" and there == root):
        raise CifarError(f"{there} is not a folder; give one, or choose source 'npy' for an array")
    found = READERS[source](root)
    none = found.train[0][:0], found.train[1][:0]
    train, val, test = (
        Split(images, labels, found.classes, torch.arange(len(labels)), found.source)
        for images, labels in (found.train, found.val or none, found.test)
    )
    if validation is None:
        validation = 0 if len(val) else min(5000, len(train) // 10)
    return Cifar(train, val, test).hold_out(validation if len(train) else 0, seed=seed)


def _auto(root: Path) -> Decoded:
    """The official files, else the stand-in, but never in place of data of the user's own."""
    other = cifar10.cifar100_at(root)
    if official_folder(root) is None and not (root / ARCHIVE).exists() and other != root:
        for source, sign in (("folder", root / "train"), ("npy", next(root.glob("*.npy"), None))):
            if sign is not None and sign.exists():
                raise CifarError(
                    f"{root} holds {sign.name} and not the CIFAR-10 files; to read it, choose "
                    f"source '{source}'"
                )
    try:
        return cifar10.read(root)
    except (CifarError, OSError) as problem:
        if other:
            raise
        return synthetic.read(root, reason=str(problem))


READERS: dict[str, Callable[[Path], Decoded]] = {
    "auto": _auto,
    "cifar10": cifar10.read,
    "folder": local.read,
    "npy": arrays.read,
    "synthetic": synthetic.read,
}


def source_title(source: str) -> str:
    """What a plot's title calls a source; weights may come with one that is not listed here."""
    return SOURCE_TITLES.get(source) or shown(source)


def stratified(labels: Tensor, count: int, *, seed: int = 0) -> Tensor:
    """Sorted positions of `count` of the labels, drawn so that every class keeps its share.

    Shares that are not whole numbers are rounded by largest remainder. The draw depends on `seed`
    only, on every platform and for good, because RandomState's stream is frozen (NEP 19). Raises
    CifarError if there are fewer labels than `count`, or for a seed outside 0 to 4,294,967,295.
    Used in notebook 04.
    """
    count = whole(count, "count", most=len(labels))
    seed = whole(seed, "seed", most=2**32 - 1)
    labels = labels.cpu()
    order = torch.from_numpy(np.random.RandomState(seed).permutation(len(labels)))
    classes, sizes = labels.unique(return_counts=True)
    exact = sizes.double() * count / max(len(labels), 1)
    quotas = exact.floor().long()
    short = count - int(quotas.sum())
    quotas[(exact - quotas).argsort(descending=True, stable=True)[:short]] += 1
    chosen = [order[labels[order] == c][:quota] for c, quota in zip(classes, quotas, strict=True)]
    return torch.cat([order[:0], *chosen]).sort().values


def normalize(images: Tensor) -> Tensor:
    """uint8 (N, 3, H, W) to float32 with mean 0 and standard deviation 1 over the training set.

    Only forward passes call this: augmentation and plots work on uint8. Raises CifarError if the
    images are not uint8. Used in notebook 01.
    """
    if images.dtype != torch.uint8:
        raise CifarError(f"images are {images.dtype}; normalize takes uint8 images in 0 to 255")
    mean, std = _mean_and_std(images.device)
    return images.float().div_(255).sub_(mean).div_(std)  # in place: this is the largest batch


@functools.cache
def _mean_and_std(device: torch.device) -> list[Tensor]:
    """MEAN and STD, (3, 1, 1) each, kept because copying them to a GPU waits for all its work."""
    return [torch.tensor(values, device=device).view(3, 1, 1) for values in (MEAN, STD)]


def batches(
    split: Split, batch_size: int, *, generator: torch.Generator | None = None
) -> Iterator[Split]:
    """The split in pieces of `batch_size`, each of them a Split; the last may be smaller.

    With a torch.Generator the images come in a fresh random order, without one in their own. Raises
    CifarError if the batch size is below 1, when the first piece is asked for. Used in notebook 01.
    """
    batch_size = min(whole(batch_size, "batch_size", least=1), len(split))
    if not len(split):
        return
    if generator is None:
        order = torch.arange(len(split), device=split.labels.device)
    else:
        order = torch.randperm(len(split), generator=generator, device=generator.device)
    for chosen in order.to(split.labels.device).split(batch_size):
        yield split[chosen]


def fingerprint(split: Split) -> str:
    """Hex SHA-256 of a Split's classes, labels and indices, and of every 50th of its images.

    Splits that differ by chance or mistake differ in it. It is not proof against intent.
    """
    digest = hashlib.sha256("\n".join(split.classes).encode(errors="surrogatepass"))
    for tensor in (split.indices, split.labels, split.images[::50]):
        digest.update(tensor.cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()
