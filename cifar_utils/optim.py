"""Optimizers and learning-rate schedules: what torch lacks, and how a recipe chooses among them."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from cifar_utils.errors import CifarError
from cifar_utils.recipes import Recipe
from cifar_utils.speed.distributed import all_reduce, rank, world_size

# --- schedules: progress in [0, 1] to a factor on the learning rate -------------------------------


def constant(progress: float) -> float:
    """1 all the way."""
    return 1.0


def linear(progress: float) -> float:
    """From 1 down to 0 in a straight line."""
    return 1 - progress


def cosine(progress: float) -> float:
    """From 1 down to 0 along half a cosine wave (arXiv 1608.03983, without restarts)."""
    return (1 + math.cos(math.pi * progress)) / 2


def step(progress: float, *, every: float, factor: float) -> float:
    """Times `factor` after each `every`, a fraction of the training."""
    return factor ** steps_taken(progress, every=every)


def steps_taken(progress: float, *, every: float) -> int:
    """How many times `every` fits into `progress`."""
    return math.floor(progress / every + 1e-9)  # 0.3 / 0.1 is a little less than 3


def one_cycle(progress: float, *, peak: float, start: float = 0.04, end: float = 0.0) -> float:
    """Straight from `start` up to 1 at progress `peak`, then down to `end` (arXiv 1708.07120).

    torch's OneCycleLR arrives at both one step earlier, because its last step has the last rate.
    """
    if progress < peak:
        return start + (1 - start) * progress / peak
    return end + (1 - end) * (1 - progress) / (1 - peak)


def plateau(losses: Sequence[float], *, patience: int, factor: float) -> float:
    """Times `factor` whenever more than `patience` losses in a row were no better than the best.

    losses: one per epoch so far. Better means lower by 0.01% or more, as in torch's
    ReduceLROnPlateau. Because it needs no other memory, a resumed run goes on as if never stopped.
    """
    rate, best, waited = 1.0, math.inf, 0
    for loss in losses:
        waited = 0 if loss < best * (1 - 1e-4) else waited + 1
        best = min(best, loss) if waited == 0 else best
        if waited > patience:
            rate, waited = rate * factor, 0
    return rate


SCHEDULES: dict[str, Callable[[Recipe, float], float]] = {
    "constant": lambda recipe, progress: constant(progress),
    "linear": lambda recipe, progress: linear(progress),
    "cosine": lambda recipe, progress: cosine(progress),
    "step": lambda recipe, progress: step(
        progress, every=recipe.step_every, factor=recipe.step_factor
    ),
    "one-cycle": lambda recipe, progress: one_cycle(
        progress, peak=recipe.peak, start=recipe.start_factor, end=recipe.end_factor
    ),
    "plateau": lambda recipe, progress: constant(progress),  # times what `slow_down` sets
}


def rate_factor(recipe: Recipe, progress: float) -> float:
    """The factor on the recipe's learning rates at `progress` in [0, 1]."""
    return SCHEDULES[recipe.schedule](recipe, progress)


def set_rates(optimizer: Optimizer, recipe: Recipe, progress: float) -> None:
    """Give every parameter group its rate, weight decay and momentum at `progress` in [0, 1].

    A group with "until", a fraction of the training, goes through its whole schedule by then and
    rests after it. Resting parameters are frozen: they require no gradient, because computing one
    would cost as much as before. `unfreeze` ends that.
    """
    when = progress
    if recipe.per_epoch:
        when = start_of_epoch(progress, epochs=recipe.epochs - recipe.epochs_before)
    decay = 1.0
    if recipe.schedule == "step":
        decay = recipe.step_decay_factor ** steps_taken(when, every=recipe.step_every)
    cycles = recipe.schedule == "one-cycle" and recipe.peak_momentum > 0
    for group in optimizer.param_groups:
        until = group.get("until", 1.0)
        rests = progress > until
        factor = 0.0 if rests else rate_factor(recipe, when / until)
        if cycles and not rests:
            set_momentum(group, recipe, when / until)
        group["lr"] = group["initial_lr"] * factor * group.get("plateau", 1.0)
        group["weight_decay"] = group["initial_weight_decay"] * decay
        if "until" in group:
            for parameter in group["params"]:
                parameter.requires_grad_(not rests)


def slow_down(optimizer: Optimizer, recipe: Recipe, losses: Sequence[float]) -> None:
    """Lower the rates by what `plateau` makes of these losses, if that is the recipe's schedule."""
    if recipe.schedule == "plateau":
        factor = plateau(losses, patience=recipe.patience, factor=recipe.step_factor)
        for group in optimizer.param_groups:
            group["plateau"] = factor


