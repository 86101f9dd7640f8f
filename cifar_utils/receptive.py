"""The receptive field of any network, found by following what its operations do.

Layers do not tell: branches, functions in `forward` and layers that run twice are not seen among
them. So the network runs once, and each operation of torch hands on what its inputs see.
"""

import math
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cifar_utils.checks import copied, failure_named
from cifar_utils.errors import CifarError
from cifar_utils.machine import device_of


def receptive_field(model: nn.Module) -> int:
    """How many pixels of the input one unit of the last feature map can see, along one axis.

    That map is what `model.features` returns or, in other networks, the last one before its places
    are pooled or flattened. Its field follows from the operations that run for a 32×32 image,
    whatever the layers are called, along the longest path and the longer axis. Pooling to a single
    place does not count. Used in notebook 04.

    Raises:
        CifarError: the network does not take such an image, the unit sees all of it, whatever its
            size, or the field cannot be followed through an operation, which is named.
    """
    seen = _ends(model)
    field = max(view.field for view in seen)
    if field == math.inf:
        raise CifarError(_SEES_ALL)
    return int(field)


class Window(NamedTuple):
    """Which pixels the units of a map see. Each field is a pair: of rows, then of columns.

    The unit in row i sees `size` rows of pixels, from `start + i * step` on, and the columns
    likewise. Pixels outside the image do not exist; the network's padding stands in for them.
    """

    size: tuple[int, int]
    step: tuple[int, int]
    start: tuple[int, int]

    def boxes(self, places: Tensor) -> Tensor:
        """From rows and columns of units, int64 (K, 2), to what they see, int64 (K, 4).

        A box is (top, left, bottom, right): rows from top up to, but not including, bottom; columns
        from left up to, but not including, right. It may reach beyond the image.
        """
        first = torch.tensor(self.start) + places.cpu() * torch.tensor(self.step)
        return torch.cat([first, first + torch.tensor(self.size)], 1)


def window(model: nn.Module) -> Window:
    """The smallest box of pixels that holds all that a unit of the last feature map sees.

    It is followed as in `receptive_field`, for each axis by itself. model: a network that ends in
    maps, such as `model.features[:2]`, or one with `features`. Used in notebook 08.

    Raises:
        CifarError: as `receptive_field` does, and if the network does not end in maps.
    """
    (view, *others) = _ends(model)
    if others or view.spans is None:
        raise CifarError("the network does not end in one stack of maps; give model.features[:2]")
    if view.field == math.inf:
        raise CifarError(_SEES_ALL)
    firsts, lasts, steps = zip(*view.spans, strict=True)
    sizes = (int(last - first + 1) for first, last in zip(firsts, lasts, strict=True))
    return Window(tuple(sizes), tuple(steps), tuple(map(int, firsts)))  # type: ignore[arg-type]


_SEES_ALL = "a unit of the last feature map sees the whole image, whatever its size"


def _ends(model):
    """The _View of each tensor that the features, or else the network, return."""
    twin = copied(model)
    twin = twin if device_of(twin).type == "meta" else twin.cpu()
    maps = []
    features = getattr(twin, "features", None)
    if isinstance(features, nn.Module):
        features.register_forward_hook(lambda layer, inputs, output: maps.append(output))
    image = torch.zeros(1, 3, 32, 32, device=device_of(twin))
    with torch.no_grad(), failure_named(), _Walk(image) as walk:
        logits = twin(image)
    ends = maps[-1] if maps else logits
    seen = [walk.seen(end) for end in tree_leaves(ends) if torch.is_tensor(end)]
    seen = [view for view in seen if view]
    if not seen:
        raise CifarError("the network's output does not depend on the image")
    lost = [view.lost or view.end for view in seen if view.lost or not _is_pooled_or_flat(view)]
    if lost:
        raise CifarError(f"the field cannot be followed through the operation {lost[0]}")
    return seen


@dataclass(frozen=True)
class _View:
    """What one place of a tensor sees of the image.

    spans: for rows and columns (first, last, step): the pixels that place 0 sees and how many
    pixels further those of the next place begin; None if the tensor has no places any more. field:
    of the tensor, or of the last one that had places. end: what ended them, "" for pooling to one
    place. lost: the operation that the field cannot be followed through.
    """

    spans: tuple[tuple[float, float, int], ...] | None
    field: float
    end: str = ""
    lost: str = ""


def _is_pooled_or_flat(view):
    """Whether the tensor still has places, or has lost them in a way that ends the maps."""
    return view.end in ("", *_RESHAPES, *_MEANS) or "pool" in view.end


def _placed(spans):
    return _View(tuple(spans), max(last - first + 1 for first, last, _ in spans))


def _whole(view):
    return _placed([(-math.inf, math.inf, step) for _, _, step in view.spans])


# Operations that treat each place by itself, beside those that torch calls pointwise.
_BY_PLACE = {
    "_prelu_kernel", "_to_copy", "alias", "channel_shuffle", "copy_", "detach", "elu_",
    "hardswish", "hardswish_", "hardsigmoid", "hardsigmoid_", "log_sigmoid_forward",
}  # fmt: skip
_RESHAPES = {"view", "_unsafe_view", "expand", "reshape", "_reshape_alias"}
_MEANS = {"mean", "sum", "amax", "amin"}


