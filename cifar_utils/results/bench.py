"""How fast this machine is at whole trainings.

Every time is the median of several measurements, and all of them are kept, because machines are
shared and a single reading of the clock says little. Measurements are plain rows of numbers, which
`table` turns into text.
"""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any

import torch

from cifar_utils.batches import AugmentedBatches
from cifar_utils.data import CLASSES, Cifar, Split
from cifar_utils.evaluate import accuracy, predict
from cifar_utils.machine import wait
from cifar_utils.models import build
from cifar_utils.recipes import Recipe
from cifar_utils.results.authors import Authors
from cifar_utils.results.operations import training_mult_adds
from cifar_utils.train import Run, fit, prepare

Row = dict[str, Any]  # plain values and spreads, ready for JSON


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
    precision: str,
    compile: bool = False,
    authors: Authors | None = None,
    log: Callable[[str], object] = print,
    save: Callable[[list[Row]], object] = lambda rows: None,
) -> list[Row]:
    """Train by each recipe in turn, `repeats` times, each time with the next seed.

    Taking turns (A B A B) means that a machine that slows down does so for all recipes. Accuracies
    are on the validation images or, if none are held out, on the test images.

    Args:
        precision: as in `fit`; with "auto" each recipe is computed in the way that is fastest here.
        authors: their script takes its turn after the recipes, with the seeds of the first.
        log: called with one line after each training.
        save: called after each turn with the rows of all turns so far.

    Returns:
        One row per recipe: its name, the recipe as a dict, the multiply-adds of a whole training
        per training image, its arithmetic in words, and under each of these keys a spread over the
        trainings. The authors' row comes last and has only some of them.
        began: seconds from the start of the race to the start of this training.
        seconds: of whitening and training, without evaluation and compiling.
        compile_seconds: of compiling.
        augmentation_share: the time to draw the batches of one epoch, without training on them,
        over the time of a whole epoch.
        accuracy: in [0, 1], with one view per image.
        accuracy_views: the same with recipe.views views.
    """
    for recipe in recipes:
        recipe.changed(seed=recipe.seed + repeats - 1)  # which may be too large a number
    if authors:
        authors.warm_up(cifar)
    for recipe in recipes:  # a warm-up, too: what is compiled or looked up once is not timed
        few = cifar.train[: 3 * recipe.batch_size]  # the last of three steps is on whole images
        _train(recipe.changed(epochs=1), few, device, precision)

    def turn_of(recipe: Recipe, repeat: int) -> Row:
        seeded = recipe.changed(seed=recipe.seed + repeat)
        return _run(seeded, cifar, device, precision, compile)

    turns: list[tuple[str, Callable[[int], Row]]]
    turns = [(recipe.name, partial(turn_of, recipe)) for recipe in recipes]
    if authors:
        first = recipes[0].seed
        turns.append((authors.name, lambda repeat: authors.run(cifar, first + repeat)))
    rows = [operations(recipe, len(cifar.train), cifar.classes) for recipe in recipes]
    rows += [{"name": authors.name}] if authors else []
    runs: list[list[Row]] = [[] for _ in turns]
    start = time.perf_counter()
    for repeat in range(repeats):
        for (name, turn), its_runs in zip(turns, runs, strict=True):
            began = time.perf_counter() - start
            run = {"began": began, **turn(repeat)}
            its_runs.append(run)
            reached = f"{run['accuracy']:10.2%}{run['accuracy_views']:10.2%}"
            log(f"{name:<22}{run['seconds']:10.1f} s{reached}")
        done = [_summed_up(*pair) for pair in zip(rows, runs, strict=True)]
        save(done)
    return done


def _summed_up(row: Row, runs: Sequence[Row]) -> Row:
    """The row with a spread over these trainings for each thing that was measured."""
    ways = dict.fromkeys(run["arithmetic"] for run in runs if "arithmetic" in run)
    row = row | ({"arithmetic": ", ".join(ways)} if ways else {})
    measured = [key for key in runs[0] if key != "arithmetic"]
    return row | {key: spread([run[key] for run in runs]) for key in measured}


def operations(recipe: Recipe, images: int, classes: tuple[str, ...] = CLASSES) -> Row:
    """The recipe with the multiply-adds of its training on that many images, per image."""
    mult_adds = training_mult_adds(recipe, images, classes)
    return {"name": recipe.name, "recipe": recipe.as_dict(), "mult_adds": mult_adds}


def ratio(row: Row, other: Row) -> Row:
    """How many times as long a recipe's trainings took as those of `other` in the same turn.

    Both are rows of `race`. The result is a spread over the turns.
    """
    pairs = zip(row["seconds"]["values"], other["seconds"]["values"], strict=True)
    return spread([seconds / others for seconds, others in pairs])


def mult_adds_ratios(rows: Iterable[Row], other: Row) -> dict[str, float]:
    """How many times as many multiply-adds as `other` the recipe of each row takes, by its name."""
    return {row["name"]: row["mult_adds"] / other["mult_adds"] for row in rows}


def _run(recipe: Recipe, cifar: Cifar, device: torch.device, precision: str, compile: bool) -> Row:
    """Train once and evaluate: one value for each key of a row of `race`."""
    run, seconds = _train(recipe, cifar.train, device, precision, compile)
    epoch = statistics.median(row.seconds for row in run.history.epochs[1:])
    held_out = cifar.held_out
    right = {
        views: accuracy(predict(run.model, held_out.images, views=views), held_out.labels.cpu())
        for views in {1, recipe.views}
    }
    return {
        "arithmetic": run.machine.arithmetic,
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
    precision: str,
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


# --- tables ---------------------------------------------------------------------------------------


def table(rows: Iterable[Row], columns: Mapping[str, tuple[str, str]]) -> str:
    """Rows as text, one line each, below a line of headings.

    columns: heading → (key in a row, format of its numbers). A spread is shown as its median, with
    the lowest and the highest in brackets.
    """
    cells = [list(columns)]
    cells += [[cell(row.get(key), form) for key, form in columns.values()] for row in rows]
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
    "arithmetic": ("arithmetic", ""),
    "training, seconds": ("seconds", ".1f"),
    "augmentation's share": ("augmentation_share", ".0%"),
    "accuracy, one view": ("accuracy", ".2%"),
    "with its views": ("accuracy_views", ".2%"),
}
OPERATION_COLUMNS = {
    "recipe": ("name", ""),
    "multiply-adds of a whole training, per image": ("mult_adds", ",.0f"),
}
COMPILE_COLUMN = {"compiling, seconds": ("compile_seconds", ".1f")}
