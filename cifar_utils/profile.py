"""What a network costs and what it sees: parameters, multiply-adds, shapes, receptive field."""

import contextlib
import io

import torch
from torch import nn
from torch.backends import mha
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from cifar_utils.checks import check_kind, copied, failure_named, unwrapped
from cifar_utils.errors import CifarError, first_line
from cifar_utils.machine import device_of
from cifar_utils.receptive import receptive_field


def parameter_count(model: nn.Module) -> int:
    """How many numbers training may change. Used in notebook 04."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def stage_shapes(model: nn.Module) -> list[tuple[int, ...]]:
    """(channels, height, width) of the maps after each stage of model.features, for 32×32 images.

    Used in notebook 04. Raises CifarError if the network has no `features` of this kind.
    """
    shapes: list[tuple[int, ...]] = []
    with torch.no_grad(), failure_named():
        maps = torch.zeros(1, 3, 32, 32, device=device_of(model))
        for stage in copied(stages(model)):
            maps = stage(maps)
            shapes.append(tuple(maps.shape[1:]))
    return shapes


def stages(model: nn.Module) -> nn.Sequential:
    """model.features; CifarError if the network has none, or if they are not in sequence."""
    check_kind(model)
    found = getattr(unwrapped(model), "features", None)
    if not isinstance(found, nn.Sequential):
        raise CifarError(
            "the network has no nn.Sequential called features, so its stages have no numbers; for "
            "heatmaps give grad_cam its layers=[…]"
        )
    return found


def takes(model: nn.Module, size: int) -> bool:
    """Whether the network works on images of `size` × `size` pixels."""
    twin = _on_cpu(model)  # where one image can fail only because of its size
    try:
        with torch.no_grad():
            twin(torch.zeros(1, 3, size, size))
    except (MemoryError, torch.OutOfMemoryError):
        raise
    except Exception:  # of any kind: networks that we do not know check sizes in their own ways
        return False
    return True


def _on_cpu(model):
    return copied(model).cpu()


# --- multiply-adds --------------------------------------------------------------------------------


def mult_adds(model: nn.Module) -> int:
    """Multiply-adds of convolutions and matrix products per 32×32 image, as often as each runs.

    Used in notebook 04. Raises CifarError if the network does not take such an image.
    """
    return sum(_costs(_on_cpu(model)))


def _costs(model):
    """The mult-adds of each call of a layer, in the order they end; last, of what runs outside.

    A layer's layers are not part of it. The calls are those that torchsummary has a row for.
    """
    costs, open_layers, counted = [], [0], 0

    def charge(*_):  # what ran since the last time to the layer that is open
        nonlocal counted
        now = counter.get_total_flops() // 2
        open_layers[-1] += now - counted
        counted = now

    def begin(*_):
        charge()
        open_layers.append(0)

    def end(*_):
        charge()
        costs.append(open_layers.pop())

    def watch(layer):
        if layer is not model and not isinstance(layer, (nn.Sequential, nn.ModuleList)):
            layer.register_forward_pre_hook(begin)
            layer.register_forward_hook(end)

    if any(isinstance(layer, nn.RNNBase) for layer in model.modules()):
        raise CifarError("the mult-adds of recurrent layers, such as LSTM, are not counted")
    model.apply(watch)
    counter = FlopCounterMode(display=False)
    fast = mha.get_fastpath_enabled()
    mha.set_fastpath_enabled(False)  # attention in steps that can be counted
    try:
        with torch.no_grad(), failure_named(), sdpa_kernel(SDPBackend.MATH), counter:
            model(torch.zeros(1, 3, 32, 32))
            charge()
    finally:
        mha.set_fastpath_enabled(fast)
    return costs + open_layers


# --- summary --------------------------------------------------------------------------------------


def summary(model: nn.Module) -> None:
    """Print each layer's output shape, parameters and mult-adds, and then the totals.

    The table is torchsummary's, with one more column for the multiply-adds per image. `model` stays
    as it was, because torchsummary works on a copy in evaluation mode. A layer that runs twice has
    two rows, but the totals count its parameters once. Used in notebook 04. Raises CifarError if
    the network does not take 32×32 images, or if torchsummary cannot read it.
    """
    import torchsummary

    *costs, outside = _costs(_with_rows(model))
    table = io.StringIO()
    try:
        # torchsummary draws a random batch. It must not take it from the reader's generator.
        with contextlib.redirect_stdout(table), torch.random.fork_rng(devices=[]):
            torchsummary.summary(_with_rows(model), (3, 32, 32), device="cpu")
    except Exception as error:
        raise CifarError(
            "torchsummary cannot read this network: it needs at least one parameter, and layers "
            "that take and return tensors; parameter_count, mult_adds and receptive_field still "
            f"work ({first_line(error)})"
        ) from error
    total = sum(parameter.numel() for parameter in model.parameters())
    lines = table.getvalue().splitlines()
    first, last = (number for number, line in enumerate(lines) if line.startswith("="))
    if last - first - 1 != len(costs):
        raise CifarError("the network runs other layers each time, so it has no one table")
    sizes = []
    for number, line in enumerate(lines):
        what, _, value = line.partition(": ")
        if line[:1] in "-=":
            line = line[:1] * 81
        elif "Param #" in line:
            line += f"{'Mult-adds':>16}"
        elif first < number < last:  # a row of the table; the layers come in the order they run
            line += f"{costs[number - first - 1]:>16,}"
        elif what == "Total params":
            wrong = int(value.replace(",", "")) != total  # it adds up the rows
            line = f"Total params: {total:,}"
        elif what == "Trainable params":  # torchsummary judges whole layers
            line = f"Trainable params: {parameter_count(model):,}"
        elif what == "Non-trainable params":
            line = f"Non-trainable params: {total - parameter_count(model):,}"
            line += f"\nMult-adds for one image: {sum(costs) + outside:,}"
            line += f", of them {outside:,} outside of these layers" if outside else ""
            line += f"\nReceptive field: {_field_in_words(model)}"
        elif "(MB)" in what and wrong:
            sizes.append(float(value))
            if what == "Params size (MB)":
                sizes[-1] = total * 4 / 1024**2
            elif what == "Estimated Total Size (MB)":
                sizes[-1] = sum(sizes[:-1])
            line = f"{what}: {sizes[-1]:.2f}"
        print(line)
    if wrong:
        print("A layer has a row each time it runs, and only weight and bias are counted there.")
        print("The totals count every parameter once.")


def _with_rows(model):
    """A copy for torchsummary, which gives a row to each layer inside the network."""
    twin = _on_cpu(model)
    return twin if list(twin.children()) else nn.Sequential(twin)


def _field_in_words(model):
    try:
        return f"{receptive_field(model)} pixels"
    except CifarError as reason:
        return str(reason)
