"""What a network learned: its first filters, its maps, what excites them, and its last layer.

These functions return numbers. `plots.show_filters`, `show_maps` and `show_patches` draw them.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_utils.checks import check_images, copied, failure_named, unwrapped
from cifar_utils.data import normalize
from cifar_utils.errors import CifarError, whole
from cifar_utils.machine import device_of
from cifar_utils.profile import stages
from cifar_utils.receptive import Window

OUTSIDE = 127  # the grey of what lies outside the image


# --- the first layer ------------------------------------------------------------------------------


def first_filters(model: nn.Module) -> Tensor:
    """The weights of the first convolution of three colours, float32 (C, 3, h, w) on the CPU.

    They come from grey to coloured, see `colour_share`. Used in notebook 08. Raises CifarError if
    the network has no such convolution.
    """
    for layer in unwrapped(model).modules():
        if isinstance(layer, nn.Conv2d) and layer.in_channels == 3 and layer.groups == 1:
            filters = layer.weight.detach().float().cpu()
            return filters[colour_share(filters).argsort(stable=True)].clone()
    raise CifarError("the network has no convolution of three colours, whose filters are pictures")


def colour_share(filters: Tensor) -> Tensor:
    """How coloured filters are, float (C,) in [0, 1]. filters: float (C, 3, h, w).

    It is the share of the squares' sum that is left if the mean over the three colours is
    subtracted: 0 if they are alike (grey), and 1 if they add up to 0 at each place.
    """
    without_grey = filters - filters.mean(1, keepdim=True)
    return _size(without_grey) / _size(filters).clamp(min=torch.finfo(filters.dtype).tiny)


def _size(filters):
    return filters.square().sum((1, 2, 3))


# --- maps, and the patches that excite them -------------------------------------------------------


def stage_maps(model: nn.Module, images: Tensor, *, batch_size: int = 500) -> list[Tensor]:
    """What leaves each stage of model.features, float32 (N, channels, h, w) each, on the CPU.

    The model is left as it was, and runs in evaluation mode. A layer that works in place does not
    reach the maps. They take much memory: those of `compact` 60 kB per image. Used in notebook 08.

    Args:
        images: uint8 (N, 3, H, W).
        batch_size: How many images go through the network at once.

    Raises:
        CifarError: An argument has another type or shape, or the network has no stages.
    """
    check_images(images)
    batch_size = whole(batch_size, "batch_size", least=1)
    parts = copied(stages(model))
    kept: list[list[Tensor]] = [[] for _ in parts]
    with torch.no_grad(), failure_named(images):
        for few in images.split(batch_size):
            maps = normalize(few.to(device_of(model)))
            for part, its in zip(parts, kept, strict=True):
                maps = part(maps)
                its.append(maps.cpu().clone())  # the next stage may write into its input
    return [torch.cat(its) for its in kept]


def strongest(maps: Tensor, *, count: int = 9) -> Tensor:
    """Where images excite one map most, int64 (K, 3): image, row, column, the strongest first.

    Each image counts once, with its largest number; of equal ones, the first. K is `count`, or less
    if there are fewer images. Derived in notebook 08.

    Args:
        maps: one map of each image, (N, h, w).

    Raises:
        CifarError: maps of another shape, or a count that is not a whole number.
    """
    if maps.ndim != 3:
        raise CifarError(f"maps: of shape {tuple(maps.shape)}, wanted (N, h, w): one per image")
    count = whole(count, "count")
    values, places = maps.flatten(1).max(1) if len(maps) else (maps.new_zeros(0),) * 2
    images = values.argsort(descending=True, stable=True)[:count]
    places = places[images].long()
    width = maps.shape[2]
    return torch.stack([images, places // width, places % width], 1)


def cut_patches(
    images: Tensor, places: Tensor, window: Window, *, outside: int = OUTSIDE
) -> Tensor:
    """The pixels that units see, cut out of their images: uint8 (K, 3, *window.size).

    Used in notebook 08.

    Args:
        images: uint8 (N, 3, H, W).
        places: int64 (K, 3), image, row and column of each unit, as `strongest` gives them.
        window: of the units' map, from `receptive.window`.
        outside: the value, from 0 to 255, of what lies beyond the image's border.

    Raises:
        CifarError: places that are none of these images, or another value for outside.
    """
    check_images(images)
    if places.ndim != 2 or places.shape[1] != 3:
        raise CifarError(f"places: of shape {tuple(places.shape)}, wanted (K, 3)")
    if len(places) and not 0 <= places[:, 0].min() <= places[:, 0].max() < len(images):
        raise CifarError(f"places: an image number is not in 0 to {len(images) - 1}")
    if not 0 <= outside <= 255:
        raise CifarError(f"outside: {outside} is not in 0 to 255")
    height, width = images.shape[2:]
    cut = images.new_full((len(places), 3, *window.size), outside)
    boxes = window.boxes(places[:, 1:])
    pairs = zip(cut, places[:, 0].tolist(), boxes.tolist(), strict=True)
    for patch, number, (top, left, bottom, right) in pairs:
        rows, columns = _inside(top, bottom, height), _inside(left, right, width)
        there = images[number, :, rows, columns]
        up, aside = rows.start - top, columns.start - left
        patch[:, up : up + there.shape[1], aside : aside + there.shape[2]] = there
    return cut


def _inside(first, end, size):
    """The part of the range from first to end that lies in 0 to size; it may be empty."""
    first = min(max(first, 0), size)
    return slice(first, max(first, min(end, size)))


def likeness(patches: Tensor) -> float:
    """How alike some pictures are: the mean correlation of the pixels over all pairs, in [-1, 1].

    patches: (K, 3, h, w), at least two, or a CifarError is raised. One of a single colour
    correlates with none. Used in notebook 08.
    """
    if len(patches) < 2:
        raise CifarError("patches: at least two are needed to compare")
    rows = patches.flatten(1).double()
    rows = F.normalize(rows - rows.mean(1, keepdim=True), dim=1)
    count = len(rows)
    return ((rows @ rows.T).sum() - rows.square().sum()).item() / (count * (count - 1))


# --- the last layer -------------------------------------------------------------------------------


def head_weight(model: nn.Module) -> Tensor:
    """The weight of the last linear layer, float32 (classes, features) on the CPU.

    Used in notebook 08. Raises CifarError if the network has no linear layer.
    """
    layers = [layer for layer in unwrapped(model).modules() if isinstance(layer, nn.Linear)]
    if not layers:
        raise CifarError("the network has no linear layer, so no class has weights of its own")
    return layers[-1].weight.detach().float().cpu().clone()


def class_cosines(weight: Tensor) -> Tensor:
    """How alike two classes are to the last layer: the cosine of their rows, (C, C) in [-1, 1].

    The mean row is subtracted first, because the softmax does not see what all classes share.
    weight: (C, features). Derived in notebook 08.
    """
    rows = F.normalize(weight - weight.mean(0), dim=1)
    return rows @ rows.T
