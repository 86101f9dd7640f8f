"""From images to logits, once, and from logits to every number about them."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal, get_args

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_utils.checks import (
    check_images,
    check_kind,
    check_labels,
    check_network,
    evaluating,
)
from cifar_utils.data import Split, normalize
from cifar_utils.errors import CifarError, DivergedError, choose, whole
from cifar_utils.machine import Machine, Precision
from cifar_utils.speed.distributed import all_reduce
from cifar_utils.speed.memory import keep_memory


def predict(
    model: nn.Module,
    images: Tensor,
    *,
    batch_size: int = 500,
    precision: Precision = "fp32",
    views: Literal[1, 2, 6] = 1,
    share: float = 1.0,
) -> Tensor:
    """Logits of all images, float32 (N, num_classes) on the CPU. Used in notebook 07.

    The model is left as it was. On a CPU the process keeps what memory it frees: `keep_memory`.

    Args:
        images: uint8 (N, 3, 32, 32), on any device.
        batch_size: How many images go through the network at once.
        precision: "fp32", "bf16" or "fp16".
        views: Test-time augmentation: the views of an image whose logits are averaged. 1 is the
            image alone, 2 adds its mirror image, and 6 adds both of them shifted by one pixel up
            and left, and down and right.
        share: The share of the images that get more than one view, in [0, 1], least confident
            first. More views seldom change what a network is sure of
            (github.com/hiverge/cifar10-speedrun).

    Raises:
        CifarError: an argument has another type, shape or value, or the network does not turn such
            images into logits.
    """
    check_images(images)
    batch_size = whole(batch_size, "batch_size", least=1)
    choose(precision, get_args(Precision), "precision")
    if views not in (1, 2, 6):
        raise CifarError(f"views is {views}; choose one of 1, 2, 6")
    if not (isinstance(share, Real) and 0 <= share <= 1):
        raise CifarError(f"share is {share}; it must be in [0, 1]")
    check_kind(model)
    options: dict[str, Any] = {"batch_size": batch_size, "precision": precision}
    if share < 1 and views > 1 and len(images):
        found = predict(model, images, **options)
        order = found.softmax(1).max(1).values.argsort()
        unsure = order[: round(share * len(images))]
        if len(unsure):
            few = images[unsure.to(images.device)]
            found[unsure] = predict(model, few, views=views, **options)
        return found
    if not len(images):  # some layers refuse an empty batch
        return torch.zeros(0, check_network(model, images))
    machine = Machine.of(model, precision)
    keep_memory(machine.device)
    logits = []
    try:
        with evaluating(model):
            for batch in images.split(batch_size):
                inputs = normalize(batch.to(machine.device))
                seen = [machine.logits(model, view) for view in _views(inputs, views)]
                logits.append(torch.stack(seen).mean(0))
        together = torch.cat(logits)
    except Exception:
        check_network(model, images)  # if the network is the reason, this says so in one line
        raise
    if together.ndim != 2 or len(together) != len(images):
        raise CifarError(
            f"the network turns {len(images)} images into shape {tuple(together.shape)}; wanted "
            f"float logits of shape ({len(images)}, classes)"
        )
    return together.cpu()  # at the end: a GPU would be waited for after each batch


def evaluate(model: nn.Module, split: Split, precision: Precision = "fp32") -> tuple[float, float]:
    """(loss, accuracy) on a Split of at least one image; without a finite loss, accuracy is NaN."""
    logits, labels = predict(model, split.images, precision=precision), split.labels.cpu()
    loss = cross_entropy(logits, labels)
    return loss, accuracy(logits, labels) if math.isfinite(loss) else math.nan


def _views(inputs, count):
    shifted = [inputs]
    if count == 6:
        padded = F.pad(inputs, (1,) * 4, mode="reflect")
        shifted += [padded[:, :, 2:, 2:], padded[:, :, :-2, :-2]]
    return shifted if count == 1 else shifted + [view.flip(3) for view in shifted]


# --- numbers, from logits, float (N, C), and labels, int64 (N,), both on the CPU -----------------


def _check(logits: Tensor, labels: Tensor, *, ranked: bool = True, averaged: bool = False) -> None:
    """Raise CifarError if they do not fit together.

    ranked: also if logits are NaN, which have no order. They would seem to be right for the first
    class: 10% of the images. averaged: also if there are none, which have no mean.
    """
    if not (torch.is_tensor(logits) and logits.is_floating_point() and logits.ndim == 2):
        raise CifarError("logits: wanted a float tensor (N, C), as predict returns it")
    check_labels(labels, len(logits), logits.shape[1])
    if averaged and not len(labels):
        raise CifarError("there are no images to evaluate on")
    if ranked and not (logits < math.inf).all():  # so it is with NaN
        raise CifarError("logits: not all are numbers; has the network's training diverged?")


def cross_entropy(logits: Tensor, labels: Tensor) -> float:
    """Mean cross-entropy in nats, NaN for logits that are. A guess has ln 10 = 2.303."""
    _check(logits, labels, ranked=False, averaged=True)
    return F.cross_entropy(logits.float(), labels).item()


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of the images whose largest logit is the right one, in [0, 1]."""
    return topk(logits, labels, k=1)


