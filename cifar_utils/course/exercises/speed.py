"""Exercises of notebook 07 · Speed."""

import torch

from cifar_utils.course.exercises.form import Near
from cifar_utils.machine import generator


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


EXERCISES = {
    "07a": _amdahl,
    "07b": _alternating,
    "07c": _ring_or_tree,
    "07d": _whitening,
}
