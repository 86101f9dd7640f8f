"""How long a training will take: by a clock that tests set, and without leaving a trace."""

import random
import time

import numpy as np
import pytest
import torch

from cifar_utils import models
from cifar_utils.augment import AUGMENTATIONS
from cifar_utils.errors import CifarError
from cifar_utils.estimate import epoch_seconds, is_worth_timing, step_seconds
from cifar_utils.machine import Machine
from cifar_utils.recipes import Recipe, get_recipe

RECIPE = Recipe(model="fastnet-quick", epochs=4, batch_size=8, small_size=16)


@pytest.fixture
def slow(monkeypatch):
    """A step takes 20 ms on small images, 80 ms on whole ones; to augment a batch takes 30 ms.

    A network's first two steps take 2 s more, as if they had to compile something.
    """
    now, build = [0.0], models.MODELS[RECIPE.model]
    monkeypatch.setattr(time, "perf_counter", lambda: now[0])

    class Slow(torch.nn.Module):
        steps = 0

        def forward(self, images):
            self.steps += 1
            now[0] += {16: 0.02, 32: 0.08}[images.shape[2]] + (2 if self.steps <= 2 else 0)
            return images

    def slow_model(*given, **options):
        model = build(*given, **options)
        model.features.insert(0, Slow())
        return model

    def slow_augmentation(images, generator):
        now[0] += 0.03
        return images

    monkeypatch.setitem(models.MODELS, RECIPE.model, slow_model)
    monkeypatch.setitem(AUGMENTATIONS, RECIPE.augmentation, (slow_augmentation,))


def here():
    return Machine(torch.device("cpu"))


@pytest.mark.parametrize(
    ("small_until", "past", "workers", "wanted"),
    [
        (0.0, 0, 0, [33, 33, 33, 33]),  # three batches of 80 + 30 ms
        (0.5, 0, 0, [15, 15, 33, 33]),
        (0.3, 0, 0, [15, 27, 33, 33]),  # 4 of 12 steps, for 3/12 < 0.3
        (1.0, 0, 0, [15, 15, 15, 15]),
        (0.5, 1, 0, [15, 33, 33]),
        (0.5, 3, 0, [33]),
        (0.5, 0, 1, [9, 9, 24, 24]),  # 30 ms ahead of 20, or of 80
        (0.5, 0, 3, [6, 6, 24, 24]),
    ],
)
def test_epochs_take_what_their_steps_take(slow, random_split, small_until, past, workers, wanted):
    recipe = RECIPE.changed(small_until=small_until)
    told = epoch_seconds(recipe, random_split(20), here(), past=past, workers=workers)
    assert told == pytest.approx([hundredths / 100 for hundredths in wanted])


def test_a_last_image_alone_is_one_line_here_as_in_the_training(random_split):
    recipe = Recipe(model="resnet18", epochs=1, batch_size=2, small_size=8, small_until=1.0)
    with pytest.raises(CifarError, match="the last batch has a single image"):
        epoch_seconds(recipe, random_split(3), here())


def test_only_a_long_training_is_worth_timing():
    """At most one step in twenty is timed, and four of each size."""
    recipe = Recipe(epochs=2, batch_size=10)
    assert [is_worth_timing(recipe, images) for images in (0, 390, 391, 400)] == [
        False, False, True, True,
    ]  # fmt: skip
    assert is_worth_timing(recipe, 800, past=1) and not is_worth_timing(recipe, 800, past=2)
    both = recipe.changed(small_until=0.5, small_size=16)
    assert is_worth_timing(both, 800) and not is_worth_timing(both, 790)
    assert not is_worth_timing(get_recipe("compact").changed(epochs=1), 500)


@pytest.mark.slow
@pytest.mark.parametrize("policy", ["crop-flip", "compact-published", "separable-published"])
def test_timing_leaves_every_random_number_as_it_was(random_split, policy):
    recipe = get_recipe("compact-distilled").changed(
        augmentation=policy, dropout_factor=1.0, batch_size=8
    )

    def draws():
        return torch.rand(3).tolist(), np.random.rand(3).tolist(), random.random()  # noqa: NPY002

    def seed():
        torch.manual_seed(3)
        np.random.seed(3)  # noqa: NPY002
        random.seed(3)

    seed()
    wanted = draws()
    seed()
    assert step_seconds(recipe, random_split(16), here(), steps=4) > 0
    assert draws() == wanted
