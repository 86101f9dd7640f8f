"""The backbones of notebook 09: one that has seen five of CIFAR-10's ten classes, and ImageNet's.

    python -m cifar_utils.course.transfer

trains the first one anew from CIFAR-10 and writes the two files that ship. Training the shipped one
took 16 minutes on one core, busy with other work besides.
"""

import copy
import hashlib
import pickle
from dataclasses import replace
from pathlib import Path

import torch
from torch import nn

from cifar_utils import checkpoints
from cifar_utils.data import CLASSES, Cifar, load
from cifar_utils.errors import CifarError, reason
from cifar_utils.history import History
from cifar_utils.models import ConvNet, build
from cifar_utils.recipes import Recipe, get_recipe
from cifar_utils.sources.download import download
from cifar_utils.sources.sealed import reading
from cifar_utils.train import fit

# The data set's own order divides the classes, so nobody chose: animals and vehicles on both sides.
OLD, NEW = CLASSES[:5], CLASSES[5:]
BACKBONE = checkpoints.PRETRAINED.with_name("backbones") / "first-five.safetensors"
RECIPE = get_recipe("compact").changed(name="first-five", epochs=15)

IMAGENET_SIZE = 48_000_000  # bytes; torchvision's file has a little fewer


def train_backbone(cifar: Cifar, recipe: Recipe = RECIPE) -> tuple[ConvNet, History]:
    """A network trained on the images of OLD alone, and its History. Used in notebook 09.

    The validation images that `history` tells about are those of OLD, too.
    """
    train, val = cifar.train.of_classes(OLD), cifar.val.of_classes(OLD)
    model = build(recipe, OLD)
    history = fit(model, train, val, recipe)
    model.cpu().eval()
    return model, history


def load_backbone(path: Path = BACKBONE) -> tuple[ConvNet, History]:
    """The shipped backbone, in evaluation mode on the CPU, and its History. Used in notebook 09.

    Raises CifarError if a file is missing, or if the SHA-256 is not the recorded one.
    """
    history = History.load(path.with_suffix(".json"))
    with reading(path, "weights file", "reinstall cifar_utils"):
        if hashlib.sha256(path.read_bytes()).hexdigest() != history.sha256:
            raise CifarError("it is damaged: its SHA-256 is not the recorded one")
    network, _ = checkpoints.load_weights(path)
    return network, history


def save_backbone(model: ConvNet, history: History, path: Path = BACKBONE) -> None:
    """Write weights in half precision and the History, with the weights' SHA-256, beside them."""
    info = checkpoints.WeightsInfo(history.recipe, history.source, OLD, history.recipe.epochs)
    path.parent.mkdir(parents=True, exist_ok=True)
    checkpoints.save_weights(path, copy.deepcopy(model).half(), info)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    replace(history, sha256=digest).save(path.with_suffix(".json"))


def imagenet_backbone(*, fetch: bool) -> nn.Module | None:
    """torchvision's ResNet-18 as trained on ImageNet, without its head; None if it is not here.

    It turns float images (N, 3, H, W), normalised as ImageNet's were, into features (N, 512). Its
    weights are taken from torch's own cache. If they are not there, fetch=True downloads them, in
    47 MB, from a server that is given up as soon as it is silent or slow. A line says why there are
    none. Used in notebook 09.
    """
    from torchvision.models import ResNet18_Weights, resnet18

    url = ResNet18_Weights.IMAGENET1K_V1.url
    path = Path(torch.hub.get_dir()) / "checkpoints" / url.rpartition("/")[2]
    if not path.is_file() and not fetch:
        print(f"No ImageNet weights here: {path.name} is not in torch's cache.")
        return None
    digest = path.stem.rpartition("-")[2]  # the beginning of its SHA-256
    try:
        if fetch:  # a whole file that is there already is left as it is
            download(path, [url], digest, size=IMAGENET_SIZE, algorithm="sha256")
        network = resnet18()
        network.load_state_dict(torch.load(path, map_location="cpu", weights_only=True))
    except (CifarError, OSError, RuntimeError, EOFError, pickle.UnpicklingError) as problem:
        print(f"No ImageNet weights here: {reason(problem)}")
        return None
    network.fc = nn.Identity()  # type: ignore[assignment]
    return network.eval().requires_grad_(False)


if __name__ == "__main__":
    save_backbone(*train_backbone(load(source="cifar10")))
    print(f"written to {BACKBONE}")
