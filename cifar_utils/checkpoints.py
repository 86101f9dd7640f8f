"""Networks on disk: safetensors for weights, one torch file for all that a resumed run needs.

Nothing here can run code from a file: safetensors holds numbers and text only, and checkpoints are
read with weights_only=True.
"""

import hashlib
import json
import re
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_utils.data import CLASSES
from cifar_utils.errors import CifarError, choose, did_you_mean, shown
from cifar_utils.models import MODELS, ConvNet, build, create_model
from cifar_utils.recipes import Recipe
from cifar_utils.sources.files import write_whole

_KEYS = {"model", "optimizer", "scaler", "history", "precision"}  # of a checkpoint
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
    """Write the plain state dict as safetensors, with `info` in its metadata.

    Equal weights and info give equal bytes.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    tensors = {
        name: value.detach().cpu().clone(memory_format=torch.contiguous_format)
        for name, value in model.state_dict().items()
    }
    # A single entry, because safetensors writes several in an order that changes between runs.
    metadata = {"cifar_utils": json.dumps(asdict(info))}
    with _failed_writes_named(path, SafetensorError):
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
        CifarError: there is no such file, it holds no weights or those of another network, or it
            does not name its network and nor does `model`.
    """
    path = Path(path)
    path = path / "weights.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise CifarError(f"there are no weights at {path}")
    if path.suffix == ".safetensors":
        tensors, about = _read_safetensors(path)
    else:
        tensors, about = _read_state_dict(path), {}
    if model and "cifar_utils" not in about:
        return _from_plain(path, tensors, model)
    try:
        known = json.loads(about["cifar_utils"])
        recipe, classes = Recipe.from_dict(known["recipe"]), tuple(known["classes"])
        info = WeightsInfo(recipe, known["source"], classes, known["epoch"])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise CifarError(
            f"{path} does not name its network; cifar test and predict take it with --model, cifar "
            "train with --from"
        ) from None
    if model and model != recipe.model:
        raise CifarError(f"{path} holds weights of {recipe.model}, not of {model}")
    network = build(recipe, classes)
    _fill(network, tensors, f"{path} does not fit its own recipe")
    return network, info


