"""Extra branches beside each 3×3 convolution, which exist only while the network is trained.

A kernel's middle row and column matter most, and a network learns more if it has them twice: in the
3×3 kernel, and in a 1×3 and a 3×1 kernel beside it (asymmetric convolutions, ACNet, arXiv
1908.03930). Each of the three branches has a norm of its own, and their outputs are added up.

A convolution is linear. So the sum of three is one convolution again, whose kernel is the sum of
the three, the small ones padded with zeros. And a factor on a branch's outputs is the same as one
on its kernel. The trained network is therefore the plain one: `fused` adds up the kernels. This is
called structural re-parameterization.

That takes a norm that is nothing but a factor per channel. Ours divides a branch's outputs by their
standard deviation and multiplies them by a learned scale, as batch norm does, but it neither
subtracts the mean nor adds a bias. If batch norm follows the sum, as in most networks, that makes
up for both, because it subtracts the mean of the sum and has a bias. If a ReLU comes first, as in
`separable`, a bias would be one that the plain convolution does not have.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from cifar_utils.checks import twin_of
from cifar_utils.machine import seed_from
from cifar_utils.recipes import Recipe

MEASURED = 32  # images of each batch
EPS, MOMENTUM = 1e-5, 0.1  # as in batch norm


class BranchedConv2d(nn.Conv2d):
    """The 3×3 convolution `conv` with a 1×3 branch, `row`, and a 3×1 branch, `column`.

    Of the three branches, in the order square, row, column, `scales` (3 · outputs,) are learned and
    `variances` (3, outputs) are running means, for evaluation. Training takes the variances of the
    batch, and its gradient goes through them to the kernels, though not to the maps.

    Three convolutions and three norms would take twice the time of one convolution or more. So only
    a few images of the batch go through all three, to measure the variances. The whole batch goes
    through one convolution with the sum of the kernels.
    """

    variances: Tensor

    def __init__(self, conv: nn.Conv2d) -> None:
        super().__init__(
            conv.in_channels, conv.out_channels, 3, conv.stride, conv.padding,  # type: ignore[arg-type]
            conv.dilation, conv.groups, conv.bias is not None,  # type: ignore[arg-type]
        )  # fmt: skip
        self.load_state_dict(conv.state_dict())
        if self.bias is not None:
            self.bias.requires_grad_(conv.bias.requires_grad)  # type: ignore[union-attr]
        outputs, inputs = conv.weight.shape[:2]
        self.row = nn.Parameter(torch.empty(outputs, inputs, 1, 3))
        self.column = nn.Parameter(torch.empty(outputs, inputs, 3, 1))
        for kernel in (self.row, self.column):
            nn.init.kaiming_uniform_(kernel, a=5**0.5)  # as nn.Conv2d begins
        self.scales = nn.Parameter(torch.full((3 * outputs,), 3**-0.5))  # their sum has size 1
        self.register_buffer("variances", torch.ones(3, outputs))

    def forward(self, maps: Tensor) -> Tensor:
        """(N, inputs, H, W) to what `conv` makes of it."""
        variances = self.variances
        if self.training and len(maps):
            variances = self.measured(maps[:MEASURED].detach())
            with torch.no_grad():
                self.variances.lerp_(variances, MOMENTUM)
        kernel = merged(self.weight, self.row, self.column, self.scales, variances)
        return self._conv_forward(maps, kernel, self.bias)

    def measured(self, maps: Tensor) -> Tensor:
        """The variance of each branch's outputs, per channel, (3, outputs)."""
        outputs = (
            self._conv_forward(maps, kernel, None)
            for kernel in padded(self.weight, self.row, self.column)
        )
        kind = self.variances.dtype  # autocast's 16 bits are too few
        return torch.stack([each.to(kind).var((0, 2, 3), correction=0) for each in outputs])


def padded(square: Tensor, row: Tensor, column: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The three kernels as 3×3 ones, (outputs, inputs, 3, 3)."""
    return square, F.pad(row, (0, 0, 1, 1)), F.pad(column, (1, 1, 0, 0))


def merged(
    square: Tensor, row: Tensor, column: Tensor, scales: Tensor, variances: Tensor
) -> Tensor:
    """The one kernel (outputs, inputs, 3, 3) that does what the branches and their norms do."""
    factors = scales.view(3, -1, 1, 1, 1) / (variances + EPS).sqrt().view(3, -1, 1, 1, 1)
    one, two, three = padded(square, row, column)
    return factors[0] * one + factors[1] * two + factors[2] * three


def square_convolutions(model: nn.Module) -> Iterator[tuple[nn.Module, str, nn.Conv2d]]:
    """(parent, name in it, layer) of each 3×3 convolution whose kernel is trained."""
    for parent in list(model.modules()):
        for name, layer in parent._modules.items():  # named_children() leaves out repetitions
            if (
                type(layer) is nn.Conv2d
                and layer.kernel_size == (3, 3)
                and layer.padding_mode == "zeros"
                and layer.weight.requires_grad
            ):
                yield parent, name, layer


def with_branches(model: nn.Module, *, seed: int = 0) -> nn.Module:
    """A copy of the network whose 3×3 convolutions have branches, drawn with the seed."""
    network = twin_of(model)
    made: dict[nn.Module, BranchedConv2d] = {}  # a layer may be in several places
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed_from(seed))
        for parent, name, layer in list(square_convolutions(network)):
            if layer not in made:
                made[layer] = BranchedConv2d(layer).to(layer.weight)  # device and dtype
            setattr(parent, name, made[layer])
    return network


def in_training(model: nn.Module, recipe: Recipe) -> nn.Module:
    """The network that the optimizer trains: `model` itself, or a copy with branches.

    `fused` gives `model` what the latter has learnt.
    """
    return with_branches(model, seed=recipe.seed) if recipe.branches else model


def fused(network: nn.Module) -> dict[str, Tensor]:
    """The plain network's tensors by name, from a network that may have branches.

    The plain network does in evaluation what the one with branches does, up to rounding.
    """
    plain = dict(network.state_dict())
    for name, layer in network.named_modules(remove_duplicate=False):
        if isinstance(layer, BranchedConv2d):
            parts = ("weight", "row", "column", "scales", "variances")
            plain[f"{name}.weight"] = merged(*(plain.pop(f"{name}.{part}") for part in parts))
    return plain
