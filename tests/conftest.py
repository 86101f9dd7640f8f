import os

import pytest
import torch

from cifar_utils import data

os.environ["MPLBACKEND"] = "Agg"


@pytest.fixture
def random_split():
    """A function that makes a Split of random images with balanced labels."""

    def make(count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        return data.Split(images, torch.arange(count) % 10, data.CLASSES, torch.arange(count))

    return make


@pytest.fixture
def painted_split():
    """A function that makes an easy Split: a bright band, whose place is the class."""

    def make(count, seed=0):
        generator = torch.Generator().manual_seed(seed)
        images = torch.randint(0, 100, (count, 3, 32, 32), dtype=torch.uint8, generator=generator)
        labels = torch.arange(count) % 10
        for image, label in zip(images, labels.tolist(), strict=True):
            image[:, 3 * label : 3 * label + 3] += 120
        return data.Split(images, labels, data.CLASSES, torch.arange(count))

    return make
