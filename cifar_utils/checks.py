"""Networks, images and labels as others hand them over: wrapped, of a wrong type or shape.

`fit`, `predict` and `grad_cam` ask here first, so that a mistake is one line that says what to do.
"""

import copy
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from cifar_utils.data import Split, normalize
from cifar_utils.errors import CifarError, first_line
from cifar_utils.machine import device_of

# --- images and labels ----------------------------------------------------------------------------


def check_images(images: Tensor, name: str = "images") -> None:
    """Raise CifarError if they are not uint8 (N, 3, H, W), with the way to make them so."""
    if not torch.is_tensor(images):
        kind, remedy = type(images).__name__, "torch.from_numpy(…) makes one"
        if isinstance(images, Split):
            remedy = "its .images are one"
        elif isinstance(images, (list, tuple)):
            remedy = "torch.stack(…) makes one"
        raise CifarError(f"{name}: of type {kind}, wanted a tensor; {remedy}")
    shape = tuple(images.shape)
    if len(shape) != 4 or shape[1] != 3 or 0 in shape[2:]:
        remedy = ""
        if len(shape) == 4 and shape[3] == 3:
            remedy = "; permute(0, 3, 1, 2) puts the channels where they belong"
        elif len(shape) == 3 and shape[0] == 3:
            remedy = "; images[None] makes one image a batch"
        elif len(shape) == 4 and shape[1] == 1:
            remedy = "; expand(-1, 3, -1, -1) makes grey images RGB"
        raise CifarError(f"{name}: of shape {shape}, wanted (N, 3, H, W){remedy}")
    if images.dtype != torch.uint8:
        raise CifarError(
            f"{name}: of type {images.dtype}, wanted uint8 from 0 to 255; for floats from 0 to 1 "
            "that is (255 * images).round().byte()"
        )


def check_labels(labels: Tensor, images: int, classes: int, name: str = "labels") -> None:
    """Raise CifarError if they are not int64 (images,) from 0 to classes - 1."""
    if not torch.is_tensor(labels):
        kind = type(labels).__name__
        raise CifarError(f"{name}: of type {kind}, wanted a tensor; torch.tensor(…) makes one")
    if labels.ndim != 1:
        shape, remedy = tuple(labels.shape), "flatten() drops sizes of 1"
        if shape == (images, classes) and classes > 1:  # one-hot, or logits
            remedy = "argmax(1) makes numbers of classes"
        raise CifarError(f"{name}: of shape {shape}, wanted (N,); {remedy}")
    if labels.dtype != torch.int64:
        raise CifarError(f"{name}: of type {labels.dtype}, wanted int64; long() converts integers")
    if len(labels) != images:
        raise CifarError(f"there are {images} images and {len(labels)} {name}; give one per image")
    if images:
        low, high = labels.min().item(), labels.max().item()
        if low < 0 or high >= classes:
            raise CifarError(
                f"{name}: from {low} to {high}, but the {classes} classes count from 0 to "
                f"{classes - 1}"
            )


def check_split(split: Split, name: str) -> None:
    """Raise CifarError if it is not a Split, or if its parts do not fit together."""
    if not isinstance(split, Split):
        kind = type(split).__name__
        raise CifarError(f"{name}: of type {kind}; give a Split of cifar_utils.data")
    check_images(split.images, f"{name}.images")
    check_labels(split.labels, len(split.images), len(split.classes), f"{name}.labels")
    if not torch.is_tensor(split.indices) or split.indices.shape != split.labels.shape:
        raise CifarError(f"{name}.indices: wanted torch.arange(N), or another number per image")