def start_of_epoch(progress: float, *, epochs: int) -> float:
    """The progress at which the epoch that `progress` is in began."""
    return steps_taken(progress, every=1 / epochs) / epochs


def set_momentum(group: dict[str, Any], recipe: Recipe, progress: float) -> None:
    """From the group's momentum to `peak_momentum` and back, as a one-cycle rate goes up and down.

    For Adam this is the first beta. A high rate needs less momentum (arXiv 1803.09820).
    """
    own = recipe.momentum
    if recipe.muon_momentum and group.get("orthogonal"):
        own = recipe.muon_momentum
    height = one_cycle(progress, peak=recipe.peak, start=0.0)
    momentum = own + (recipe.peak_momentum - own) * height
    if "betas" in group:
        group["betas"] = (momentum, recipe.beta2)
    else:
        group["momentum"] = momentum


def unfreeze(optimizer: Optimizer) -> None:
    """Let every parameter of the optimizer require a gradient again, as when it was made."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            parameter.requires_grad_(True)


# --- Muon -----------------------------------------------------------------------------------------


def orthogonalize(matrix: Tensor, *, steps: int = 5) -> Tensor:
    """The nearest half-orthogonal matrix, roughly: all singular values move close to 1.

    matrix: (rows, columns). A quintic Newton-Schulz iteration, which needs matrix products only.
    Five steps bring singular values into about [0.7, 1.2], which is near enough. The products must
    be in full fp32, torch's default: do not allow TF32, whose rounding grows too much. After more
    than six steps fp32 is not exact enough either. Coefficients from Keller Jordan,
    https://kellerjordan.github.io/posts/muon/.
    """
    a, b, c = 3.4445, -4.7750, 2.0315
    tall = matrix.shape[0] > matrix.shape[1]
    x = matrix.T if tall else matrix
    x = x / (x.norm() + 1e-7)  # singular values at most 1
    # Each step is x ← p x with p = a + b x xᵀ + c (x xᵀ)². Kernels make wide matrices, so we follow
    # the small square x xᵀ and the product of all p, and touch x only at the ends.
    gram = x @ x.T
    identity = torch.eye(len(gram), dtype=x.dtype, device=x.device)
    product = identity
    for step in range(steps):
        p = a * identity + b * gram + c * gram @ gram
        product = p @ product
        if step + 1 < steps:
            gram = p @ gram @ p  # of the new x
    x = product @ x
    return x.T if tall else x


class Muon(Optimizer):
    """SGD with Nesterov momentum that orthogonalises the steps of convolution kernels.

    Every direction in a kernel's matrix (outputs × inputs·height·width) then moves equally far,
    whereas plain SGD moves a few directions far and the rest hardly at all. Weight decay is
    decoupled: it shrinks the weights by lr · weight_decay. torch.optim.Muon takes 2-D parameters
    only. Source: https://kellerjordan.github.io/posts/muon/.

    Args:
        groups: parameter groups. Those with orthogonal=False take plain SGD steps.
        renormalize: instead of weight decay, bring each kernel to the norm √outputs before each
            step. That is also the update's norm, so lr is the step in proportion to the kernel,
            whose size batch norm makes meaningless. Source: airbench94_muon.py in
            https://github.com/KellerJordan/cifar10-airbench.
        steps: iterations in `orthogonalize`.
    """

    def __init__(
        self, groups: Iterable, lr: float, *, momentum: float = 0.9, weight_decay: float = 0.0,
        renormalize: bool = False, steps: int = 5,
    ) -> None:  # fmt: skip
        defaults = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay}
        super().__init__(groups, defaults | {"orthogonal": True, "renormalize": renormalize})
        self.steps = steps  # of the iteration in orthogonalize

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient; returns closure()'s loss, if given."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            moving = [parameter for parameter in group["params"] if parameter.grad is not None]
            updates = [self._with_momentum(parameter, group["momentum"]) for parameter in moving]
            if group["orthogonal"]:
                updates = orthogonal_updates(updates, steps=self.steps)
            for parameter, update in zip(moving, updates, strict=True):
                if group["orthogonal"] and group["renormalize"]:
                    parameter.mul_(len(parameter) ** 0.5 / (parameter.norm() + 1e-7))
                else:
                    parameter.mul_(1 - group["lr"] * group["weight_decay"])
                parameter.add_(update, alpha=-group["lr"])
        return loss

    def _with_momentum(self, parameter: Tensor, momentum: float) -> Tensor:
        gradient, state = parameter.grad, self.state[parameter]
        assert gradient is not None
        if "momentum" not in state:
            state["momentum"] = torch.zeros_like(gradient)
        state["momentum"].mul_(momentum).add_(gradient)
        return torch.add(gradient, state["momentum"], alpha=momentum)


def orthogonal_updates(updates: Iterable[Tensor], *, steps: int = 5) -> list[Tensor]:
    """The kernels' updates, orthogonalised. Of several processes each does its part of them."""
    done = []
    for number, update in enumerate(updates):
        if number % world_size() == rank():
            matrix = update.flatten(1)
            wider = max(1, matrix.shape[0] / matrix.shape[1]) ** 0.5
            done.append(orthogonalize(matrix, steps=steps).mul_(wider).view(update.shape))
        else:
            done.append(torch.zeros_like(update))  # another process computes it
    all_reduce(*done)
    return done