def _read_safetensors(path):
    """(tensors by name, metadata) of a safetensors file."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            return {name: file.get_tensor(name) for name in file.keys()}, about  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CifarError(f"{path} is not a safetensors file ({error})") from None


def _read_state_dict(path):
    """The tensors by name in a file of torch.save: a state dict, alone or in a checkpoint."""
    try:
        held = torch.load(path, map_location="cpu", weights_only=True)
    except Exception:  # torch raises many kinds for a damaged file, with pages of advice
        held = None
    for name in ("model", "state_dict", "model_state_dict", "net"):
        if isinstance(held, dict) and isinstance(held.get(name), dict):
            held = held[name]
    whole = isinstance(held, dict) and held and all(isinstance(name, str) for name in held)
    if not (whole and all(map(torch.is_tensor, held.values()))):
        raise CifarError(
            f"{path} holds no plain state dict; write one with torch.save(model.state_dict(), PATH)"
        )
    # DataParallel and torch.compile put a word before each name.
    return {re.sub(r"^(module\.|_orig_mod\.)+", "", name): held[name] for name in held}


def _from_plain(path, tensors, name):
    """(network, info) of plain tensors for a network of MODELS."""
    choose(name, MODELS, "model")
    last = list(create_model(name, seed=0).state_dict())[-1]  # it has a row per class
    last = last if last in tensors else list(tensors)[-1]
    count = len(torch.atleast_1d(tensors[last]))
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
            f"{path} does not fit {name}: it holds {len(tensors)} tensors, {name} has {len(own)}"
        )
    _fill(network, tensors, f"{path} does not fit {name}")
    print(
        f"{shown(path)} is read as {name}{order}; if it was trained with another mean and standard "
        "deviation of the pixels than ours, it does worse here",
        file=sys.stderr,
    )
    return network, WeightsInfo(recipe, UNKNOWN, classes)


def _shapes(tensors):
    """The shapes without ones, because a 1×1 convolution can be a linear layer."""
    return [[size for size in tensor.shape if size > 1] for tensor in tensors.values()]


def _fill(network, tensors, complaint):
    """Give the network these tensors, and put it in evaluation mode."""
    floats = {name: t.float() if t.is_floating_point() else t for name, t in tensors.items()}
    try:
        network.load_state_dict(floats)
    except RuntimeError as error:
        _, *reasons = str(error).splitlines()  # the first line says only that there are some
        raise CifarError(f"{complaint}: {reasons[0].strip():.200}") from None
    network.eval()


def pretrained_names() -> list[str]:
    """The names of the networks that ship with the package."""
    return sorted(path.stem for path in PRETRAINED.glob("*.safetensors"))


def load_pretrained(name: str) -> tuple[ConvNet, WeightsInfo]:
    """(model, info) of a network that ships with the package.

    Raises CifarError for an unknown name, and if the file's SHA-256 is not the recorded one.
    """
    choose(name, pretrained_names(), "network")
    path = PRETRAINED / f"{name}.safetensors"
    recorded = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))["sha256"]
    if hashlib.sha256(path.read_bytes()).hexdigest() != recorded:
        raise CifarError(f"{path} is damaged: its SHA-256 is not the recorded one; reinstall")
    return load_weights(path)


def find_weights(where: str | Path, *, model: str = "") -> tuple[ConvNet, WeightsInfo]:
    """(network, info) of a shipped network by its name, or of a path: a file or a run's folder.

    Write ./NAME for a folder that is called like a shipped network. model: as in `load_weights`.
    Raises CifarError for anything else, and as `load_pretrained` and `load_weights` do.
    """
    if where in pretrained_names():
        network, info = load_pretrained(str(where))
        if model and model != info.recipe.model:
            raise CifarError(f"{where} holds weights of {info.recipe.model}, not of {model}")
        return network, info
    path = Path(where).expanduser()
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
    trained, info = find_weights(recipe.start_from, model=recipe.model)
    tensors = trained.state_dict()
    fits = tuple(classes) == info.classes
    if info.source == UNKNOWN:  # which names no classes
        fits = len(classes) == len(info.classes)
    if not fits:
        last = [name for name, layer in model.named_modules() if isinstance(layer, nn.Linear)][-1]
        tensors |= {k: v for k, v in model.state_dict().items() if k.startswith(f"{last}.")}
        print(
            f"{shown(recipe.start_from)} knows {shown(', '.join(info.classes))}; the data has "
            f"{shown(', '.join(classes))}: the last layer starts anew",
            file=sys.stderr,
        )
    model.load_state_dict(tensors)


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write the state() of a Run, whole or not at all."""
    with _failed_writes_named(path, RuntimeError):
        write_whole(path, lambda temporary: torch.save(state, temporary))


@contextmanager
def _failed_writes_named(path: Path, kind: type[Exception]) -> Iterator[None]:
    """A full disk as an OSError in one line: the libraries raise a `kind` of their own."""
    try:
        yield
    except kind as error:
        raise OSError(f"{path} cannot be written: {str(error).splitlines()[0]}") from error


def load_checkpoint(path: Path) -> dict[str, Any]:
    """The state of a Run that save_checkpoint wrote, on the CPU; CifarError for anything else."""
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise CifarError(f"there is no checkpoint at {path}") from None
    except Exception:  # torch raises many kinds for a damaged file, with pages of advice
        raise CifarError(f"{path} is damaged, or not a checkpoint; start anew without it") from None
    if not isinstance(state, dict) or not state.keys() >= _KEYS:
        raise CifarError(f"{path} is not the checkpoint of a run; start anew without it")
    return state
