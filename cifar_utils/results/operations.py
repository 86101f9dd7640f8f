"""The multiply-adds of whole trainings: what a recipe costs, whatever the machine.

A clock measures a recipe together with the machine that ran it. Multiply-adds are the same
everywhere. Those of convolutions and matrix products are counted, forward and backward, and each
convolution as a direct one, even if Winograd's algorithm or another gets by with fewer. What a step
leaves out is not counted: no gradient of frozen weights, nor of maps that nothing before them
learns from. Augmentation, elementwise work, and the optimizer with Muon's matrix products are not
counted either.
"""

from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from cifar_utils.data import CLASSES, Split
from cifar_utils.machine import Machine, generator
from cifar_utils.models import build
from cifar_utils.optim import make_optimizer
from cifar_utils.recipes import Recipe
from cifar_utils.teachers import find_teacher
from cifar_utils.train import kinds_of_steps, prepare, train_one_epoch

IMAGES = 50_000  # in the training set of CIFAR-10


def training_mult_adds(
    recipe: Recipe, count: int = IMAGES, classes: tuple[str, ...] = CLASSES
) -> float:
    """The multiply-adds of a whole training on `count` images, per image, summed over its epochs.

    classes: those of the data, because the last layer has a row of weights for each.

    One step of each kind runs through the training loop, on two images, and is counted. So are the
    answers of a teacher.
    """
    machine = Machine(torch.device("cpu"))
    few = _random_split(2)  # one would be too few for batch norm on maps of one pixel
    with torch.random.fork_rng(devices=[]):
        model = build(recipe, classes)
        prepare(model, few, recipe)
        teacher = find_teacher(recipe, classes, machine)
        # Plain SGD, because it freezes the same weights as Muon but has no products of its own, and
        # at a rate that changes nothing.
        stepped = recipe.changed(optimizer="sgd", lr=1e-12)
        optimizer = make_optimizer(model, stepped)
        total = 0
        if teacher:
            asked = count * (recipe.epochs - recipe.epochs_before)
            with _counter() as counter:
                machine.logits(teacher, few.images.float())
            total += asked * counter.get_total_flops() // (2 * len(few))
        for done, size, steps in kinds_of_steps(count, recipe):
            with _counter() as counter:
                train_one_epoch(
                    model, [(few.images, few.labels)], optimizer, stepped,
                    machine=machine, span=(done, done),
                )  # fmt: skip
            total += steps * size * counter.get_total_flops() // (2 * len(few))
    return total / count


def _random_split(count: int) -> Split:
    size = (count, 3, 32, 32)
    images = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator(0))
    return Split(images, torch.arange(count), CLASSES, torch.arange(count))


def _counter() -> FlopCounterMode:
    """torch's counter, mended: it takes the kernels' gradient of grouped convolutions for dense."""
    backward = {torch.ops.aten.convolution_backward: _backward}
    return FlopCounterMode(display=False, custom_mapping=backward)


def _backward(
    gradient: Any, _maps: Any, kernels: Any, *given: Any, out_shape: Any, **_: Any
) -> int:
    """The flops of a convolution's way back: for maps and for kernels as many as forward, each.

    The shapes are those of aten.convolution_backward. Its last argument says which are wanted.
    """
    forward = 2 * gradient[0] * gradient[2:].numel() * kernels.numel()
    return forward * sum(given[-1][:2])
