"""How fast this machine is at whole trainings, at loading and augmenting, at each network's steps.

Every time is the median of several measurements, and all of them are kept, because machines are
shared and a single reading of the clock says little. Measurements are plain rows of numbers, which
`table` turns into text.
"""

import copy
import importlib.metadata
import platform
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from cifar_utils import __version__
from cifar_utils.augment import augment, operations
from cifar_utils.batches import AugmentedBatches
from cifar_utils.data import MD5, Cifar, Split, load, normalize
from cifar_utils.evaluate import accuracy, predict
from cifar_utils.machine import Machine, Precision, autocast, describe, generator, wait
from cifar_utils.models import build, create_model
from cifar_utils.optim import make_optimizer
from cifar_utils.recipes import Recipe
from cifar_utils.speed.memory import keep_memory
from cifar_utils.train import Run, fit, prepare, train_one_epoch

Row = dict[str, Any]  # plain values and spreads, ready for JSON


def machine(device: torch.device, precision: Precision) -> dict[str, str]:
    """What was measured on: the device, the processor, the system and the versions."""
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


def processor() -> str:
    """The CPU's name, or if the system does not tell it, its kind, such as "arm64"."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()  # Linux
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def spread(values: Sequence[float]) -> Row:
    """Median, mean, lowest and highest of some numbers, and the numbers in their order."""
    return {
        "median": statistics.median(values),
        "mean": statistics.fmean(values),
        "lowest": min(values),
        "highest": max(values),
        "values": list(values),
    }


def clock(work: Callable[[], object], device: torch.device, *, times: int) -> list[float]:
    """The seconds that `work()` takes, measured `times` times, as a list.

    One more call goes before and is not measured, because the first one also compiles kernels.
    """
    seconds = []
    for _ in range(times + 1):
        began = time.perf_counter()
        work()
        wait(device)
        seconds.append(time.perf_counter() - began)
    return seconds[1:]


# --- recipes --------------------------------------------------------------------------------------


def race(
    recipes: Sequence[Recipe],
    cifar: Cifar,
    *,
    repeats: int,
    device: torch.device,
    precision: Precision,
    compile: bool = False,
    log: Callable[[str], object] = print,
) -> list[Row]:
    """Train by each recipe in turn, `repeats` times, each time with the next seed.

    Taking turns (A B A B) means that a machine that slows down does so for all recipes. Accuracies
    are on the validation images or, if none are held out, on the test images.

    Args:
        log: called with one line after each training.

    Returns:
        One row per recipe. Under each of these keys is a spread over the trainings:
        seconds: of whitening and training, without evaluation and compiling.
        compile_seconds: of compiling.
        augmentation_share: the time to draw the batches of one epoch, without training on them,
        over the time of a whole epoch.
        accuracy: in [0, 1], with one view per image.
        accuracy_views: the same with recipe.views views.
    """
    runs: list[list[Row]] = [[] for _ in recipes]
    for recipe in recipes:  # a warm-up: what is compiled or looked up once is not timed
        few = cifar.train[: 3 * recipe.batch_size]  # the last of three steps is on whole images
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


def ratio(row: Row, other: Row) -> Row:
    """How many times as long a recipe's trainings took as those of `other` in the same turn.

    Both are rows of `race`. The result is a spread over the turns.
    """
    pairs = zip(row["seconds"]["values"], other["seconds"]["values"], strict=True)
    return spread([seconds / others for seconds, others in pairs])


def _run(
    recipe: Recipe, cifar: Cifar, device: torch.device, precision: Precision, compile: bool
) -> Row:
    """Train once and evaluate: one value for each key of a row of `race`."""
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


def _train(
    recipe: Recipe,
    train: Split,
    device: torch.device,
    precision: Precision,
    compile: bool = False,
) -> tuple[Run, float]:
    """The finished Run, and its seconds without evaluation and compiling."""
    model = build(recipe, train.classes)
    twin = copy.deepcopy(model)  # fit does not time its whitening: here it is done again and timed
    began = time.perf_counter()
    prepare(twin, train, recipe)
    seconds = time.perf_counter() - began
    runs: list[Run] = []
    fit(
        model, train, None, recipe,
        log=runs.append, device=str(device), precision=precision, compile=compile,
    )  # fmt: skip
    return runs[-1], seconds + sum(row.seconds for row in runs[-1].history.epochs)


def _draw(recipe: Recipe, train: Split, device: torch.device) -> float:
    """The seconds that it takes to draw and augment the batches of one epoch."""
    batches = AugmentedBatches(train.to(device), recipe, epoch=1)
    (seconds,) = clock(lambda: [batches[number] for number in range(len(batches))], device, times=1)
    return seconds


# --- throughput -----------------------------------------------------------------------------------


def time_loading(folder: Path, *, times: int = 5) -> list[Row]:
    """Two rows: the seconds that official files take to load, the first time and again.

    folder: where they lie. A copy is read, because it has no decoded images beside it yet.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as root:
        for name in MD5:
            shutil.copy(folder / name, root)
        work = partial(load, root, source="cifar10")
        began = time.perf_counter()
        work()
        first = time.perf_counter() - began
        again = clock(work, torch.device("cpu"), times=times)
    return [
        {"name": "first", "seconds": spread([first])},
        {"name": "again", "seconds": spread(again)},
    ]


