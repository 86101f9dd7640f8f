"""Checkers of the notebooks' exercises: they print what your answer gives and what it should give.

A notebook calls nothing but `check("01a", answer)`. Each exercise is a function here that takes the
answer and yields rows (what, got, expected). The solutions are in notebooks/solutions. Teachers: to
add an exercise, write one more function and put it into EXERCISES, at the end of this file.
"""

import copy
import math
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from cifar_utils.errors import choose
from cifar_utils.machine import generator

Row = tuple[str, Any, Any]  # what, got, expected


def check(name: str, answer: Any) -> None:
    """Print, line by line, what the answer to an exercise gives beside what it should give.

    A mistake inside the answer is shown in one line. Used in every notebook.

    Args:
        name: the exercise's, such as "01a".
        answer: a value or a function, as the exercise asks. If it is still `...`, or a function
            that returns None, it counts as not answered yet.

    Raises:
        CifarError: if there is no exercise of that name.
    """
    is_right(name, answer)  # its result is left out, because a notebook would show it


def is_right(name: str, answer: Any) -> bool:
    """As `check`; True if every line is right."""
    choose(name, EXERCISES, "exercise")
    if answer is ...:
        print(f"{name}: not answered yet")
        return False
    if callable(answer) and not isinstance(answer, nn.Module):
        answer = _guarded(answer)
    all_right = True
    try:
        for what, got, expected in EXERCISES[name](answer):
            right = _same(got, expected)
            all_right &= right
            print(f"{'✓' if right else '✗'} {what}: got {_short(got)}, expected {_short(expected)}")
    except NotAnswered:
        print(f"{name}: not answered yet (a function has to `return` its answer)")
        return False
    except Changed:
        print("✗ your function changes the tensors that it is given; work on copies")
        return False
    except Exception as mistake:  # the reader's own code may fail in any way
        print(f"✗ your code raised {type(mistake).__name__}: {mistake}")
        return False
    return all_right


class NotAnswered(Exception):
    """The reader's function returned None."""


class Changed(Exception):
    """The reader's function wrote into its arguments, which would spoil the data in a training."""


def _guarded(function: Callable) -> Callable:
    """`function`, but it raises NotAnswered or Changed if it does what they say."""

    def call(*arguments):
        given = copy.deepcopy(arguments)
        result = function(*arguments)
        if result is None:
            raise NotAnswered
        for before, after in zip(given, arguments, strict=True):
            if isinstance(before, torch.Tensor) and not torch.equal(before, after):
                raise Changed
        return result

    return call


class Near:
    """An expected number that the answer may miss by `room`."""

    def __init__(self, value: float, room: float) -> None:
        self.value, self.room = value, room

    def allows(self, got: Any) -> bool:
        return abs(float(got) - self.value) <= self.room

    def __str__(self) -> str:
        return f"{self.value:g} ± {self.room:g}"


class AtMost:
    """An upper bound."""

    def __init__(self, value: float) -> None:
        self.value = value

    def allows(self, got: Any) -> bool:
        return got <= self.value

    def __str__(self) -> str:
        return f"at most {self.value:,}"


class AtLeast(AtMost):
    """A lower bound."""

    def allows(self, got: Any) -> bool:
        return got >= self.value

    def __str__(self) -> str:
        return f"at least {self.value:,}"


def _same(got: Any, expected: Any) -> bool:
    """Whether the answer is as expected: exactly, or to rounding for floats and tensors."""
    if isinstance(expected, (Near, AtMost)):
        return expected.allows(got)
    if isinstance(expected, torch.Tensor):
        got = torch.as_tensor(got)
        return got.shape == expected.shape and torch.allclose(
            got.double(), expected.double(), rtol=1e-4, atol=1e-5
        )
    if isinstance(expected, float):
        return math.isclose(float(got), expected, rel_tol=1e-4, abs_tol=1e-6)
    return got == expected


def _short(value: Any) -> str:
    """A value on one line."""
    if isinstance(value, torch.Tensor) and value.numel() > 8:
        first = ", ".join(f"{number:g}" for number in value.flatten()[:4].tolist())
        return f"a tensor {tuple(value.shape)} that begins {first}"
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, list) and all(isinstance(number, float) for number in value):
        return "[" + ", ".join(f"{number:.4g}" for number in value) + "]"
    return f"{value:.6g}" if isinstance(value, float) else str(value)


# --- 01 Data exploration --------------------------------------------------------------------------


