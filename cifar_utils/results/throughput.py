"""How many images a second this machine loads, augments, trains on and predicts.

Measurements are plain rows of numbers, as in bench.py, whose `table` turns them into text.
"""

import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from cifar_utils.augment import augment, operations
from cifar_utils.data import MD5, load, normalize
from cifar_utils.evaluate import predict
from cifar_utils.machine import Machine, Precision, autocast, generator
from cifar_utils.models import create_model
from cifar_utils.optim import make_optimizer
from cifar_utils.recipes import Recipe
from cifar_utils.results.bench import Row, clock, spread
from cifar_utils.speed.memory import keep_memory
from cifar_utils.train import train_one_epoch

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
