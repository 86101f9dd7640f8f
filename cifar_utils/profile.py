"""What a network costs and what it sees: parameters, multiply-adds, shapes, receptive field."""

import contextlib
import copy
import io

import torch
from torch import nn

from cifar_utils.models import ConvNet, Residual


def parameter_count(model: nn.Module) -> int:
    """How many numbers training may change. Used in notebook 03."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def receptive_field(model: nn.Module) -> int:
    """How many pixels of the input one unit of the last feature map can see, along one axis.

    It is computed from the layers of `model.features`, along the longest path. The classifier's
    global pooling does not count. Used in notebook 03.
    """
    field, _ = _grow(getattr(model, "features", model), field=1, jump=1)
    return field


def _grow(module, field, jump):
    """Field and jump after `module`. The jump is the distance of neighbouring units in pixels."""
    if isinstance(module, (nn.Conv2d, nn.MaxPool2d, nn.AvgPool2d)):
        size, stride, dilation = (
            value[0] if isinstance(value, tuple) else value
            for value in (module.kernel_size, module.stride, getattr(module, "dilation", 1))
        )
        return field + (size - 1) * dilation * jump, jump * stride
    if isinstance(module, Residual):
        return max(_grow(branch, field, jump) for branch in (module.body, module.shortcut))
    for child in module.children():
        field, jump = _grow(child, field, jump)
    return field, jump


def stage_shapes(model: ConvNet) -> list[tuple[int, ...]]:
    """(channels, height, width) of the maps after each stage of model.features, for 32×32 images.

    Used in notebook 03.
    """
    device = next(model.parameters()).device
    maps, shapes = torch.zeros(1, 3, 32, 32, device=device), []
    with torch.no_grad():
        for stage in copy.deepcopy(model.features).eval():
            maps = stage(maps)
            shapes.append(tuple(maps.shape[1:]))
    return shapes


def takes(model: nn.Module, size: int) -> bool:
    """Whether the network works on images of `size` × `size` pixels."""
    twin = _safe_copy(model)  # on the CPU, where one image can fail only because of its size
    try:
        with torch.no_grad():
            twin(torch.zeros(1, 3, size, size))
    except RuntimeError:
        return False
    return True


def mult_adds(model: nn.Module) -> int:
    """Multiply-add operations of convolutions and linear layers per 32×32 image.

    Used in notebook 03.
    """
    return sum(count for _, count in _layer_mult_adds(_safe_copy(model)))


def summary(model: nn.Module) -> None:
    """Print each layer's output shape, parameters and mult-adds, and then the totals.

    The table is torchsummary's, with one more column for the multiply-adds per image. `model` stays
    as it was, because torchsummary works on a copy in evaluation mode. Used in notebook 03.
    """
    import torchsummary

    twin = _safe_copy(model)
    costs = iter(_layer_mult_adds(twin))
    table = io.StringIO()
    # torchsummary draws a random batch. It must not take it from the reader's generator.
    with contextlib.redirect_stdout(table), torch.random.fork_rng(devices=[]):
        torchsummary.summary(twin, (3, 32, 32), device="cpu")
    total = 0
    for line in table.getvalue().splitlines():
        if line[:1] in "-=":
            line = line[:1] * 81
        elif "Param #" in line:
            line += f"{'Mult-adds':>16}"
        elif "[-1, " in line:  # a row of the table; the layers come in the order they run
            _, cost = next(costs)
            total += cost
            line += f"{cost:>16,}"
        elif line.startswith("Trainable"):  # torchsummary judges whole layers
            line = f"Trainable params: {parameter_count(model):,}"
        elif line.startswith("Non-trainable"):
            everything = sum(parameter.numel() for parameter in model.parameters())
            line = f"Non-trainable params: {everything - parameter_count(model):,}"
            line += f"\nMult-adds for one image: {total:,}"
            line += f"\nReceptive field: {receptive_field(model)} pixels"
        print(line)


def _safe_copy(model):
    return copy.deepcopy(model).cpu().float().eval()


def _layer_mult_adds(model):
    """(layer, mult-adds) for each layer of `model`, in the order they run."""
    costs, hooks = [], []

    def measure(layer, inputs, output):
        cost = 0
        if isinstance(layer, nn.Conv2d):  # every output number reads one kernel
            cost = output[0].numel() * layer.weight[0].numel()
        elif isinstance(layer, nn.Linear):
            cost = layer.weight.numel()
        costs.append((layer, cost))

    for layer in model.modules():
        if layer is not model and not isinstance(layer, nn.Sequential):
            hooks.append(layer.register_forward_hook(measure))
    with torch.no_grad():
        model(torch.zeros(1, 3, 32, 32))
    for hook in hooks:
        hook.remove()
    return costs