def _bytes(answer):
    yield "bytes of one image as 32-bit floats", answer, 12288


def _position(answer):
    yield "place of the green value at row 5, column 7", answer, 1191


def _mean_images(answer):
    images = torch.randint(256, (40, 3, 8, 6), generator=generator(1), dtype=torch.uint8)
    labels = torch.tensor([0, 2, 1, 2, 3, 0, 2, 2] * 5)
    sums, counts = torch.zeros(4, 3, 8, 6), torch.zeros(4, 1, 1, 1)
    for image, label in zip(images, labels, strict=True):
        sums[label] += image
        counts[label] += 1
    yield "mean images of four classes", answer(images, labels, 4), sums / counts


def _identical_pairs(answer):
    images = torch.randint(256, (30, 3, 4, 4), generator=generator(2), dtype=torch.uint8)
    images[9] = images[8].flip(2)  # the same bytes in another order
    images[29] = images[28]
    images[29, 2, 3, 3] ^= 1  # a single bit differs
    yield "pairs among 30 different images", list(answer(images)), []
    images[[7, 20, 25]] = images[[3, 11, 3]].clone()
    found = sorted(map(tuple, answer(images)))
    yield "pairs, two and three equal images planted", found, [(3, 7), (3, 25), (7, 25), (11, 20)]


# --- 02 Augmentation ------------------------------------------------------------------------------


def _versions(answer):
    yield "pictures that crop (padding 4) and flip can make of one", answer, 162


def _flip_vertically(answer):
    images = torch.randint(256, (5, 3, 6, 6), generator=generator(3), dtype=torch.uint8)
    expected = torch.stack([torch.stack(list(reversed(image.unbind(1))), 1) for image in images])
    yield "each image mirrored top to bottom", answer(images), expected
    got = answer(images)
    yield "type", str(got.dtype), "torch.uint8"


def _random_grey(answer):
    images = torch.randint(256, (4000, 3, 4, 4), generator=generator(4), dtype=torch.uint8)
    got = answer(images, generator(5))
    yield "shape", tuple(got.shape), (4000, 3, 4, 4)
    yield "type", str(got.dtype), "torch.uint8"
    changed = (got != images).flatten(1).any(1)
    yield "share of changed images", changed.double().mean().item(), Near(0.2, 0.03)
    red, green, blue = images.double().unbind(1)
    grey = (0.299 * red + 0.587 * green + 0.114 * blue)[:, None].expand_as(got)
    off = (got.double() - grey).abs().amax((1, 2, 3))  # rounding down is allowed, too
    yield "changed images that are not grey", int((changed & (off > 1)).sum()), 0
    again = answer(images, generator(5))
    yield "the same generator gives the same images", torch.equal(got, again), True


def _mixup(answer):
    images = torch.rand(6, 3, 2, 2, generator=generator(6))
    labels = torch.tensor([3, 1, 1, 4, 5, 9])  # the second and its partner share a class
    partner = torch.tensor([1, 2, 3, 4, 5, 0])
    mixed = answer(images, labels, partner, 0.25)
    expected = torch.stack([0.25 * images[i] + 0.75 * images[(i + 1) % 6] for i in range(6)])
    yield "mixed images", mixed[0], expected
    shares = torch.zeros(6, 10)
    for i in range(6):
        shares[i, labels[i]] += 0.25
        shares[i, labels[partner[i]]] += 0.75
    yield "mixed labels", mixed[1], shares


# --- 03 Model building ----------------------------------------------------------------------------


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


# --- 04 Training ----------------------------------------------------------------------------------


def _steps(answer):
    yield "optimizer steps in 30 epochs", answer, 5280


def _cross_entropy(answer):
    logits = torch.randn(8, 10, generator=generator(7)) * 5
    labels = torch.tensor([2, 0, 9, 1, 1, 7, 3, 5])
    for smoothing, scale in ((0.0, 1), (0.1, 1), (0.1, 1000)):
        expected = F.cross_entropy(scale * logits, labels, label_smoothing=smoothing).item()
        got = answer(scale * logits, labels, smoothing)
        got = got.item() if isinstance(got, torch.Tensor) else got
        yield f"loss with smoothing {smoothing}, logits times {scale}", got, expected


