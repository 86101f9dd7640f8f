"""How fast things are on this machine: recipes from start to end, augmentations, networks.

Every figure is a median of several measurements and goes with all of them: machines are shared, and
a single clock reading says little. What is measured comes as plain rows, which `table` sets for
reading.
"""

import copy
import importlib.metadata
import platform
import statistics
import time
from pathlib import Path

import torch

from cifar_utils import __version__
from cifar_utils.augment import augment
from cifar_utils.evaluate import accuracy, predict
from cifar_utils.machine import Machine, describe, generator, wait
from cifar_utils.models import build, create_model
from cifar_utils.optim import make_optimizer
from cifar_utils.recipes import Recipe
from cifar_utils.train import AugmentedBatches, fit, prepare, train_one_epoch


def machine(device, precision):
    """Where figures come from, and with which versions, as a dict of strings."""
    others = ("torchvision", "albumentations", "numpy")
    return {
        "device": describe(device),
        "processor": processor(),
        "precision": precision,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{name: importlib.metadata.version(name) for name in others},
        "cifar_utils": __version__,
    }


def processor():
    """The CPU's name where the system tells it, else its kind, such as arm64."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()  # Linux
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def spread(values):
    """Median, mean, lowest and highest of some numbers, and the numbers themselves in order."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "lowest": min(values),
        "highest": max(values),
        "values": list(values),
    }


def clock(work, device, *, times):
    """Seconds that `work()` takes, a list of `times`, after once without a clock.

    The first call also compiles kernels.
    """
    seconds = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


# --- recipes --------------------------------------------------------------------------------------


def race(recipes, cifar, *, repeats, device, precision, compile=False, log=print):
    """Train by each of the recipes in turn, `repeats` times with seeds of their own: one row each.

    Turns, A B A B, let a machine that becomes slower do so to all of them. The seconds are those of
    training and whitening, without evaluation; those of compiling stand apart. augmentation_share:
    the time that one epoch's batches take to draw, by themselves, over that of a whole epoch.
    Accuracies are on the validation images or, where none are held out, on the test images, of one
    view of each and of recipe.views. log: called with a line for each run.
    """
    runs = [[] for _ in recipes]
    for recipe in recipes:  # what is compiled or looked up once is no part of a training
        few = cifar.train[: 3 * recipe.batch_size]  # its last step is on whole images
        _train(recipe.changed(epochs=1), few, device, precision)
    for repeat in range(repeats):
        for recipe, its_runs in zip(recipes, runs, strict=True):
            seeded = recipe.changed(seed=recipe.seed + repeat)
            run = _run(seeded, cifar, device, precision, compile)
            its_runs.append(run)
            reached = f"{run['accuracy']:10.2%}{run['accuracy_views']:10.2%}"
            log(f"{recipe.name:<22}{run['seconds']:10.1f} s{reached}")
    return [
        {
            "name": recipe.name,
            "recipe": recipe.as_dict(),
            **{key: spread([run[key] for run in its_runs]) for key in its_runs[0]},
        }
        for recipe, its_runs in zip(recipes, runs, strict=True)
    ]


def ratio(row, other):
    """The spread of how many times as long `row`'s runs took as those of `other` beside them."""
    pairs = zip(row["seconds"]["values"], other["seconds"]["values"], strict=True)
    return spread([seconds / others for seconds, others in pairs])


def _run(recipe, cifar, device, precision, compile):
    run, seconds = _train(recipe, cifar.train, device, precision, compile)
    epoch = statistics.median(row.seconds for row in run.history.epochs[1:])
    held_out = cifar.val if len(cifar.val) else cifar.test
    right = {
        views: accuracy(predict(run.model, held_out.images, views=views), held_out.labels.cpu())
        for views in {1, recipe.views}
    }
    return {
        "seconds": seconds,
        "compile_seconds": run.compile_seconds,
        "augmentation_share": _draw(recipe, cifar.train, device) / epoch,
        "accuracy": right[1],
        "accuracy_views": right[recipe.views],
    }