# --- from recipe to optimizer ---------------------------------------------------------------------


def make_optimizer(model: nn.Module, recipe: Recipe) -> Optimizer:
    """The recipe's optimizer over the model's parameters, in up to four groups.

    Convolution kernels, which Muon treats in its own way at `muon_lr`; other weights; biases, batch
    norm's vectors among them, which learn `bias_lr_factor` times as fast and decay only with
    `decay_biases` (arXiv 2404.00498); and with `whitening` the bias of a frozen convolution, which
    is trained for that fraction only. Raises CifarError for a rate or a decay above 1e30, which
    float32 can no longer be multiplied by. Used in notebook 10.
    """
    muon = recipe.optimizer == "muon"
    parameters = [p for p in model.parameters() if p.requires_grad]
    kernels = [p for p in parameters if p.ndim == 4]
    weights = [p for p in parameters if p.ndim in (2, 3) or p.ndim > 4]
    early = [id(bias) for bias in frozen_biases(model)] if recipe.whitening else []
    biases = [p for p in parameters if p.ndim < 2 and id(p) not in early]
    # bias_lr_factor leaves the decay per step, lr · weight_decay, as it is: so does airbench.
    decay = recipe.weight_decay / recipe.bias_lr_factor if recipe.decay_biases else 0.0
    for_biases = {"lr": recipe.lr * recipe.bias_lr_factor, "weight_decay": decay}
    groups: list[dict[str, Any]] = [
        {"params": kernels, "lr": recipe.muon_lr if muon else recipe.lr},
        {"params": weights},
        {"params": biases, **for_biases},
        {"params": [p for p in parameters if id(p) in early], **for_biases},
    ]
    groups[3]["until"] = recipe.whitening
    if muon:
        for group in groups:
            group["orthogonal"] = group["params"] is kernels
        groups[0]["momentum"] = recipe.muon_momentum or recipe.momentum
    groups = [group for group in groups if group["params"]]
    shared: dict[str, Any] = {"lr": recipe.lr, "weight_decay": recipe.weight_decay}
    betas = (recipe.momentum, recipe.beta2)
    optimizer: Optimizer
    if recipe.optimizer == "sgd":
        nesterov = recipe.nesterov and recipe.momentum > 0
        optimizer = torch.optim.SGD(groups, **shared, momentum=recipe.momentum, nesterov=nesterov)
    elif recipe.optimizer == "adam":
        optimizer = torch.optim.Adam(groups, **shared, betas=betas)
    elif recipe.optimizer == "adamw":
        optimizer = torch.optim.AdamW(groups, **shared, betas=betas)
    else:
        optimizer = Muon(
            groups, **shared, momentum=recipe.momentum, renormalize=recipe.renormalize,
            steps=recipe.muon_steps,
        )  # fmt: skip
    for group in optimizer.param_groups:
        group["initial_lr"], group["initial_weight_decay"] = group["lr"], group["weight_decay"]
        if max(group["lr"], group["weight_decay"]) > 1e30:
            raise CifarError(
                f"the recipe has a learning rate of {group['lr']:g} and a weight decay of "
                f"{group['weight_decay']:g}, biases included; choose at most 1e30 for each"
            )
    return optimizer


def frozen_biases(model: nn.Module) -> list[Tensor]:
    """The trained biases of convolutions whose kernels are frozen, as a whitening layer's are."""
    convolutions = [layer for layer in model.modules() if isinstance(layer, nn.Conv2d)]
    return [
        layer.bias
        for layer in convolutions
        if layer.bias is not None and layer.bias.requires_grad and not layer.weight.requires_grad
    ]
