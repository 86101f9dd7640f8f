"""Networks on disk: safetensors for weights, one torch file for all that a resumed run needs.

Nothing here can run code from a file: safetensors holds numbers and text only, and checkpoints are
read with weights_only=True.
"""

import hashlib
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cifar_utils.data import CLASSES
from cifar_utils.errors import CifarError, choose, did_you_mean
from cifar_utils.models import ConvNet, build
from cifar_utils.recipes import Recipe
from cifar_utils.sources.files import write_whole

_KEYS = {"model", "optimizer", "scaler", "history", "precision"}  # of a checkpoint
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


def load_weights(path: str | Path) -> tuple[ConvNet, WeightsInfo]:
    """(model, info) of a weights file, the model on the CPU in evaluation mode.

    path: a .safetensors file, or a run's folder that holds weights.safetensors. Raises CifarError
    if there is no such file or `save_weights` did not write it.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    path = path / "weights.safetensors" if path.is_dir() else path
    if not path.is_file():
        raise CifarError(f"there are no weights at {path}")
    try:
        with safe_open(path, framework="pt") as file:
            about = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise CifarError(f"{path} is not a safetensors file ({error})") from None
    try:
        about = json.loads(about["cifar_utils"])
        recipe, classes = Recipe.from_dict(about["recipe"]), tuple(about["classes"])
        info = WeightsInfo(recipe, about["source"], classes, about["epoch"])
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError):
        raise CifarError(
            f"{path} does not name its network; files that cifar train writes do"
        ) from None
    try:
        model = build(recipe, classes)
        model.load_state_dict(
            {
                name: value.float() if value.is_floating_point() else value
                for name, value in tensors.items()
            }
        )
    except RuntimeError as error:
        reason = str(error).splitlines()[0]
        raise CifarError(f"{path} does not fit its own recipe: {reason}") from None
    return model.eval(), info


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


def find_weights(where: str | Path) -> tuple[ConvNet, WeightsInfo]:
    """(model, info) of a shipped network by its name, or of a path: a file or a run's folder.

    Write ./NAME for a folder that is called like a shipped network. Raises CifarError for anything
    else, and as `load_pretrained` and `load_weights` do.
    """
    if where in pretrained_names():
        return load_pretrained(str(where))
    path = Path(where).expanduser()
    if path.exists() or path.suffix or len(path.parts) > 1:
        return load_weights(path)
    names = pretrained_names()
    raise CifarError(
        f"{where!r} is neither a path nor one of the shipped networks: {', '.join(names)}"
        f"{did_you_mean(str(where), names)}"
    )


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