def _train(recipe, train, device, precision, compile=False):
    """(the finished Run, seconds without evaluation and compiling)."""
    model = build(recipe, train.classes)
    twin = copy.deepcopy(model)  # fit whitens outside of its epochs' clocks: once more, with one
    began = time.perf_counter()
    prepare(twin, train, recipe)
    seconds, runs = time.perf_counter() - began, []
    fit(
        model, train, None, recipe,
        log=runs.append, device=str(device), precision=precision, compile=compile,
    )  # fmt: skip
    return runs[-1], seconds + sum(row.seconds for row in runs[-1].history.epochs)


def _draw(recipe, train, device):
    """Seconds that the batches of one epoch take, augmented, but not trained on."""
    batches = AugmentedBatches(train.to(device), recipe, epoch=1)
    (seconds,) = clock(lambda: [batches[number] for number in range(len(batches))], device, times=1)
    return seconds


# --- throughput -----------------------------------------------------------------------------------


def time_augmentations(policies, device, *, images=500, times=5):
    """Microseconds an image of each policy of AUGMENTATIONS, one row each."""
    batch, rows = _random_images(images, device), []
    for policy in policies:
        draws = generator(0)
        seconds = clock(
            lambda policy=policy, draws=draws: augment(batch, policy, generator=draws),
            device,
            times=times,
        )
        rows.append({"name": policy, "microseconds": spread([1e6 * s / images for s in seconds])})
    return rows


def time_models(names, device, precisions, *, images=128, times=5):
    """Milliseconds an image of training and of inference, one row for a network and precision.

    A training step is forward, backward and SGD on a batch of `images`, without augmentation.
    training_ratio: its median over that in the first of `precisions`.
    """
    batch, labels = _random_images(images, device), torch.arange(images, device=device) % 10
    rows = []
    for name in names:
        first = None
        for precision in precisions:
            machine = Machine.pick(device, precision)
            model = machine.place(create_model(name, seed=0))
            work = {
                "training": _training_step(model, batch, labels, machine),
                "inference": lambda model=model, precision=precision: predict(
                    model, batch, batch_size=images, precision=precision
                ),
            }
            row = {"name": name, "precision": precision}
            for what, step in work.items():
                seconds = clock(step, device, times=times)
                row[what] = spread([1e3 * s / images for s in seconds])
            first = first or row["training"]["median"]
            row["training_ratio"] = row["training"]["median"] / first
            rows.append(row)
    return rows


def _training_step(model, batch, labels, machine):
    recipe = Recipe(model="timed", lr=1e-4)
    optimizer = make_optimizer(model, recipe)
    return lambda: train_one_epoch(model, [(batch, labels)], optimizer, recipe, machine=machine)


def _random_images(count, device):
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator(0))
    return images.to(device)


# --- tables ---------------------------------------------------------------------------------------


def table(rows, columns):
    """Rows as text, one line each, below a heading.

    columns: from heading to (key of a row, format for numbers). A spread is shown as its median
    with the lowest and the highest behind it.
    """
    cells = [list(columns), *([cell(row[key], form) for key, form in columns.values()]
                              for row in rows)]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def cell(value, form):
    """A text, a number in the format `form`, or so a spread: median (lowest to highest)."""
    if not isinstance(value, dict):
        return format(value, form)
    median, lowest, highest = (format(value[key], form) for key in ("median", "lowest", "highest"))
    return f"{median} ({lowest} to {highest})"


RACE_COLUMNS = {
    "recipe": ("name", ""),
    "training, seconds": ("seconds", ".1f"),
    "augmentation's share": ("augmentation_share", ".0%"),
    "accuracy, one view": ("accuracy", ".2%"),
    "with recipe.views": ("accuracy_views", ".2%"),
}
COMPILE_COLUMN = {"compiling, seconds": ("compile_seconds", ".1f")}
AUGMENTATION_COLUMNS = {"augmentation": ("name", ""), "µs an image": ("microseconds", ".1f")}
MODEL_COLUMNS = {
    "network": ("name", ""),
    "precision": ("precision", ""),
    "training, ms an image": ("training", ".3f"),
    "of fp32's": ("training_ratio", ".2f"),
    "inference, ms an image": ("inference", ".3f"),
}
