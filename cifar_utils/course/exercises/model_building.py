"""Exercises of notebook 03 · Model building."""

import copy

import torch
from torch import nn

from cifar_utils.course.exercises.form import AtLeast, AtMost


def _output_size(answer):
    cases = [
        (32, 3, 1, 1, 1),
        (32, 3, 1, 0, 1),
        (32, 3, 2, 1, 1),
        (30, 3, 1, 0, 2),
        (5, 2, 2, 0, 1),
    ]
    for size, kernel, stride, padding, dilation in cases:
        layer = nn.Conv2d(1, 1, kernel, stride, padding, dilation)
        expected = layer(torch.zeros(1, 1, size, size)).shape[-1]
        what = f"size {size}, kernel {kernel}, stride {stride}, padding {padding}"
        what += f", dilation {dilation}"
        yield what, answer(size, kernel, stride, padding, dilation), expected


def _conv_parameters(answer):
    for inputs, outputs, kernel, groups, bias in (
        (3, 64, 3, 1, True),
        (64, 128, 3, 1, False),
        (64, 64, 3, 64, False),
        (128, 52, 1, 1, True),
    ):
        layer = nn.Conv2d(inputs, outputs, kernel, groups=groups, bias=bias)
        expected = sum(parameter.numel() for parameter in layer.parameters())
        what = f"{inputs} → {outputs}, kernel {kernel}, groups {groups}, bias {bias}"
        yield what, answer(inputs, outputs, kernel, groups, bias), expected


def _own_network(answer):
    from cifar_utils.profile import parameter_count, receptive_field

    answer = copy.deepcopy(answer).cpu().eval()  # the reader's own stays as it was
    with torch.no_grad():
        logits = answer(torch.zeros(2, 3, 32, 32))
    yield "shape of the logits of two images", tuple(logits.shape), (2, 10)
    yield "parameters", parameter_count(answer), AtMost(99_999)
    yield "receptive field in pixels", receptive_field(answer), AtLeast(40)
    convolutions = sum(isinstance(layer, nn.Conv2d) for layer in answer.features.modules())
    yield "convolutions", convolutions, AtLeast(3)


def _field(answer):
    yield "receptive field of 3×3, 3×3, pool, 3×3 with dilation 2", answer, 14


EXERCISES = {
    "03a": _output_size,
    "03b": _conv_parameters,
    "03c": _field,
    "03d": _own_network,
}
