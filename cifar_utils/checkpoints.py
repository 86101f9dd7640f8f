"""Networks on disk: safetensors for weights, one torch file for all that a resumed run needs.

Nothing here can run code from a file: safetensors holds numbers and text only, and checkpoints are
read with weights_only=True.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_utils.checks import plain_names, unwrapped
from cifar_utils.data import CLASSES
from cifar_utils.errors import CifarError, choose, did_you_mean, shown
from cifar_utils.history import History
from cifar_utils.models import MODELS, ConvNet, build, create_model
from cifar_utils.recipes import Recipe
from cifar_utils.sources.files import expanded, write_whole
from cifar_utils.sources.sealed import built, check_finite, digest, reading, seal, unseal

_KEYS = {"model", "optimizer", "scaler", "history"}  # of a checkpoint
_MORE_KEYS = {"images", "precision"}  # precision: in older ones
UNKNOWN = "unknown data"  # the source of weights that do not say on what they were trained
PRETRAINED = Path(__file__).parent / "results" / "pretrained"


@dataclass(frozen=True)
class WeightsInfo:
    """What a weights file says about itself."""

    recipe: Recipe
    source: str
    classes: tuple[str, ...] = CLASSES
    epoch: int = 0


def save_weights(path: Path, model: nn.Module, info: WeightsInfo) -> None:
    """Write the plain state dict as safetensors, with `info` and a digest in its metadata.

    Equal weights and info give equal bytes, whether torch.compile wraps the network or not.
    """
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in unwrapped(model).state_dict().items()
    }
    about = asdict(info)
    about["digest"] = digest({**about, "tensors": tensors})
    # A single entry, because safetensors writes several in an order that changes between runs.
    metadata = {"cifar_utils": json.dumps(about)}
    write_whole(path, lambda temporary: save_file(tensors, temporary, metadata))


def load_weights(path: str | Path, *, model: str = "") -> tuple[ConvNet, WeightsInfo]:
    """(network, info) of a weights file, the network on the CPU in evaluation mode.

    Args:
        path: what `save_weights` wrote, a run's folder that holds weights.safetensors, or a plain
            state dict, as torch.save or safetensors write it.
        model: the network in MODELS of a plain state dict, which does not name it. A file that
            torch.save wrote may come from other code, whose layers have other names: its tensors
            are then taken in their order, if every shape fits.

    Raises:
        CifarError: there is no such file, it is damaged, it holds no weights or those of another
            network or some that are not finite, or it does not name its network and nor does
            `model`.
    """
    path = expanded(path)
    path = path / "weights.safetensors" if path.is_dir() else path
    with reading(path, "weights file", "choose another file, or train again"):
        if path.suffix == ".safetensors":
            tensors, about = _read_safetensors(path)
        else:
            tensors, about = _read_state_dict(path)
        if "cifar_utils" not in about:
            if "checkpoint" in about and not model:
                raise CifarError(f"it is a run's checkpoint; give the run's folder, {path.parent}")
            network, info, notice = _from_plain(path, tensors, model)
        else:
            info = _info(json.loads(about["cifar_utils"]), tensors)
            if model and model != info.recipe.model:
                raise CifarError(f"it holds weights of {info.recipe.model}, not of {model}")
            choose(info.recipe.model, MODELS, "model")
            network, notice = build(info.recipe, info.classes), ""
            _fill(network, plain_names(tensors), "its own recipe")
    if notice:  # out here, because nothing may be printed about a file that is refused
        print(shown(f"{path} {notice}"), file=sys.stderr)
    return network, info


def _info(about: dict[str, Any], tensors: dict[str, torch.Tensor]) -> WeightsInfo:
    """What the metadata says, if the tensors and it are as they were written."""
    known = unseal(about | {"tensors": tensors})
    del known["tensors"]
    known["recipe"] = Recipe.from_dict(known["recipe"])
    names = known["classes"]
    are_names = isinstance(names, list) and names and all(isinstance(name, str) for name in names)
    if not are_names or len(set(names)) < len(names):
        raise CifarError(f"classes cannot be {names!r:.60}")
    return built(WeightsInfo, known | {"classes": tuple(names)})


def _read_safetensors(path):
    """(tensors by name, metadata) of a safetensors file."""
    from safetensors import safe_open

    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise CifarError(
            "its path is not in UTF-8, and safetensors opens no other; rename it"
        ) from None
    with safe_open(path, framework="pt") as file:
        about = file.metadata() or {}
        return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118


def _read_state_dict(path):
    """(tensors by name, metadata) of a torch.save file: a state dict, alone or in a checkpoint."""
    about = {}
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a damaged file, with pages of advice
        held = None
    if isinstance(held, dict) and held.keys() >= _KEYS:  # a run's own checkpoint
        held, about = unseal(held), {"checkpoint": ""}
    for name in ("model", "state_dict", "model_state_dict", "net"):
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
    whole = isinstance(held, dict) and held and all(isinstance(name, str) for name in held)
    if not (whole and all(map(torch.is_tensor, held.values()))):
        raise CifarError(
            "it holds no plain state dict, as torch.save(model.state_dict(), PATH) writes one"
        )
    return held, about


def _from_plain(path, tensors, name):
    """(network, info, notice) of plain tensors for a network of MODELS."""
    if not name:
        raise CifarError(
            "it does not name its network; cifar test and predict take it with --model, cifar "
            "train with --from"
        )
    choose(name, MODELS, "model")
    tensors = plain_names(tensors)
    last = list(create_model(name, seed=0).state_dict())[-1]  # it has a row per class
    last = last if last in tensors else list(tensors)[-1]
    count = len(torch.atleast_1d(tensors[last]))
    if count > path.stat().st_size:  # one number that is repeated without end
        raise CifarError(f"it does not fit {name}: {last} has {count:,} rows")
    classes = CLASSES if count == len(CLASSES) else tuple(f"class {i}" for i in range(count))
    recipe = Recipe(path.stem, model=name)
    network = build(recipe, classes)
    own, order = network.state_dict(), ""
    keeps_order = path.suffix != ".safetensors"  # these are in the order of their names
    if keeps_order and tensors.keys() != own.keys() and _shapes(tensors) == _shapes(own):
        pairs = zip(own.items(), tensors.values(), strict=True)
        tensors = {key: tensor.reshape(mine.shape) for (key, mine), tensor in pairs}
        order = " in the order of its tensors, whose names are not ours"
    elif len(tensors) != len(own):
        raise CifarError(
            f"it does not fit {name}: it holds {len(tensors)} tensors, {name} has {len(own)}"
        )
    _fill(network, tensors, name)
    names = ", its 10 classes as those of CIFAR-10" if classes == CLASSES else ""
    notice = (
        f"is read as {name}{order}{names}; if it was trained with another mean and standard "
        "deviation of the pixels than ours, it does worse here"
    )
    return network, WeightsInfo(recipe, UNKNOWN, classes), notice


def _shapes(tensors):
    """The shapes without ones, because a 1×1 convolution can be a linear layer."""
    return [[size for size in tensor.shape if size > 1] for tensor in tensors.values()]


def _fill(network, tensors, what):
    """Give the network these tensors, and put it in evaluation mode."""
    check_fits(network, tensors, f"it does not fit {what}")
    network.load_state_dict(
        {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    )
    check_finite(network.state_dict(), "layer")
    network.eval()


def check_fits(model: nn.Module, tensors: dict[str, torch.Tensor], complaint: str) -> None:
    """Raise CifarError if these are not tensors of the network's names, shapes and kinds.

    Ask before load_state_dict, which loads what fits before it raises. complaint: how the error
    begins.
    """
    own = model.state_dict()
    for name in [*own, *tensors]:
        if name not in tensors or name not in own:
            what = "is missing" if name in own else "is unknown to it"
            raise CifarError(f"{complaint}: {name:.60} {what}")
    for name, mine in own.items():
        if tensors[name].shape != mine.shape:
            shapes = tuple(tensors[name].shape), tuple(mine.shape)
            raise CifarError(f"{complaint}: {name} has the shape {shapes[0]}, not {shapes[1]}")
        if tensors[name].is_floating_point() != mine.is_floating_point():
            raise CifarError(f"{complaint}: {name} is {tensors[name].dtype}, not {mine.dtype}")


def pretrained_names() -> list[str]:
    """The names of the networks that ship with the package."""
    return sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))


def load_pretrained(name: str) -> tuple[ConvNet, WeightsInfo]:
    """(model, info) of a network that ships with the package.

    Raises CifarError for an unknown name, and if the file's SHA-256 is not the recorded one.
    """
    choose(name, pretrained_names(), "network")
    path = PRETRAINED / f"{name}.safetensors"
    recorded = History.load(path.with_suffix(".json")).sha256
    with reading(path, "weights file", "reinstall cifar_utils"):
        if hashlib.sha256(path.read_bytes()).hexdigest() != recorded:
            raise CifarError("it is damaged: its SHA-256 is not the recorded one")
    return load_weights(path)


def find_weights(where: str | Path, *, model: str = "") -> tuple[ConvNet, WeightsInfo]:
    """(network, info) of a shipped network by its name, or of a path: a file or a run's folder.

    Write ./NAME for a folder that is called like a shipped network. model: as in `load_weights`.
    Raises CifarError for anything else, and as `load_pretrained` and `load_weights` do.
    """
    if model:
        choose(model, MODELS, "model")
    if where in pretrained_names():
        network, info = load_pretrained(str(where))
        if model and model != info.recipe.model:
            raise CifarError(f"{where} holds weights of {info.recipe.model}, not of {model}")
        return network, info
    path = expanded(where)
    if path.exists() or path.suffix or len(path.parts) > 1:
        return load_weights(path, model=model)
    names = pretrained_names()
    raise CifarError(
        f"{where!r} is neither a path nor one of the shipped networks: {', '.join(names)}"
        f"{did_you_mean(str(where), names)}"
    )


def start_from(model: nn.Module, recipe: Recipe, classes: Sequence[str]) -> None:
    """Give `model` the trained weights that the recipe starts from.

    If they know other classes than `classes`, the last layer keeps its first weights, and a notice
    says so. Weights that learned from the validation images flatter validation: of the shipped
    networks only those called -val did not. Raises CifarError for weights of another network, and
    as `find_weights` does.
    """
    model = unwrapped(model)
    trained, info = find_weights(recipe.start_from, model=recipe.model)
    tensors = trained.state_dict()
    fits = tuple(classes) == info.classes
    if info.source == UNKNOWN:  # which names no classes
        fits = len(classes) == len(info.classes)
    if not fits:
        last = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
        tensors |= {k: v for k, v in model.state_dict().items() if k.startswith(f"{last}.")}
        notice = (
            f"{recipe.start_from} knows {', '.join(info.classes)}; the data has "
            f"{', '.join(classes)}: the last layer starts anew"
        )
        print(shown(notice), file=sys.stderr)
    check_fits(model, tensors, f"{recipe.start_from} does not fit the network")
    model.load_state_dict(tensors)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state() of a Run with its digest, whole or not at all."""
    sealed = seal(state)
    write_whole(path, lambda temporary: torch.save(sealed, temporary))


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a Run that save_checkpoint wrote, on the CPU; CifarError for anything else."""
    remedy = "start the run anew (--overwrite), or go on from its weights (--from)"
    with reading(path, "checkpoint", remedy):
        state = torch.load(path, map_location="cpu", weights_only=True)
        if not isinstance(state, dict) or not state.keys() >= _KEYS:
            raise CifarError("it is not the checkpoint of a run")
        state = unseal(state)
        for name in state.keys() - _KEYS - _MORE_KEYS:
            raise CifarError(f"unknown entry {name!r:.60}; a newer cifar_utils may know it")
        if not _has_form_of_a_state(state):
            raise CifarError("it is not the checkpoint of a run")
        History.from_json(state["history"])
        check_finite(state, "its")
    return state


def _has_form_of_a_state(state):
    """Whether the entries of a checkpoint are what a Run's state() holds. The history is apart."""
    optimizer, scaler = state["optimizer"], state["scaler"]
    return (
        all(map(torch.is_tensor, state["model"].values()))
        and all(isinstance(group["params"], list) for group in optimizer["param_groups"])
        and all(isinstance(values, dict) for values in optimizer["state"].values())
        and (not scaler or scaler.keys() == torch.amp.GradScaler("cpu").state_dict().keys())
        and all(isinstance(value, (int, float)) for value in scaler.values())
        and isinstance(state.get("images", ""), str)
    )


def check_optimizer_fits(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> None:
    """Raise CifarError if this is not the state of an optimizer of the same parameters.

    Ask before load_state_dict, which notices less, and too late.
    """
    own, kept = optimizer.param_groups, state["param_groups"]
    if [len(group["params"]) for group in own] != [len(group["params"]) for group in kept]:
        raise CifarError("the checkpoint's optimizer has other groups of parameters")
    for mine, group in zip(own, kept, strict=True):
        for name, value in mine.items():
            number = isinstance(value, (int, float))
            if number and not isinstance(group.get(name, value), (int, float)):
                raise CifarError(f"the checkpoint's {name} cannot be {group[name]!r:.60}")
        for weight, number in zip(mine["params"], group["params"], strict=True):
            for name, value in state["state"].get(number, {}).items():
                if torch.is_tensor(value) and value.ndim and value.shape != weight.shape:
                    raise CifarError(
                        f"the checkpoint's {name} has the shape {tuple(value.shape)} in place of "
                        f"{tuple(weight.shape)}"
                    )