class _Walk(TorchDispatchMode):
    """Inside it, every operation of torch hands on what the places of its inputs see."""

    def __init__(self, image: Tensor) -> None:
        super().__init__()
        self.views: dict[int, tuple[Tensor, _View]] = {}  # by id, of tensors that are kept
        self.written: dict[int, _View] = {}  # by storage, of tensors that were changed in place
        self._note(image, _placed([(0, 0, 1), (0, 0, 1)]))

    def seen(self, tensor: Tensor) -> _View | None:
        """What the tensor sees; None if it does not depend on the image."""
        _, view = self.views.get(id(tensor), (None, None))
        return view or self.written.get(tensor.untyped_storage()._cdata)

    def _note(self, tensor, view):
        self.views[id(tensor)] = tensor, view

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)]
        inputs = [(tensor, view) for tensor in tensors if (view := self.seen(tensor))]
        returned = function(*args, **kwargs)
        results = [leaf for leaf in tree_leaves(returned) if torch.is_tensor(leaf)]
        if inputs and results:
            schema = function._schema
            given = {a.name: a.default_value for a in schema.arguments if a.has_default_value()}
            given |= dict(zip([a.name for a in schema.arguments], args, strict=False)) | kwargs
            view = _after(function, given, inputs, results[0])
            for result in results:
                self._note(result, view)
                if schema.is_mutable:
                    self._write(result, view, schema.name)
        return returned

    def _write(self, result, view, name):
        """A tensor was changed in place, and with it all that share its memory."""
        storage = result.untyped_storage()
        lost = replace(view, lost=view.lost or name)
        for tensor, other in list(self.views.values()):
            if tensor.untyped_storage()._cdata == storage._cdata and other != view:
                self._note(tensor, lost)
        whole = result.numel() * result.element_size() == storage.nbytes()
        self.written[storage._cdata] = view if whole else lost


def _after(function, given, inputs, result):
    """The _View of an operation's result. given: its arguments; inputs: (tensor, _View) pairs."""
    name = function._schema.name.partition("::")[2]
    data, view = inputs[0]
    views = [other for _, other in inputs]
    field = max(other.field for other in views)
    lost = next((other.lost for other in views if other.lost), "")
    end = next((other.end for other in views if other.end), "")
    slides = name in ("convolution", "max_pool2d_with_indices", "avg_pool2d")
    if lost:
        return _View(None, field, end, lost)
    if all(other.spans is None for other in views):
        moved = slides and data.ndim > 3 and math.prod(data.shape[2:]) > 1
        return _View(None, field, end, (end or "pooling") if moved else "")
    unclear = _View(None, field, name)
    if slides:
        weight, stride = given.get("weight"), given["stride"]
        kernel = given["kernel_size"] if weight is None else weight.shape[2:]
        if len(inputs) > 1 or data.ndim != 4 or len(kernel) > 2 or given.get("transposed"):
            return unclear
        return _placed([
            (first - pad * step, last + ((size - 1) * apart - pad) * step, step * hop)
            for (first, last, step), size, hop, pad, apart in zip(
                view.spans, _pair(kernel), _pair(stride or kernel), _pair(given["padding"]),
                _pair(given.get("dilation", 1)), strict=True,
            )
        ])  # fmt: skip
    if name in ("constant_pad_nd", "reflection_pad2d", "replication_pad2d"):
        pads = [*given.get("pad", given.get("padding")), 0, 0][:4]  # left, right, top, bottom
        return _shifted(view, -pads[2], -pads[0])
    if "batch_norm" in name:
        return _whole(view) if given.get("training") else view
    if name in ("native_group_norm", "native_layer_norm"):
        return _whole(view)
    dims = [given[key] for key in ("dim", "dims", "dim0", "dim1") if given.get(key) is not None]
    count = data.ndim + (name in ("unsqueeze", "stack"))
    dims = [dim % count for dim in tree_leaves(dims)]
    rows = count - 2
    if name == "slice" and dims[0] >= rows:
        start, hop = slice(given["start"], None).indices(data.shape[dims[0]])[0], given["step"]
        starts, hops = ((start, 0), (hop, 1)) if dims[0] == rows else ((0, start), (1, hop))
        return _shifted(view, *starts, hops=hops)
    if (name in _MEANS and {rows, rows + 1} <= set(dims)) or (
        name in ("_adaptive_avg_pool2d", "adaptive_max_pool2d")
        and math.prod(given["output_size"]) == 1
    ):
        return _View(None, field)
    if name == "permute":
        by_place = dims[-2:] == [rows, rows + 1]
    elif dims:
        by_place = max(dims) < rows
    else:
        by_place = torch.Tag.pointwise in function.tags or name in _BY_PLACE | _RESHAPES
    return _together(inputs, result, name) if by_place else unclear


def _together(inputs, result, name):
    """The _View of a result each of whose places comes from the same place of all inputs."""
    maps = [(tensor, view) for tensor, view in inputs if view.spans is not None]
    field = max(view.field for _, view in inputs)
    steps = {tuple(step for _, _, step in view.spans) for _, view in maps}
    alike = all(tensor.shape[-2:] == result.shape[-2:] for tensor, _ in maps)
    if len(steps) > 1 or not alike:
        return _View(None, field, name)
    if len(maps) < len(inputs):
        end = next((view.end for _, view in inputs if view.end), "")
        return _View(None, field, end, end) if end else _whole(maps[0][1])
    spans = zip(*(view.spans for _, view in maps), strict=True)
    return _placed([
        (min(first for first, _, _ in axis), max(last for _, last, _ in axis), axis[0][2])
        for axis in spans
    ])  # fmt: skip


def _shifted(view, down, right, *, hops=(1, 1)):
    return _placed([
        (first + start * step, last + start * step, step * hop)
        for (first, last, step), start, hop in zip(view.spans, (down, right), hops, strict=True)
    ])  # fmt: skip


def _pair(value):
    value = list(value) if isinstance(value, (list, tuple, torch.Size)) else [value]
    return value * 2 if len(value) == 1 else value
