import os

import numpy as np
import pytest
import torch
from painted import painted

from cifar_utils import checkpoints, data
from cifar_utils.models import create_model
from cifar_utils.recipes import RECIPES

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
    """A function that makes an easy Split."""
    return painted


@pytest.fixture
def nothing_from_outside(monkeypatch, tmp_path):
    """An empty working directory, no data set at hand, and no mirror to download it from."""
    monkeypatch.setattr("cifar_utils.sources.cifar10.MIRRORS", ())
    monkeypatch.setenv("CIFAR10_ROOT", str(tmp_path / "nowhere"))
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def arrays(tmp_path, painted_split):
    """A small data set of source "npy": 150 training and 40 test images."""
    root = tmp_path / "arrays"
    root.mkdir()
    for part, count, seed in (("train", 150, 0), ("test", 40, 1)):
        split = painted_split(count, seed)
        np.save(root / f"{part}_data.npy", split.images.permute(0, 2, 3, 1).numpy())
        np.save(root / f"{part}_labels.npy", split.labels.numpy())
    return ["--data", str(root), "--source", "npy", "--device", "cpu"]


@pytest.fixture
def trained(tmp_path):
    """Weights of a fresh `compact`: enough for every command that needs some."""
    info = checkpoints.WeightsInfo(RECIPES["compact"], "npy")
    checkpoints.save_weights(tmp_path / "w.safetensors", create_model("compact", seed=0), info)
    return str(tmp_path / "w.safetensors")
