"""Quick mode, and what depends on it: data, recipes, paths, expected results, time estimates.

In quick mode (the environment variable CIFAR_UTILS_QUICK=1) a whole notebook runs within a minute,
on a small sample, for an epoch or two, without a download. Its numbers mean nothing. This module
alone reads the variable.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from cifar_utils import errors
from cifar_utils.course.places import ROOT, where
from cifar_utils.errors import CifarError

if TYPE_CHECKING:  # the first cell may have to install what these modules need
    from cifar_utils.data import Cifar, Split
    from cifar_utils.recipes import Recipe

Choice = TypeVar("Choice")

QUICK_IMAGES = 500  # of each split
QUICK_EPOCHS = 2
LONG = 300  # if a training takes more seconds, `estimate` says how to shorten it

# The lowest and the highest accuracy that a full run on CIFAR-10 should give. The nearest mean is
# the same on every machine. The others are widened ranges, over three seeds for compact, two for
# the gain and three orders of the images for the linear classifier, all on a CPU.
BANDS = {
    "nearest mean": (0.26, 0.27),
    "linear classifier": (0.38, 0.42),
    "crop-flip on 10,000 images, gain": (0.035, 0.07),
    "compact, 6 epochs": (0.835, 0.87),
}


def is_quick() -> bool:
    """Whether this is a quick run: CIFAR_UTILS_QUICK is set, and neither empty nor 0."""
    return os.environ.get("CIFAR_UTILS_QUICK", "0") not in ("", "0")


def choose(*, full: Choice, quick: Choice) -> Choice:
    """`quick` in quick mode, else `full`."""
    return quick if is_quick() else full


def load(*, whole: bool = False) -> Cifar:
    """CIFAR-10 as `data.load` gives it, or a sample of it in quick mode.

    Quick mode never downloads: if there are no files, it takes the drawn stand-in. whole=True keeps
    all images, even in quick mode. Prints the source and how many images each split has. Used in
    every notebook.
    """
    from cifar_utils import data

    root = data.default_root()
    has_files = data.official_folder(root) is not None or (root / data.ARCHIVE).is_file()
    cifar = data.load(source="synthetic" if is_quick() and not has_files else "auto")
    if is_quick() and not whole:
        cifar = cifar.limit(QUICK_IMAGES)
    splits = {"training": cifar.train, "validation": cifar.val, "test": cifar.test}
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    print(f"{data.source_title(cifar.source)}: {sizes} images")
    return cifar


def official_file(cifar: Cifar, name: str) -> tuple[Path, str]:
    """The path and the MD5 of one of CIFAR-10's own files, for reading by hand in notebook 01.

    The stand-in has no such files. One of the same form is then written into a temporary folder;
    its batch holds the images in the order of their source.

    Args:
        cifar: what `load` returned.
        name: "data_batch_1" or "batches.meta"; with CIFAR-10 itself also any other of its files.

    Raises:
        CifarError: if there is no file of that name.
    """
    from cifar_utils import data

    if cifar.source == "cifar10":
        errors.choose(name, data.MD5, "official file")
        folder = data.official_folder(data.default_root())
        assert folder is not None  # `load` has read the files that lie there
        return folder / name, data.MD5[name]
    import torch

    indices = torch.cat([cifar.train.indices, cifar.val.indices])
    order = indices.argsort()[:10_000]
    images = torch.cat([cifar.train.images, cifar.val.images])[order].flatten(1).numpy()
    labels = torch.cat([cifar.train.labels, cifar.val.labels])[order].tolist()
    filenames = [f"drawn_{number}.png".encode() for number in range(len(labels))]
    files = {
        "data_batch_1": {b"batch_label": b"training batch 1 of 5", b"labels": labels,
                         b"data": images, b"filenames": filenames},
        "batches.meta": {b"num_cases_per_batch": 10_000, b"num_vis": 3072,
                         b"label_names": [label.encode() for label in cifar.classes]},
    }  # fmt: skip
    errors.choose(name, files, "file of the stand-in")
    content = pickle.dumps(files[name], protocol=2)
    path = Path(tempfile.mkdtemp()) / name
    path.write_bytes(content)
    return path, hashlib.md5(content).hexdigest()


def recipe(name: str, **changes: Any) -> Recipe:
    """The recipe of that name, with some fields changed as in `Recipe.changed`.

    In quick mode it has at most two epochs, and batches of at most 128 images, because larger ones
    would leave too few steps. Used in notebooks 02, 05, 06, 08 and 10.
    """
    from cifar_utils.recipes import get_recipe

    changed = get_recipe(name).changed(**changes)
    if is_quick():
        changed = changed.changed(
            epochs=min(changed.epochs, QUICK_EPOCHS), batch_size=min(changed.batch_size, 128)
        )
    return changed


def picture(name: str, source: str) -> Path:
    """Where to save a picture: in the clone's images/ after a full run on CIFAR-10, else `scratch`.

    So neither a quick run nor the stand-in replaces a picture that the README shows. If the clone
    cannot be written to, no run does. source: the data's, as in `Cifar.source`.
    """
    final = source == "cifar10" and not is_quick()
    return ROOT / "images" / name if final and os.access(ROOT, os.W_OK) else scratch(name)


def scratch(name: str) -> Path:
    """Where to keep a file that nobody needs tomorrow: in build/notebooks/, which git ignores.

    The folder is made in the clone or, if that cannot be written to, beside the notebook.
    """
    folder = (ROOT if os.access(ROOT, os.W_OK) else Path.cwd()) / "build" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def upload() -> Path:
    """Ask the reader for a file on Colab, and return its path. A phone offers its camera, too.

    Raises CifarError on other machines, and if no file was chosen. Used in notebook 07.
    """
    if where()[0] != "Colab":
        raise CifarError(
            "only Colab can ask for a file; put yours beside the notebook and write its name"
        )
    from google.colab import files

    for name, content in files.upload().items():
        # Colab itself saves a second file of the same name under another: so we save it ourselves.
        path = scratch(Path(name).name)
        path.write_bytes(content)
        return path
    raise CifarError("no file was chosen; run the cell again")


def expect(name: str, value: float, source: str) -> None:
    """Print whether an accuracy lies in the band that a full run on CIFAR-10 should reach.

    In quick mode, and on other data, it prints the band alone: there is nothing to compare.

    Args:
        name: a key of BANDS.
        value: the accuracy, or the gain in accuracy, as a fraction.
        source: the data's, as in `Cifar.source`.

    Raises:
        CifarError: if there is no band of that name.
    """
    errors.choose(name, BANDS, "band")
    lowest, highest = BANDS[name]
    band = f"{lowest:.1%} to {highest:.1%}"
    if is_quick() or source != "cifar10":
        print(f"{name}: {value:.1%} (a full run on CIFAR-10 gives {band})")
    elif lowest <= value <= highest:
        print(f"✓ {name}: {value:.1%}, within the expected {band}")
    else:
        print(f"✗ {name}: {value:.1%}, not within the expected {band}: was a cell changed?")


def estimate(recipe: Recipe, train: Split) -> float:
    """Print how long `fit` will train here, in words, and return it in seconds.

    A few steps are timed on a throw-away network, augmentation included, for each size that the
    images have in the training. If it is long and on a CPU, a second line says how to shorten it.
    Used in notebooks 02 and 05.
    """
    from cifar_utils.estimate import epoch_seconds
    from cifar_utils.machine import Machine

    machine = Machine.pick(winograd=recipe.winograd)
    seconds = sum(epoch_seconds(recipe, train, machine))
    print(
        f"{recipe.model}, {recipe.epochs} epochs of {len(train):,} images: "
        f"about {duration(seconds)} of training on {machine} ({machine.arithmetic})"
    )
    if machine.device.type == "cpu" and seconds > LONG:
        print(f"To shorten it: fewer epochs, fewer images (train[:10_000]), or a GPU: {where()[1]}")
    return seconds


def duration(seconds: float) -> str:
    """Seconds in words: 45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
