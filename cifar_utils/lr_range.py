"""The learning-rate range test: which learning rates a recipe tolerates, found in a few steps."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from cifar_utils.batches import AugmentedBatches, Progress
from cifar_utils.data import Split
from cifar_utils.errors import CifarError, DivergedError, plain, whole
from cifar_utils.fastest import fastest_machine
from cifar_utils.machine import seed_from
from cifar_utils.recipes import Recipe, check_recipe
from cifar_utils.teachers import find_teacher
from cifar_utils.train import start, train_one_epoch


@dataclass(frozen=True)
class LearningRateRange:
    """Losses (steps,) while the learning rate rose; `suggestion` is where they fell fastest."""

    rates: tuple[float, ...]
    losses: tuple[float, ...]
    suggestion: float


def lr_range_test(
    model: nn.Module, train: Split, recipe: Recipe, *, lowest: float = 1e-4, highest: float = 10.0,
    steps: int = 200, progress: Progress = iter, device: str | torch.device = "auto",
    precision: str = "auto",
) -> LearningRateRange:  # fmt: skip
    """Train a few steps while the rate rises from `lowest` to `highest` (arXiv 1506.01186).

    The recipe gives everything else except the size of the images, which are whole ones. Under Muon
    its muon_lr keeps its ratio to lr. The losses are smoothed by an exponential mean of 0.9, whose
    start is corrected. The test ends early if the loss passes four times its lowest value. The
    model is changed: throw it away. Used in notebook 05.

    Raises:
        CifarError: for rates that do not rise from above 0, for fewer than 10 steps, and as `fit`
            does.
    """
    lowest, highest = plain(lowest), plain(highest)
    if not 0 < lowest < highest:
        raise CifarError(f"lowest is {lowest} and highest {highest}; wanted 0 < lowest < highest")
    steps = whole(steps, "steps", least=10)
    check_recipe(recipe)
    recipe = recipe.changed(schedule="constant", small_until=0.0)
    machine = fastest_machine(model, train, recipe, device=device, precision=precision)
    optimizer = start(model, train, None, recipe, machine).optimizer
    network = machine.share(model, some_rest=recipe.whitening > 0)
    ratios = [group["initial_lr"] / recipe.lr for group in optimizer.param_groups]
    batches = AugmentedBatches(train.to(machine.device), recipe, epoch=1)
    teacher = find_teacher(recipe, train.classes, machine)
    torch.manual_seed(seed_from(recipe.seed))
    rates: list[float] = []
    losses: list[float] = []
    mean = 0.0
    for step in progress(range(steps)):
        rate = lowest * (highest / lowest) ** (step / (steps - 1))
        for group, ratio in zip(optimizer.param_groups, ratios, strict=True):
            group["initial_lr"] = rate * ratio
        batch = [batches[step % len(batches)]]
        try:
            loss, _ = train_one_epoch(
                network, batch, optimizer, recipe, machine=machine, teacher=teacher
            )
        except DivergedError:
            break
        mean = 0.9 * mean + 0.1 * loss
        smooth = mean / (1 - 0.9 ** (step + 1))
        if smooth > 4 * min([*losses, smooth]):
            break
        rates.append(rate)
        losses.append(smooth)
    if len(losses) < 2:
        raise CifarError(
            f"the loss explodes at once, at a rate of {lowest}; choose a smaller value for lowest"
        )
    slopes = np.gradient(losses, np.log(rates))
    return LearningRateRange(tuple(rates), tuple(losses), rates[int(slopes.argmin())])
