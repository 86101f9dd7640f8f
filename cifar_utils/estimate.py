"""How long a training will take, before it begins: a few steps, timed on a network of their own."""

import statistics
import time
from contextlib import suppress

import torch

from cifar_utils.batches import AugmentedBatches, steps_of
from cifar_utils.data import Split
from cifar_utils.errors import DivergedError
from cifar_utils.machine import Machine
from cifar_utils.models import build
from cifar_utils.optim import make_optimizer
from cifar_utils.recipes import Recipe
from cifar_utils.teachers import find_teacher
from cifar_utils.train import check_last_batch, check_model, train_one_epoch

STEPS = 4  # enough to time: two warm up, and two count
SHARE = 1 / 20  # of a training's steps may be spent on timing some


def step_seconds(
    recipe: Recipe, train: Split, machine: Machine, *,
    steps: int, done: float = 1.0, workers: int = 0,
) -> float:  # fmt: skip
    """About how many seconds a training step takes, augmentation included.

    Up to `steps` are timed on a throw-away network, as many as begin within 5 seconds. Torch's
    random generators are left as they were.

    Args:
        machine: one like that of the training, whose gradient scaler will change. It must be that
            of a single process.
        done: how far the training is, as a fraction. The size of the images follows.
        workers: processes that augment ahead, while others train.

    Raises CifarError as `check_model` and `check_last_batch` do.
    """
    gpus = [machine.device] if machine.device.type == "cuda" else []
    with torch.random.fork_rng(devices=gpus):
        model = machine.place(build(recipe, train.classes))
        check_model(model, recipe)
        check_last_batch(model, train, recipe)
        optimizer = make_optimizer(model, recipe)
        teacher = find_teacher(recipe, train.classes, machine)
        train = train if workers else train.to(machine.device)
        batches = AugmentedBatches(train, recipe, epoch=1)
        times: list[float] = []
        began = time.perf_counter()
        while len(times) < steps and time.perf_counter() - began < 5:
            start = time.perf_counter()
            batch = batches[len(times) % len(batches)]
            augmented = time.perf_counter()
            with suppress(DivergedError):  # the training will say so
                train_one_epoch(
                    model, [batch], optimizer, recipe, machine=machine, teacher=teacher,
                    span=(done, done),
                )  # fmt: skip
            end = time.perf_counter()
            ahead = max(end - augmented, (augmented - start) / max(workers, 1))
            times.append(ahead if workers else end - start)
    # The first two also compile kernels and ask for memory, but a slow step hardly shows it.
    return statistics.median(times[2:] or times[-1:])


def is_worth_timing(recipe: Recipe, count: int, past: int = 0) -> bool:
    """Whether a training is so long that timing a few steps first adds little: 5% at most.

    count: how many images there are to train on. past: epochs that are done, all recipes' together.
    """
    counts = _sizes(recipe, count, past)
    sizes, steps = {size for _, size in counts}, sum(number for number, _ in counts.values())
    return STEPS * len(sizes) <= SHARE * steps and steps > 0


def epoch_seconds(
    recipe: Recipe, train: Split, machine: Machine, *, past: int = 0, workers: int = 0
) -> list[float]:
    """About how many seconds each epoch of the recipe after the first `past` will train.

    Steps on smaller images are cheaper, so each size that is to come is timed. The rest is as in
    `step_seconds`.
    """
    counts = _sizes(recipe, len(train), past)
    seconds = {
        size: step_seconds(recipe, train, machine, steps=STEPS, done=done, workers=workers)
        for size, done in {size: done for (_, size), (_, done) in counts.items()}.items()
    }
    of_epoch: dict[int, float] = {}
    for (epoch, size), (steps, _) in counts.items():
        of_epoch[epoch] = of_epoch.get(epoch, 0.0) + steps * seconds[size]
    return list(of_epoch.values())


def _sizes(recipe: Recipe, count: int, past: int) -> dict[tuple[int, int], tuple[int, float]]:
    """For (epoch, side of the images in pixels): how many steps are left, and the last's progress.

    A list of all steps would fill the memory, if somebody asks for epochs without end.
    """
    found: dict[tuple[int, int], tuple[int, float]] = {}
    for epoch, done, _ in steps_of(count, recipe, max(past - recipe.epochs_before, 0)):
        key = epoch, recipe.image_size(done)
        found[key] = found.get(key, (0, 0.0))[0] + 1, done
    return found