def _momentum(answer):
    """Steps on a parabola beside torch.optim.SGD, at a learning rate that changes."""
    for momentum, steps in ((0.9, 4), (0.5, 3)):
        theirs = torch.tensor([3.0, -2.0, 1.0], requires_grad=True)
        optimizer = torch.optim.SGD([theirs], lr=0.1, momentum=momentum)
        weights, velocity = theirs.detach().clone(), torch.zeros(3)
        for number in range(1, steps + 1):
            lr = optimizer.param_groups[0]["lr"] = 0.1 / number
            gradient = 2 * weights
            optimizer.zero_grad()
            theirs.square().sum().backward()
            optimizer.step()
            weights, velocity = answer(weights, velocity, gradient, lr, momentum)
            what = f"weights after step {number}, momentum {momentum}"
            yield what, weights, theirs.detach().clone()


def _triangle(answer):
    for peak, progress, expected in (
        (0.2, 0.0, 0.0),
        (0.2, 0.1, 0.5),
        (0.2, 0.2, 1.0),
        (0.2, 0.6, 0.5),
        (0.2, 1.0, 0.0),
        (0.5, 0.25, 0.5),
        (0.5, 0.9, 0.2),
    ):
        yield f"factor at progress {progress}, peak {peak}", answer(progress, peak), expected


# --- 05 Evaluation --------------------------------------------------------------------------------


def _images_needed(answer):
    # 1.96² · 0.95 · 0.05 / 0.001²: about 182,476
    yield "test images for ± 0.1 points around an accuracy of 95%", answer, Near(182_476, 1_000)


def _macro_f1(answer):
    for rows in (
        [[8, 2, 0], [1, 6, 3], [0, 0, 10]],
        [[0, 5], [0, 5]],  # nothing is predicted as the first class
        [[3, 1, 0], [0, 4, 0], [0, 0, 0]],  # and here nothing belongs to the last, either
    ):
        matrix = torch.tensor(rows)
        right = matrix.diagonal().double()
        # Equals 2 · precision · recall / (precision + recall), but never divides by zero.
        f1 = 2 * right / (matrix.sum(0) + matrix.sum(1)).clamp(min=1)
        yield f"macro F1 of {rows}", float(answer(matrix)), f1.mean().item()


def _calibration_error(answer):
    confidences = torch.rand(500, generator=generator(5)) * 0.9 + 0.1
    confidences[0] = 1.0
    right = torch.rand(500, generator=generator(6)) < confidences**2
    for bins in (1, 10, 15):
        expected = 0.0
        for place in range(bins):
            chosen = (confidences * bins).long().clamp(max=bins - 1) == place
            if chosen.any():
                gap = confidences[chosen].double().mean() - right[chosen].double().mean()
                expected += abs(gap.item()) * chosen.double().mean().item()
        yield f"error in {bins} bins", float(answer(confidences, right, bins)), expected


def _bootstrap(answer):
    right = torch.rand(2000, generator=generator(8)) < 0.9
    low, high = answer(right, 5000, generator(9))
    share = right.double().mean().item()
    half = 1.96 * (share * (1 - share) / len(right)) ** 0.5
    room = 0.12 * half  # the quantiles of 5,000 draws scatter by 0.02 · half
    yield "lower end", float(low), Near(round(share - half, 4), round(room, 4))
    yield "upper end", float(high), Near(round(share + half, 4), round(room, 4))
    # 0.95 ± 1.96 · 0.05 would go beyond 1. P(at most 16 of 20) = 1.6% and P(17) = 6%, so the
    # quantile is 17 of 20.
    few = torch.arange(20) > 0
    low, high = answer(few, 5000, generator(10))
    yield "of 20 images, 19 right: lower end", float(low), 0.85
    yield "and upper end", float(high), 1.0


# --- 06 Grad-CAM ----------------------------------------------------------------------------------


def _alpha(answer):
    for w in (1.0, -0.5):
        one_map = torch.zeros(4, 4, requires_grad=True)
        (w * one_map.mean()).backward()
        yield f"α for a weight of {w}", float(answer(w)), one_map.grad.mean().item()


def _maps(number):
    draw = generator(number)
    maps, gradients = (torch.randn(4, 6, 5, 5, generator=draw) for _ in range(2))
    maps[3], gradients[3] = 1, -1  # no evidence for the class
    return maps.relu(), gradients


def _largest_1(heat):
    heat = heat.clamp(min=0)
    return heat / heat.flatten(1).amax(1).clamp(min=1e-12)[:, None, None]


