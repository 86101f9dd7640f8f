"""From images to logits, once, and from logits to every number about them."""

import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_utils.data import normalize
from cifar_utils.errors import CifarError
from cifar_utils.machine import Machine


def predict(model, images, *, batch_size=500, precision="fp32", views=1, share=1.0):
    """Logits of all images, float32 (N, num_classes) on the CPU; the model is left as it was.

    images: uint8 (N, 3, 32, 32), on any device; batch_size of them at once, in `precision`, "fp32",
    "bf16" or "fp16". views: test-time augmentation, the logits are averaged over 1 the image alone,
    2 it and its mirror image, or 6 these two and both again shifted by a pixel up-left and
    down-right. share: in [0, 1], of the images, least confident first, that get more than one view:
    further views seldom change what a network is sure of (github.com/hiverge/cifar10-speedrun).
    Raises CifarError for another number of views or another share. Used in notebook 05.
    """
    if views not in (1, 2, 6):
        raise CifarError(f"views is {views}; choose one of 1, 2, 6")
    if not 0 <= share <= 1:
        raise CifarError(f"share is {share}; it must be in [0, 1]")
    options = {"batch_size": batch_size, "precision": precision}
    if share < 1 and views > 1 and len(images):
        logits = predict(model, images, **options)
        order = logits.softmax(1).max(1).values.argsort()
        unsure = order[: round(share * len(images))]
        if len(unsure):
            few = images[unsure.to(images.device)]
            logits[unsure] = predict(model, few, views=views, **options)
        return logits
    machine = Machine.of(model, precision)
    modes = {module: module.training for module in model.modules()}  # they need not be all alike
    model.eval()
    logits = []
    try:
        with torch.no_grad():
            for batch in images.split(batch_size):
                inputs = normalize(batch.to(machine.device))
                seen = [machine.logits(model, view) for view in _views(inputs, views)]
                logits.append(torch.stack(seen).mean(0))
    finally:  # also after Ctrl-C in a notebook
        for module, training in modes.items():
            module.training = training
    return torch.cat(logits).cpu()  # at the end: a GPU would be waited for after each batch


def _views(inputs, count):
    shifted = [inputs]
    if count == 6:
        padded = F.pad(inputs, (1,) * 4, mode="reflect")
        shifted += [padded[:, :, 2:, 2:], padded[:, :, :-2, :-2]]
    return shifted if count == 1 else shifted + [view.flip(3) for view in shifted]


# --- numbers: of logits, float (N, C), and labels, int64 (N,), both on the CPU -------------------


def cross_entropy(logits, labels):
    """Mean cross-entropy in nats; ln 10 = 2.303 for a guess without preference."""
    return F.cross_entropy(logits.float(), labels).item()


def accuracy(logits, labels):
    """Share of images whose largest logit is the right one, in [0, 1]."""
    return topk(logits, labels, k=1)


def topk(logits, labels, *, k):
    """Share of images whose right class is among the k largest logits, in [0, 1]."""
    best = logits.topk(min(k, logits.shape[1])).indices
    return (best == labels[:, None]).any(1).double().mean().item()


def per_class_accuracy(logits, labels):
    """Accuracy within each class, float64 (num_classes,); NaN for a class without images."""
    right = (logits.argmax(1) == labels).double()
    count = torch.bincount(labels, minlength=logits.shape[1])
    return torch.bincount(labels, weights=right, minlength=logits.shape[1]) / count


def confusion_matrix(logits, labels):
    """How often each true class (row) was taken for each class (column), int64 (C, C)."""
    from sklearn.metrics import confusion_matrix as count

    return count(labels, logits.argmax(1), labels=np.arange(logits.shape[1]))


def most_confused(matrix, classes, *, count=10):
    """The largest cells beside the diagonal: (true class, predicted class, images), at most `count`

    matrix: int (C, C), rows true; cells without images are left out. Used in notebook 05.
    """
    cells = [
        (classes[row], classes[column], int(images))
        for (row, column), images in np.ndenumerate(np.asarray(matrix))
        if row != column and images
    ]
    return sorted(cells, key=lambda cell: -cell[2])[:count]


def metrics(logits, labels, classes):
    """All of them in one dict of plain values: top1, top3, top5, loss, n, per_class.

    logits: float (N, C). labels: int64 (N,). Shares are in [0, 1]; per_class is a dict from the
    C names in `classes` to them, None for a class without images. Raises CifarError where N is 0.
    """
    if not len(labels):
        raise CifarError("there are no test images to evaluate on")
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


def calibration(logits, labels, *, bins=15):
    """How far confidence can be believed: the expected calibration error and its bins.

    Images are binned by confidence, the largest softmax probability. Returns (error, confidences,
    accuracies, counts): the error in [0, 1] is the mean distance of the bins' accuracy from their
    confidence, weighted by their counts (arXiv 1706.04599). The arrays have shape (bins,): the two
    means are float64, NaN for an empty bin. Used in notebook 05.
    """
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


def fit_temperature(logits, labels):
    """The number to divide logits by so that their cross-entropy is lowest, between 0.05 and 20.

    Chosen on images that the network was not trained on, and not on the test images
    (arXiv 1706.04599). Used in notebook 05.
    """
    from scipy.optimize import minimize_scalar

    logits = logits.double()
    bounds = (math.log(0.05), math.log(20))
    found = minimize_scalar(
        lambda log_t: F.cross_entropy(logits / math.exp(log_t), labels).item(), bounds=bounds
    )
    return math.exp(found.x)


# --- which images ---------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Ranked:
    """Some images of a split, most confident first; each field has shape (K,)."""

    indices: Tensor
    labels: Tensor
    predictions: Tensor
    confidences: Tensor

    def __len__(self):
        return len(self.indices)

    def __getitem__(self, chosen):
        """Fewer of them: a slice, or a list of places."""
        fields = (self.indices, self.labels, self.predictions, self.confidences)
        return Ranked(*(values[chosen] for values in fields))


def most_confident_mistakes(logits, labels, *, count=20):
    """The wrongly classified images, at most `count`, that the model was surest of."""
    return _most_confident(logits, labels, logits.argmax(1) != labels, count)


def most_confident_hits(logits, labels, *, count=20):
    """The rightly classified images, at most `count`, that the model was surest of."""
    return _most_confident(logits, labels, logits.argmax(1) == labels, count)


def _most_confident(logits, labels, wanted, count):
    confidences, predictions = logits.double().softmax(1).max(1)
    order = confidences.argsort(descending=True, stable=True)
    indices = order[wanted[order]][:count]
    return Ranked(indices, labels[indices], predictions[indices], confidences[indices])
