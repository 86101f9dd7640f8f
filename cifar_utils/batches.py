"""One epoch of a split as shuffled and augmented batches."""

from collections.abc import Callable, Iterable, Iterator
from typing import Protocol

from torch import Tensor, arange, randperm
from torch.utils.data import DataLoader, Dataset

from cifar_utils.augment import augment
from cifar_utils.data import Split
from cifar_utils.machine import Machine, generator
from cifar_utils.recipes import Recipe

Progress = Callable[[Iterable], Iterable]  # wraps an iterable, as tqdm does


class Batches(Protocol):
    """(uint8 images, labels), batch by batch, and how many batches there are."""

    def __iter__(self): ...
    def __len__(self) -> int: ...


def load_batches(
    split: Split, recipe: Recipe, epoch: int, workers: int, machine: Machine
) -> DataLoader:
    """The epoch's batches, one after the other. `workers` processes prepare them ahead, if any."""
    on_gpu = machine.device.type == "cuda"
    return DataLoader(
        AugmentedBatches(split, recipe, epoch), None, num_workers=workers,
        pin_memory=workers > 0 and on_gpu,  # so that they are copied without waiting
    )  # fmt: skip


def steps_of(count: int, recipe: Recipe, past: int = 0) -> Iterator[tuple[int, float, int]]:
    """(epoch, progress, number of images) of each step of a training, in order.

    count: how many images there are to train on. past: epochs of the recipe, beyond its
    epochs_before, that are done already and left out.
    """
    sizes = [len(batch) for batch in arange(count).split(recipe.batch_size)]
    for epoch in range(recipe.epochs_before + past + 1, recipe.epochs + 1):
        start, end = recipe.progress(epoch - 1), recipe.progress(epoch)
        for number, size in enumerate(sizes):
            yield epoch, start + (end - start) * number / len(sizes), size


class AugmentedBatches(Dataset):
    """One epoch of a Split as (uint8 images, labels) batches, shuffled and augmented.

    The order depends on the recipe's seed and the epoch alone, the augmentation of a batch also on
    its number. So the batches are the same whoever computes them, in one process or in many. (On
    devices of one kind: a CPU and a GPU may round a policy's colours to neighbouring grey levels.)
    """

    def __init__(self, split: Split, recipe: Recipe, epoch: int) -> None:
        self.split, self.recipe, self.epoch = split, recipe, epoch
        order = randperm(len(split), generator=generator(recipe.seed, epoch))
        # To the images' device as a whole: every copy waits until a GPU has done its work.
        self.chosen = order.to(split.labels.device).split(recipe.batch_size)

    def __len__(self) -> int:
        return len(self.chosen)

    def __getitem__(self, number: int) -> tuple[Tensor, Tensor]:
        batch = self.split[self.chosen[number]]
        draws = generator(self.recipe.seed, self.epoch, number)
        images = augment(
            batch.images,
            self.recipe.augmentation,
            generator=draws,
            epoch=self.epoch,
            indices=batch.indices,
        )
        return images, batch.labels
