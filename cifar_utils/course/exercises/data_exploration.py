"""Exercises of notebook 01 · Data exploration."""

import torch

from cifar_utils.machine import generator


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


EXERCISES = {
    "01a": _bytes,
    "01b": _position,
    "01c": _mean_images,
    "01d": _identical_pairs,
}
