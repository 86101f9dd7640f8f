"""Quick mode and what follows from it: a sample, short recipes, files, bands, time estimates."""

import os
import statistics
import tempfile
import time
from pathlib import Path

from cifar_utils import errors
from cifar_utils.course.places import ROOT, where
from cifar_utils.errors import CifarError

QUICK_IMAGES = 1000  # of each split
QUICK_EPOCHS = 2
LONG = 300  # seconds of training after which `estimate` says how to shorten it

# What a full run on CIFAR-10 should give: (lowest, highest). The nearest mean is the same on every
# machine. The others are ranges, widened: over three seeds for compact, two for the gain, and three
# weight decays for the linear classifier; all on a CPU.
BANDS = {
    "nearest mean": (0.26, 0.27),
    "linear classifier": (0.38, 0.42),
    "crop-flip on 10,000 images, gain": (0.035, 0.07),
    "compact, 6 epochs": (0.835, 0.87),
}


def is_quick():
    """Whether this is a quick run: the environment has CIFAR_UTILS_QUICK=1."""
    return os.environ.get("CIFAR_UTILS_QUICK", "0") not in ("", "0")


def choose(*, full, quick):
    """`full`, or in quick mode `quick`."""
    return quick if is_quick() else full


def load(*, whole=False):
    """CIFAR-10 as `data.load` gives it; in quick mode a sample, and never downloaded.

    whole=True keeps all images in quick mode, too. Where there are no files, quick mode takes the
    drawn stand-in. Used in every notebook.
    """
    from cifar_utils import data

    root = data.default_root()
    here = data.official_folder(root) is not None or (root / data.ARCHIVE).is_file()
    cifar = data.load(source="synthetic" if is_quick() and not here else "auto")
    if is_quick() and not whole:
        cifar = cifar.limit(QUICK_IMAGES)
    splits = {"training": cifar.train, "validation": cifar.val, "test": cifar.test}
    sizes = ", ".join(f"{len(split):,} {name}" for name, split in splits.items())
    print(f"{data.source_title(cifar.source)}: {sizes} images")
    return cifar


def official_file(cifar, name):
    """(path, MD5) of "data_batch_1" or "batches.meta", for reading by hand in notebook 01.

    Where the stand-in is used there are no files: one of the same form is then written into a
    temporary folder, a batch from the images in the order of their source.
    """
    from cifar_utils import data

    if cifar.source == "cifar10":
        return data.official_folder(data.default_root()) / name, data.MD5[name]
    import hashlib
    import pickle

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
    content = pickle.dumps(files[name], protocol=2)
    path = Path(tempfile.mkdtemp()) / name
    path.write_bytes(content)
    return path, hashlib.md5(content).hexdigest()


def recipe(name, **changes):
    """The recipe of that name with some fields changed.

    In quick mode at most two epochs, and batches of at most 128 images: else too few steps.
    """
    from cifar_utils.recipes import get_recipe

    changed = get_recipe(name).changed(**changes)
    if is_quick():
        changed = changed.changed(
            epochs=min(changed.epochs, QUICK_EPOCHS), batch_size=min(changed.batch_size, 128)
        )
    return changed


def picture(name, source):
    """Where to save a picture: images/ of the clone for a full run on CIFAR-10, else `scratch`.

    So neither a quick run nor the stand-in replaces the pictures that the README shows; nor does
    any run where the clone cannot be written to.
    """
    final = source == "cifar10" and not is_quick()
    return ROOT / "images" / name if final and os.access(ROOT, os.W_OK) else scratch(name)


def scratch(name):
    """Where to keep a file that nobody needs tomorrow: build/notebooks/, which git ignores.

    Beside the notebook, where the clone cannot be written to.
    """
    folder = (ROOT if os.access(ROOT, os.W_OK) else Path.cwd()) / "build" / "notebooks"
    folder.mkdir(parents=True, exist_ok=True)
    return folder / name


def upload():
    """Ask the reader for a file, on Colab; its path. On a phone the dialogue offers the camera.

    Raises CifarError elsewhere, and where no file was chosen. Used in notebook 05.
    """
    if where()[0] != "Colab":
        raise CifarError(
            "only Colab can ask for a file; put yours beside the notebook and write its name"
        )
    from google.colab import files

    for name, content in files.upload().items():
        # Colab itself keeps a second file of one name under another name: so keep it ourselves.
        path = scratch(Path(name).name)
        path.write_bytes(content)
        return path
    raise CifarError("no file was chosen; run the cell again")


def expect(name, value, source):
    """Print whether an accuracy lies where a full run on CIFAR-10 should bring it.

    name: a key of BANDS. In quick mode, and on other data, there is nothing to compare with.
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


def estimate(recipe, train, *, steps=10):
    """Print, and return in seconds, how long `fit` will train here; on a CPU what to do about it.

    A few steps are measured, augmentation included, on a throw-away network: at least four, and at
    most for 5 seconds. They are steps of the training's end, where images have their full size.
    """
    from cifar_utils.machine import (
        describe,
        keep_memory,
        layout,
        make_scaler,
        pick_device,
        pick_precision,
    )
    from cifar_utils.models import build
    from cifar_utils.optim import make_optimizer
    from cifar_utils.train import AugmentedBatches, find_teacher, train_one_epoch

    device = pick_device()
    precision = pick_precision("auto", device)
    keep_memory(device)  # as fit does
    model = build(recipe, train.classes)
    model.to(device, memory_format=layout(device))
    optimizer = make_optimizer(model, recipe)
    batches = AugmentedBatches(train.to(device), recipe, epoch=1)
    rest = {
        "precision": precision,
        "scaler": make_scaler(device, precision),
        "teacher": find_teacher(recipe, train.classes, device),
    }
    times, began = [], time.perf_counter()
    while len(times) < 4 or (len(times) < steps and time.perf_counter() - began < 5):
        start = time.perf_counter()
        batch = batches[len(times) % len(batches)]
        train_one_epoch(model, [batch], optimizer, recipe, span=(1.0, 1.0), **rest)
        times.append(time.perf_counter() - start)
    step = statistics.median(times[2:])  # the first two also compile kernels and ask for memory
    seconds = step * len(batches) * recipe.epochs
    print(
        f"{recipe.model}, {recipe.epochs} epochs of {len(train):,} images: "
        f"about {duration(seconds)} of training on {describe(device)} ({precision})"
    )
    if device.type == "cpu" and seconds > LONG:
        print(f"To shorten it: fewer epochs, fewer images (train[:10_000]), or a GPU: {where()[1]}")
    return seconds


def duration(seconds):
    """Seconds in words: 45 s, 3 min 20 s, 2 h 5 min."""
    seconds = round(seconds)
    if seconds < 60:
        return f"{seconds} s"
    if seconds < 3600:
        return f"{seconds // 60} min {seconds % 60} s"
    return f"{seconds // 3600} h {seconds % 3600 // 60} min"