# --- networks -------------------------------------------------------------------------------------


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Inside it, the network is in evaluation mode and keeps no gradients."""
    modes = {module: module.training for module in model.modules()}  # they need not be all alike
    model.eval()
    try:
        with torch.no_grad():
            yield
    finally:  # also after Ctrl-C in a notebook
        for module, training in modes.items():
            module.training = training


@contextmanager
def failure_named(images: Tensor | None = None, remedy: str = "") -> Iterator[None]:
    """Inside it, whatever a network raises becomes a CifarError of one line.

    images: uint8 (N, 3, H, W), whose size the line names; None for 32×32. remedy: its end.
    """
    try:
        yield
    except (CifarError, MemoryError, torch.OutOfMemoryError):
        raise
    except Exception as error:
        shape = (3, 32, 32) if images is None else tuple(images.shape[1:])
        raise CifarError(
            f"the network fails on an image of shape {shape}, normalised float32: "
            f"{first_line(error)}{remedy}"
        ) from error


def check_kind(model: nn.Module) -> None:
    """Raise CifarError if it is not a network."""
    if not isinstance(model, nn.Module):
        raise CifarError(f"the network is of type {type(model).__name__}; give a torch.nn.Module")


def check_network(model: nn.Module, images: Tensor, classes: int | None = None) -> int:
    """How many logits the network has per image, after two black images of the size of these.

    Two, because a network that mixes the images of a batch may look right with one. Nothing of the
    network or of torch's random generators changes. Raises CifarError if it fails, or if what comes
    out is not float (2, classes). If `classes` is None, any number of them will do.
    """
    check_kind(model)
    plain, device = unwrapped(model), device_of(model)
    kinds = {weight.dtype for weight in plain.parameters() if weight.is_floating_point()}
    remedy = "" if kinds <= {torch.float32} else "; model.float() makes its weights float32"
    inputs = normalize(torch.zeros(2, *images.shape[1:], dtype=torch.uint8)).to(device)
    takes = f"two images of shape {tuple(images.shape[1:])}"
    gpus = [device] if device.type == "cuda" else []
    with failure_named(images, remedy), evaluating(plain), torch.random.fork_rng(devices=gpus):
        logits = plain(inputs)
    if not torch.is_tensor(logits):
        raise CifarError(f"the network returns a {type(logits).__name__}; wanted logits alone")
    if not logits.is_floating_point() or logits.ndim != 2 or len(logits) != 2:
        raise CifarError(
            f"the network turns {takes} into {logits.dtype} of shape {tuple(logits.shape)}; wanted "
            "float logits of shape (2, classes)"
        )
    if classes and (logits >= 0).all() and ((logits.sum(1) - 1).abs() < 1e-3).all():
        warnings.warn(
            "the network returns probabilities, which learn slowly; leave out its softmax, because "
            "the loss has one",
            stacklevel=3,
        )
    if logits.shape[1] != (classes or logits.shape[1]):
        raise CifarError(f"the network has {logits.shape[1]} logits for {classes} classes")
    return logits.shape[1]


def check_training(model: nn.Module, train: Split, val: Split | None) -> None:
    """Raise CifarError if the network cannot be trained on these images."""
    check_split(train, "train")
    if not len(train):
        raise CifarError("there are no training images")
    if val is not None:
        check_split(val, "val")
        if tuple(val.classes) != tuple(train.classes):
            raise CifarError("val has other classes than train; give two parts of one data set")
    check_network(model, train.images, len(train.classes))
    if not any(parameter.requires_grad for parameter in model.parameters()):
        raise CifarError("the network has no weights to train; requires_grad_(True) thaws them")


def unwrapped(model: nn.Module) -> nn.Module:
    """The network itself, if torch.compile, DataParallel or DistributedDataParallel wraps it.

    Both share their weights, but a wrapper puts a word of its own before the name of each.
    """
    while True:
        if isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel)):
            model = model.module
        elif "_orig_mod" in getattr(model, "_modules", ()):  # torch.compile's wrapper
            model = model._orig_mod  # type: ignore[assignment]
        else:
            return model


def plain_names(tensors: dict[str, Any]) -> dict[str, Any]:
    """A state dict without the words that wrappers have put before its names."""
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): tensors[name] for name in tensors}


def named_for(model: nn.Module, tensors: dict[str, Any]) -> dict[str, Any]:
    """A state dict with the names of `model`, a network without a wrapper."""
    return tensors if tensors.keys() == model.state_dict().keys() else plain_names(tensors)


def copied(model: nn.Module) -> Any:
    """A copy of the network itself, in float32 and evaluation mode, to be changed at will.

    Raises CifarError if `model` is not a network, or holds what torch cannot copy.
    """
    return twin_of(model).float().eval()


def twin_of(model: nn.Module) -> Any:
    """A copy of the network itself, as it is. Raises CifarError as `copied` does."""
    check_kind(model)
    try:
        return copy.deepcopy(unwrapped(model))
    except (RuntimeError, TypeError) as error:
        raise CifarError(
            "the network cannot be copied; if a forward pass keeps a tensor in an attribute, set "
            f"that to None first ({first_line(error)})"
        ) from error
