"""Exercises of notebook 05 · Evaluation."""

import torch

from cifar_utils.course.exercises.form import Near
from cifar_utils.machine import generator


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


EXERCISES = {
    "05a": _images_needed,
    "05b": _macro_f1,
    "05c": _calibration_error,
    "05d": _bootstrap,
}
