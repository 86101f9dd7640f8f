"""Which method, stages and smoothing Grad-CAM should use by default, measured on held-out images.

A heatmap is good if it shows something, if the pixels that it heats matter to the answer, and if it
would be another one for another class. You cannot see all three by looking at a map.
"""

from collections.abc import Iterable, Sequence
from typing import Any, get_args

import torch
import torch.nn.functional as F
from torch import Tensor

from cifar_utils.data import Split, stratified
from cifar_utils.evaluate import predict
from cifar_utils.explain import STAGES, Method, grad_cam
from cifar_utils.machine import generator
from cifar_utils.models import ConvNet

Row = dict[str, Any]  # plain values, ready for JSON

# Two methods may heat what speaks against the class, or look at no class, and two take more than
# twenty times as long (notebook 08).
LEFT_OUT = ("eigencam", "eigengradcam", "scorecam", "ablationcam")
METHODS: tuple[Method, ...] = tuple(name for name in get_args(Method) if name not in LEFT_OUT)

SHARES = (0.2, 0.4, 0.6, 0.8)  # of the pixels that are taken away


def measure(model: ConvNet, split: Split, *, count: int = 50) -> list[Row]:
    """One row per method, choice of stages and smoothing, over `count` images of `split`.

    The images are drawn with the same share of each class. The maps are those of the predicted
    class. Smoothing is tried on the deepest stage only, because it takes six times as long.

    Returns:
        Rows with the keys method, stage, smooth and
        empty: the share of the maps that are zero everywhere, in [0, 1].
        score: the mean `faithfulness` of the maps, in [-1, 1].
        alike: the mean rank correlation with the maps of the second likeliest class, in [-1, 1].
        Pairs with an empty map are left out; None if no pair remains.
        The last row is of a map that never saw the image, a blob in the middle of it.
    """
    few = split[stratified(split.labels, count)]
    said, second = predict(model, few.images).topk(2).indices.T
    rows = []
    for method in METHODS:
        for stage in STAGES:
            for smooth in (False, True) if stage == "deepest" else (False,):
                options: Row = {"method": method, "stage": stage, "smooth": smooth}
                maps, other = (
                    grad_cam(model, few.images, targets, **options) for targets in (said, second)
                )
                rows.append(options | _judged(model, few, said, maps, other))
    axis = torch.arange(32) - 15.5
    blob = (-(axis[:, None] ** 2 + axis**2) / 200).exp().expand(len(few), 32, 32)
    score = faithfulness(model, few.images, said, blob).mean().item()
    same = {"stage": "–", "smooth": False, "empty": 0.0, "alike": 1.0}  # for every class
    return [*rows, {"method": "blob in the middle", **same, "score": round(score, 4)}]


def _judged(model, few, said, maps, other):
    alike = rank_correlation(maps, other)
    drawn = alike[~alike.isnan()]
    return {
        "empty": (maps.amax((1, 2)) == 0).double().mean().item(),
        "score": round(faithfulness(model, few.images, said, maps).mean().item(), 4),
        "alike": round(drawn.mean().item(), 4) if len(drawn) else None,
    }


def faithfulness(model: ConvNet, images: Tensor, targets: Tensor, heatmaps: Tensor) -> Tensor:
    """How much more it hurts to blur the hottest pixels than the coldest, float32 (N,) in [-1, 1].

    That is the probability of the target class with a share of the coldest pixels blurred, minus
    that with the same share of the hottest, averaged over SHARES. Deletion and insertion
    (arXiv 1806.07421) are its two parts, and a random order has 0 on average. Where heat is equal,
    a random coarse map decides. Used in notebook 08 in a longer form.

    images: uint8 (N, 3, 32, 32). targets: int64 (N,). heatmaps: float (N, 32, 32).
    """
    from torchvision.transforms.v2.functional import gaussian_blur

    blurred = gaussian_blur(images, [21, 21], [5.0, 5.0])
    ties = torch.rand(len(heatmaps), 1, 4, 4, generator=generator(0))
    heat = heatmaps + 1e-4 * F.interpolate(ties, size=32, mode="bilinear")[:, 0]
    # Each pixel's place in the order, from 0 for the hottest to 1.
    place = heat.flatten(1).argsort(1, descending=True).argsort(1).view(-1, 1, 32, 32) / 1024
    lead = torch.zeros(len(images))
    for share in SHARES:
        without_hot = torch.where(place < share, blurred, images)
        without_cold = torch.where(place >= 1 - share, blurred, images)
        for sign, changed in ((1, without_cold), (-1, without_hot)):
            chances = predict(model, changed).softmax(1)
            lead += sign * chances.gather(1, targets[:, None])[:, 0]
    return lead / len(SHARES)


def rank_correlation(first: Tensor, second: Tensor) -> Tensor:
    """Spearman's, of each pair of maps (N, H, W), in [-1, 1]; NaN if one of a pair is flat.

    1 means that both order the pixels alike, 0 that the orders have nothing in common.
    """
    from scipy.stats import rankdata

    ranks = [torch.from_numpy(rankdata(maps.flatten(1), axis=1)) for maps in (first, second)]
    a, b = (r - r.mean(1, keepdim=True) for r in ranks)
    return (a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))


def mean_rows(networks: Iterable[Sequence[Row]]) -> list[Row]:
    """The rows of `measure` for several networks, averaged over them."""
    means = []
    for same in zip(*networks, strict=True):
        row = dict(same[0])
        for key in ("empty", "score", "alike"):
            values = [one[key] for one in same if one[key] is not None]
            row[key] = round(sum(values) / len(values), 4) if values else None
        means.append(row)
    return means


COLUMNS = {
    "method": ("method", ""),
    "stages": ("stage", ""),
    "smooth": ("smooth", ""),
    "empty maps": ("empty", ".0%"),
    "score": ("score", "+.3f"),
    "alike": ("alike", "+.2f"),
}