def time_augmentations(
    policies: Iterable[str], device: torch.device, *, images: int = 500, times: int = 5
) -> list[Row]:
    """One row per policy of AUGMENTATIONS, with its microseconds per image and images per second.

    images_per_second is None for a policy that does nothing.
    """
    keep_memory(device)  # as a training does
    batch, rows = _random_images(images, device), []
    for policy in policies:
        work = partial(augment, batch, policy, generator=generator(0))
        seconds = clock(work, device, times=times)
        speed = images / statistics.median(seconds) if operations(policy) else None
        microseconds = spread([1e6 * s / images for s in seconds])
        rows.append({"name": policy, "microseconds": microseconds, "images_per_second": speed})
    return rows


def time_models(
    names: Iterable[str],
    device: torch.device,
    precisions: Iterable[Precision],
    *,
    images: int = 128,
    times: int = 5,
) -> list[Row]:
    """One row per network and precision: milliseconds per image of training and of inference.

    A training step is forward, backward and SGD on a batch of `images`, without augmentation.
    training_ratio is its median over the median in the first of `precisions`. Inference is
    `predict`; plain_share is its speed as a share of a plain loop's, which does no more than call
    the network.
    """
    batch, labels = _random_images(images, device), torch.arange(images, device=device) % 10
    rows = []
    for name in names:
        first = None
        for precision in precisions:
            machine = Machine.pick(device, precision)
            model = machine.place(create_model(name, seed=0))
            work: dict[str, Callable[[], object]] = {
                "training": _training_step(model, batch, labels, machine),
                "inference": partial(predict, model, batch, batch_size=images, precision=precision),
                "plain": partial(_plain_step, model, batch, machine),
            }
            row: Row = {"name": name, "precision": precision}
            for what, step in work.items():
                seconds = clock(step, device, times=times)
                row[what] = spread([1e3 * s / images for s in seconds])
            first = first or row["training"]["median"]
            row["training_ratio"] = row["training"]["median"] / first
            row["plain_share"] = row["plain"]["median"] / row["inference"]["median"]
            rows.append(row)
    return rows


def _training_step(
    model: nn.Module, batch: Tensor, labels: Tensor, machine: Machine
) -> Callable[[], object]:
    recipe = Recipe(lr=1e-4)
    optimizer = make_optimizer(model, recipe)
    batches = [(batch, labels)]
    return partial(train_one_epoch, model, batches, optimizer, recipe, machine=machine)


def _plain_step(model: nn.Module, batch: Tensor, machine: Machine) -> Tensor:
    model.eval()
    with torch.inference_mode(), autocast(machine.device, machine.precision):
        return model(normalize(batch).contiguous(memory_format=machine.layout))


def _random_images(count: int, device: torch.device) -> Tensor:
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator(0))
    return images.to(device)


# --- tables ---------------------------------------------------------------------------------------


def table(rows: Iterable[Row], columns: Mapping[str, tuple[str, str]]) -> str:
    """Rows as text, one line each, below a line of headings.

    columns: heading → (key in a row, format of its numbers). A spread is shown as its median, with
    the lowest and the highest in brackets.
    """
    cells = [list(columns)]
    cells += [[cell(row[key], form) for key, form in columns.values()] for row in rows]
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    return "\n".join(
        "  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip()
        for line in cells
    )


def cell(value: str | float | Row | None, form: str) -> str:
    """A value as text, in the format `form`; a spread as "median (lowest to highest)"."""
    if value is None:
        return "–"
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
LOADING_COLUMNS = {"loading CIFAR-10": ("name", ""), "seconds": ("seconds", ".2f")}
AUGMENTATION_COLUMNS = {
    "augmentation": ("name", ""),
    "µs per image": ("microseconds", ".1f"),
    "images per second": ("images_per_second", ",.0f"),
}
MODEL_COLUMNS = {
    "network": ("name", ""),
    "precision": ("precision", ""),
    "training, ms per image": ("training", ".3f"),
    "relative to fp32": ("training_ratio", ".2f"),
    "inference, ms per image": ("inference", ".3f"),
    "of a plain loop's speed": ("plain_share", ".0%"),
}
