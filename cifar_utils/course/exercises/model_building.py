"""Exercises of notebook 04 · Model building."""

import math

import torch
from torch import nn

from cifar_utils.course.exercises.form import Case, Exercise, Form, Rule
from cifar_utils.profile import parameter_count, receptive_field


def _output_size():
    for size, kernel, stride, padding, dilation in (
        (32, 3, 1, 1, 1),
        (32, 3, 1, 0, 1),
        (32, 3, 2, 1, 1),
        (30, 3, 1, 0, 2),
        (5, 2, 2, 0, 1),
        (17, 5, 3, 4, 2),
        (9, 1, 2, 0, 3),
    ):
        layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
        due = layer(torch.zeros(1, 1, size, size)).shape[-1]
        what = f"size {size}, kernel {kernel}, stride {stride}, padding {padding}"
        what += f", dilation {dilation}"
        yield Case(what, (size, kernel, stride, padding, dilation), due)


def _conv_parameters():
    for inputs, outputs, kernel, groups, bias in (
        (3, 64, 3, 1, True),
        (64, 128, 3, 1, False),
        (64, 64, 3, 64, False),
        (128, 52, 1, 1, True),
        (32, 48, 5, 4, True),
    ):
        layer = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=bias)
        due = sum(parameter.numel() for parameter in layer.parameters())
        what = f"{inputs} inputs, {outputs} outputs, kernel {kernel}, groups {groups}, bias {bias}"
        yield Case(what, (inputs, outputs, kernel, groups, bias), due)


def _field_of_four_layers():
    layers = nn.Conv2d(1, 1, 3), nn.Conv2d(1, 1, 3), nn.AvgPool2d(2), nn.Conv2d(1, 1, 3, dilation=2)
    image = torch.ones(1, 1, 32, 32, requires_grad=True)
    maps = image
    for layer in layers:
        if isinstance(layer, nn.Conv2d):
            nn.init.ones_(layer.weight)
        maps = layer(maps)
    maps[0, 0, 2, 2].backward()
    yield Case("", None, int((image.grad[0, 0] != 0).any(0).sum()))


def _own_network():
    is_network = Rule(
        lambda answer: (
            isinstance(answer, nn.Module)
            and isinstance(getattr(answer, "features", None), nn.Module)
        ),
        "A network with `features` and `classifier` is asked for: models.ConvNet(…, …).",
    )
    yield Case("", None, is_network)
    yield Case("two images", (torch.zeros(2, 3, 32, 32),), Form((2, 10), torch.float32))
    few = Rule(
        lambda count: count < 100_000,
        "Fewer than 100,000 are allowed. Wide layers are the expensive ones: twice the channels on "
        "both sides of a convolution are four times the parameters.",
    )
    yield Case("", None, few, ("the number of parameters", parameter_count))
    convolutions = Rule(lambda count: count >= 3, "At least three are asked for.")
    yield Case("", None, convolutions, ("the number of convolutions", _convolutions))
    far = Rule(
        lambda field: field >= 40,
        "At least 40 pixels are asked for. After each pooling, later layers add twice as much.",
    )
    yield Case("", None, far, ("the receptive field", receptive_field))


def _convolutions(network):
    return sum(isinstance(layer, nn.Conv2d) for layer in network.features.modules())