def topk(logits: Tensor, labels: Tensor, *, k: int) -> float:
    """Share of the images whose right class is among the k largest logits, in [0, 1]."""
    _check(logits, labels, averaged=True)
    k = whole(k, "k", least=1)
    best = logits.topk(min(k, logits.shape[1])).indices
    return (best == labels[:, None]).any(1).double().mean().item()


def per_class_accuracy(logits: Tensor, labels: Tensor) -> Tensor:
    """Accuracy within each class, float64 (num_classes,); NaN for a class without images."""
    _check(logits, labels)
    right = (logits.argmax(1) == labels).double()
    count = torch.bincount(labels, minlength=logits.shape[1])
    return torch.bincount(labels, weights=right, minlength=logits.shape[1]) / count


def confusion_matrix(logits: Tensor, labels: Tensor) -> np.ndarray:
    """How many images of each true class (row) were taken for each class (column), int64 (C, C)."""
    _check(logits, labels)
    classes = logits.shape[1]
    cells = labels * classes + logits.argmax(1)  # the matrix's cells, numbered row by row
    return torch.bincount(cells, minlength=classes**2).view(classes, classes).numpy()


def most_confused(
    matrix: np.ndarray | Sequence[Sequence[int]], classes: Sequence[str], *, count: int = 10
) -> list[tuple[str, str, int]]:
    """The largest cells off the diagonal, at most `count`: (true class, predicted class, images).

    matrix: int (C, C), with a row per true class. Cells without images are left out. Used in
    notebook 07.
    """
    cells = [
        (classes[row], classes[column], int(images))
        for (row, column), images in np.ndenumerate(np.asarray(matrix))
        if row != column and images
    ]
    return sorted(cells, key=lambda cell: -cell[2])[:count]


def metrics(logits: Tensor, labels: Tensor, classes: Sequence[str]) -> dict[str, Any]:
    """These numbers in one dict of plain values: top1, top3, top5, loss, n, per_class.

    logits: float (N, C). labels: int64 (N,). per_class is a dict from each of the C names in
    `classes` to its accuracy, None for a class without images. Shares are in [0, 1]. Raises
    CifarError if N is 0, or if there are not C names.
    """
    if not len(labels):
        raise CifarError("there are no test images to evaluate on")
    if len(classes) != logits.shape[1]:
        raise CifarError(f"there are {logits.shape[1]} logits per image and {len(classes)} classes")
    per_class = per_class_accuracy(logits, labels).tolist()
    return {
        "top1": accuracy(logits, labels),
        "top3": topk(logits, labels, k=3),
        "top5": topk(logits, labels, k=5),
        "loss": cross_entropy(logits, labels),
        "n": len(labels),
        "per_class": {
            name: None if value != value else value  # JSON knows no NaN
            for name, value in zip(classes, per_class, strict=True)
        },
    }