def _heatmap(answer):
    maps, gradients = _maps(10)
    heat = torch.stack(
        [
            sum(g.mean() * m for m, g in zip(*pair, strict=True))
            for pair in zip(maps, gradients, strict=True)
        ]
    )
    yield "heatmaps", answer(maps, gradients), _largest_1(heat)


def _hires(answer):
    maps, gradients = _maps(11)
    yield "heatmaps", answer(maps, gradients), _largest_1((maps * gradients).sum(1))


def _pointing(answer):
    heatmaps = torch.rand(6, 6, 9, generator=generator(16)) / 2  # not square, some heat everywhere
    boxes = []
    for place, (row, column, *box) in enumerate(
        (
            (2, 3, 2, 3, 4, 5),  # in the box's first corner
            (4, 6, 0, 0, 4, 7),  # below
            (5, 8, 3, 4, 6, 9),  # in the last corner
            (3, 5, 0, 1, 6, 5),  # right of it
            (1, 4, 2, 3, 6, 8),  # above
            (3, 2, 2, 3, 6, 8),  # left of it
        )
    ):
        heatmaps[place, row, column] = 1
        boxes.append(box)
    boxes = torch.tensor(boxes)
    yield "hits of six", float(answer(heatmaps, boxes)), 2 / 6
    yield "hits of the first", float(answer(heatmaps[:1], boxes[:1])), 1.0
    yield "hits of an empty map", float(answer(torch.zeros(1, 6, 9), boxes[1:2])), 0.0


# --- 07 Speed -------------------------------------------------------------------------------------


def _amdahl(answer):
    yield "times as fast", answer, Near(2.33, 0.01)


def _alternating(answer):
    images = torch.randint(256, (12, 3, 4, 6), generator=generator(12), dtype=torch.uint8)
    coins = torch.rand(12, generator=generator(13)) < 0.5
    for epoch in (3, 4):
        expected = [
            image.flip(2) if bool(coin) != (epoch % 2 == 1) else image
            for image, coin in zip(images, coins, strict=True)
        ]
        yield f"epoch {epoch}", answer(images, coins, epoch), torch.stack(expected)


def _ring_or_tree(answer):
    for machines, message, bandwidth, delay, expected in (
        (8, 8e6, 1e9, 1e-5, 14 * (1e-5 + 1e-3)),  # the ring
        (64, 2e3, 1e9, 1e-5, 12 * (1e-5 + 2e-6)),  # the tree
        (5, 1e3, 1e9, 1e-5, 6 * (1e-5 + 1e-6)),  # the tree: 5 machines need as many levels as 8
        (2, 4e6, 1e9, 0.0, 2 * 2e-3),  # the ring
    ):
        got = float(answer(machines, message, bandwidth, delay))
        yield f"seconds of {machines} machines, {message:,.0f} bytes", got, expected
    yield "seconds of one, which sends nothing", float(answer(1, 4e6, 1e9, 1e-5)), 0.0


def _whitening(answer):
    mixing = torch.randn(5, 5, generator=generator(14), dtype=torch.float64)
    patches = mixing @ torch.randn(5, 3000, generator=generator(15), dtype=torch.float64) + 0.5
    filters = torch.as_tensor(answer(patches))
    outputs = filters @ patches
    identity = torch.eye(5, dtype=torch.float64)
    # Rounded because it is printed: the tiny numbers in place of zeros differ between machines.
    mean = (outputs @ outputs.T / 3000).round(decimals=9) + 0.0  # -0 becomes 0
    yield "mean outer product of W · patches", mean, identity
    yield "W is its own transpose", torch.allclose(filters, filters.T, atol=1e-8), True


EXERCISES: dict[str, Callable[[Any], Iterator[Row]]] = {
    "01a": _bytes,
    "01b": _position,
    "01c": _mean_images,
    "01d": _identical_pairs,
    "02a": _versions,
    "02b": _flip_vertically,
    "02c": _random_grey,
    "02d": _mixup,
    "03a": _output_size,
    "03b": _conv_parameters,
    "03c": _field,
    "03d": _own_network,
    "04a": _steps,
    "04b": _triangle,
    "04c": _momentum,
    "04d": _cross_entropy,
    "05a": _images_needed,
    "05b": _macro_f1,
    "05c": _calibration_error,
    "05d": _bootstrap,
    "06a": _alpha,
    "06b": _heatmap,
    "06c": _hires,
    "06d": _pointing,
    "07a": _amdahl,
    "07b": _alternating,
    "07c": _ring_or_tree,
    "07d": _whitening,
}
