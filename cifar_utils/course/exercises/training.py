"""Exercises of notebook 04 · Training."""

import torch
import torch.nn.functional as F

from cifar_utils.machine import generator


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


EXERCISES = {
    "04a": _steps,
    "04b": _triangle,
    "04c": _momentum,
    "04d": _cross_entropy,
}