EXERCISES = {
    "04a": Exercise(
        _output_size,
        slips=(
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + 2 * padding - kernel) // stride + 1
                ),
                "That leaves the dilation out: how many pixels does a dilated kernel span?",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size - dilation * (kernel - 1) - 1) // stride + 1
                ),
                "That leaves the padding out.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + padding - dilation * (kernel - 1) - 1) // stride + 1
                ),
                "The padding is on both sides.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + 2 * padding - dilation * (kernel - 1) - 1) // stride
                ),
                "One is missing: the kernel's first place counts before it takes any step.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + 2 * padding - dilation * (kernel - 1) - 1) / stride + 1
                ),
                "Only whole steps count, as `//` divides. Half a step would leave the image.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    math.ceil((size + 2 * padding - dilation * (kernel - 1) - 1) / stride) + 1
                ),
                "You round up. A step that would leave the image is not taken.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    size + 2 * padding - dilation * (kernel - 1)
                ),
                "That leaves the stride out.",
            ),
            (
                lambda size, kernel, stride, padding, dilation: (
                    (size + 2 * padding - dilation * kernel) // stride + 1
                ),
                "A kernel of 3 has two gaps, not three: what does dilation 2 make of its span?",
            ),
            (
                lambda size, kernel, stride, padding, dilation: size // stride,
                "That holds only if the padding makes up for the kernel.",
            ),
        ),
        hints=(
            "Lay the kernel at the left end. How far can it still move to the right?",
            "The padding makes the image longer on both sides. The dilation makes the kernel span "
            "more: 1 + dilation · (kernel − 1) pixels.",
            "Room to move = padded size − span. The whole strides that fit, plus the first place.",
        ),
    ),
    "04b": Exercise(
        _conv_parameters,
        slips=(
            (
                lambda inputs, outputs, kernel, groups, bias: inputs * outputs * kernel**2,
                "That leaves out the groups and the bias.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs // groups * outputs * kernel**2
                ),
                "And the bias, if there is one?",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs // groups * outputs * kernel**2 + outputs
                ),
                "You add the bias even where there is none.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs * outputs * kernel**2 + bias * outputs
                ),
                "That leaves the groups out: each output channel reads only some of the inputs.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs // groups * outputs * kernel + bias * outputs
                ),
                "A kernel of 3 has 3 × 3 weights per channel.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs // groups * outputs * kernel**2 + bias
                ),
                "Every output channel has a bias of its own.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    (inputs // groups) * (outputs // groups) * kernel**2 + bias * outputs
                ),
                "That is one group's share. All the output channels have weights.",
            ),
            (
                lambda inputs, outputs, kernel, groups, bias: (
                    inputs / groups * outputs * kernel**2 + bias * outputs
                ),
                "The number is right, but it is a float, as `/` gives. `//` gives whole numbers.",
            ),
        ),
        hints=(
            "Begin with one output channel: which weights does it have?",
            "It has a kernel × kernel square for each channel that it reads: inputs / groups.",
            "Times the output channels. If there is a bias, one more number per output channel.",
        ),
    ),
    "04c": Exercise(
        _field_of_four_layers,
        slips=(
            (
                10,
                "The last layer counts double for two reasons: its dilation, and the pooling "
                "before it. You count one of them.",
            ),
            (8, "The last layer counts for more: think of its dilation, and of the pooling."),
            (13, "The pooling has a window of its own, which sees one pixel more."),
            (9, "Pooling sees, too, and the last layer counts for more than 2 pixels."),
            (15, "A field begins with the one pixel that it is, and a window of 2 adds 1."),
        ),
        hints=(
            "Begin with 1 pixel, and ask of each layer how many pixels it adds.",
            "A kernel of k adds k − 1 times the distance of neighbouring units. What is that "
            "distance before the pooling, and after it?",
            "The two convolutions add 2 each, the pooling 1. Behind it neighbours are 2 pixels "
            "apart, and the dilation doubles each of the last kernel's two gaps once more.",
        ),
    ),
    "04d": Exercise(
        _own_network,
        slips=(),  # the rules above have their own sentences
        hints=(
            "Stages of a convolution and a pooling make the field grow fast: see section 8 for "
            "how much each layer adds.",
            "Keep the early layers narrow, 16 or 32 channels, and let the head average: "
            "`models.average_head(inputs, 10)` has few parameters.",
            "Three stages of `models.conv_bn_relu` and `models.pool()`, and after the last pooling "
            "two more convolutions: there, each adds 16 pixels.",
        ),
    ),
}
