"""A training as it stands: all that changes in it, and what a checkpoint keeps of that."""

import copy
from dataclasses import dataclass, replace
from typing import Any

import torch

from cifar_utils.checkpoints import check_fits, check_optimizer_fits
from cifar_utils.checks import named_for, unwrapped
from cifar_utils.errors import CifarError
from cifar_utils.history import History
from cifar_utils.machine import Machine
from cifar_utils.recipes import Recipe


@dataclass
class Run:
    """All that changes while a network is trained: what `log` sees and a checkpoint keeps.

    fingerprint: that of the training images. classes: their names. compile_seconds: what
    torch.compile took.
    """

    model: torch.nn.Module
    optimizer: torch.optim.Optimizer
    machine: Machine
    history: History
    fingerprint: str = ""
    classes: tuple[str, ...] = ()
    compile_seconds: float = 0.0

    def __str__(self) -> str:
        return str(self.history.epochs[-1])

    @property
    def val_losses(self) -> list[float]:
        """The validation loss of each epoch of its recipe, if there are validation images."""
        mine = self.history.epochs[self.history.recipe.epochs_before + 1 :]
        return [row.val_loss for row in mine if row.val_loss is not None]

    def state(self) -> dict[str, Any]:
        """What a resumed run needs, as tensors and plain values, copied: later epochs leave them as
        they are. Random numbers need no keeping, because each epoch seeds its own."""
        return {
            "model": copy.deepcopy(unwrapped(self.model).state_dict()),
            "optimizer": copy.deepcopy(self.optimizer.state_dict()),
            "scaler": self.machine.scaler.state_dict(),
            "history": self.history.to_json(),
            "images": self.fingerprint,
        }

    def load_state(self, state: dict[str, Any]) -> None:
        """Go on from a `state`: within its recipe or, if that is finished, with one after it.

        Raises CifarError if it is of another recipe or other images.
        """
        history, recipe = history_of(state), self.history.recipe
        new_recipe = recipe != history.recipe
        if new_recipe and not follows(recipe, history):
            raise CifarError("the checkpoint was made with another recipe")
        if self.fingerprint != state.get(
            "images", self.fingerprint
        ):  # older checkpoints do not name them
            raise CifarError(
                "the run was started on other training images, labels or classes, or in another "
                "order; resume it on the same data"
            )
        optimizer = copy.deepcopy(state["optimizer"])  # because `load_state_dict` keeps the tensors
        if new_recipe:  # with its own rates; momentum stays if the optimizer is the same one
            own, kept = self.optimizer.state_dict()["param_groups"], optimizer["param_groups"]
            same = [group["params"] for group in own] == [group["params"] for group in kept]
            if recipe.optimizer != history.recipe.optimizer or not same:
                optimizer["state"] = {}
            optimizer["param_groups"] = own
        network = unwrapped(self.model)
        tensors = named_for(network, state["model"])
        check_fits(network, tensors, "the checkpoint does not fit this network")
        check_optimizer_fits(self.optimizer, optimizer)
        network.load_state_dict(tensors)
        self.optimizer.load_state_dict(optimizer)
        if self.machine.scaler.is_enabled() and state["scaler"]:  # not if the precision has changed
            self.machine.scaler.load_state_dict(state["scaler"])
        if history.is_finished and not new_recipe:  # nothing is left to be trained here
            self.history = history
            return
        here, device, earlier = self.history, history.device, history.earlier
        if new_recipe:
            earlier += (history.recipe,)
        if here.device != device.rpartition(", then ")[2]:
            device = f"{device}, then {here.device}"
        self.history = replace(here, epochs=history.epochs, device=device, earlier=earlier)


def history_of(state: dict[str, Any]) -> History:
    """The history in a `state`. Raises CifarError if it is something else."""
    if not isinstance(state, dict) or "history" not in state:
        raise CifarError(
            f"resume is a {type(state).__name__}, not the state() of a run; load_checkpoint(PATH) "
            "reads one"
        )
    return History.from_json(state["history"])


def follows(recipe: Recipe, history: History) -> bool:
    """Whether the recipe says that it goes on after this finished run of the same network."""
    before = history.recipe
    return (
        history.is_finished
        and recipe.epochs_before == before.epochs
        and recipe.model == before.model
    )