def calibration(
    logits: Tensor, labels: Tensor, *, bins: int = 15
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """How far confidence can be believed: the expected calibration error and its bins.

    Images are sorted into bins by their confidence, which is the largest softmax probability
    (arXiv 1706.04599). Used in notebook 07.

    Returns:
        (error, confidences, accuracies, counts). The error, in [0, 1], is the mean distance of a
        bin's accuracy from its confidence, weighted by the counts. The arrays have shape (bins,).
        The mean confidences and accuracies are float64, NaN for an empty bin.
    """
    _check(logits, labels, ranked=True)
    bins = whole(bins, "bins", least=1)
    confidences, predictions = logits.double().softmax(1).max(1)
    right = (predictions == labels).numpy()
    place = np.minimum((confidences.numpy() * bins).astype(int), bins - 1)
    counts = np.bincount(place, minlength=bins)
    with np.errstate(invalid="ignore"):
        mean_confidence = np.bincount(place, weights=confidences, minlength=bins) / counts
        mean_accuracy = np.bincount(place, weights=right, minlength=bins) / counts
    gaps = np.nan_to_num(np.abs(mean_confidence - mean_accuracy))
    error = float((gaps * counts).sum() / max(len(labels), 1))
    return error, mean_confidence, mean_accuracy, counts


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """The number, between 0.05 and 20, by which to divide logits for the lowest cross-entropy.

    Choose it on images that the network was not trained on, but not on the test images
    (arXiv 1706.04599). Used in notebook 07.
    """
    from scipy.optimize import minimize_scalar

    _check(logits, labels)
    if not len(labels):
        raise CifarError("there are no images to fit the temperature on")
    logits = logits.double()
    bounds = (math.log(0.05), math.log(20))
    found = minimize_scalar(
        lambda log_t: F.cross_entropy(logits / math.exp(log_t), labels).item(), bounds=bounds
    )
    return math.exp(found.x)


# --- the same, batch by batch --------------------------------------------------------------------


class Totals:
    """Loss and accuracy over all batches, which may differ in size: sums, then one division.

    The sums stay on the device, so that nothing waits for a GPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.loss = torch.zeros((), device=device)
        self.correct = torch.zeros((), dtype=torch.int64, device=device)
        self.count = torch.zeros((), dtype=torch.int64, device=device)
        self.steps, self.good = 0, torch.zeros((), dtype=torch.int64, device=device)
        self.shown = 0.0  # when they were shown, on time.perf_counter

    def add(self, logits: Tensor, labels: Tensor) -> None:
        """Count one batch, or this process's part of it."""
        self.loss += F.cross_entropy(logits, labels, reduction="sum")
        self.correct += (logits.argmax(1) == labels).sum()
        self.count += len(labels)
        self.steps += 1
        self.good += self.loss < math.inf  # once the sum is infinite or NaN, it stays so

    def show(self, bar: Iterable) -> None:
        """Write loss and accuracy so far, of this process's part, beside a bar of tqdm's kind.

        At most twice a second, because a GPU has to be waited for. Other bars stay as they are.
        """
        write = getattr(bar, "set_postfix_str", None)
        if write is not None and time.perf_counter() - self.shown > 0.5:
            count = int(self.count)
            write(f"loss {self.loss.item() / count:.4f}, acc {self.correct.item() / count:6.2%}")
            self.shown = time.perf_counter()

    def means(self) -> tuple[float, float]:
        """(mean loss, accuracy) over the images of all processes; DivergedError without a loss."""
        all_reduce(self.loss, self.correct, self.count)
        count, loss = int(self.count), self.loss.item()
        if not math.isfinite(loss):
            raise DivergedError(f"at step {min(int(self.good) + 1, self.steps)} of {self.steps}")
        return loss / count, self.correct.item() / count


# --- which images ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranked:
    """Some images of a split, most confident first. Each field has shape (K,)."""

    indices: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor

    def __len__(self) -> int:
        return len(self.indices)

    def __getitem__(self, chosen: slice | Sequence[int] | Tensor) -> "Ranked":
        """Only some of them: a slice, or a list of places."""
        fields = (self.indices, self.labels, self.predictions, self.confidences)
        return Ranked(*(values[chosen] for values in fields))


def most_confident_mistakes(logits: Tensor, labels: Tensor, *, count: int = 20) -> Ranked:
    """The wrongly classified images of which the model was surest, at most `count`."""
    return _most_confident(logits, labels, False, count)


def most_confident_hits(logits: Tensor, labels: Tensor, *, count: int = 20) -> Ranked:
    """The correctly classified images of which the model was surest, at most `count`."""
    return _most_confident(logits, labels, True, count)


def _most_confident(logits, labels, right, count):
    _check(logits, labels, ranked=True)
    count = whole(count, "count")
    wanted = (logits.argmax(1) == labels) == right
    confidences, predictions = logits.double().softmax(1).max(1)
    order = confidences.argsort(descending=True, stable=True)
    indices = order[wanted[order]][:count]
    return Ranked(indices, labels[indices], predictions[indices], confidences[indices])
